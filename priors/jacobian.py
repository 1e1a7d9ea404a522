"""Jacobians of a denoiser: products with directions, and the leading eigenvectors.

``J = dD/d(x / alpha)`` at one noisy image; ``J = Cov[x_0 | x_t] / r^2`` with ``r = sigma / alpha``
for an exact denoiser, which is symmetric with eigenvalues ``l / (l + r^2)`` for a Gaussian of
variances l. Complex images are pairs of real numbers.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from wellposed.autograd import leaving_inference
from wellposed.linalg import as_real, like
from wellposed.noise import SAMPLING, ItemNoise
from wellposed.priors.prior import Prior, broadcast


class Jacobian:
    """The Jacobian of ``D(x_t, t)`` with respect to ``x_t / alpha_t``, of each item.

    Args:
        prior: a prior that can be differentiated.
        x_t: noisy images (B, C, ...), in units.
        t: their time, a number.
    """

    def __init__(self, prior: Prior, x_t: Tensor, t: float) -> None:
        self.prior, self.x_t, self.t = prior, x_t, t
        self.alpha = broadcast(prior.schedule(t)[0], x_t)
        self.point = as_real(x_t / self.alpha)

    def items(self) -> "Iterator[Jacobian]":
        """Yield the Jacobian of each item."""
        for item in self.x_t.split(1):
            yield Jacobian(self.prior, item, self.t)

    def repeated(self, count: int) -> "Jacobian":
        """Return the Jacobian of one item, ``count`` times."""
        return Jacobian(self.prior, self.x_t.expand(count, *self.x_t.shape[1:]), self.t)

    def _denoised(self, clean: Tensor) -> Tensor:
        return as_real(self.prior.denoise(self.alpha * like(clean, self.x_t), self.t))

    @leaving_inference
    def times(self, v: Tensor) -> Tensor:
        """Return ``J v`` of each item, by forward differentiation."""
        with torch.no_grad():
            found: Tensor = torch.func.jvp(self._denoised, (self.point,), (as_real(v),))[1]
        return like(found, v)

    @leaving_inference
    def transposed(self, v: Tensor) -> Tensor:
        """Return ``J^T v`` of each item, by backward differentiation."""
        with torch.enable_grad():
            point = self.point.detach().requires_grad_()
            found = torch.autograd.grad(self._denoised(point), point, as_real(v))[0]
        return like(found, v)


class Modes(NamedTuple):
    """The leading eigenvalues (k,) of a symmetric map, decreasing, and its eigenvectors (k, n)."""

    values: Tensor
    vectors: Tensor


def leading_modes(
    apply: Callable[[Tensor], Tensor], size: int, rank: int, reference: Tensor, rounds: int = 2
) -> Modes:
    """Return the leading modes of a symmetric map on vectors, by a randomised Krylov space.

    Musco and Musco, "Randomized Block Krylov Methods for Stronger and Faster Approximate Singular
    Value Decomposition", 2015, arXiv 1504.05477. Exact for a map of rank ``rank`` plus a multiple
    of the identity.

    Args:
        apply: the map, of vectors (p, n).
        size: n.
        rank: number of modes, at most n.
        reference: a real tensor, for dtype and device.
        rounds: products with each of the ``rank + 10`` random vectors.
    """
    count = min(size, rank + 10)
    noise = ItemNoise(0, [(p,) for p in range(count)], SAMPLING)
    blocks = [_orthonormal(noise.draw(reference.new_empty(count, size)))]
    for _ in range(rounds):
        blocks.append(_orthonormal(apply(blocks[-1])))
    basis = _orthonormal(torch.cat(blocks))
    small = basis @ apply(basis).T
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    kept = min(rank, len(values))
    return Modes(values.flip(0)[:kept], (vectors.T.flip(0) @ basis)[:kept])


def _orthonormal(rows: Tensor) -> Tensor:
    """Return an orthonormal basis of the span of rows."""
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    spanned: Tensor = basis[values > 1e-5 * values[0]]
    return spanned
