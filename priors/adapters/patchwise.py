"""Priors and restorers of images larger than their network or the memory can take."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import require
from wellposed.priors.adapters.autoencoder import Autoencoder
from wellposed.priors.adapters.tiles import Tiles, scaled
from wellposed.priors.prior import Prior
from wellposed.priors.restorer import Degraded, Restorer

STRIDE = 8
"""Of most U-Nets: pixels that far apart are alike to them."""


class Patchwise(Prior):
    """Denoises an image tile by tile and blends the overlapping tiles smoothly, see `Tiles`.

    Memory is that of one tile, whatever the image; one call counts as one evaluation.

    Args:
        prior: a prior on images; see `tiled` for a `Restorer`.
        size: side of the tiles in pixels; a multiple of 8, as the overlap, lets every tile start
            where it looks alike to a U-Net.
        overlap: least number of pixels shared by neighbours; about the network's reach.
    """

    def __init__(self, prior: Prior, size: int = 256, overlap: int = 64) -> None:
        require(prior.is_affine, "prior", type(prior).__name__, "a prior on images")
        super().__init__(prior.schedule, prior.channels, prior.is_complex, prior.data_range)
        self.prior, self.tiles = prior, Tiles(size, overlap, math.gcd(STRIDE, size, overlap))

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return the blended estimate of all tiles; see `Prior.denoise`."""
        return self.tiles.blend(
            x_t.shape[-2:],
            lambda rows, columns: self.prior.denoise(x_t[..., rows, columns], t, condition),
        )


def tiled(restorer: Restorer, size: int = 256, overlap: int = 64) -> Restorer:
    """Return a restorer whose networks see an image tile by tile, blended as `Tiles` are.

    The diffusion remains that of the whole image, so that overlapping tiles have the same noise
    and nothing has to be matched. Networks, and the autoencoder of a latent restorer, take the
    memory of one tile; only a sampler's few arrays are as large as the image. A restorer of
    `wellposed train-restoration` thus takes 89 MB instead of 512 for 1024 x 1024 pixels.

    Args:
        restorer: the restorer; its weights are shared, not copied.
        size: side of the tiles in pixels of the restored image.
        overlap: least number of pixels shared by neighbours.

    Raises:
        ArgumentError: no restorer, or tiles that do not overlap so.
    """
    kind = type(restorer).__name__
    require(isinstance(restorer, Restorer), "restorer", kind, "a Restorer; Patchwise of priors")
    factor = 1 if restorer.autoencoder is None else restorer.autoencoder.factor
    tiles = Tiles(size // factor, overlap // factor, math.lcm(STRIDE, restorer.upsample))
    twin = copy.copy(restorer)
    twin._modules = dict(restorer._modules)  # which a shallow copy of a module shares
    twin.network = TiledNetwork(restorer.network, tiles)
    if restorer.autoencoder is not None:
        twin.autoencoder = TiledAutoencoder(restorer.autoencoder, tiles)
    return twin


class TiledNetwork(nn.Module):
    """A `Restorer`'s network that is asked tile by tile."""

    def __init__(self, network: nn.Module, tiles: Tiles) -> None:
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

    def __init__(self, autoencoder: Autoencoder, tiles: Tiles) -> None:
        super().__init__()
        self.autoencoder, self.tiles = autoencoder, tiles
        self.factor, self.latent_channels = autoencoder.factor, autoencoder.latent_channels

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
