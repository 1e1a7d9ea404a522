"""The networks of text-conditioned pipelines, called as ``network(x_t, label, condition)``."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import ArgumentError, require
from wellposed.priors.text.condition import TextCondition


class TextNetwork(nn.Module):
    """Base of the networks that are told a prompt.

    Args:
        model: diffusers' network; it is put in evaluation mode and frozen.

    Attributes:
        channels: channels of the latents.
        patch: sides of the latents are multiples of it.
        width: width of the embeddings.
        pooled_width: width of the pooled embedding, 0 for none.
        is_guided: whether the guidance scale is an input.
        has_sizes: whether SDXL's sizes are an input.
    """

    channels: int
    patch: int = 1
    width: int
    pooled_width: int = 0
    is_guided: bool = False
    has_sizes: bool = False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)

    @abstractmethod
    def forward(self, x_t: Tensor, label: Tensor, condition: TextCondition) -> Tensor:
        """Return the prediction (B, c, h, w) for latents (B, c, h, w) and labels (B,)."""

    def require_condition(self, condition: object, name: str = "condition") -> TextCondition:
        """Return a condition if the network can be told it.

        Raises:
            ArgumentError: no `TextCondition`, or one of other widths or parts.
        """
        if not isinstance(condition, TextCondition):
            kind = type(condition).__name__
            raise ArgumentError(f"{name}: got {kind}, accepted: a TextCondition, see prior.encode")
        got = (condition.embeddings.shape[-1], _width(condition.pooled), _width(condition.ids))
        wanted = (self.width, self.pooled_width, 6 if self.has_sizes else 0)
        accepted = f"{wanted}, as this network takes"
        require(got == wanted, f"{name}, widths of embeddings, pooled and ids", got, accepted)
        told = condition.guidance is not None
        accepted = f"{'a' if self.is_guided else 'no'} guidance scale, as this network takes"
        require(told == self.is_guided, f"{name}.guidance", condition.guidance, accepted)
        return condition

    def require_negative(self, prompt: object) -> None:
        """Raise if the network cannot be guided away from a prompt.

        Raises:
            ArgumentError: a network that is told its guidance.
        """
        if self.is_guided and prompt is not None:
            raise ArgumentError(
                f"negative_prompt: got {prompt!r}, accepted: none, as this network is told its "
                "guidance scale and evaluated for the prompt alone"
            )


def _width(part: Tensor | None) -> int:
    return 0 if part is None else part.shape[-1]


class TextUNet(TextNetwork):
    """``UNet2DConditionModel`` of Stable Diffusion 1 and 2, SDXL and latent consistency models.

    SDXL is also told sizes: Podell et al., "SDXL: Improving Latent Diffusion Models for
    High-Resolution Image Synthesis", 2023, arXiv 2307.01952, section 2.2.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        config = self.model.config
        kind = config.addition_embed_type
        accepted = "a U-Net told text alone, or as SDXL's is"
        require(kind in (None, "text_time"), "unet, addition_embed_type", kind, accepted)
        same = config.in_channels == config.out_channels
        got = f"{config.in_channels} channels in and {config.out_channels} out"
        require(same, "unet", got, "as many, no images beside the latents")
        self.channels, self.width = int(config.in_channels), int(config.cross_attention_dim)
        self.has_sizes = kind is not None
        if self.has_sizes:
            sizes = 6 * int(config.addition_time_embed_dim)
            self.pooled_width = int(config.projection_class_embeddings_input_dim) - sizes
        self.is_guided = config.time_cond_proj_dim is not None

    def forward(self, x_t: Tensor, label: Tensor, condition: TextCondition) -> Tensor:
        """Return the predicted noise or velocity."""
        guided = None
        if condition.guidance is not None:
            width = int(self.model.config.time_cond_proj_dim)
            guided = scale_embedding(condition.guidance - 1, width).to(x_t.dtype)
        added = {"text_embeds": condition.pooled, "time_ids": condition.ids}
        out: Tensor = self.model(
            x_t,
            label,
            encoder_hidden_states=condition.embeddings,
            timestep_cond=guided,
            added_cond_kwargs=added if self.has_sizes else None,
            return_dict=False,
        )[0]
        return out


class TextTransformer(TextNetwork):
    """``SD3Transformer2DModel`` of Stable Diffusion 3."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        config = self.model.config
        self.channels, self.patch = int(config.in_channels), int(config.patch_size)
        self.width = int(config.joint_attention_dim)
        self.pooled_width = int(config.pooled_projection_dim)

    def forward(self, x_t: Tensor, label: Tensor, condition: TextCondition) -> Tensor:
        """Return the predicted flow."""
        out: Tensor = self.model(
            hidden_states=x_t,
            timestep=label,
            encoder_hidden_states=condition.embeddings,
            pooled_projections=condition.pooled,
            return_dict=False,
        )[0]
        return out


class PackedTransformer(TextNetwork):
    """``FluxTransformer2DModel`` of FLUX.1, whose tokens are patches of 2 x 2 latents."""

    patch = 2

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        config = self.model.config
        self.channels = int(config.in_channels) // 4
        self.width = int(config.joint_attention_dim)
        self.pooled_width = int(config.pooled_projection_dim)
        self.is_guided = bool(config.guidance_embeds)

    def forward(self, x_t: Tensor, label: Tensor, condition: TextCondition) -> Tensor:
        """Return the predicted flow."""
        height, width = x_t.shape[2] // 2, x_t.shape[3] // 2
        out: Tensor = self.model(
            hidden_states=packed(x_t),
            timestep=label / 1000,  # the model multiplies by 1000
            guidance=condition.guidance,
            encoder_hidden_states=condition.embeddings,
            pooled_projections=condition.pooled,
            txt_ids=x_t.new_zeros(condition.embeddings.shape[1], 3),
            img_ids=places(height, width).to(x_t),
            return_dict=False,
        )[0]
        return unpacked(out, height, width)


def packed(z: Tensor) -> Tensor:
    """Return latents (B, c, 2 h, 2 w) as tokens (B, h w, 4 c), patches of 2 x 2."""
    b, c, height, width = z.shape
    patches = z.reshape(b, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, height * width // 4, 4 * c)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """Return the latents (B, c, 2 h, 2 w) of tokens (B, h w, 4 c); the inverse of `packed`."""
    b, _, c = tokens.shape
    patches = tokens.reshape(b, height, width, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(b, c // 4, 2 * height, 2 * width)


def places(height: int, width: int) -> Tensor:
    """Return the places (h w, 3) of tokens: 0, row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3)


def scale_embedding(w: Tensor, width: int) -> Tensor:
    """Return the sinusoidal embedding (n, width) of guidance weights (n,).

    Meng et al., "On Distillation of Guided Diffusion Models", 2022, arXiv 2210.03142: sines and
    cosines of ``1000 w`` with frequencies from 1 to 1 / 10000.
    """
    half = width // 2
    places = torch.arange(half, dtype=torch.float32, device=w.device) / max(half - 1, 1)
    angles = 1000 * w.float()[:, None] * torch.exp(-math.log(10000.0) * places)
    found = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.nn.functional.pad(found, (0, width - 2 * half))
