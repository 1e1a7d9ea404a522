"""The text-conditioned pipelines of diffusers that can be priors, and how each encodes prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wellposed.priors.text.condition import TextCondition
from wellposed.priors.text.networks import (
    PackedTransformer,
    TextNetwork,
    TextTransformer,
    TextUNet,
)

Encode = Callable[[Any, list[str], str], TextCondition]
"""Encodes prompts on a device, by a pipeline of which only the text encoders are loaded."""


@dataclass(frozen=True)
class TextPipeline:
    """A class of pipelines.

    Attributes:
        name: its class in diffusers.
        folder: folder of its network.
        model: class of its network.
        wrap: the network as a `TextNetwork`.
        encoders: number of its text encoders.
        optional: a text encoder that may be missing.
        encode: how it encodes prompts.
        spacing: spacing of its sampler's times, unless the scheduler's config names one.
        licence: usual licences of its models.
        zeroed: whether its condition without a prompt is zero, unless its index says otherwise.
        scale: guidance scale that its networks are told if none is given, as in diffusers.
    """

    name: str
    folder: str
    model: str
    wrap: Callable[[Any], TextNetwork]
    encoders: int
    encode: Encode
    spacing: str
    licence: str
    optional: str = ""
    zeroed: bool = False
    scale: float = 1.0

    def text_parts(self) -> list[str]:
        """Return the folders of its tokenizers and text encoders."""
        numbers = ["", *(f"_{n}" for n in range(2, self.encoders + 1))]
        return [f"{part}{n}" for n in numbers for part in ("tokenizer", "text_encoder")]


def _plain(pipe: Any, prompts: list[str], device: str) -> TextCondition:
    embeddings, _ = pipe.encode_prompt(prompts, device, 1, False)
    return TextCondition(embeddings)


def _pooled(pipe: Any, prompts: list[str], device: str) -> TextCondition:
    embeddings, _, pooled, _ = pipe.encode_prompt(
        prompts, None, device=device, do_classifier_free_guidance=False
    )
    return TextCondition(embeddings, pooled)


def _thrice(pipe: Any, prompts: list[str], device: str) -> TextCondition:
    embeddings, _, pooled, _ = pipe.encode_prompt(
        prompts, None, None, device=device, do_classifier_free_guidance=False
    )
    return TextCondition(embeddings, pooled)


def _packed(pipe: Any, prompts: list[str], device: str) -> TextCondition:
    embeddings, pooled, _ = pipe.encode_prompt(prompts, None, device=device)
    return TextCondition(embeddings, pooled)


TEXT_PIPELINES = {
    pipeline.name: pipeline
    for pipeline in (
        TextPipeline(
            name="StableDiffusionPipeline",
            folder="unet",
            model="UNet2DConditionModel",
            wrap=TextUNet,
            encoders=1,
            encode=_plain,
            spacing="leading",
            licence="CreativeML OpenRAIL-M (1.x), CreativeML Open RAIL++-M (2.x)",
        ),
        TextPipeline(
            name="LatentConsistencyModelPipeline",
            folder="unet",
            model="UNet2DConditionModel",
            wrap=TextUNet,
            encoders=1,
            encode=_plain,
            spacing="trailing",
            scale=8.5,
            licence="that of the distilled model",
        ),
        TextPipeline(
            name="StableDiffusionXLPipeline",
            folder="unet",
            model="UNet2DConditionModel",
            wrap=TextUNet,
            encoders=2,
            encode=_pooled,
            spacing="leading",
            zeroed=True,
            scale=8.0,
            licence="CreativeML Open RAIL++-M; Stability AI non-commercial for SDXL-Turbo",
        ),
        TextPipeline(
            name="StableDiffusion3Pipeline",
            folder="transformer",
            model="SD3Transformer2DModel",
            wrap=TextTransformer,
            encoders=3,
            encode=_thrice,
            spacing="linspace",
            licence="Stability AI Community License",
            optional="text_encoder_3",
        ),
        TextPipeline(
            name="FluxPipeline",
            folder="transformer",
            model="FluxTransformer2DModel",
            wrap=PackedTransformer,
            encoders=2,
            encode=_packed,
            spacing="trailing",
            scale=3.5,
            licence="FLUX.1 [dev] Non-Commercial License; Apache-2.0 for FLUX.1 [schnell]",
        ),
    )
}
"""By the class that ``model_index.json`` names."""
