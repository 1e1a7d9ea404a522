"""A prior over images larger than its network or the memory can take."""

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.priors.prior import Prior


class Patchwise(Prior):
    """Denoises an image tile by tile and blends the overlapping tiles smoothly.

    ``E[x_0 | x_t]`` is the average of the tiles' estimates with weights that fall to zero towards
    the inner edges of each tile as a squared sine, so that neither the missing context there nor
    a seam shows. Memory is that of one tile, whatever the image; one call counts as one
    evaluation.

    Args:
        prior: a prior on images.
        size: side of the tiles in pixels.
        overlap: least number of pixels shared by neighbours; about the network's reach.
    """

    def __init__(self, prior: Prior, size: int = 256, overlap: int = 64) -> None:
        require(prior.is_affine, "prior", type(prior).__name__, "a prior on images")
        super().__init__(prior.schedule, prior.channels, prior.is_complex, prior.data_range)
        require(size >= 2, "size", size, "at least 2")
        require(0 <= overlap <= size // 2, "overlap", overlap, "from 0 to half the size")
        self.prior, self.size, self.overlap = prior, size, overlap

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return the blended estimate of all tiles; see `Prior.denoise`."""
        total, weights = torch.zeros_like(x_t), x_t.real.new_zeros(x_t.shape[-2:])
        for rows, columns in product(*(self._tiles(n) for n in x_t.shape[-2:])):
            tile = (..., rows, columns)
            weight = self._window(rows, x_t)[:, None] * self._window(columns, x_t, -1)
            total[tile] += weight * self.prior.denoise(x_t[tile], t, condition)
            weights[tile] += weight
        return total / weights

    def _tiles(self, length: int) -> list[slice]:
        """Return evenly spread tiles that cover an axis, the last one flush with its end."""
        if length <= self.size:
            return [slice(0, length)]
        count = math.ceil((length - self.overlap) / (self.size - self.overlap))
        starts = [round(i * (length - self.size) / (count - 1)) for i in range(count)]
        return [slice(start, start + self.size) for start in starts]

    def _window(self, tile: slice, x_t: Tensor, axis: int = -2) -> Tensor:
        """Return the weights along one axis: ramps at inner edges, none at the image's own."""
        places = torch.arange(tile.start, tile.stop, dtype=x_t.real.dtype, device=x_t.device)
        weight = torch.ones_like(places)
        if tile.start > 0:
            weight = weight * self._ramp(places - tile.start)
        if tile.stop < x_t.shape[axis]:
            weight = weight * self._ramp(tile.stop - 1 - places)
        return weight

    def _ramp(self, depth: Tensor) -> Tensor:
        share = (depth + 0.5) / max(1, self.overlap)
        return torch.sin(torch.pi / 2 * share.clamp(0, 1)) ** 2
