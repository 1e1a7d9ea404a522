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
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.linalg import as_real, like
from wellposed.priors.transition import Levels
from wellposed.solvers.corrected import Estimate
from wellposed.solvers.data import noise_level
from wellposed.solvers.problem import Problem
from wellposed.solvers.spread import signs, unit_variance
from wellposed.solvers.twists import LEAST, Correct, Covariance, Kernel

FLAT = 1e-12
"""Smallest variance along a direction of x_0, in units."""

ROUNDING = 1e-5
"""Relative size below which a direction is 0 to the rounding of single precision."""


def measured_entries(problem: Problem) -> Tensor:
    """Return the indices of the real numbers of ``y`` of the first item that are measured."""
    ones, operator = torch.ones_like(problem.y[:1]), problem.known
    seen = operator.restrict(ones) if hasattr(operator, "restrict") else ones
    both = torch.complex(seen.real, seen.real) if seen.is_complex() else seen
    return as_real(both).flatten().nonzero()[:, 0]


class Rows:
    """The rows ``A^H e_i`` of an operator that measures few numbers, and directions of images.

    Attributes:
        frame: orthonormal directions, the measured ones and a random one, (k, n).
        probe: another random direction, orthogonal to them, (n,).
        F: the rows in the frame, (m, k).

    Args:
        problem: the problem of one item.
    """

    def __init__(self, problem: Problem) -> None:
        self.image, self.entries = problem.zeros()[:1], measured_entries(problem)
        units = torch.zeros(len(self.entries), *as_real(problem.y).shape[1:]).to(problem.y.real)
        units.flatten(1)[range(len(units)), self.entries] = 1
        rows = as_real(problem.A_adjoint(like(units, problem.y))).flatten(1)
        _, s, right = torch.linalg.svd(rows, full_matrices=False)
        frame = right[s > ROUNDING * s[:1]].double()
        one, two = as_real(signs(self.image.expand(2, *self.image.shape[1:]))).flatten(1).double()
        left = one - frame.mT @ (frame @ one)
        if left.norm() > ROUNDING:  # not all is measured
            frame = torch.cat([frame, left[None] / left.norm()])
        self.frame, self.F = frame, rows.double() @ frame.mT
        self.probe = two - frame.mT @ (frame @ two)

    def measured(self, y: Tensor) -> Tensor:
        """Return the measured numbers of measurements, (P, m)."""
        return as_real(y).flatten(1)[:, self.entries]

    def as_image(self, flat: Tensor) -> Tensor:
        """Return images, in their dtype, of real numbers (P, n)."""
        values = flat.to(self.image.real.dtype).reshape(-1, *as_real(self.image).shape[1:])
        return like(values, self.image)


@dataclass(frozen=True)
class Tweedie:
    """The twist of V by Tweedie's formula for the second moment, of an operator with few rows."""

    rows: Rows

    differentiates: ClassVar[bool] = True

    def covariance(self, found: Estimate, level: Levels) -> Covariance:
        """Return the products and ``rho^2``, with k + 1 vector-Jacobian products.

        At ``alpha_t = 0``, where nothing is known of x_0, V is `unit_variance`.
        """
        rows, count = self.rows, len(found.x0)
        if level.alpha_t == 0:
            rho2 = unit_variance(level).to(found.x0.device).expand(count)
            return Covariance(rho2, (rho2[:, None, None] * rows.frame).to(found.x0.real.dtype))
        scale, most = level.sigma_t**2 / level.alpha_t, (level.sigma_t / level.alpha_t) ** 2

        def product(direction: Tensor) -> Tensor:
            v = found.vjp(rows.as_image(direction.expand(count, -1)).contiguous())
            return scale * as_real(v).flatten(1).double()

        Y = torch.stack([product(row) for row in rows.frame], 1)
        in_probe = product(rows.probe) @ rows.probe
        left = in_probe - (_factor(Y, rows) @ rows.probe).square().sum(1)
        size = rows.probe.square().sum().clamp(min=LEAST)
        return Covariance((left / size).clamp(LEAST * most, most), Y.to(found.x0.real.dtype))

    def nothing(self, x: Tensor) -> Covariance:
        """Return the V of clean images x, which is 0."""
        zeros = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Covariance(zeros, x.real.new_zeros(len(x), *self.rows.frame.shape))

    def correct(self, found: Estimate, V: Covariance, problem: Problem) -> Correct:
        """Return the twist of an estimate."""
        rows, Y = self.rows, V.products.double()
        gap = rows.measured(problem.y - problem.A(found.x0)).double()
        sigma2 = noise_level(problem).double() ** 2
        values, vectors = _data_covariance(Y, rows, sigma2)
        white = _times(vectors.mT, gap)
        log_psi = -0.5 * (white**2 / values + (values / sigma2[:, None]).log()).sum(1)
        solved = _times(vectors, white / values)
        shift = (solved @ rows.F)[:, None] @ Y
        return Correct(found.x0 + rows.as_image(shift[:, 0]), log_psi)

    def kernel(self, V: Covariance, v: Tensor, c2: Tensor, problem: Problem) -> Kernel:
        """Return the transition, narrowed along the products with what is measured."""
        sigma2 = noise_level(problem).double() ** 2
        return TweedieKernel(self.rows, V.variance, V.products.double(), v, c2, sigma2)


