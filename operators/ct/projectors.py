"""Projection and its exact transpose: as a sparse matrix, or view by view without one."""

import logging
import math
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol
from weakref import WeakValueDictionary

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from wellposed.checks import Count
from wellposed.operators.ct.fbp import single_or_double
from wellposed.operators.ct.geometry import Geometry
from wellposed.operators.ct.sparse import StoredMatrix
from wellposed.operators.ct.symmetry import Plan, make_plan

logger = logging.getLogger(__name__)

# Sparse products lose speed beyond this many columns: images of a batch go in groups.
MAX_COLUMNS = 64


class Pair(Protocol):
    """A linear map and its transpose."""

    def project(self, values: Tensor, /) -> Tensor:
        """Return the map applied to images or volumes."""

    def backproject(self, values: Tensor, /) -> Tensor:
        """Return its transpose applied to data."""


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


class _Kept(Protocol):
    """What a projection keeps for its gradient."""

    projector: Pair
    transpose: bool


class Projection(torch.autograd.Function):
    """The application of a `Pair`; the gradient of the map is its transpose and vice versa."""

    @staticmethod
    def forward(values: Tensor, projector: Pair, transpose: bool) -> Tensor:
        return projector.backproject(values) if transpose else projector.project(values)

    @staticmethod
    def setup_context(ctx: _Kept, inputs: tuple[Tensor, Pair, bool], output: Tensor) -> None:
        _, ctx.projector, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: _Kept, grad: Tensor) -> tuple[Tensor, None, None]:
        return Projection.apply(grad, ctx.projector, not ctx.transpose), None, None

    @staticmethod
    def jvp(ctx: _Kept, tangent: Tensor, *_: None) -> Tensor:
        out: Tensor = Projection.apply(tangent, ctx.projector, ctx.transpose)
        return out


def apply_pair(pair: Pair, values: Tensor, transpose: bool = False) -> Tensor:
    """Return a pair's map, or its transpose, of values (B, 1, ...) in any precision."""
    out: Tensor = Projection.apply(single_or_double(values)[:, 0], pair, transpose)
    return out[:, None].to(values.dtype)


class MatrixProjector(Projector):
    """Weights as a sparse matrix and its transpose, for a few views; symmetry gives the others.

    Args:
        geometry: the scan.
    """

    _rays: Tensor
    _data: Tensor
    _posed: Tensor
    _upright: Tensor

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self._shared = Matrices.of(geometry)
        self.plan = self._shared.plan
        self._forward = StoredMatrix(self._shared.forward)
        self._transpose = StoredMatrix(self._shared.transpose)
        posed = self.plan.posed_pixels(geometry.image_size)
        # Gathering into sums is several times faster than scattered addition.
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


def _sources(index: np.ndarray, size: Count) -> np.ndarray:
    """Return the entries of ``index`` that point to each of ``size`` places, one row per place.

    Rows are padded with ``len(index)``.
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


class Matrices:
    """The matrix of a geometry's plan, (angles rows, pixels), and its transpose.

    All operators of the geometry share it while one of them exists.

    Args:
        geometry: the scan.
    """

    _alive: ClassVar[WeakValueDictionary[Geometry, "Matrices"]] = WeakValueDictionary()

    def __init__(self, geometry: Geometry) -> None:
        self.plan = make_plan(geometry)
        self.forward = _matrix(geometry, self.plan)
        self.transpose = self.forward.T.tocsr()

    @classmethod
    def of(cls, geometry: Geometry) -> "Matrices":
        """Return the matrices of a geometry, built if there are none."""
        found = cls._alive.get(geometry)
        return cls._alive.setdefault(geometry, cls(geometry)) if found is None else found

    def __deepcopy__(self, memo: dict[int, object]) -> "Matrices":
        return self


def _matrix(geometry: Geometry, plan: Plan) -> csr_array:
    """Return the matrix (angles rows, pixels) in compressed rows, one view after the other."""
    counts, end = [], 0
    # Filled in place, as lists of the views would double the memory.
    pixels = np.empty(3 * math.prod(geometry.image_size) * len(plan.angles), np.int32)
    weights = np.empty(pixels.size, np.float32)
    for angle in plan.angles:
        count, *entries = _view_rows(geometry, plan.rows, angle)
        start, end = end, end + len(entries[0])
        if end > pixels.size:
            pixels, weights = np.resize(pixels, 2 * end), np.resize(weights, 2 * end)
        pixels[start:end], weights[start:end] = entries
        counts.append(count)
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32)
    shape = (len(pointers) - 1, math.prod(geometry.image_size))
    return csr_array((weights[:end], pixels[:end], pointers), shape=shape)


def _view_rows(
    geometry: Geometry, rows: int, angle: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of pixels, the pixels and the weights of the first bins of a view."""
    first, weights = geometry.footprint(math.radians(angle))
    bins = first + torch.arange(len(weights))[:, None]
    tap, pixel = torch.nonzero((weights > 0) & (bins >= 0) & (bins < rows), as_tuple=True)
    hit = bins[tap, pixel].numpy()
    # NumPy sorts 16-bit integers by radix.
    order = np.argsort(hit.astype(np.int16 if rows < 2**15 else np.int32), kind="stable")
    values = weights[tap, pixel].float().numpy()[order]
    return np.bincount(hit, minlength=rows), pixel.int().numpy()[order], values


def matrix_bytes(geometry: Geometry) -> int:
    """Return the approximate size of a matrix and its transpose, 8 bytes per entry each."""
    plan = make_plan(geometry)
    # One view in a general direction gives the number of bins that a pixel projects to.
    _, weights = geometry.footprint(math.radians(30.0))
    share = plan.rows / geometry.bins
    return int(16 * int(weights.count_nonzero()) * len(plan.angles) * share)


class ViewByView(Projector):
    """Weights computed for each view when it is needed: little memory, far more time.

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
                rays.scatter_add_(1, cell.expand_as(flat), flat * weight)
            views.append(rays[:, 1:-1])
        return torch.stack(views, 1)

    def backproject(self, sinograms: Tensor) -> Tensor:
        total = sinograms.new_zeros(len(sinograms), math.prod(self.shapes[0]))
        for view, angle in enumerate(self.geometry.angles):
            cells, weights = self._view(angle, sinograms)
            padded = nn.functional.pad(sinograms[:, view], (1, 1))
            for cell, weight in zip(cells, weights, strict=True):
                total.addcmul_(padded.gather(1, cell.expand_as(total)), weight)
        return total.reshape(-1, *self.shapes[0])

    def _view(self, angle: float, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return bins (taps, pixels), of which the first and the last are outside, and weights."""
        first, weights = self.geometry.footprint(math.radians(angle), like.device, like.dtype)
        bins = first + torch.arange(len(weights), device=like.device)[:, None]
        return bins.clamp(-1, self.geometry.bins) + 1, weights


def make_projector(geometry: Geometry, memory: float) -> Projector:
    """Return a `MatrixProjector` if it fits into ``memory`` bytes, otherwise a `ViewByView`."""
    needed = matrix_bytes(geometry)
    if needed <= min(memory, 2**35):  # 32-bit indices
        return MatrixProjector(geometry)
    logger.warning(
        "the matrix of this scan needs %.3g GB but memory allows %.3g GB: weights are computed "
        "view by view, which is a hundred times slower; increase memory if possible",
        needed / 1e9,
        memory / 1e9,
    )
    return ViewByView(geometry)
