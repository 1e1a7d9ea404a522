"""The U-Net of denoising-diffusion-pytorch since its version 1.8 (June 2023).

Names of weights are the published ones.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.priors.networks.attention import HEADS
from wellposed.priors.networks.keys import State, count_after
from wellposed.priors.networks.unet import UNet, UNetShape, halving, read_shape

GROUPS = 8


@dataclass(frozen=True)
class AttentionShape:
    """Shape of an attention layer.

    Attributes:
        full: between all pixels, instead of linear.
        heads: number of heads.
        hidden: channels of all heads.
        memory: number of learned keys and values beside those of the pixels.
    """

    full: bool
    heads: int
    hidden: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class PixelUNetConfig(UNetShape):
    """Configuration of a U-Net.

    Attributes:
        grouped: blocks have group normalisation (before version 2) instead of `PixelNorm`.
        attentions: attention of each level, then of the middle.
    """

    grouped: bool
    attentions: tuple[AttentionShape, ...]


def read_pixel_config(state: State) -> PixelUNetConfig:
    """Return the configuration, inferred from the names and shapes of the weights.

    Raises:
        LookupError: a weight is missing.
    """
    downs = (f"downs.{i}.2." for i in range(count_after(state, "downs.")))
    return PixelUNetConfig(
        **vars(read_shape(state)),
        grouped="mid_block1.block1.norm.weight" in state,
        attentions=tuple(_read_attention(state, place) for place in (*downs, "mid_attn.")),
    )


def _read_attention(state: State, place: str) -> AttentionShape:
    full, stored = f"{place}to_out.weight" in state, state.get(f"{place}mem_kv")
    hidden = len(state[f"{place}to_qkv.weight"]) // 3
    if stored is None:
        return AttentionShape(full, HEADS, hidden, 0)
    return AttentionShape(full, stored.shape[1], hidden, stored.shape[2 if full else 3])


class PixelNorm(nn.Module):
    """``g sqrt(C) x / |x|`` with the norm of each pixel over its C channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.g * x.shape[1] ** 0.5


class _Attention(nn.Module):
    """``x + attention(norm(x))``, between all pixels."""

    def __init__(self, channels: int, shape: AttentionShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm = PixelNorm(channels)
        if shape.memory:
            self.mem_kv = nn.Parameter(torch.zeros(2, *self.stored(shape)))
        self.to_qkv = nn.Conv2d(channels, 3 * shape.hidden, 1, bias=False)
        self.to_out: nn.Module = nn.Conv2d(shape.hidden, channels, 1)

    @staticmethod
    def stored(shape: AttentionShape) -> tuple[int, int, int]:
        """Return the shape of the stored keys, and of the values."""
        return shape.heads, shape.memory, shape.hidden // shape.heads

    def forward(self, x: Tensor) -> Tensor:
        # Query, key and value (B, heads, channels of a head, pixels).
        parts = self.to_qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))
        q, k, v = parts.unbind(1)
        mixed = self.mix(q, k, v, getattr(self, "mem_kv", None))
        return x + self.to_out(mixed.flatten(1, 2).unflatten(2, x.shape[2:]))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, stored: Tensor | None) -> Tensor:
        """Return the attended values of each pixel."""
        q, k, v = (part.transpose(2, 3) for part in (q, k, v))
        k, v = _remember(k, v, stored, 2)
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3)


class _LinearAttention(_Attention):
    """As `_Attention`, with ``softmax(q) (softmax(k) v)``."""

    def __init__(self, channels: int, shape: AttentionShape) -> None:
        super().__init__(channels, shape)
        self.to_out = nn.Sequential(self.to_out, PixelNorm(channels))

    @staticmethod
    def stored(shape: AttentionShape) -> tuple[int, int, int]:
        return shape.heads, shape.hidden // shape.heads, shape.memory

    def mix(self, q: Tensor, k: Tensor, v: Tensor, stored: Tensor | None) -> Tensor:
        k, v = _remember(k, v, stored, 3)
        context = k.softmax(3) @ v.transpose(2, 3)
        return context.transpose(2, 3) @ (q.softmax(2) * q.shape[2] ** -0.5)


def _remember(k: Tensor, v: Tensor, stored: Tensor | None, axis: int) -> tuple[Tensor, Tensor]:
    """Return keys and values with the stored ones before them."""
    if stored is None:
        return k, v
    keys, values = stored[:, None].expand(-1, len(k), -1, -1, -1)
    return torch.cat([keys, k], axis), torch.cat([values, v], axis)


class _Block(nn.Module):
    """``silu(norm(conv(x)) (1 + scale) + shift)``."""

    def __init__(self, channels: int, width: int, grouped: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.GroupNorm(GROUPS, width) if grouped else PixelNorm(width)

    def forward(
        self, x: Tensor, scale: Tensor | float = 0.0, shift: Tensor | float = 0.0
    ) -> Tensor:
        return F.silu(self.norm(self.proj(x)) * (1 + scale) + shift)


class _ResidualBlock(nn.Module):
    """Two convolutions, the first scaled and shifted by the label, and a shortcut."""

    def __init__(self, channels: int, width: int, config: PixelUNetConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.features, 2 * width))
        self.block1 = _Block(channels, width, config.grouped)
        self.block2 = _Block(width, width, config.grouped)
        same = channels == width
        self.res_conv = nn.Identity() if same else nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.mlp(time)[:, :, None, None].chunk(2, 1)
        return self.block2(self.block1(x, scale, shift)) + self.res_conv(x)


class PixelUNet(UNet):
    """The U-Net with `PixelNorm` and attention of any kind in each level.

    Args:
        config: see `PixelUNetConfig`.
    """

    def __init__(self, config: PixelUNetConfig) -> None:
        self.config = config
        super().__init__(config)

    def block(self, channels: int, width: int) -> nn.Module:
        """Return a residual block, see `UNet`."""
        return _ResidualBlock(channels, width, self.config)

    def attention(self, width: int, level: int) -> nn.Module:
        """Return the attention of a level, see `UNet`."""
        shape = self.config.attentions[level]
        return (_Attention if shape.full else _LinearAttention)(width, shape)

    def conv(self, channels: int, width: int, kernel: int = 3) -> nn.Module:
        """Return a convolution, see `UNet`."""
        return nn.Conv2d(channels, width, kernel, padding=kernel // 2)

    def halve(self, fine: int, coarse: int) -> nn.Module:
        """Return the layer that halves images, see `UNet`."""
        return halving(fine, coarse)
