"""Low-rank adapters (LoRA) of pipelines, read by diffusers' own loaders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from wellposed.errors import CheckpointError
from wellposed.priors.text.pipelines import TextPipeline


@dataclass(frozen=True, eq=False)
class Lora:
    """Layers of low rank that are added to the layers of a network and of its text encoders.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv 2106.09685.

    Args:
        path: file, folder or hub id that they were read from.
        pipeline: class of the pipeline that they are for.
        state: their weights, by diffusers' names.
        alphas: scales of the layers in older files.
        metadata: settings of the layers in newer files.
    """

    path: str
    pipeline: TextPipeline
    state: Mapping[str, Tensor]
    alphas: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None

    @classmethod
    def read(cls, path: str | Path, pipeline: TextPipeline) -> Self:
        """Read the layers of a file, a folder or a hub id.

        Raises:
            CheckpointError: no such file, not safetensors, or not for this class of pipelines.
        """
        import diffusers

        read = getattr(diffusers, pipeline.name).lora_state_dict
        alphas = {"return_alphas": True} if pipeline.name == "FluxPipeline" else {}
        try:
            state, *middle, metadata = read(
                str(path), use_safetensors=True, return_lora_metadata=True, **alphas
            )
        except Exception as error:  # diffusers raises many kinds of errors
            raise CheckpointError(f"lora: cannot read {str(path)!r}: {error}") from error
        found = cls(str(path), pipeline, state, middle[0] if middle else None, metadata)
        known = (f"{pipeline.folder}.", "text_encoder")
        if not state or not all(name.startswith(known) for name in state):
            raise CheckpointError(
                f"lora: {str(path)!r} has layers such as {', '.join(list(state)[:3])}, accepted: "
                f"those of a {pipeline.name}"
            )
        return found

    def fuse_into(self, network: Any) -> None:
        """Add the layers to the weights of diffusers' network.

        Raises:
            CheckpointError: they do not fit.
        """
        try:
            if self._has(self.pipeline.folder):
                network.load_lora_adapter(
                    dict(self.state),
                    prefix=self.pipeline.folder,
                    network_alphas=self.alphas,
                    metadata=self.metadata,
                )
                network.fuse_lora()
                network.unload_lora()
        except Exception as error:
            raise self._unfit(error) from error

    def add_to_encoders(self, encoders: Mapping[str, nn.Module]) -> None:
        """Add the layers to text encoders.

        Raises:
            CheckpointError: they do not fit.
        """
        import diffusers

        add = getattr(diffusers, self.pipeline.name).load_lora_into_text_encoder
        try:
            for name, encoder in encoders.items():
                if self._has(name):
                    add(
                        dict(self.state),
                        self.alphas,
                        encoder,
                        prefix=name,
                        metadata=self.metadata,
                    )
        except Exception as error:
            raise self._unfit(error) from error

    def _has(self, part: str) -> bool:
        return any(name.startswith(f"{part}.") for name in self.state)

    def _unfit(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"lora: {self.path!r} does not fit the {self.pipeline.name}: {error}"
        )
