"""What a measurement says of ``x_t``: twists, from a Gaussian of x_0 given x_t.

With ``x_0 ~ N(x0, V)`` given x_t, and ``S = A V A^H + sigma_y^2``::

    psi = N(y; A x0, S),      x0' = E[x_0 | x_t, y] = x0 + V A^H S^-1 (y - A x0).

Logarithms of psi leave out its constant, ``(2 pi sigma_y^2)^(-m/2)`` of m measured real numbers.
A twist says what V is; it is made for one item. Here V is a multiple of the identity; see
``moments.py`` for that of the network.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from wellposed.linalg import as_real, inner, per_item, squares
from wellposed.priors.transition import Levels
from wellposed.solvers.corrected import Estimate
from wellposed.solvers.data import noise_level
from wellposed.solvers.problem import Problem
from wellposed.solvers.spread import signs, unit_variance

if TYPE_CHECKING:
    from wellposed.operators.decomposable import Decomposable

LEAST = 1e-9
"""Smallest variance of x_0 given x_t, over that of the noise in x_t."""


class Covariance(NamedTuple):
    """``V = Cov[x_0 | x_t]`` of each particle.

    Attributes:
        variance: variance along directions without products, (P,), float64.
        products: products of V with k directions, (P, k, n), in the images' precision.
    """

    variance: Tensor
    products: Tensor


class Correct(NamedTuple):
    """``E[x_0 | x_t, y]``, an image, and ``log psi`` of each particle, (P,), float64."""

    corrected: Tensor
    log_psi: Tensor


class Kernel(Protocol):
    """The transition ``p = N(0, v + c^2 V)``, and the proposal q, p given the measurement."""

    def moved(self, shift: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws of q about ``shift`` from noise z, and ``log p - log q`` there, (P,)."""


class Twist(Protocol):
    """A rule for V, and what follows from it."""

    @property
    def differentiates(self) -> bool:
        """Whether it takes products with the network's Jacobian."""

    def covariance(self, found: Estimate, level: Levels) -> Covariance:
        """Return V at an estimate."""

    def nothing(self, x: Tensor) -> Covariance:
        """Return the V of clean images x, which is 0."""

    def correct(self, found: Estimate, V: Covariance, problem: Problem) -> Correct:
        """Return the twist of an estimate."""

    def kernel(self, V: Covariance, v: Tensor, c2: Tensor, problem: Problem) -> Kernel:
        """Return the transition whose share of x_0 is c, with fresh noise of variance v."""


def likelihood(x: Tensor, problem: Problem) -> Tensor:
    """Return ``log p(y | x)`` of clean images without its constant, (P,)."""
    return -0.5 * squares(problem.y - problem.A(x)) / noise_level(problem).double() ** 2


def parts_of(x: Tensor) -> int:
    """Return how many real numbers a pixel has."""
    return 2 if x.is_complex() else 1


@dataclass(frozen=True)
class Isotropic:
    """The twist of ``V = rho^2``, in the coordinates of a `Decomposable` operator.

    Attributes:
        operator: the operator.
        differentiates: take ``rho^2 = (sigma_t^2 / alpha_t) tr J / n`` by one random image of
            signs; otherwise `unit_variance`, which is also taken at ``alpha_t = 0``.
    """

    operator: "Decomposable"
    differentiates: bool

    def covariance(self, found: Estimate, level: Levels) -> Covariance:
        """Return rho^2 at an estimate."""
        x0 = found.x0
        rho2 = unit_variance(level).to(x0.device).expand(len(x0))
        if self.differentiates and level.alpha_t > 0:
            most = (level.sigma_t / level.alpha_t) ** 2
            probe = signs(x0[:1]).expand_as(x0)
            share = inner(probe, found.vjp(probe)).double() / squares(probe)
            rho2 = (level.alpha_t * most * share).clamp(LEAST * most, most)
        return Covariance(rho2, self.nothing(x0).products)

    def nothing(self, x: Tensor) -> Covariance:
        """Return the V of clean images x, which is 0."""
        zeros = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Covariance(zeros, x.real.new_zeros(len(x), 0, 0))

    def correct(self, found: Estimate, V: Covariance, problem: Problem) -> Correct:
        """Return the twist of an estimate."""
        x0, operator = found.x0, self.operator
        gap = problem.y - problem.A(x0)
        coordinates = operator.U_adjoint(gap)
        s = operator.singular_values.to(coordinates.real.dtype)
        sigma2 = noise_level(problem) ** 2
        sigma2, rho2 = (per_item(v.to(s), coordinates) for v in (sigma2, V.variance))
        gain = rho2 * s / (s.square() * rho2 + sigma2)
        corrected = x0 + operator.V(gain * coordinates)
        # S^-1 gap in terms of the measurement, as coordinates may be half of a spectrum.
        left = gap - operator.U(s * gain * coordinates)
        misfit = (as_real(gap).double() * as_real(left).double()).flatten(1).sum(1)
        logs = torch.log1p(s.double().square() * rho2 / sigma2).expand(coordinates.shape)
        log_psi = misfit / noise_level(problem).double() ** 2
        return Correct(corrected, -0.5 * (log_psi + parts_of(x0) * operator.trace(logs)))

    def kernel(self, V: Covariance, v: Tensor, c2: Tensor, problem: Problem) -> Kernel:
        """Return the transition, narrowed along what the operator measures."""
        sigma2 = noise_level(problem).double() ** 2
        return IsotropicKernel(self.operator, V.variance, v, c2, sigma2)


@dataclass(frozen=True)
class IsotropicKernel:
    """The Gaussian ``p = N(0, v + c^2 rho^2)``, and q, narrowed by the measurement.

    Attributes:
        operator: the operator.
        rho2: variance of a pixel of x_0 given x_t, of each particle, (P,), float64.
        v: variance of the fresh noise.
        c2: square of c, the share of x_0 in x_s.
        sigma2: variance of the noise in y, (P,), float64.
    """

    operator: "Decomposable"
    rho2: Tensor
    v: Tensor
    c2: Tensor
    sigma2: Tensor

    @property
    def wide(self) -> Tensor:
        """Variance without the measurement, (P,)."""
        return self.v + self.c2 * self.rho2

    def moved(self, shift: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws of q about ``shift`` from noise z, and ``log p - log q`` there, (P,)."""
        e, narrowing = self._narrowed(z)
        move = shift + e
        return move, (squares(z) - squares(move) / self.wide - narrowing) / 2

    def _narrowed(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return noise narrowed by the measurement, and ``sum log(wide / narrow)``, (P,)."""
        coordinates = self.operator.V_adjoint(z)
        s = self.operator.singular_values.double()
        rho2, sigma2, wide = (
            per_item(values, coordinates) for values in (self.rho2, self.sigma2, self.wide)
        )
        narrow = self.v + self.c2 * rho2 * sigma2 / (s**2 * rho2 + sigma2)
        change = (narrow.sqrt() - wide.sqrt()).to(z.real.dtype)
        e = per_item(self.wide.sqrt().to(z.real.dtype), z) * z
        logs = (wide / narrow).log().expand(coordinates.shape)
        return e + self.operator.V(change * coordinates), parts_of(z) * self.operator.trace(logs)
