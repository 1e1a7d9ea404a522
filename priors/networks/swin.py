"""Attention within shifted windows: the layer of ResShift's network.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021, arXiv 2103.14030.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.priors.networks.adm import GROUPS

APART = -100.0
"""Added to the logits of pixels that are neighbours only because the image was rolled."""


@dataclass(frozen=True)
class SwinConfig:
    """Configuration of a layer.

    Attributes:
        width: channels of the layer.
        hidden: channels of the MLPs.
        heads: number of attention heads.
        window: side of a window.
        shifts: shift of the windows of each block.
    """

    width: int
    hidden: int
    heads: int
    window: int
    shifts: tuple[int, ...]


class WindowAttention(nn.Module):
    """Self-attention within square windows, with a bias for each relative position.

    Args:
        config: see `SwinConfig`.
        shift: shift of the windows, down and to the right.
    """

    def __init__(self, config: SwinConfig, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = config.heads, config.window, shift
        places = (2 * config.window - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(places, config.heads))
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended features of ``x`` (B, C, H, W); sides in multiples of a window."""
        rolled = x.roll((-self.shift, -self.shift), (2, 3))
        tokens = windows(rolled, self.window)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).transpose(2, 4).unbind(3)
        bias = self.bias() + self.borders(x)[:, None].to(x.dtype)
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = self.proj(h.transpose(2, 3).flatten(3))
        return whole(out, self.window, *x.shape[2:]).roll((self.shift, self.shift), (2, 3))

    def bias(self) -> Tensor:
        """Return the biases (heads, N, N) between the N pixels of a window."""
        table = self.relative_position_bias_table
        place = torch.arange(self.window, device=table.device)
        rows, columns = (v.flatten() for v in torch.meshgrid(place, place, indexing="ij"))
        apart = [v[:, None] - v + self.window - 1 for v in (rows, columns)]
        return table[(2 * self.window - 1) * apart[0] + apart[1]].permute(2, 0, 1)

    def borders(self, x: Tensor) -> Tensor:
        """Return the mask (windows, N, N) that separates pixels not adjacent in ``x``."""
        bands = []
        for side in x.shape[2:]:
            place = torch.arange(side, device=x.device)
            # Two borders: of the last window, and of what was rolled into it.
            borders = (side - self.window, side - self.shift)
            bands.append((place >= borders[0]).long() + (place >= borders[1]).long())
        region = windows((3 * bands[0][:, None] + bands[1])[None, None], self.window)[0, ..., 0]
        return APART * (region[:, :, None] != region[:, None, :])


def windows(x: Tensor, window: int) -> Tensor:
    """Return the pixels (B, windows, N, C) of the windows of ``x`` (B, C, H, W)."""
    tiles = x.unflatten(3, (-1, window)).unflatten(2, (-1, window))
    return tiles.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def whole(tokens: Tensor, window: int, height: int, width: int) -> Tensor:
    """Return the image (B, C, H, W) of the pixels of its windows; inverse of `windows`."""
    tiles = tokens.unflatten(2, (window, window)).unflatten(1, (height // window, -1))
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, height, width)


class _Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, config: SwinConfig, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, config.width)
        self.attn = WindowAttention(config, shift)
        self.norm2 = nn.GroupNorm(GROUPS, config.width)
        layers = OrderedDict(
            fc1=nn.Conv2d(config.width, config.hidden, 1),
            act=nn.GELU(),
            fc2=nn.Conv2d(config.hidden, config.width, 1),
        )
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SwinLayer(nn.Module):
    """Blocks of window attention between two projections.

    Args:
        channels: channels of input and output.
        config: see `SwinConfig`.
    """

    def __init__(self, channels: int, config: SwinConfig) -> None:
        super().__init__()
        into, out = nn.Conv2d(channels, config.width, 1), nn.Conv2d(config.width, channels, 1)
        self.patch_embed = nn.Sequential(OrderedDict(proj=into))
        self.blocks = nn.Sequential(*(_Block(config, shift) for shift in config.shifts))
        self.patch_unembed = nn.Sequential(OrderedDict(proj=out))

    def forward(self, x: Tensor) -> Tensor:
        return self.patch_unembed(self.blocks(self.patch_embed(x)))
