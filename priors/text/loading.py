"""Loading of text-conditioned diffusers pipelines."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from wellposed.checks import Choice, NonNegative, check_fields
from wellposed.errors import ArgumentError, require
from wellposed.priors.adapters.autoencoder import DiffusersAutoencoder
from wellposed.priors.adapters.guided import Guided
from wellposed.priors.checkpoints.diffusers import blamed_on
from wellposed.priors.checkpoints.diffusers_schedulers import diffusion_of
from wellposed.priors.checkpoints.diffusers_times import sampled_as
from wellposed.priors.checkpoints.family import Options, check_options
from wellposed.priors.text.condition import TextCondition
from wellposed.priors.text.diffusion import TextDiffusion
from wellposed.priors.text.encoder import Prompt, TextEncoder, prompt_list
from wellposed.priors.text.files import (
    empty_network,
    find,
    licence,
    read_network,
    read_vae,
    scheduler_config,
    text_parts,
)
from wellposed.priors.text.lora import Lora
from wellposed.priors.text.networks import TextNetwork
from wellposed.priors.text.offloading import OFFLOADS, offload
from wellposed.priors.text.pipelines import TextPipeline
from wellposed.priors.text.prior import Prompted

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """Options of `priors.load` for text-conditioned pipelines, see there.

    Raises:
        ArgumentError: an invalid value.
    """

    prompt: Prompt = ""
    negative_prompt: Prompt | None = None
    guidance: NonNegative | None = None
    lora: str | Path | None = None
    dtype: Annotated[str, Choice(*DTYPES)] = "float32"
    device: str = "cpu"
    offload: Annotated[str, Choice(*OFFLOADS)] = "none"
    slicing: bool = False
    tiling: bool = False
    image_size: tuple[int, int] | None = None
    data_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_fields(self)
        try:
            torch.empty(0, device=self.device)
        except (AssertionError, RuntimeError) as error:
            raise ArgumentError(
                f"device: got {self.device!r}, accepted: an available device: {error}"
            ) from error
        prompt_list(self.prompt)
        prompt_list(self.negative_prompt, "negative_prompt")
        accepted = "None, or (height, width) in pixels"
        size = self.image_size
        pair = size is None or (len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size))
        require(pair, "image_size", size, accepted)

    @classmethod
    def of(cls, options: Options) -> "TextOptions":
        """Return the options that were given to `priors.load`."""
        check_options(options, *cls.__dataclass_fields__)
        given: dict[str, Any] = dict(options)
        if isinstance(given.get("dtype"), torch.dtype):
            given["dtype"] = str(given["dtype"]).removeprefix("torch.")
        return cls(**given)


def load_text(source: str | Path, pipeline: TextPipeline, options: Options) -> Prompted:
    """Load a text-conditioned pipeline, a folder or a hub id, as a latent prior.

    The prompts are encoded first, and their encoders released before the network is read.

    Args:
        source: a folder as ``save_pretrained`` writes it, or a hub id.
        pipeline: its class.
        options: see `priors.load`.

    Raises:
        ArgumentError: an invalid option.
        CheckpointError: a part is missing, damaged, or does not fit the others.
    """
    o, folder = TextOptions.of(options), find(source, pipeline)
    dtype, lora = DTYPES[o.dtype], None if o.lora is None else Lora.read(o.lora, pipeline)
    with blamed_on(source):
        plan = pipeline.wrap(empty_network(folder, pipeline))
        autoencoder = DiffusersAutoencoder.from_config(read_vae(folder, dtype))
    plan.require_negative(o.negative_prompt)
    size = o.image_size or _usual_size(plan, autoencoder.factor)
    text = TextEncoder(folder, pipeline, dtype, o.device, lora, size if plan.has_sizes else None)
    conditions = _conditions(o, plan, text)
    with blamed_on(source):
        for condition in conditions:
            plan.require_condition(condition)
        tokens = math.prod(n // (autoencoder.factor * plan.patch) for n in size)
        diffusion = _diffusion(folder, pipeline, dtype, lora, tokens)
        weight = 1.0 if plan.is_guided or o.guidance is None else o.guidance
        given, null = conditions[0], None if plan.is_guided else conditions[1]
        guided = Guided(diffusion, given, weight, null)
        prior = Prompted(guided, autoencoder, text, o.data_range, _facts(folder, text, size))
    return _placed(prior, o)


def _usual_size(plan: TextNetwork, factor: int) -> tuple[int, int]:
    """Return the size of image that a network was made for, as its pipeline takes it."""
    side = plan.model.config.get("sample_size") or 128
    return int(side) * factor, int(side) * factor


def _conditions(o: TextOptions, plan: TextNetwork, text: TextEncoder) -> tuple[TextCondition, ...]:
    """Return the condition, and the null condition unless the network is told its guidance."""
    if not plan.is_guided:
        return text(o.prompt, o.negative_prompt)
    scale = text.pipeline.scale if o.guidance is None else o.guidance
    return text(o.prompt, guidance=torch.tensor([scale]))


def _diffusion(
    folder: Path, pipeline: TextPipeline, dtype: torch.dtype, lora: Lora | None, tokens: int
) -> TextDiffusion:
    """Return the network, with the times of its pipeline's sampler."""
    model = read_network(folder, pipeline, dtype)
    if lora is not None:
        lora.fuse_into(model)
    config = scheduler_config(folder)
    found = diffusion_of(config)
    require(found.sign == 1 and found.sigma_data is None, "scheduler", "EDM", "another scheduler")
    schedule = sampled_as(config, found.schedule, tokens)
    return TextDiffusion(pipeline.wrap(model), schedule, found.prediction, found.label)


def _facts(folder: Path, text: TextEncoder, size: tuple[int, int]) -> dict[str, str]:
    """Return what was found, for users."""
    kinds = text_parts(folder, text.pipeline)
    encoders = [kind for part, kind in kinds.items() if part.startswith("text")]
    scheduler = scheduler_config(folder)
    return {
        "pipeline": text.pipeline.name,
        "scheduler": str(scheduler.get("_class_name")),
        "spacing": str(scheduler.get("timestep_spacing", text.pipeline.spacing)),
        "text encoders": ", ".join(encoders),
        "images": "made for {} x {}".format(*size),
        "licence": licence(folder, text.pipeline),
    }


def _placed(prior: Prompted, o: TextOptions) -> Prompted:
    """Return the prior on its device, with the savings of memory that were asked for."""
    vae = prior.autoencoder.model
    if o.slicing:
        vae.enable_slicing()
    if o.tiling:
        vae.enable_tiling()
    if o.offload == "none":
        return prior.to(o.device)
    # With its number, as tensors name it.
    device = torch.empty(0, device=o.device).device
    offload(o.offload, device, prior.diffusion.network.model, vae)
    prior.diffusion.runs_on = device
    return prior
