"""The likelihood of the data, alone and coupled with a Gaussian around an image."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wellposed.linalg import largest_eigenvalue, per_item
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.solvers.problem import Problem, is_decomposable

NOISE_FREE = 0.01
"""Noise level assumed of noise-free data, in units: DAPS's published one."""


def noise_level(problem: Problem) -> Tensor:
    """Return the standard deviation of each item's noise in units, (B,); never 0."""
    sigma = problem.noise_sigma
    return torch.where(sigma > 0, sigma, NOISE_FREE)


def misfit_gradient(x: Tensor, problem: Problem) -> Tensor:
    """Return the gradient of ``||y - A(x)||^2 / 2``; by differentiation if A is not linear."""
    if problem.is_linear:
        return problem.A_adjoint(problem.A(x) - problem.y)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = 0.5 * (problem.A(x) - problem.y).abs().square().sum()
        return torch.autograd.grad(loss, x)[0]


def squared_norm(problem: Problem, iterations: int = 20) -> Tensor:
    """Return ``||A||^2`` of each item, shape (B,), by power iterations; 1 if A is not linear."""
    if not problem.is_linear:
        return torch.ones_like(problem.noise_sigma)
    # Whatever y is, noise has a part along the leading singular vector.
    start = problem.zeros()
    start = start + ItemNoise(0, [(0,)]).draw(start[:1])
    value = largest_eigenvalue(problem.normal, start, iterations)
    return torch.where(value > 0, value, 1)


@dataclass(frozen=True)
class Coupled:
    """The density ``exp(-||y - A z||^2 / (2 sigma^2) - ||z - centre||^2 / (2 rho^2))`` of z.

    Attributes:
        problem: gives ``y`` and ``A``.
        sigma: noise level of the data in units, shape (B,).
        centre: image in units.
        rho: distance from it.
    """

    problem: Problem
    sigma: Tensor
    centre: Tensor
    rho: float

    def draw(self, noise: NoiseSource) -> Tensor:
        """Return an exact sample for linear operators: perturb centre and data, then solve.

        "Gaussian sampling by local perturbations" (Papandreou and Yuille, NeurIPS 2010).
        """
        z = self.centre + self.rho * noise.draw(self.centre)
        y = self.problem.y
        y = y + per_item(self.sigma, y) * noise.draw(y)
        return replace(self.problem, y=y).proximal(z, (self.sigma / self.rho) ** 2)

    def langevin(
        self, z: Tensor, noise: NoiseSource, steps: int, learning_rate: float, norm2: Tensor
    ) -> Tensor:
        """Return ``z`` after unadjusted Langevin steps, biased by about ``learning_rate / 2``.

        Where the operator is ``Decomposable`` they are taken at once: in its coordinates they are
        autoregressions, whose law after any number of steps is known.

        Args:
            z: start.
            noise: source of the steps' noise.
            steps: their number.
            learning_rate: step times the largest curvature ``norm2 / sigma^2 + 1 / rho^2``;
                stable below 2.
            norm2: ``||A||^2`` of each item, from `squared_norm`.
        """
        length = learning_rate / (norm2 / self.sigma**2 + 1 / self.rho**2)
        if self.problem.is_linear and is_decomposable(self.problem.operator):
            return self._langevin_at_once(z, noise.draw(z), steps, length)
        h, weight = per_item(length, z), per_item(self.sigma**-2, z)
        for _ in range(steps):
            gradient = weight * misfit_gradient(z, self.problem)
            gradient = gradient + (z - self.centre) / self.rho**2
            z = z - h * gradient + (2 * h).sqrt() * noise.draw(z)
        return z

    def _langevin_at_once(self, z: Tensor, xi: Tensor, steps: int, length: Tensor) -> Tensor:
        operator: Any = self.problem.operator
        gap = operator.U_adjoint(self.problem.y - self.problem.A(self.centre))
        s, _, kept = self.problem.spectrum(gap)
        s, precision = torch.where(kept, s, 0), 1 / self.rho**2
        sigma2 = per_item(self.sigma, gap).square()
        start, h, h_i = z - self.centre, per_item(length, z), per_item(length, gap)
        everywhere = _autoregression(start, 0.0, h * precision, precision, xi, steps)
        V_start, V_xi = operator.V_adjoint(start), operator.V_adjoint(xi)
        alone = _autoregression(V_start, 0.0, h_i * precision, precision, V_xi, steps)
        curvature = s.square() / sigma2 + precision
        target = s / sigma2 * gap / curvature
        seen = _autoregression(V_start, target, h_i * curvature, curvature, V_xi, steps)
        return self.centre + everywhere + operator.V(seen - alone)


def _autoregression(
    x: Tensor,
    target: Tensor | float,
    rate: Tensor,
    curvature: Tensor | float,
    xi: Tensor,
    steps: int,
) -> Tensor:
    """Return ``x`` after steps ``x <- x - rate (x - target) + sqrt(2 rate / curvature) noise``.

    All noise together is ``xi`` times its standard deviation.
    """
    rate = rate.double()
    left = (1 - rate) ** steps
    grown = -torch.expm1(2 * steps * (1 - rate).abs().log())  # 1 - left^2, exact for small rates
    std = (2 * grown / (curvature * (2 - rate))).sqrt()
    return target + left.to(xi.real.dtype) * (x - target) + std.to(xi.real.dtype) * xi