def _factor(Y: Tensor, rows: Rows) -> Tensor:
    """Return ``M^(-1/2) Y``, (P, k, n), whose square is Nystrom's approximation."""
    values, vectors = _inner(Y, rows)
    return (vectors.mT @ Y) / values.sqrt()[..., None]


def _inner(Y: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, kept positive, and eigenvectors of ``M = Omega Y``."""
    M = Y @ rows.frame.mT
    values, vectors = torch.linalg.eigh((M + M.mT) / 2)
    # The Jacobian of a network is neither symmetric nor positive. A random direction has a
    # cosine of about 1 / sqrt(n) with any other: a much smaller value is rounding or an inexact
    # Jacobian.
    sizes = (vectors.mT @ Y).norm(dim=-1)
    least = torch.maximum(0.1 * sizes / Y.shape[-1] ** 0.5, torch.full_like(sizes, LEAST**2))
    return torch.maximum(values, least), vectors


def _data_covariance(Y: Tensor, rows: Rows, sigma2: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors of ``S = A V A^H + sigma^2``, (P, m) and (P, m, m)."""
    values, vectors = _inner(Y, rows)
    root = rows.F @ (vectors * values.sqrt()[:, None])
    found, directions = torch.linalg.eigh(root @ root.mT)
    return found.clamp(min=0) + sigma2[:, None], directions


@dataclass(frozen=True)
class TweedieKernel:
    """The Gaussian ``p = N(0, v + c^2 V)``, and q, narrowed by the measurement.

    Both differ from a multiple of the identity in the span U of directions and products only.

    Attributes:
        rows: the rows of the operator.
        rho2: variance of x_0 along directions without products, (P,), float64.
        Y: products of V, (P, k, n), float64.
        v: variance of the fresh noise.
        c2: square of c, the share of x_0 in x_s.
        sigma2: variance of the noise in y, (P,), float64.
    """

    rows: Rows
    rho2: Tensor
    Y: Tensor
    v: Tensor
    c2: Tensor
    sigma2: Tensor

    def moved(self, shift: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws of q about ``shift`` from noise z, and ``log p - log q`` there, (P,).

        Args:
            shift: a combination of the products.
            z: standard normal noise, like the images.
        """
        frame = self.rows.frame.expand_as(self.Y)
        U = torch.linalg.qr(torch.cat([frame, self.Y], 1).mT)[0]
        (p, P), (q, Q) = self._variances(U, frame @ U)
        noise, across = as_real(z).flatten(1).double(), as_real(shift).flatten(1).double()
        inside = _times(Q.mT, _times(U.mT, noise))
        e = _times(Q, q.sqrt() * inside)
        wide = (self.v + self.c2 * self.rho2).sqrt()[:, None]
        move = across + wide * (noise - _times(U, _times(U.mT, noise)))
        white = _times(P.mT, _times(U.mT, across) + e)
        gain = (inside**2 - white**2 / p + (q / p).log()).sum(1) / 2
        return self.rows.as_image(move + _times(U, e)), gain

    def _variances(self, U: Tensor, frame: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return eigenvalues and eigenvectors of p and q in the basis U, (P, n, j)."""
        factor, Y = _factor(self.Y, self.rows) @ U, self.Y @ U
        rest = torch.eye(U.shape[-1], dtype=U.dtype, device=U.device) - frame.mT @ frame
        V = factor.mT @ factor + self.rho2[:, None, None] * rest
        values, directions = _data_covariance(self.Y, self.rows, self.sigma2)
        learnt = (directions.mT @ self.rows.F @ Y) / values.sqrt()[..., None]
        pairs = [torch.linalg.eigh(C) for C in (V, V - learnt.mT @ learnt)]
        return [(self.v + self.c2 * found.clamp(min=FLAT), vectors) for found, vectors in pairs]


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Return the products of matrices (P, i, j) and vectors (P, j)."""
    return (matrices @ vectors[..., None])[..., 0]
