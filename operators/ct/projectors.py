"""Projection and its exact transpose: as a sparse matrix, or view by view without one."""

from abc import abstractmethod
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
MAX_COLUMNS = 16

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

    _index: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.plan, matrix, transpose = _matrices(geometry)
        self._forward, self._transpose = StoredMatrix(matrix), StoredMatrix(transpose)
        self.register_buffer("_index", torch.from_numpy(self.plan.index), persistent=False)

    def project(self, images: Tensor) -> Tensor:
        return self._in_groups(images, self._project)

    def backproject(self, sinograms: Tensor) -> Tensor:
        return self._in_groups(sinograms, self._backproject)

    def _in_groups(self, values: Tensor, apply: Any) -> Tensor:
        size = max(1, MAX_COLUMNS // len(self.plan.poses))
        return torch.cat([apply(group) for group in values.split(size)])

    def _project(self, images: Tensor) -> Tensor:
        posed = torch.stack([pose.apply(images) for pose in self.plan.poses])  # (P, B, H, W)
        columns = posed.flatten(0, 1).flatten(1).T.contiguous()  # (pixels, P B)
        rays = self._forward @ columns
        data = rays.view(-1, len(images))[self._index]  # (views bins, B)
        return data.T.reshape(len(images), *self.shapes[1])

    def _backproject(self, sinograms: Tensor) -> Tensor:
        count, poses = len(sinograms), self.plan.poses
        size = self._forward.shape[0] * len(poses)
        rays = sinograms.new_zeros(size, count)
        # Added, since opposite views of a full turn of parallel beams are the same rays.
        rays.index_add_(0, self._index, sinograms.flatten(1).T)
        columns = self._transpose @ rays.view(-1, len(poses) * count)
        posed = columns.T.reshape(len(poses), count, *self.shapes[0])
        return torch.stack([p.undo(i) for p, i in zip(poses, posed, strict=True)]).sum(0)


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
    parts = [_view_entries(geometry, plan, v) for v in range(len(plan.angles))]
    counts = np.stack([count for _, _, count in parts], 1)  # (pixels, angles)
    ends = np.cumsum(counts.ravel()).reshape(counts.shape)
    cells = np.empty(ends[-1, -1], np.int32)
    values = np.empty(ends[-1, -1], np.float32)
    for v, (bins, weights, count) in enumerate(parts):
        start = np.repeat(ends[:, v] - count, count)
        place = start + np.arange(len(bins)) - np.repeat(np.cumsum(count) - count, count)
        cells[place], values[place] = bins, weights
    pointers = np.concatenate([[0], ends[:, -1]])
    return csr_array((values, cells, pointers), shape=(len(counts), len(plan.angles) * plan.rows))


def _view_entries(
    geometry: Geometry, plan: Plan, view: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one view's columns and weights, pixel by pixel, and how many each pixel has."""
    first, weights = geometry.footprint(np.deg2rad(plan.angles[view]))
    bins = first[:, None] + np.arange(weights.shape[1])
    keep = (weights > 0) & (bins >= 0) & (bins < plan.rows)
    columns = (bins[keep] + view * plan.rows).astype(np.int32)
    return columns, weights[keep].astype(np.float32), keep.sum(1)


def matrix_bytes(geometry: Geometry) -> int:
    """Return about how large a matrix and its transpose are, 8 bytes an entry each."""
    plan = make_plan(geometry)
    # One view in a general direction tells the number of bins that a pixel's shadow touches.
    _, weights = geometry.footprint(np.deg2rad(30.0))
    share = plan.rows / geometry.bins
    return int(16 * np.count_nonzero(weights) * len(plan.angles) * share)


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
            rays.index_add_(1, cells.flatten(), (flat[..., None] * weights).flatten(1))
            views.append(rays[:, 1:-1])
        return torch.stack(views, 1)

    def backproject(self, sinograms: Tensor) -> Tensor:
        total = sinograms.new_zeros(len(sinograms), int(np.prod(self.shapes[0])))
        for view, angle in enumerate(self.geometry.angles):
            cells, weights = self._view(angle, sinograms)
            padded = nn.functional.pad(sinograms[:, view], (1, 1))
            total += (padded[:, cells] * weights).sum(-1)
        return total.reshape(-1, *self.shapes[0])

    def _view(self, angle: float, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return bins (pixels, taps), 0 and the last one being outside, and weights."""
        first, weights = self.geometry.footprint(np.deg2rad(angle))
        bins = first[:, None] + np.arange(weights.shape[1])
        cells = torch.from_numpy(bins.clip(-1, self.geometry.bins) + 1).to(like.device)
        return cells, torch.from_numpy(weights).to(like)


def make_projector(geometry: Geometry) -> Projector:
    """Return a matrix where it fits into `MATRIX_BYTES`, else the view-by-view projector."""
    fits = matrix_bytes(geometry) <= MATRIX_BYTES
    return MatrixProjector(geometry) if fits else ViewByView(geometry)
