"""Overlapping tiles of an image whose estimates are blended smoothly."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from wellposed.errors import require


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

    size: int = 256
    overlap: int = 64
    align: int = 1

    def __post_init__(self) -> None:
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
