"""An approximate inverse of the normal operator of Cartesian MRI along lines of k-space.

If the mask varies along one axis only, positions along the other axis, called rows here, do not
mix. The normal operator of a row is a Hermitian matrix: the Gram matrix of the coil maps times the
point spread of the mask, entry by entry. Coil maps are smooth, so neighbouring rows have nearly
the same matrix, and the mean matrix of a block of rows is factorised for all of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCKS = 16
"""Blocks of neighbouring rows, each with one matrix."""

FLOOR = 1e-5
"""Least positive weight over the largest eigenvalue; rounding errors have no inverse."""

LARGEST = 2**28
"""Bytes that the factors of one image may take."""


@dataclass(frozen=True)
class RowFactors:
    """Eigenvalues (B, G, n) and eigenvectors (B, G, n, n) of the mean matrices of G blocks.

    Attributes:
        axis: axis of the image along which the mask varies, -2 or -1, of n pixels.
    """

    values: Tensor
    vectors: Tensor
    axis: int

    @classmethod
    def of(cls, maps: Tensor, mask: Tensor, axis: int, dtype: torch.dtype) -> "RowFactors | None":
        """Factorise ``sum_c S_c^H F^H M F S_c``; None if the factors would be too large.

        Args:
            maps: coil maps (1 or B, coils, H, W).
            mask: mask (1 or B, 1, H, W), constant along the axis other than ``axis``, with the
                centre of k-space first.
            axis: axis along which the mask varies.
            dtype: complex dtype of the factors.
        """
        S = _in_blocks(maps.movedim(axis, -1).to(dtype))
        groups, rows, n = S.shape[2:]
        if groups * n * n * dtype.itemsize > LARGEST:
            return None
        line = mask.movedim(axis, -1)[:, :, 0, None]
        spread = torch.fft.ifft(line.to(dtype))
        pixel = torch.arange(n, device=maps.device)
        gram = torch.einsum("bcgrj,bcgrk->bgjk", S.conj(), S) / rows
        values, vectors = torch.linalg.eigh(gram * spread[..., 0, (pixel[:, None] - pixel) % n])
        return cls(values.clamp(min=0), vectors, axis)

    def solve(self, b: Tensor, weight: Tensor) -> Tensor:
        """Return about ``(A^H A + weight)^-1 b``; b (B, 1, H, W), ``weight`` broadcasts."""
        rows = b.movedim(self.axis, -1)
        top = self.values.amax((1, 2)).view(-1, 1, 1, 1)
        # Without a weight, components that are hardly measured stay for the last steps.
        weight = torch.where(weight > 0, weight.clamp(min=FLOOR * top), top)
        damped = self.values[:, :, None] + weight
        coordinates = self._product(_in_blocks(rows)[:, 0], self.vectors.conj()) / damped
        blocks = self._product(coordinates, self.vectors.mT)
        kept = blocks.flatten(1, 2)[:, None, : rows.shape[2]]
        return kept.movedim(-1, self.axis)

    def _product(self, rows: Tensor, matrices: Tensor) -> Tensor:
        if len(matrices) > 1:
            product: Tensor = torch.matmul(rows, matrices)
        else:  # a batch shares them, without copies
            product = torch.einsum("bgrj,gjk->bgrk", rows, matrices[0])
        return product


def _in_blocks(rows: Tensor) -> Tensor:
    """Return (B, C, R, n) as (B, C, G, R / G, n), with rows of zeros at the end."""
    length = -(-rows.shape[2] // BLOCKS)
    missing = -rows.shape[2] % length
    blocks: Tensor = pad(rows, (0, 0, 0, missing)).unflatten(2, (-1, length))
    return blocks
