"""Functions of the normal operator of Cartesian MRI along lines of k-space.

If the mask varies along one axis only, positions along the other axis, called rows here, do not
mix. The normal operator of a row is a Hermitian matrix: the Gram matrix of the coil maps times the
point spread of the mask, entry by entry. If the factors of all rows fit into memory, each row has
its own, and functions of the operator are exact. Otherwise neighbouring rows, whose coil maps are
nearly the same, share those of their mean matrix, which gives a preconditioner.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCKS = 16
"""Blocks of neighbouring rows that share a matrix, where not every row can have its own."""

FLOOR = 1e-5
"""Least weight of a preconditioner over the largest eigenvalue."""

LARGEST = 2**28
"""Bytes that the factors of an operator may take."""

PART = 2**22
"""Bytes of factors that are used at a time, so that the second product finds them in the cache."""


@dataclass(frozen=True)
class RowFactors:
    """Eigenvalues (B, G, n) and eigenvectors (B, G, n, n) of the mean matrices of G blocks.

    Attributes:
        axis: axis of the image along which the mask varies, -2 or -1, of n pixels.
        exact: whether every block is one row.
    """

    values: Tensor
    vectors: Tensor
    axis: int
    exact: bool

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
        rows, n = maps.movedim(axis, -1).shape[2:]
        items = max(len(maps), len(mask))
        allowed = LARGEST // (items * n * n * dtype.itemsize)
        if allowed < min(BLOCKS, rows):
            return None
        exact = rows <= allowed
        S = _in_blocks(maps.movedim(axis, -1).to(dtype), rows if exact else BLOCKS)
        line = mask.movedim(axis, -1)[:, :, 0, None]
        spread = torch.fft.ifft(line.to(dtype))
        pixel = torch.arange(n, device=maps.device)
        gram = torch.einsum("bcgrj,bcgrk->bgjk", S.conj(), S) / S.shape[3]
        values, vectors = torch.linalg.eigh(gram * spread[..., 0, (pixel[:, None] - pixel) % n])
        return cls(values.clamp(min=0), vectors, axis, exact)

    def solve(self, b: Tensor, weight: Tensor) -> Tensor:
        """Return about ``(A^H A + weight)^-1 b``.

        Args:
            b: images (B, 1, H, W).
            weight: one for each item, at least 0, of any shape with ones after the first axis.
        """
        weight = weight.expand(len(b), 1, 1, 1)
        top = self.values.amax((1, 2)).view(-1, 1, 1, 1)
        # Without a weight, components that are hardly measured stay for the last steps.
        least = torch.where(weight > 0, weight.clamp(min=FLOOR * top), top)
        return self.apply(b, lambda values: 1 / (values + least))

    def apply(self, b: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``f(A^H A) b``, or about that if rows share their factors.

        Args:
            b: images (B, 1, H, W).
            f: maps eigenvalues (1 or B, 1, G, n) to factors that broadcast with them.
        """
        rows = b.movedim(self.axis, -1)
        blocks = _in_blocks(rows, self.values.shape[1])[:, 0]
        factors = f(self.values[:, None])[:, 0].expand(len(b), -1, -1)
        if len(self.values) == 1:  # the items of a batch share the factors
            applied = _applied(self.vectors[0], factors, blocks)
        else:
            parts = zip(self.vectors, factors.split(1), blocks.split(1), strict=True)
            applied = torch.cat([_applied(*part) for part in parts])
        kept = applied.flatten(1, 2)[:, None, : rows.shape[2]]
        return kept.movedim(-1, self.axis)


def _applied(V: Tensor, factors: Tensor, blocks: Tensor) -> Tensor:
    """Return ``V diag(factors) V^H`` times blocks (B, G, r, n); V (G, n, n)."""
    step = max(1, PART // (V.shape[-1] ** 2 * V.element_size()))
    parts = [slice(k, k + step) for k in range(0, len(V), step)]
    pairs = list(zip(blocks.conj().resolve_conj(), factors[:, :, None], strict=True))
    # Item by item, as products round differently in batches of other sizes. Conjugates of images
    # instead of V, which would be copied.
    applied = [
        torch.stack([_transformed(V[part], f[part], x[part]) for x, f in pairs]) for part in parts
    ]
    return torch.cat(applied, 1)


def _transformed(V: Tensor, factors: Tensor, conjugate: Tensor) -> Tensor:
    coordinates = torch.bmm(conjugate, V) * factors
    return torch.bmm(coordinates.conj().resolve_conj(), V.mT)


def _in_blocks(rows: Tensor, blocks: int) -> Tensor:
    """Return (B, C, R, n) as (B, C, G, R / G, n), with rows of zeros at the end."""
    length = -(-rows.shape[2] // blocks)
    missing = -rows.shape[2] % length
    parts: Tensor = pad(rows, (0, 0, 0, missing)).unflatten(2, (-1, length))
    return parts
