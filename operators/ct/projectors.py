"""Projection and its exact transpose: as a sparse matrix, or view by view without one."""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from wellposed.operators.ct.geometry import Geometry
from wellposed.operators.ct.symmetry import Plan, make_plan
from wellposed.operators.sparse import StoredMatrix

# Sparse products lose speed beyond this many columns: images of a batch go in groups.
MAX_COLUMNS = 64

MATRIX_BYTES = 2**30
"""Largest size of a stored matrix and its transpose; above it views are computed as needed."""


class Projector(nn.Module):
    """A linear map of images (B, H, W) to sinograms (B, views, bins), and its transpose."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.shapes = (geometry.image_size, (len(geometry.angles), geometry.bins))

    @abstractmethod
    def project(self, images: Tensor) -> Tensor:
        """Return the sinograms of images, float32 or float64."""

    @abstractmethod
    def backproject(self, sinograms: Tensor) -> Tensor:
        """Return the transpose applied to sinograms."""


class Projection(torch.autograd.Function):
    """A projector, whose gradient is its transpose and the other way round."""

    @staticmethod
    def forward(values: Tensor, projector: Projector, transpose: bool) -> Tensor:
        return projector.backproject(values) if transpose else projector.project(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.projector, ctx.transpose = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return Projection.apply(grad, ctx.projector, not ctx.transpose), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return Projection.apply(tangent, ctx.projector, ctx.transpose)


class MatrixProjector(Projector):
    """Weights held as a sparse matrix and its transpose, of the views that symmetry leaves.

    Args:
        geometry: the scan.
    """

    _rays: Tensor
    _data: Tensor
    _posed: Tensor
    _upright: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.plan, matrix, transpose = _matrices(geometry)
        self._forward, self._transpose = StoredMatrix(matrix), StoredMatrix(transpose)
        posed = self.plan.posed_pixels(geometry.image_size)
        # Gathering, with a bag for each sum, is several times faster than scattered addition.
        for name, index in (
            ("_rays", self.plan.index),
            ("_data", _sources(self.plan.index, self.plan.places)),
            ("_posed", posed.ravel()),
            ("_upright", _sources(posed.ravel(), len(posed))),
        ):
            buffer = torch.from_numpy(index.astype(np.int32))
            self.register_buffer(name, buffer, persistent=False)

    def project(self, images: Tensor) -> Tensor:
        return self._in_groups(images, self._project)

    def backproject(self, sinograms: Tensor) -> Tensor:
        return self._in_groups(sinograms, self._backproject)

    def _in_groups(self, values: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        size = max(1, MAX_COLUMNS // len(self.plan.poses))
        return torch.cat([apply(group) for group in values.split(size)])

    def _project(self, images: Tensor) -> Tensor:
        count, poses = len(images), len(self.plan.poses)
        pixels = images.flatten(1).T.contiguous()  # (pixels, B)
        posed = pixels.index_select(0, self._posed).view(-1, poses * count)
        rays = self._forward @ posed  # (angles rows, poses B)
        data = rays.view(-1, count).index_select(0, self._rays)  # (views bins, B)
        return data.T.reshape(count, *self.shapes[1])

    def _backproject(self, sinograms: Tensor) -> Tensor:
        count, poses = len(sinograms), len(self.plan.poses)
        data = nn.functional.pad(sinograms.flatten(1).T, (0, 0, 0, 1))  # zero where no datum is
        rays = _sum_rows(data, self._data).view(-1, poses * count)
        posed = self._transpose @ rays  # (pixels, poses B)
        pixels = _sum_rows(posed.view(-1, count), self._upright)
        return pixels.T.reshape(count, *self.shapes[0])


def _sources(index: np.ndarray, size: int) -> np.ndarray:
    """Return which entries of ``index`` point to each of ``size`` places, (size, most of them).

    Rows are filled up with ``len(index)``.
    """
    order = np.argsort(index, kind="stable")
    places = index[order]
    rank = np.arange(len(index)) - np.searchsorted(places, places)
    sources = np.full((size, int(rank.max()) + 1), len(index))
    sources[places, rank] = order
    return sources


def _sum_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Return sums over the rows (n, k) of a table, (n, columns)."""
    return nn.functional.embedding_bag(rows, table, mode="sum")


