"""The likelihood of the data, alone and coupled with a Gaussian around an image."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wellposed.noise import ItemNoise, NoiseSource
from wellposed.operators.linalg import largest_eigenvalue, per_item
from wellposed.solvers.problem import Problem

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
    v = problem.zeros()
    if not problem.is_linear:
        return torch.ones_like(problem.noise_sigma)
    # Whatever y is, noise has a part along the leading singular vector.
    v = v + ItemNoise(0, [(0,)]).draw(v[:1])
    value = largest_eigenvalue(problem.normal, v, iterations)
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

        Args:
            z: start.
            noise: source of the steps' noise.
            steps: their number.
            learning_rate: step times the largest curvature ``norm2 / sigma^2 + 1 / rho^2``;
                stable below 2.
            norm2: ``||A||^2`` of each item, from `squared_norm`.
        """
        curvature = norm2 / self.sigma**2 + 1 / self.rho**2
        h = per_item(learning_rate / curvature, z)
        weight = per_item(self.sigma**-2, z)
        for _ in range(steps):
            gradient = weight * misfit_gradient(z, self.problem)
            gradient = gradient + (z - self.centre) / self.rho**2
            z = z - h * gradient + (2 * h).sqrt() * noise.draw(z)
        return z
