"""The covariance of x_0 given x_t from products with the network's Jacobian.

Of ``V = (sigma_t^2 / alpha_t) J`` the products ``Y = V Omega^T`` with a few orthonormal directions
Omega are known: those that are measured, and a random one. The rest is taken as isotropic::

    V = Y M^-1 Y^T + rho^2 (1 - Omega^T Omega),      M = Omega Y     (Nystrom's approximation)

It is exact in the measured directions, ``A V = F Y^T`` with ``F = A Omega^T``, and has the largest
variances of x_0, e.g. between modes. Complex images are pairs of real numbers.

Reference: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011,
arXiv 0909.4061, section 5.5.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.linalg import as_real, like
from wellposed.priors.transition import Levels
from wellposed.solvers.corrected import Estimate
from wellposed.solvers.data import noise_level
from wellposed.solvers.problem import Problem
from wellposed.solvers.twists import (
    LEAST,
    Twist,
    measured_entries,
    signs,
    unit_spread,
)

FLAT = 1e-12
"""Smallest variance along a direction of x_0, in units."""

ROUNDING = 1e-5
"""Relative size below which a direction is 0 to the rounding of single precision."""


class Rows:
    """The rows ``A^H e_i`` of an operator that measures few numbers, and directions of images.

    Attributes:
        frame: orthonormal directions, the measured ones and a random one, (B, k, n).
        probe: another random direction, orthogonal to them, (B, n).
        F: the rows in the frame, (B, m, k).

    Args:
        problem: the problem; its items share the rows if there is one item.
    """

    def __init__(self, problem: Problem) -> None:
        self.image, self.entries = problem.zeros()[:1], measured_entries(problem)
        rows = [problem.A_adjoint(self._unit(int(i), problem.y)) for i in self.entries]
        flat = as_real(torch.stack(rows, 1)).flatten(2)  # (B, m, n)
        _, s, right = torch.linalg.svd(flat, full_matrices=False)
        pair = self.image.expand(2, *self.image.shape[1:])
        one, two = as_real(signs(pair)).flatten(1).double()
        # Rows that an item does not measure, as others do, have no direction.
        frame = right.double() * (s > ROUNDING * s[:, :1])[..., None]
        self.frame = torch.cat([frame, _normalised(_orthogonal(one, frame))], 1)
        self.probe = _orthogonal(two, self.frame)[:, 0]
        self.F = flat.double() @ self.frame.mT

    def _unit(self, index: int, y: Tensor) -> Tensor:
        e = torch.zeros_like(as_real(y))
        e.flatten(1)[:, index] = 1
        return like(e, y)

    def measured(self, y: Tensor) -> Tensor:
        """Return the measured numbers of a measurement, (B, m)."""
        return as_real(y).flatten(1)[:, self.entries]

    def as_image(self, flat: Tensor) -> Tensor:
        """Return images, in their dtype, of real numbers (B, n)."""
        values = flat.to(self.image.real.dtype).reshape(-1, *as_real(self.image).shape[1:])
        return like(values, self.image)


def _normalised(x: Tensor) -> Tensor:
    """Return vectors (B, 1, n) of length 1; 0 where the vector is 0 to rounding."""
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > ROUNDING, x / norm, 0)


def _orthogonal(x: Tensor, frame: Tensor) -> Tensor:
    """Return the part of a vector (n,) that is orthogonal to frames (B, k, n): (B, 1, n)."""
    return x - (x @ frame.mT)[:, None] @ frame


def products(found: Estimate, rows: Rows, level: Levels) -> tuple[Tensor, Tensor]:
    """Return the products Y (B, k, n) and ``rho^2`` (B,) in float64, with k + 1 vjps.

    At ``alpha_t = 0``, where nothing is known of x_0, V is that of data of variance 1.
    """
    if level.alpha_t == 0:
        rho2 = unit_spread(found, level)
        return rho2[:, None, None] * rows.frame, rho2

    scale, most = level.sigma_t**2 / level.alpha_t, (level.sigma_t / level.alpha_t) ** 2
    count = len(found.x0)

    def product(direction: Tensor) -> Tensor:
        v = found.vjp(rows.as_image(direction.expand(count, -1)).contiguous())
        return scale * as_real(v).flatten(1).double()

    Y = torch.stack([product(row) for row in rows.frame.unbind(1)], 1)
    in_probe = (rows.probe * product(rows.probe)).sum(1)
    factor = _factor(Y, rows)
    left = in_probe - (factor @ rows.probe.expand(count, -1)[..., None]).square().sum((1, 2))
    size = rows.probe.square().sum(1).clamp(min=LEAST)
    return Y, (left / size).clamp(LEAST * most, most)


def _factor(Y: Tensor, rows: Rows) -> Tensor:
    """Return ``M^(-1/2) Y``, (B, k, n), whose square is Nystrom's approximation."""
    values, vectors = _inner(Y, rows)
    return (vectors.mT @ Y) / values.sqrt()[..., None]


