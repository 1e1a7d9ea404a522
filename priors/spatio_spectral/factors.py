"""Images of many bands as a product of few maps and spectra, and how it is fitted."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.checks import Checked, Count
from wellposed.errors import ShapeError, require
from wellposed.priors.spatio_spectral.start import leading, smoothed

Size = tuple[Count, Count]
MakeMaps = Callable[[int, Size], nn.Module]
"""``(rank, (H, W)) -> module``, whose call without arguments returns maps (1, rank, H, W).

If the module has a method ``start``, it is called once, with the leading right singular vectors
(rank, H, W) of the image where the fit starts, scaled to unit mean square.
"""

INPUTS = 16
INPUT_STD = 0.1


class FreeMaps(Checked, nn.Module):
    """Maps without a network: every pixel of every map is a parameter.

    Args:
        rank: number of maps.
        size: (H, W).

    Example:
        >>> from wellposed import priors
        >>> priors.FreeMaps(rank=5, size=(20, 24))().shape
        torch.Size([1, 5, 20, 24])
    """

    def __init__(self, rank: Count, size: Size) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.zeros(1, rank, *size))

    @torch.no_grad()
    def start(self, maps: Tensor) -> None:
        """Start at given maps (rank, H, W)."""
        self.maps.copy_(maps[None])

    def forward(self) -> Tensor:
        """Return the maps (1, rank, H, W)."""
        return self.maps


class ConvMaps(Checked, nn.Module):
    """Maps as the output of a convolutional network, for images of any size.

    A network adds details to the leading singular vectors of the image where the fit starts,
    smoothed. Its fixed inputs are these and noise. From noise alone, as published, the fit takes
    several times as many steps.

    A U-Net whose convolutions of stride 2 halve the sides, rounded up. There is no batch norm,
    which fails where a level has one pixel; features are normalised in each pixel. Smooth maps are
    fitted long before noisy ones, "Deep Image Prior", 2018, arXiv 1711.10925.

    Args:
        rank: number of maps.
        size: (H, W).
        widths: channels of each level.

    Example:
        >>> from wellposed import priors
        >>> priors.ConvMaps(rank=5, size=(20, 24), widths=(8, 16))().shape
        torch.Size([1, 5, 20, 24])
    """

    noise: Tensor
    base: Tensor

    def __init__(self, rank: Count, size: Size, widths: tuple[Count, ...] = (16, 32, 64)) -> None:
        super().__init__()
        steps = list(pairwise(widths))
        self.register_buffer("noise", torch.zeros(1, INPUTS, *size))
        self.register_buffer("base", torch.zeros(1, rank, *size))
        self.head = _conv(INPUTS, widths[0])
        self.shrink = nn.ModuleList(_conv(fine, coarse, 2) for fine, coarse in steps)
        self.inner = nn.ModuleList(_conv(coarse, coarse) for _, coarse in steps)
        self.grow = nn.ModuleList(_conv(fine + coarse, fine) for fine, coarse in steps)
        self.tail = nn.Conv2d(widths[0], rank, 1)

    @torch.no_grad()
    def start(self, maps: Tensor) -> None:
        """Start at given maps (rank, H, W), smoothed; the network adds 0 at first."""
        self.base = smoothed(maps)[None]
        kept = self.base[:, :INPUTS]
        self.noise[:, : kept.shape[1]] = INPUT_STD * kept
        for weight in self.tail.parameters():
            weight.zero_()

    def forward(self) -> Tensor:
        """Return the maps (1, rank, H, W)."""
        h, skips = _activated(self.head(self.noise)), []
        for shrink, inner in zip(self.shrink, self.inner, strict=True):
            skips.append(h)
            h = _activated(inner(_activated(shrink(h))))
        for grow, skip in zip(reversed(self.grow), reversed(skips), strict=True):
            large = F.interpolate(h, size=skip.shape[-2:], mode="bilinear")
            h = _activated(grow(torch.cat([large, skip], 1)))
        maps: Tensor = self.base + self.tail(h)
        return maps


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, padding_mode="replicate")


def _activated(h: Tensor) -> Tensor:
    normal = F.layer_norm(h.permute(0, 2, 3, 1), h.shape[1:2]).permute(0, 3, 1, 2)
    return F.leaky_relu(normal, 0.1)


class Factors(nn.Module):
    """``c = sum_r scale_r maps_r spectra_r``, an image in [0, 1] of many bands.

    The scales let maps and spectra of all ranks be of the order of 1, as the steps of Adam are.

    Args:
        maps: module of the maps, see `MakeMaps`.
        spectra: (rank, bands).
    """

    scale: Tensor

    def __init__(self, maps: nn.Module, spectra: Tensor) -> None:
        super().__init__()
        self.maps, self.spectra = maps, nn.Parameter(spectra)
        self.register_buffer("scale", spectra.new_ones(len(spectra)))

    @torch.no_grad()
    def start(self, image: Tensor) -> None:
        """Start at the leading singular vectors of an image (1, bands, H, W)."""
        maps, self.scale, spectra = leading(image, len(self.scale))
        self.spectra.copy_(spectra)
        begin = getattr(self.maps, "start", None)
        if callable(begin):
            begin(maps)

    def parts(self) -> tuple[Tensor, Tensor]:
        """Return the maps (rank, H, W) with their scales, and the spectra (rank, bands)."""
        return self.scale[:, None, None] * self.maps()[0], self.spectra

    def image(self) -> Tensor:
        """Return the image (1, bands, H, W)."""
        return torch.einsum("rhw,rc->chw", *self.parts())[None]


def make_maps(make: MakeMaps, rank: int, like: Tensor) -> nn.Module:
    """Return the maps of an image (1, bands, H, W), in its dtype and on its device.

    Raises:
        ArgumentError, ShapeError: ``make`` returns no module, or one of other maps.
    """
    size = (int(like.shape[2]), int(like.shape[3]))
    maps = make(rank, size)
    require(isinstance(maps, nn.Module), "maps", type(maps).__name__, "a function of a module")
    found = tuple(maps().shape)
    if found != (1, rank, *size):
        raise ShapeError(f"maps: got maps {found}, accepted: {(1, rank, *size)}")
    return maps.to(like.dtype).to(like.device)


def values_of(maps: nn.Module) -> list[Tensor]:
    """Return the weights and the buffers of maps."""
    return [*maps.parameters(), *maps.buffers()]


@torch.no_grad()
def set_weights(maps: nn.Module, z: Tensor) -> None:
    """Set all weights from standard normal numbers ``z``, with the variances that torch uses.

    The variance is 1/3 over the number of inputs, also of biases: a network without them starts
    from noise without its mean and learns late. Buffers, the inputs of a network, become noise.
    """
    parts = z.split([value.numel() for value in values_of(maps)])
    weights, fan = {id(weight) for weight in maps.parameters()}, 1
    for value, part in zip(values_of(maps), parts, strict=True):
        fan = value[0].numel() if value.ndim > 1 else fan  # a bias follows its weights
        std = (3 * fan) ** -0.5 if id(value) in weights else INPUT_STD
        value.copy_(std * part.view_as(value))


def total_variation(u: Tensor) -> Tensor:
    """Return ``2 (mean dh^2 + mean dw^2 + mean dband^2 / 2)`` of images (B, bands, H, W)."""
    rows, columns, bands = (_mean_square(u.diff(dim=axis)) for axis in (2, 3, 1))
    return 2 * (rows + columns + bands / 2)


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean() if x.numel() > 0 else x.new_zeros(())


def fit_loss(factors: Factors, x_t: Tensor, alpha: float, smoothness: float = 0.0) -> Tensor:
    """Return ``mean (alpha_t (2 c - 1) - x_t)^2 + smoothness TV(2 c - 1)``.

    "DDS2M", 2023, arXiv 2303.06682: the evidence lower bound of the factors given ``x_t``. With
    ``b = x_t + alpha_t`` the square is expanded,
    ``4 alpha_t^2 tr(S^T S A A^T) - 4 alpha_t tr(S^T b A^T) + |b|^2``, so that no image of all
    bands is formed: its gradient takes a tenth of the time.

    Args:
        factors: scaled maps S and spectra A of the image c in [0, 1].
        x_t: noisy image in [-1, 1], (1, bands, H, W), in units.
        alpha: ``alpha_t``.
        smoothness: weight of the total variation, see `total_variation`.
    """
    maps, A = factors.parts()
    S = maps.flatten(1)
    b = x_t[0].flatten(1) + alpha
    square = 4 * alpha**2 * ((S @ S.T) * (A @ A.T)).sum()
    misfit: Tensor = (square - 4 * alpha * (S * (A @ b)).sum() + b.square().sum()) / b.numel()
    return (
        misfit + smoothness * total_variation(2 * factors.image() - 1)
        if smoothness > 0
        else misfit
    )