@lru_cache(maxsize=4)
def _matrices(geometry: Geometry) -> tuple[Plan, csr_array, csr_array]:
    """Return a geometry's plan, its matrix (angles rows, pixels) and the transpose.

    The last few are kept: operators of one geometry share them.
    """
    plan = make_plan(geometry)
    transpose = _transposed_matrix(geometry, plan)
    return plan, transpose.T.tocsr(), transpose


def _transposed_matrix(geometry: Geometry, plan: Plan) -> csr_array:
    """Return the matrix (pixels, angles rows) in compressed rows, which views fill in order."""
    parts = [_view_entries(geometry, plan, view) for view in range(len(plan.angles))]
    counts = np.stack([count for _, _, count in parts], 1)  # (pixels, angles)
    ends = np.cumsum(counts.ravel()).reshape(counts.shape)
    cells = np.empty(ends[-1, -1], np.int32)
    values = np.empty(ends[-1, -1], np.float32)
    for v, (bins, weights, count) in enumerate(parts):
        start = np.repeat(ends[:, v] - np.cumsum(count), count)
        place = start + np.arange(len(bins))
        cells[place], values[place] = bins, weights
    pointers = np.concatenate([[0], ends[:, -1]])
    return csr_array((values, cells, pointers), shape=(len(counts), len(plan.angles) * plan.rows))


def _view_entries(
    geometry: Geometry, plan: Plan, view: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one view's columns and weights, pixel by pixel, and how many each pixel has."""
    first, weights = geometry.footprint(math.radians(plan.angles[view]))
    bins = first[:, None] + torch.arange(weights.shape[1])
    keep = (weights > 0) & (bins >= 0) & (bins < plan.rows)
    columns = (bins[keep] + view * plan.rows).int()
    return columns.numpy(), weights[keep].float().numpy(), keep.sum(1).numpy()


def matrix_bytes(geometry: Geometry) -> int:
    """Return about how large a matrix and its transpose are, 8 bytes an entry each."""
    plan = make_plan(geometry)
    # One view in a general direction tells the number of bins that a pixel's shadow touches.
    _, weights = geometry.footprint(math.radians(30.0))
    share = plan.rows / geometry.bins
    return int(16 * int(weights.count_nonzero()) * len(plan.angles) * share)


class ViewByView(Projector):
    """Weights computed for each view when it is needed: little memory, more time.

    Args:
        geometry: the scan.
    """

    def project(self, images: Tensor) -> Tensor:
        flat, bins = images.flatten(1), self.geometry.bins
        views = []
        for angle in self.geometry.angles:
            cells, weights = self._view(angle, images)
            rays = flat.new_zeros(len(flat), bins + 2)
            for cell, weight in zip(cells, weights, strict=True):
                rays.index_add_(1, cell, flat * weight)
            views.append(rays[:, 1:-1])
        return torch.stack(views, 1)

    def backproject(self, sinograms: Tensor) -> Tensor:
        total = sinograms.new_zeros(len(sinograms), math.prod(self.shapes[0]))
        for view, angle in enumerate(self.geometry.angles):
            cells, weights = self._view(angle, sinograms)
            padded = nn.functional.pad(sinograms[:, view], (1, 1))
            for cell, weight in zip(cells, weights, strict=True):
                total.addcmul_(padded[:, cell], weight)
        return total.reshape(-1, *self.shapes[0])

    def _view(self, angle: float, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return bins (taps, pixels), 0 and the last one being outside, and weights."""
        first, weights = self.geometry.footprint(math.radians(angle), like.device)
        bins = first + torch.arange(weights.shape[1], device=like.device)[:, None]
        return bins.clamp(-1, self.geometry.bins) + 1, weights.T.to(like.dtype).contiguous()


def make_projector(geometry: Geometry) -> Projector:
    """Return a matrix where it fits into `MATRIX_BYTES`, else the view-by-view projector."""
    fits = matrix_bytes(geometry) <= MATRIX_BYTES
    return MatrixProjector(geometry) if fits else ViewByView(geometry)
