"""What a measurement says of ``x_t``: twists, from a Gaussian of x_0 given x_t.

With ``x_0 ~ N(x0, V)`` given x_t, and ``S = A V A^H + sigma_y^2``::

    psi = N(y; A x0, S),      x0' = E[x_0 | x_t, y] = x0 + V A^H S^-1 (y - A x0).

Logarithms of psi leave out its constant, ``(2 pi sigma_y^2)^(-m/2)`` of m measured real numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wellposed.linalg import as_real, inner, like, per_item
from wellposed.noise import ItemNoise
from wellposed.priors.transition import Levels
from wellposed.solvers.corrected import Estimate
from wellposed.solvers.data import decomposed, noise_level
from wellposed.solvers.problem import Problem

LEAST = 1e-9
"""Smallest variance of x_0 given x_t, over that of the noise in x_t."""


class Twist(NamedTuple):
    """``E[x_0 | x_t, y]``, an image, and ``log psi`` of each item, (B,), float64."""

    corrected: Tensor
    log_psi: Tensor


class Directions(Protocol):
    """The measured directions V of images and their singular values s, as `Decomposable` has."""

    singular_values: Tensor

    def V(self, coordinates: Tensor) -> Tensor:
        """Return the image with these coordinates."""

    def V_adjoint(self, x: Tensor) -> Tensor:
        """Return the coordinates of an image."""

    def trace(self, values: Tensor) -> Tensor:
        """Return the trace of ``V diag(values) V^H`` of each item."""


def squares(a: Tensor) -> Tensor:
    """Return the sum of squares of each item, (B,), in double precision."""
    return as_real(a).flatten(1).double().square().sum(1)


def parts_of(x: Tensor) -> int:
    """Return how many real numbers a pixel has."""
    return 2 if x.is_complex() else 1


def unit_spread(found: Estimate, level: Levels) -> Tensor:
    """Return the variance of a pixel of x_0 given x_t for data of variance 1, (B,), float64."""
    rho2 = level.sigma_t**2 / (level.alpha_t**2 + level.sigma_t**2)
    return rho2.to(found.x0.device).expand(len(found.x0))


def trace_spread(found: Estimate, level: Levels) -> Tensor:
    """Return the variance of a pixel of x_0 given x_t, ``(sigma_t^2 / alpha_t) tr J / n``.

    The trace is that of one random image of signs. At ``alpha_t = 0`` it is `unit_spread`.

    Returns:
        (B,), float64.
    """
    if level.alpha_t == 0:
        return unit_spread(found, level)
    most = (level.sigma_t / level.alpha_t) ** 2
    probe = signs(found.x0[:1]).expand_as(found.x0)
    share = inner(probe, found.vjp(probe)).double() / squares(probe)
    return (level.alpha_t * most * share).clamp(LEAST * most, most)


def signs(x: Tensor) -> Tensor:
    """Return random images of signs, always the same, for complex images in both parts."""
    return like(ItemNoise(0, [(n,) for n in range(len(x))]).draw(as_real(x)).sign(), x)


def scalar_twist(x0: Tensor, spread: Tensor, problem: Problem) -> Twist:
    """Return the twist of ``V = spread``, in the coordinates of a `Decomposable` operator."""
    operator = decomposed(problem)
    gap = problem.y - problem.A(x0)
    coordinates = operator.U_adjoint(gap)
    s = operator.singular_values.to(coordinates.real.dtype)
    sigma2, rho2 = (per_item(v.to(s), coordinates) for v in (noise_level(problem) ** 2, spread))
    gain = rho2 * s / (s.square() * rho2 + sigma2)
    corrected = x0 + operator.V(gain * coordinates)
    # S^-1 gap in terms of the measurement, as coordinates may be half of a spectrum.
    left = gap - operator.U(s * gain * coordinates)
    misfit = (as_real(gap).double() * as_real(left).double()).flatten(1).sum(1)
    logs = torch.log1p(s.double().square() * rho2 / sigma2).expand(coordinates.shape)
    log_psi = misfit / noise_level(problem).double() ** 2 + parts_of(x0) * operator.trace(logs)
    return Twist(corrected, -0.5 * log_psi)


def measured_entries(problem: Problem) -> Tensor:
    """Return the indices of the real numbers of ``y`` that are measured in one item or more."""
    y, operator = problem.y, problem.known
    seen = torch.ones_like(y[0], dtype=torch.bool)
    if hasattr(operator, "restrict"):
        seen = (operator.restrict(torch.ones_like(y)) != 0).any(0)
    if y.is_complex():
        seen = seen[..., None].expand(*seen.shape, 2)
    return seen.flatten().nonzero()[:, 0]


def likelihood(x: Tensor, problem: Problem) -> Tensor:
    """Return ``log p(y | x)`` of clean images without its constant, (B,)."""
    return -0.5 * squares(problem.y - problem.A(x)) / noise_level(problem).double() ** 2


@dataclass(frozen=True)
class ScalarKernel:
    """The Gaussian ``p = N(0, v + c^2 rho^2)``, and q, narrowed by the measurement.

    Attributes:
        v: variance of the fresh noise.
        c2: square of c, the share of x_0 in x_s.
        rho2: variance of a pixel of x_0 given x_t, of each item, (B,), float64.
        sigma2: variance of the noise in y, (B,), float64.
        known: the measured directions.
    """

    v: Tensor
    c2: Tensor
    rho2: Tensor
    sigma2: Tensor
    known: Directions

    @property
    def wide(self) -> Tensor:
        """Variance without the measurement, (B,)."""
        return self.v + self.c2 * self.rho2

    def moved(self, shift: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws of q about ``shift`` from noise z, and ``log p - log q`` there, (B,)."""
        e, narrowing = self._narrowed(z)
        move = shift + e
        return move, (squares(z) - squares(move) / self.wide - narrowing) / 2

    def _narrowed(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return noise narrowed as the measurement says, and ``sum log(wide / narrow)``, (B,)."""
        coordinates = self.known.V_adjoint(z)
        s = self.known.singular_values.double()
        rho2, sigma2, wide = (
            per_item(values, coordinates) for values in (self.rho2, self.sigma2, self.wide)
        )
        narrow = self.v + self.c2 * rho2 * sigma2 / (s**2 * rho2 + sigma2)
        change = (narrow.sqrt() - wide.sqrt()).to(z.real.dtype)
        e = per_item(self.wide.sqrt().to(z.real.dtype), z) * z
        logs = (wide / narrow).log().expand(coordinates.shape)
        return e + self.known.V(change * coordinates), parts_of(z) * self.known.trace(logs)