def _inner(Y: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, kept positive, and eigenvectors of ``M = Omega Y``."""
    M = Y @ rows.frame.mT
    values, vectors = torch.linalg.eigh((M + M.mT) / 2)
    # The Jacobian of a network is neither symmetric nor positive. A random direction has a
    # cosine of about 1 / sqrt(n) with any other, so that a far smaller one is an error.
    sizes = (vectors.mT @ Y).norm(dim=-1)
    least = torch.maximum(0.1 * sizes / Y.shape[-1] ** 0.5, torch.full_like(sizes, LEAST**2))
    return torch.maximum(values, least), vectors


def moment_twist(found: Estimate, rows: Rows, Y: Tensor, problem: Problem) -> Twist:
    """Return the twist of the covariance with these products, see `products`."""
    gap = rows.measured(problem.y - problem.A(found.x0)).double()
    sigma2 = noise_level(problem).double() ** 2
    values, vectors = _data_covariance(Y, rows, sigma2)
    white = (vectors.mT @ gap[..., None])[..., 0]
    log_psi = -0.5 * (white**2 / values + (values / sigma2[:, None]).log()).sum(1)
    solved = vectors @ (white / values)[..., None]
    return Twist(found.x0 + rows.as_image((solved.mT @ rows.F @ Y)[:, 0]), log_psi)


def _data_covariance(Y: Tensor, rows: Rows, sigma2: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of ``S = A V A^H + sigma^2``, (B, m) and (B, m, m)."""
    values, vectors = _inner(Y, rows)
    root = rows.F @ (vectors * values.sqrt()[:, None])
    found, directions = torch.linalg.eigh(root @ root.mT)
    return found.clamp(min=0) + sigma2[:, None], directions


@dataclass(frozen=True)
class MomentKernel:
    """The Gaussian ``p = N(0, v + c^2 V)``, and q, narrowed by the measurement.

    Both differ from a multiple of the identity in the span U of directions and products only.

    Attributes:
        v: variance of the fresh noise.
        c2: square of c, the share of x_0 in x_s.
        rho2: isotropic part of V, (B,), float64.
        sigma2: variance of the noise in y, (B,), float64.
        known: the rows of the operator.
        Y: products of V, (B, k, n), float64.
    """

    v: Tensor
    c2: Tensor
    rho2: Tensor
    sigma2: Tensor
    known: Rows
    Y: Tensor

    def moved(self, shift: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws of q about ``shift`` from noise z, and ``log p - log q`` there, (B,).

        Args:
            shift: a combination of the products.
            z: standard normal noise, like the images.
        """
        frame = self.known.frame.expand_as(self.Y)
        U = torch.linalg.qr(torch.cat([frame, self.Y], 1).mT)[0]
        (p, P), (q, Q) = self._variances(U, frame @ U)
        noise, across = as_real(z).flatten(1).double(), as_real(shift).flatten(1).double()
        inside = _times(Q.mT, _times(U.mT, noise))
        e = _times(Q, q.sqrt() * inside)
        wide = (self.v + self.c2 * self.rho2).sqrt()[:, None]
        move = across + wide * (noise - _times(U, _times(U.mT, noise)))
        white = _times(P.mT, _times(U.mT, across) + e)
        gain = (inside**2 - white**2 / p + (q / p).log()).sum(1) / 2
        return self.known.as_image(move + _times(U, e)), gain

    def _variances(self, U: Tensor, frame: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return eigenvalues and eigenvectors of p and q in the basis U, (B, n, j)."""
        factor, Y = _factor(self.Y, self.known) @ U, self.Y @ U
        rest = torch.eye(U.shape[-1], dtype=U.dtype, device=U.device) - frame.mT @ frame
        V = factor.mT @ factor + self.rho2[:, None, None] * rest
        values, directions = _data_covariance(self.Y, self.known, self.sigma2)
        told = (directions.mT @ self.known.F @ Y) / values.sqrt()[..., None]
        pairs = [torch.linalg.eigh(C) for C in (V, V - told.mT @ told)]
        return [(self.v + self.c2 * found.clamp(min=FLAT), vectors) for found, vectors in pairs]


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Return the products of matrices (B, i, j) and vectors (B, j)."""
    return (matrices @ vectors[..., None])[..., 0]
