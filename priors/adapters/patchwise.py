"""Priors for images too large for their network or the memory."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Annotated

import torch
from torch import Tensor, nn

from wellposed.checks import Count, Whole, check_fields
from wellposed.errors import require
from wellposed.priors.adapters.autoencoder import Autoencoder, Latent
from wellposed.priors.adapters.tuned import Tuned
from wellposed.priors.anchor import Condition, Degraded
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prediction import Components
from wellposed.priors.prior import Adapter, Prior

STRIDE = 8
"""Typical U-Net stride: shift-equivariance period in pixels."""


class Patchwise(Adapter):
    """Denoises an image tile by tile and blends the overlapping tiles smoothly, see `Tiles`.

    Only the memory for one tile is needed, and one call counts as one evaluation. For a prior with
    an anchor, the predictions of the network, and the latents of its autoencoder, are blended. The
    diffusion is that of the whole image, so overlapping tiles have the same noise. A restorer of
    `wellposed train` thus takes 89 MB instead of 512 for 1024 x 1024 pixels.

    Args:
        prior: a prior on images, or a prior with an anchor on images or latents; its weights are
            shared, not copied.
        size: side of the tiles in pixels of the (restored) image. ``size`` and ``overlap`` should
            be multiples of 8, so that all tiles start at equivalent pixels of a U-Net.
        overlap: smallest number of pixels shared by neighbours; about the network's reach.

    Raises:
        ArgumentError: a latent prior without an anchor, or an invalid size or overlap.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prior = priors.Patchwise(priors.GaussianPrior(0.5, 0.1), size=64, overlap=16)
        >>> prior.denoise(torch.randn(1, 3, 100, 150), 500.0).shape
        torch.Size([1, 3, 100, 150])
    """

    def __init__(
        self, prior: Prior, size: Count = 256, overlap: Annotated[int, Whole(0, 10**9)] = 64
    ) -> None:
        about = prior.anchor is not None
        require(about or prior.is_affine, "prior", type(prior).__name__, "a prior on images")
        align = math.lcm(STRIDE, prior.upsample) if about else math.gcd(STRIDE, size, overlap)
        tiles = Tiles(size // prior.factor, overlap // prior.factor, align)
        super().__init__(_tiled(prior, tiles) if about else prior)
        self.tiles, self.anchor, self.prediction = tiles, prior.anchor, prior.prediction

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the blended estimate of all tiles; see `Prior.denoise`."""
        if self.anchor is not None:
            return self.prior.denoise(x_t, t, condition)
        return self.tiles.blend(
            x_t.shape[-2:],
            lambda rows, columns: self.prior.denoise(x_t[..., rows, columns], t, condition),
        )

    def components(
        self, x_t: Tensor, t: float | Tensor, condition: Condition = None
    ) -> Components:
        """Return the blended components; see `Prior.components`."""
        if self.anchor is not None:
            return self.prior.components(x_t, t, condition)
        return super().components(x_t, t, condition)

    def degraded(self, image: Tensor) -> Degraded:
        """Return the condition made of degraded images; see `Prior.degraded`."""
        return self.prior.degraded(image)


def _tiled(prior: Prior, tiles: "Tiles") -> Prior:
    """Return a prior with an anchor whose networks process images tile by tile."""
    accepted = "a NetworkPrior, or a Latent or Tuned with one"
    fits = isinstance(prior, (NetworkPrior, Latent, Tuned))
    require(fits, "prior", type(prior).__name__, accepted)
    twin = copy.copy(prior)
    twin._modules = dict(prior._modules)  # a shallow copy of a module would share the dict
    if isinstance(twin, Latent):
        twin.prior = _tiled(twin.prior, tiles)
        twin.autoencoder = TiledAutoencoder(twin.autoencoder, tiles)
    elif isinstance(twin, Tuned):
        twin.prior = _tiled(twin.prior, tiles)
    elif isinstance(twin, NetworkPrior):
        twin.network = TiledNetwork(twin.network, tiles)
    return twin


class TiledNetwork(nn.Module):
    """A network with an anchor, evaluated tile by tile."""

    def __init__(self, network: nn.Module, tiles: "Tiles") -> None:
        super().__init__()
        self.network, self.tiles = network, tiles

    def forward(self, seen: Tensor, label: Tensor, degraded: Degraded) -> Tensor:
        """Return the blended predictions of all tiles; the degraded image may be smaller."""
        sides = seen.shape[-2:]
        there = degraded.image.shape[-2:]

        def estimate(rows: slice, columns: slice) -> Tensor:
            place = (..., scaled(rows, there[0], sides[0]), scaled(columns, there[1], sides[1]))
            given = Degraded(degraded.anchor[..., rows, columns], degraded.image[place])
            predicted: Tensor = self.network(seen[..., rows, columns], label, given)
            return predicted

        return self.tiles.blend(sides, estimate)


