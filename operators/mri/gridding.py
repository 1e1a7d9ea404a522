"""Sparse interpolation between a periodic grid and scattered points, by a Kaiser-Bessel kernel."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi, prod, sinh, sqrt
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from wellposed.checks import Count
from wellposed.errors import require
from wellposed.operators.ct.sparse import StoredMatrix


@dataclass(frozen=True)
class KaiserBessel:
    """The Kaiser-Bessel interpolation kernel, of unit integral.

    Attributes:
        width: support in cells of the grid.
        beta: shape parameter; `matched` gives the best one.

    References:
        Beatty, Nishimura and Pauly, "Rapid gridding reconstruction with a minimal oversampling
        ratio", IEEE Transactions on Medical Imaging 24, 2005, doi:10.1109/TMI.2005.848376
    """

    width: Count
    beta: float

    @classmethod
    def matched(cls, width: Count, oversampling: float) -> "KaiserBessel":
        """Return the kernel with the least aliasing for an oversampling (equation 5)."""
        reach = (width / oversampling * (oversampling - 0.5)) ** 2
        return cls(width, pi * sqrt(reach - 0.8))

    def __call__(self, u: Tensor) -> Tensor:
        """Return the kernel at distances ``u`` in cells; zero beyond ``width / 2``."""
        root = (1 - (2 * u / self.width) ** 2).clamp(min=0).sqrt()
        inside = u.abs() <= self.width / 2
        return inside * torch.i0(self.beta * root) / self._integral

    def transform(self, x: Tensor) -> Tensor:
        """Return the Fourier transform at ``x`` cycles per cell, in the main lobe; 1 at 0."""
        root = (self.beta**2 - (pi * self.width * x) ** 2).clamp(min=1e-12).sqrt()
        return self.width * torch.sinh(root) / root / self._integral

    @property
    def _integral(self) -> float:
        return self.width * sinh(self.beta) / self.beta


class Gridding(nn.Module):
    """Sparse interpolation between a periodic grid and scattered points, and its transpose.

    The grid is the unshifted FFT of an array whose origin is the middle cell ``G_a // 2``: the
    weights alternate in sign from cell to cell, which shifts the origin. Matrix and transpose are
    stored in compressed rows and single precision, with ``16 points width^d`` bytes together. They
    move with the module, and their values are cast to the dtype of the other factor.

    Args:
        cells: positions of the points in cells of the grid, (M, d), modulo the grid.
        grid_size: the d even sides of the grid.
        kernels: the interpolation kernel of each axis.
    """

    def __init__(
        self, cells: Tensor, grid_size: Sequence[int], kernels: Sequence[KaiserBessel]
    ) -> None:
        super().__init__()
        matrix = _interpolation_matrix(cells, grid_size, kernels)
        self._interpolation = StoredMatrix(matrix)
        self._spreading = StoredMatrix(matrix.T.tocsr())

    def interpolate(self, grid: Tensor) -> Tensor:
        """Return values at the points, (M, n), of n real grids, (prod(grid_size), n)."""
        return _product(grid, self._interpolation, self._spreading)

    def spread(self, values: Tensor) -> Tensor:
        """Return the transpose of `interpolate`: (M, n) to (prod(grid_size), n)."""
        return _product(values, self._spreading, self._interpolation)


class _Kept(Protocol):
    """What a product keeps for its gradient."""

    matrix: StoredMatrix
    transpose: StoredMatrix


class _SparseProduct(torch.autograd.Function):
    """``matrix @ columns``, with the stored transpose for the gradient."""

    @staticmethod
    def forward(columns: Tensor, matrix: StoredMatrix, transpose: StoredMatrix) -> Tensor:
        return matrix @ columns

    @staticmethod
    def setup_context(
        ctx: _Kept, inputs: tuple[Tensor, StoredMatrix, StoredMatrix], output: Tensor
    ) -> None:
        _, ctx.matrix, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: _Kept, grad: Tensor) -> tuple[Tensor, None, None]:
        return _product(grad.contiguous(), ctx.transpose, ctx.matrix), None, None

    @staticmethod
    def jvp(ctx: _Kept, tangent: Tensor, *_: None) -> Tensor:
        return _product(tangent.contiguous(), ctx.matrix, ctx.transpose)


def _product(columns: Tensor, matrix: StoredMatrix, transpose: StoredMatrix) -> Tensor:
    product: Tensor = _SparseProduct.apply(columns, matrix, transpose)
    return product


def _interpolation_matrix(
    cells: Tensor, grid_size: Sequence[int], kernels: Sequence[KaiserBessel]
) -> csr_array:
    """Return the matrix (points, cells of the grid), float32: products of the axes' weights."""
    require(prod(grid_size) < 2**31, "image_size", tuple(grid_size), "a grid below 2^31 cells")
    weights = torch.ones(len(cells), 1)
    columns = torch.zeros(len(cells), 1, dtype=torch.int32)
    for position, side, kernel in zip(cells.T[..., None], grid_size, kernels, strict=True):
        near = torch.ceil(position - kernel.width / 2) + torch.arange(kernel.width)
        along = kernel(near - position) * (1 - 2 * (near % 2))
        # In ascending order, as compressed rows require, also for rows that wrap around.
        near, order = (near.int() % side).sort(1)
        weights = (weights[:, :, None] * along.gather(1, order).float()[:, None]).flatten(1)
        columns = (columns[:, :, None] * side + near[:, None]).flatten(1)
    ends = np.arange(0, weights.numel() + 1, weights.shape[1])
    entries = (weights.flatten().numpy(), columns.flatten().numpy(), ends)
    return csr_array(entries, shape=(len(cells), prod(grid_size)))
