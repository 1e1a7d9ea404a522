"""Priors of images larger than their network or the memory can take."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from wellposed.checks import Count, Whole, check_fields
from wellposed.errors import require
from wellposed.priors.adapters.autoencoder import Autoencoder, Latent
from wellposed.priors.anchor import Degraded
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prediction import Components
from wellposed.priors.prior import Adapter, Prior

STRIDE = 8
"""Typical U-Net stride: shift-equivariance period in pixels."""


class Patchwise(Adapter):
    """Denoises an image tile by tile and blends the overlapping tiles smoothly, see `Tiles`.

    Memory is that of one tile, whatever the image; one call counts as one evaluation. About an
    anchor the network's predictions are blended, and its latents where it has an autoencoder; the
    diffusion remains that of the whole image, so that overlapping tiles have the same noise. A
    restorer of `wellposed train` thus takes 89 MB instead of 512 for 1024 x 1024 pixels.

    Args:
        prior: a prior on images, or one with an anchor, of images or latents; its weights are
            shared, not copied.
        size: side of the tiles in pixels of the (restored) image; a multiple of 8, as the overlap,
            lets every tile start where it looks alike to a U-Net.
        overlap: least number of pixels shared by neighbours; about the network's reach.

    Raises:
        ArgumentError: a latent prior without an anchor, or tiles that do not overlap so.
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

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return the blended estimate of all tiles; see `Prior.denoise`."""
        if self.anchor is not None:
            return self.prior.denoise(x_t, t, condition)
        return self.tiles.blend(
            x_t.shape[-2:],
            lambda rows, columns: self.prior.denoise(x_t[..., rows, columns], t, condition),
        )

    def components(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Components:
        """Return the blended components; see `Prior.components`."""
        if self.anchor is not None:
            return self.prior.components(x_t, t, condition)
        return super().components(x_t, t, condition)

    def degraded(self, image: Tensor) -> Degraded:
        """Return the condition made of degraded images; see `Prior.degraded`."""
        return self.prior.degraded(image)


def _tiled(prior: Prior, tiles: "Tiles") -> Prior:
    """Return a prior with an anchor whose networks see an image tile by tile."""
    accepted = "a NetworkPrior, or a Latent of one"
    require(isinstance(prior, (NetworkPrior, Latent)), "prior", type(prior).__name__, accepted)
    twin = copy.copy(prior)
    twin._modules = dict(prior._modules)  # which a shallow copy of a module shares
    if isinstance(twin, Latent):
        twin.prior = _tiled(twin.prior, tiles)
        twin.autoencoder = TiledAutoencoder(twin.autoencoder, tiles)
    elif isinstance(twin, NetworkPrior):
        twin.network = TiledNetwork(twin.network, tiles)
    return twin


class TiledNetwork(nn.Module):
    """A network with an anchor that is asked tile by tile."""

    def __init__(self, network: nn.Module, tiles: "Tiles") -> None:
        super().__init__()
        self.network, self.tiles = network, tiles

    def forward(self, seen: Tensor, label: Tensor, degraded: Degraded) -> Tensor:
        """Return the blended predictions of all tiles; the degraded image may have other sides."""
        sides = seen.shape[-2:]
        there = degraded.image.shape[-2:]

        def estimate(rows: slice, columns: slice) -> Tensor:
            place = (..., scaled(rows, there[0], sides[0]), scaled(columns, there[1], sides[1]))
            given = Degraded(degraded.anchor[..., rows, columns], degraded.image[place])
            return self.network(seen[..., rows, columns], label, given)

        return self.tiles.blend(sides, estimate)


class TiledAutoencoder(nn.Module):
    """An `Autoencoder` that works tile by tile; tiles are those of the latents."""

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
    """Squares that cover an image and overlap.

    What is estimated of each is averaged with weights that are zero in the outer quarter of an
    overlap, where a tile lacks context, and rise to one over its middle half as a squared sine.
    An estimate that reaches no further than a quarter of the overlap is thus that of the whole
    image, and others show no seam.

    Args:
        size: side of the tiles in pixels.
        overlap: least number of pixels shared by neighbours.
        align: tiles start at multiples of it, for networks to which pixels are not all alike.

    Raises:
        ArgumentError: tiles that do not overlap so.
    """

    size: Count = 256
    overlap: Annotated[int, Whole(0, 10**9)] = 64
    align: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.size >= 2 * self.align, "size", self.size, f"at least {2 * self.align}")
        size, overlap = self._coarse()
        fits = 0 <= 2 * overlap <= size
        require(fits, "overlap", self.overlap, f"from 0 to half the size, {self.size}")

    def _coarse(self) -> tuple[int, int]:
        """Return size and overlap in units of the alignment."""
        return self.size // self.align, math.ceil(self.overlap / self.align)

    def along(self, length: int) -> list[slice]:
        """Return evenly spread tiles that cover an axis; the last one ends with it."""
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
            estimate: gives that of the tile of some rows and columns, (..., scale h, scale w).
            scale: pixels of an estimate for one of the image.
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
        """Return the weights along one axis: ramps at inner edges, none at the image's own."""
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
    """Return where a tile of an axis is on one of other resolution."""
    return slice(tile.start * numerator // denominator, tile.stop * numerator // denominator)
