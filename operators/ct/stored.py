"""Projection by a stored sparse matrix, and how it is built."""

import math
from functools import partial
from pathlib import Path
from typing import ClassVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor, nn
from torch.nn.functional import threshold

from wellposed.checks import Count
from wellposed.operators.ct.cache import kept
from wellposed.operators.ct.footprints import NEGLIGIBLE, footprints
from wellposed.operators.ct.geometry import Geometry
from wellposed.operators.ct.sparse import MAX_COLUMNS, StoredMatrix
from wellposed.operators.ct.symmetry import Plan

LEAST_COLUMNS, MOST_COLUMNS = 8, 32
"""Columns of a product between which a CPU is fastest per column, depending on the image."""

CACHED = 2**21
"""Pixels in all columns that stay in its cache; with more it takes up to 3 times as long."""


class StoredWeights(nn.Module):
    """The weights of some views as a sparse matrix and its transpose.

    Args:
        geometry: the scan.
        rows: number of bins that are needed, from the first.
        angles: angles of the views in degrees.
        cache: folder in which the matrix is kept, if any.
    """

    def __init__(
        self,
        geometry: Geometry,
        rows: Count,
        angles: tuple[float, ...],
        cache: Path | None = None,
    ) -> None:
        super().__init__()
        self.places = len(angles) * rows
        self._shared = Matrices.of(geometry, rows, angles, cache)
        self._forward = StoredMatrix(self._shared.forward)
        self._transpose = StoredMatrix(self._shared.transpose)

    def columns(self, like: Tensor) -> int:
        """Return how many columns, images times poses, are best multiplied at a time."""
        if like.device.type != "cpu" or like.dtype != torch.float32:  # converted at each product
            return MAX_COLUMNS
        return min(MOST_COLUMNS, max(LEAST_COLUMNS, CACHED // int(self._transpose.shape[0])))

    def rays(self, columns: Tensor) -> Tensor:
        """Return the rays (angles rows, n) through images in columns (pixels, n)."""
        return self._forward @ columns

    def pixels(self, rays: Tensor) -> Tensor:
        """Return the transpose applied to rays (angles rows, n), (pixels, n)."""
        return self._transpose @ rays


class Matrices:
    """The matrix of some views of a scan, (angles rows, pixels), and its transpose.

    All operators of the same scan share it while one of them exists.

    Attributes:
        forward, transpose: in compressed rows.
    """

    _alive: ClassVar[WeakValueDictionary[tuple[object, ...], "Matrices"]] = WeakValueDictionary()

    def __init__(self, forward: csr_array, transpose: csr_array) -> None:
        self.forward, self.transpose = forward, transpose

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        rows: Count,
        angles: tuple[float, ...],
        cache: Path | None = None,
    ) -> "Matrices":
        """Return the matrices of the first ``rows`` bins of views at some angles, in degrees.

        They are built, or read from the folder ``cache``, if no operator has them.
        """
        key = geometry, rows, angles
        found = cls._alive.get(key)
        if found is None:
            pair = kept(cache, key, partial(_pair, geometry, rows, angles))
            found = cls._alive.setdefault(key, cls(*pair))
        return found

    def __deepcopy__(self, memo: dict[int, object]) -> "Matrices":
        return self


def _pair(
    geometry: Geometry, rows: Count, angles: tuple[float, ...]
) -> tuple[csr_array, csr_array]:
    forward = _matrix(geometry, rows, angles)
    return forward, forward.T.tocsr()


def _matrix(geometry: Geometry, rows: Count, angles: tuple[float, ...]) -> csr_array:
    """Return the matrix (angles rows, pixels) in compressed rows, one view after the other."""
    lengths, end, size = [], 0, math.prod(geometry.image_size)
    # Filled in place, as lists of the views would double the memory.
    pixels = np.empty(3 * size * len(angles) * rows // geometry.bins + 1, np.int32)
    weights = np.empty(pixels.size, np.float32)
    for angle in torch.tensor(angles, dtype=torch.float64).split(1):
        count, *entries = _view_rows(geometry, rows, angle)
        start, end = end, end + len(entries[0])
        if end > pixels.size:
            pixels, weights = np.resize(pixels, 2 * end), np.resize(weights, 2 * end)
        pixels[start:end], weights[start:end] = entries
        lengths.append(count)
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int32)
    return csr_array((weights[:end], pixels[:end], pointers), shape=(len(pointers) - 1, size))


def _view_rows(
    geometry: Geometry, rows: int, angle: Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of pixels, the pixels and the weights of the first bins of a view."""
    found = footprints(geometry, angle, dtype=torch.float32)
    taps, size, least = len(found.weights), found.first.numel(), NEGLIGIBLE * geometry.pixel_size
    # Bins beyond both ends are cut off below.
    first = found.first[0].clamp(-taps, rows) + taps
    bins, values = torch.empty(size, taps, dtype=torch.int32), torch.empty(size, taps)
    for tap in range(taps):
        torch.add(first, tap, out=bins[:, tap])
        values[:, tap] = threshold(found.weights[tap][0], least, 0.0)
    entries = values.numpy().ravel(), bins.numpy().ravel(), np.arange(0, taps * size + 1, taps)
    by_bin = csc_array(entries, shape=(rows + 2 * taps, size)).tocsr()  # counts instead of sorting
    by_bin.eliminate_zeros()
    pointers = by_bin.indptr[taps : taps + rows + 1]
    inside = slice(pointers[0], pointers[-1])
    return np.diff(pointers), by_bin.indices[inside], by_bin.data[inside]


def matrix_bytes(geometry: Geometry, plan: Plan) -> int:
    """Return the approximate size of a plan's matrix and its transpose, 8 bytes per entry each."""
    # One view in a general direction gives the number of bins that a pixel projects to.
    found = footprints(geometry, torch.tensor([30.0], dtype=torch.float64))
    entries = sum(int((weights > 0).sum()) for weights in found.weights)
    return int(16 * entries * len(plan.angles) * plan.rows / geometry.bins)
