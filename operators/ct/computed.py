"""Projection without a stored matrix: its weights are computed when they are needed.

They are the same, and their computation is spread over all images that are projected together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import pad

from wellposed.operators.ct.footprints import footprints
from wellposed.operators.ct.fused import Run, fused, unfused
from wellposed.operators.ct.geometry import Geometry
from wellposed.operators.ct.sparse import MAX_COLUMNS

CHUNK = 2**17
"""Pixels times views whose weights are computed at once by a CPU: few enough for its cache."""

CHUNK_FUSED = 2**18
"""The same where their computation is fused: few passes, each with a fixed cost."""

CHUNK_ELSEWHERE = 2**22
"""The same for other devices, many enough to keep them busy."""

LARGE = 2**23
"""Pixels times computed views from which on the computation of weights is fused.

Such a product takes a quarter of a second and is repeated hundreds of times; to compile takes some
ten seconds.
"""


@dataclass(frozen=True)
class _Part:
    """The weights of some pixels in one view.

    Attributes:
        pixels: the pixels, n of them.
        rays: the rays among those of all views that they may project to.
        first: first of these rays for each pixel, int32 (n,).
        weights: weights of the rays from the first, (n,) each.
        skipped: number of first and of last bins that are outside the detector.
    """

    pixels: slice
    rays: slice
    first: Tensor
    weights: Sequence[Tensor]
    skipped: tuple[int, int]

    def spread(self, columns: Tensor) -> Tensor:
        """Return the rays of columns of pixels (n, k)."""
        low, high = self.skipped
        width = self.rays.stop - self.rays.start + low + high
        out = columns.new_zeros(width, columns.shape[1])
        reach = width - len(self.weights) + 1
        if columns.device.type == "cpu":
            matrix, values = self._matrix(reach).T, columns.numpy()
            for tap, weight in enumerate(self.weights):
                matrix.data = weight.numpy()
                out[tap : tap + reach] += torch.from_numpy(matrix @ values)
        else:
            for tap, weight in enumerate(self.weights):
                out[tap : tap + reach].index_add_(0, self.first, weight[:, None] * columns)
        return out[low : width - high]

    def gather(self, rays: Tensor) -> Tensor:
        """Return the transpose of `spread` of rays, (n, k)."""
        rays = pad(rays, (0, 0, *self.skipped))
        out = rays.new_zeros(len(self.first), rays.shape[1])
        reach = len(rays) - len(self.weights) + 1
        if rays.device.type == "cpu":
            matrix, values = self._matrix(reach), rays.numpy()
            for tap, weight in enumerate(self.weights):
                matrix.data = weight.numpy()
                out += torch.from_numpy(matrix @ values[tap : tap + reach])
        else:
            for tap, weight in enumerate(self.weights):
                picked = rays[tap : tap + reach].index_select(0, self.first)
                out.addcmul_(weight[:, None], picked)
        return out

    def _matrix(self, width: int) -> csr_array:
        """Return the first weights as a matrix (n, width) for SciPy, whose products are fast."""
        pointers = np.arange(len(self.first) + 1, dtype=np.int32)
        entries = self.weights[0].numpy(), self.first.numpy(), pointers
        return csr_array(entries, shape=(len(self.first), width))


class ComputedWeights(nn.Module):
    """The weights of some views, computed when they are needed.

    Args:
        geometry: the scan.
        angles: angles of the views in degrees.
    """

    _degrees: Tensor

    def __init__(self, geometry: Geometry, angles: tuple[float, ...]) -> None:
        super().__init__()
        self.geometry, self.places = geometry, len(angles) * geometry.bins
        degrees = torch.tensor(angles, dtype=torch.float64)
        self.register_buffer("_degrees", degrees, persistent=False)
        # Opposite pixels project to opposite bins: the upper half of the image has all weights.
        self._opposites = geometry.is_parallel and geometry.detector.offset == 0
        height, width = geometry.image_size
        self._height = (height + 1) // 2 if self._opposites else height
        self._twice = width if self._opposites and height % 2 else 0

    def columns(self, like: Tensor) -> int:
        """Return how many columns, images times poses, are best multiplied at a time."""
        return MAX_COLUMNS

    def rays(self, columns: Tensor) -> Tensor:
        """Return the rays (angles bins, n) through images in columns (pixels, n)."""
        if self._opposites:
            opposite = columns.flip(0)
            opposite[self._height * self.geometry.image_size[1] - self._twice :] = 0
            columns = torch.cat([columns, opposite], 1)
        rays = columns.new_zeros(self.places, columns.shape[1])
        for part in self._parts(columns):
            rays[part.rays] += part.spread(columns[part.pixels])
        if self._opposites:
            upper, lower = rays.chunk(2, 1)
            rays = upper + self._reversed(lower)
        return rays

    def pixels(self, rays: Tensor) -> Tensor:
        """Return the transpose applied to rays (angles bins, n), (pixels, n)."""
        if self._opposites:
            rays = torch.cat([rays, self._reversed(rays)], 1)
        columns = rays.new_zeros(self._height * self.geometry.image_size[1], rays.shape[1])
        for part in self._parts(rays):
            columns[part.pixels] += part.gather(rays[part.rays])
        if self._opposites:
            upper, lower = columns.chunk(2, 1)
            columns = torch.cat([upper, lower[: len(lower) - self._twice].flip(0)])
        return columns

    def _reversed(self, rays: Tensor) -> Tensor:
        """Return the bins of each view in reverse order."""
        by_view = torch.unflatten(rays, 0, (-1, self.geometry.bins))
        return by_view.flip(1).flatten(0, 1)

    def _parts(self, like: Tensor) -> Iterator[_Part]:
        """Yield the parts of the matrix, in the dtype and on the device of a tensor."""
        height, width = self._height, self.geometry.image_size[1]
        large = height * width * len(self._degrees) >= LARGE
        chunk, run = _fitting(like.device, large)
        step = max(1, min(height, chunk // width))
        views = max(1, chunk // (step * width))
        for top in range(0, height, step):
            rows = slice(top, min(top + step, height))
            for start in range(0, len(self._degrees), views):
                yield from self._parts_of(rows, slice(start, start + views), like, run)

    def _parts_of(self, rows: slice, views: slice, like: Tensor, run: Run) -> Iterator[_Part]:
        width, bins = self.geometry.image_size[1], self.geometry.bins
        degrees = self._degrees[views].to(like.device, torch.float64)
        found = footprints(self.geometry, degrees, rows, like.dtype, run)
        taps, pixels = len(found.weights), slice(rows.start * width, rows.stop * width)
        for view, ends in enumerate(torch.stack(found.first.aminmax(dim=1), 1).tolist()):
            low, end = ends[0], ends[1] + taps
            if end <= 0 or low >= bins:
                continue
            base = (views.start + view) * bins
            inside = slice(base + max(low, 0), base + min(end, bins))
            skipped = max(-low, 0), max(end - bins, 0)
            first = found.first[view] - low
            weights = [tap[view] for tap in found.weights]
            yield _Part(pixels, inside, first, weights, skipped)


def _fitting(device: torch.device, large: bool) -> tuple[int, Run]:
    """Return how many weights are computed at once on a device, and how."""
    if device.type != "cpu":
        return CHUNK_ELSEWHERE, unfused
    return (CHUNK_FUSED, fused) if large else (CHUNK, unfused)
