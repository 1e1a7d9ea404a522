"""Encoding of prompts: the text encoders are read for a call and released after it."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, CheckpointError
from wellposed.priors.checkpoints.diffusers_files import read_settings
from wellposed.priors.text.condition import TextCondition
from wellposed.priors.text.files import INDEX, empty_network, read_text_part, text_parts
from wellposed.priors.text.lora import Lora
from wellposed.priors.text.pipelines import TextPipeline

Prompt = str | Sequence[str]
"""A prompt for all images, or one for each."""


@dataclass(frozen=True)
class TextEncoder:
    """Encodes prompts as a pipeline does, by its own ``encode_prompt``.

    Args:
        folder: folder of the pipeline.
        pipeline: its class.
        dtype: dtype of the text encoders and embeddings.
        device: device of the text encoders.
        lora: layers added to the text encoders, if any.
        sizes: SDXL's height and width of the images, or none.
    """

    folder: Path
    pipeline: TextPipeline
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    lora: Lora | None = None
    sizes: tuple[int, int] | None = None

    @torch.no_grad()
    def __call__(
        self, *prompts: Prompt | None, guidance: Tensor | None = None
    ) -> tuple[TextCondition, ...]:
        """Return the conditions of prompts, with the encoders read once.

        Args:
            prompts: each a prompt, or several; None for the pipeline's own condition without one.
            guidance: guidance scale (1,) of networks that are told it.

        Raises:
            ArgumentError: a prompt that is no text.
            CheckpointError: encoders are missing or damaged, or transformers is not installed.
        """
        texts = [prompt_list(prompt) for prompt in prompts]
        pipe = self._pipe()
        found = [self._encoded(pipe, prompt) for prompt in texts]
        return tuple(self._completed(condition, guidance) for condition in found)

    def _encoded(self, pipe: Any, prompts: list[str] | None) -> TextCondition:
        try:
            found = self.pipeline.encode(pipe, prompts or [""], self.device)
        except (IndexError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"path: the tokenizers and text encoders in {str(self.folder)!r} do not fit: "
                f"{error}"
            ) from error
        # SDXL was trained with zeros for no prompt, and says so.
        zero = prompts is None and read_settings(self.folder, INDEX).get(
            "force_zeros_for_empty_prompt", self.pipeline.zeroed
        )
        if zero:
            return found.each(torch.zeros_like)
        return replace(found, tokens=_tokens(pipe.tokenizer, prompts or [""], found.embeddings))

    def _completed(self, condition: TextCondition, guidance: Tensor | None) -> TextCondition:
        """Return the condition with sizes and guidance, where there are such."""
        ids = None
        if self.sizes is not None:
            ids = torch.tensor([[*self.sizes, 0, 0, *self.sizes]], dtype=torch.float32)
            ids = ids.to(condition.embeddings.device).expand(len(condition), 6)
        scale = None if guidance is None else guidance[:1].expand(len(condition))
        return replace(condition, ids=ids, guidance=scale)

    def _pipe(self) -> Any:
        """Return the pipeline with its text encoders alone."""
        import diffusers

        parts = {
            part: read_text_part(self.folder / part, kind, self.dtype)
            for part, kind in text_parts(self.folder, self.pipeline).items()
        }
        encoders = {part: model for part, model in parts.items() if part.startswith("text")}
        for encoder in encoders.values():
            encoder.to(self.device)
        if self.lora is not None:
            self.lora.add_to_encoders(encoders)
        kind = getattr(diffusers, self.pipeline.name)
        return kind(**{**self._unused(kind), **parts})

    def _unused(self, kind: type) -> dict[str, object]:
        """Return what a pipeline asks for besides: nothing, or the network without weights."""
        taken = inspect.signature(kind).parameters
        needed = [name for name, each in taken.items() if each.default is each.empty]
        unused: dict[str, object] = dict.fromkeys(needed)
        flags = {"requires_safety_checker": False, "add_watermarker": False}
        unused |= {n: value for n, value in flags.items() if n in taken}
        if self.pipeline.optional:  # for the width of the embeddings of the encoder that may lack
            unused[self.pipeline.folder] = empty_network(self.folder, self.pipeline)
        return unused


def _tokens(tokenizer: Any, prompts: list[str], embeddings: Tensor) -> Tensor | None:
    """Return the numbers of the tokens (n, tokens), if each has its embedding."""
    most = tokenizer.model_max_length
    found = tokenizer(
        prompts, padding="max_length", max_length=most, truncation=True, return_tensors="pt"
    ).input_ids
    return found if found.shape == embeddings.shape[:2] else None


def prompt_list(prompt: Prompt | None, name: str = "prompt") -> list[str] | None:
    """Return prompts as a list; None stays None.

    Raises:
        ArgumentError: no text.
    """
    if prompt is None:
        return None
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, Sequence) or not all(isinstance(p, str) for p in prompts):
        raise ArgumentError(f"{name}: got {prompt!r}, accepted: a text, or one for each image")
    if not prompts:
        raise ArgumentError(f"{name}: got no prompts, accepted: a text, or one for each image")
    return list(prompts)