class TiledAutoencoder(nn.Module):
    """An `Autoencoder` that works tile by tile; the tiles are defined on the latents."""

    def __init__(self, autoencoder: Autoencoder, tiles: "Tiles") -> None:
        super().__init__()
        self.autoencoder, self.tiles = autoencoder, tiles
        self.factor, self.image_channels = autoencoder.factor, autoencoder.image_channels
        self.latent_channels = autoencoder.latent_channels

    def encode(self, x: Tensor) -> Tensor:
        """Return the blended latents of images whose sides are multiples of the factor."""
        f, (height, width) = self.factor, x.shape[-2:]
        sides = torch.Size((height // f, width // f))
        return self.tiles.blend(
            sides,
            lambda rows, columns: self.autoencoder.encode(
                x[..., scaled(rows, f), scaled(columns, f)]
            ),
        )

    def decode(self, z: Tensor) -> Tensor:
        """Return the blended images of latents."""
        return self.tiles.blend(
            z.shape[-2:],
            lambda rows, columns: self.autoencoder.decode(z[..., rows, columns]),
            self.factor,
        )


@dataclass(frozen=True)
class Tiles:
    """Overlapping squares that cover an image.

    The estimates of the tiles are averaged with weights. A weight is zero in the outer quarter of
    an overlap, where a tile lacks context, and rises to one over the middle half as a squared
    sine. If an estimate depends only on pixels within a quarter of the overlap, the result equals
    that of the whole image; otherwise it still has no seams.

    Args:
        size: side of the tiles in pixels.
        overlap: smallest number of pixels shared by neighbours.
        align: tiles start at multiples of this number of pixels, the shift-equivariance period of
            the network.

    Raises:
        ArgumentError: an invalid size or overlap.
    """

    size: Count = 256
    overlap: Annotated[int, Whole(0, 10**9)] = 64
    align: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.size >= 2 * self.align, "size", self.size, f"at least {2 * self.align}")
        size, overlap = self._coarse()
        fits = 0 <= 2 * overlap <= size
        accepted = f"a number from 0 to half the size of {self.size}"
        require(fits, "overlap", self.overlap, accepted)

    def _coarse(self) -> tuple[int, int]:
        """Return size and overlap in units of the alignment."""
        return self.size // self.align, math.ceil(self.overlap / self.align)

    def along(self, length: int) -> list[slice]:
        """Return evenly spaced tiles that cover an axis of a length."""
        size, overlap = self._coarse()
        places = math.ceil(length / self.align)
        if places <= size:
            return [slice(0, length)]
        count = math.ceil((places - overlap) / (size - overlap))
        starts = [round(i * (places - size) / (count - 1)) * self.align for i in range(count)]
        return [slice(start, min(start + size * self.align, length)) for start in starts]

    def blend(
        self, sides: torch.Size, estimate: Callable[[slice, slice], Tensor], scale: int = 1
    ) -> Tensor:
        """Return the average of the estimates of all tiles, (..., scale H, scale W).

        Args:
            sides: (H, W) of the image.
            estimate: function of rows and columns that returns the estimate of that tile,
                (..., scale h, scale w).
            scale: pixels of an estimate per pixel of the image.
        """
        total = weights = torch.zeros(())
        for rows, columns in product(*(self.along(n) for n in sides)):
            part = estimate(rows, columns)
            if weights.ndim == 0:
                total = part.new_zeros(*part.shape[:-2], *(scale * n for n in sides))
                weights = part.real.new_zeros(total.shape[-2:])
            down = self._window(rows, sides[0], scale, weights)
            weight = down[:, None] * self._window(columns, sides[1], scale, weights)
            place = (..., scaled(rows, scale), scaled(columns, scale))
            total[place] += weight * part
            weights[place] += weight
        return total / weights

    def _window(self, tile: slice, length: int, scale: int, like: Tensor) -> Tensor:
        """Return the weights along one axis, with ramps at the inner edges of the image."""
        count = scale * (tile.stop - tile.start)
        depth = torch.arange(count, dtype=like.dtype, device=like.device)
        weight = torch.ones_like(depth)
        if tile.start > 0:
            weight = weight * self._ramp(depth, scale)
        if tile.stop < length:
            weight = weight * self._ramp(depth.flip(0), scale)
        return weight

    def _ramp(self, depth: Tensor, scale: int) -> Tensor:
        share = (depth + 0.5) / max(1, scale * self.overlap)
        return torch.sin(torch.pi / 2 * (2 * share - 0.5).clamp(0, 1)) ** 2


def scaled(tile: slice, numerator: int, denominator: int = 1) -> slice:
    """Return the tile of an axis on an axis with another resolution."""
    return slice(tile.start * numerator // denominator, tile.stop * numerator // denominator)
