"""Layers that the networks of several restoration papers share."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.errors import ShapeError
from wellposed.priors.anchor import Degraded
from wellposed.priors.networks.adm import waves

Mode = Literal["reflect", "constant"]


class ChannelNorm(nn.Module):
    """Normalises each pixel over the channels, ``g (x - mean) / sqrt(variance + 1e-5)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * self.g


class Sinusoids(nn.Module):
    """Sines, then cosines, of a label (B,) at ``features / 2`` frequencies from 1 to 1e-4."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.count = features // 2

    def forward(self, label: Tensor) -> Tensor:
        cosines, sines = waves(label, self.count, self.count - 1)
        return torch.cat([sines, cosines], 1)


def embedding(mlp: nn.Sequential, label: Tensor, like: Tensor) -> Tensor:
    """Return a network's embedding of labels; the sinusoids are computed in the labels' precision.

    Args:
        mlp: `Sinusoids` and the layers that follow them.
        label: labels (B,).
        like: a tensor of the network's dtype.
    """
    return mlp[1:](mlp[0](label).to(like.dtype))


class Padded(nn.Module):
    """A network for images of any size.

    Args:
        network: maps (B, C, H, W) and labels (B,) to its prediction (B, ..., H, W).
        multiple: divisor of the sides of its images; others are padded at the right and bottom.
        mode: padding by reflection, or with zeros (``constant``).
    """

    def __init__(self, network: nn.Module, multiple: int, mode: Mode = "reflect") -> None:
        super().__init__()
        self.network, self.multiple, self.mode = network, multiple, mode

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        predicted: Tensor = self.network(pad(x, self.multiple, self.mode), label)
        return predicted[..., :height, :width]


class Conditioned(nn.Module):
    """A network of ``x_t`` and the degraded image, concatenated, for images of any size.

    Args:
        network: maps (B, 2 C, H, W) and labels (B,) to its prediction (B, ..., H, W).
        multiple: the network needs sides that are multiples of this number; others are padded at
            the right and at the bottom.
        mode: padding by reflection, or with zeros (``constant``).
    """

    def __init__(self, network: nn.Module, multiple: int, mode: Mode = "reflect") -> None:
        super().__init__()
        self.network, self.multiple, self.mode = network, multiple, mode

    def forward(self, seen: Tensor, label: Tensor, degraded: Degraded) -> Tensor:
        height, width = seen.shape[-2:]
        x = pad(torch.cat([seen, degraded.anchor], 1), self.multiple, self.mode)
        return self.network(x, label)[..., :height, :width]


def pad(x: Tensor, multiple: int, mode: Mode = "reflect") -> Tensor:
    """Pad images at the right and at the bottom until their sides are multiples of a number.

    Raises:
        ShapeError: sides too small to be reflected that far.
    """
    height, width = x.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    if mode == "reflect" and (right >= width or bottom >= height):
        raise ShapeError(
            f"x_t: got images of {height} x {width} in units, accepted: sides that reflection "
            f"can pad to a multiple of {multiple}, e.g. all above {multiple // 2}"
        )
    return F.pad(x, (0, right, 0, bottom), mode) if right or bottom else x
