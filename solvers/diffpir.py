"""DiffPIR: plug-and-play restoration by denoising diffusion (Zhu et al. 2023)."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wellposed.checks import Count, Fraction, Positive
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, variance
from wellposed.solvers.corrected import Corrected, Correction, Estimate
from wellposed.solvers.data import proximal
from wellposed.solvers.descent import gradient_step
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class ProximalStep(Correction):
    """``x0' = argmin_x ||y - A x||^2 + rho_t ||x - x0||^2``, see `DiffPIR`.

    Args:
        lambda_: weight of the prior, ``rho_t = lambda sigma_y^2 / (sigma_t / alpha_t)^2``.
    """

    lambda_: Positive = 7.0

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Minimise, or take the best gradient step if the measurement is not linear."""
        rho = self.lambda_ * (problem.noise_sigma * level.alpha_t / level.sigma_t) ** 2
        if problem.is_linear:
            return proximal(problem, found.x0, rho)
        return gradient_step(found.x0, rho, problem)


@dataclass(frozen=True, kw_only=True)
class DiffPIR(Corrected):
    r"""DiffPIR: half-quadratic splitting: denoise, solve a proximal data problem, re-noise.

    For each pair of times t -> s::

        x0  = E[x_0 | x_t],   rho_t = lambda sigma_y^2 / (sigma_t / alpha_t)^2
        x0' = argmin_x ||y - A x||^2 + rho_t ||x - x0||^2
        x_s = alpha_s x0' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) z),   eps' implied by x0'

    For linear problems the minimiser is exact, or computed by CG without a closed form; without
    noise it is the projection ``x0 + A^+ (y - A x0)``. For other problems one gradient step is
    taken on the misfit linearised at ``x0``, with the length that minimises the objective. The
    fixed length ``1 / (2 rho_t)`` of the paper holds for a vanishing misfit and overshoots at high
    noise.

    Reference: "Denoising Diffusion Models for Plug-and-Play Image Restoration", CVPRW 2023,
    arXiv 2305.08995, algorithm 1.

    Args:
        steps: 100 as published.
        lambda_: weight of the prior; the paper tunes it for each task.
        zeta: share of fresh noise in the variance, 0 (deterministic) to 1; tuned for each task.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Blur(operators.uniform_kernel(3), (3, 16, 16), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> solvers.DiffPIR(steps=10)(y, operator, prior, num_samples=2, seed=0).samples.shape
        torch.Size([2, 1, 3, 16, 16])
    """

    steps: Count = 100
    lambda_: Positive = 7.0
    zeta: Fraction = 0.3

    name: ClassVar[str] = "diffpir"

    @property
    def correction(self) -> ProximalStep:
        """The proximal step."""
        return ProximalStep(lambda_=self.lambda_)

    def fresh(self, level: Levels) -> Tensor:
        """The share zeta of the noise variance."""
        return variance("fresh", level, math.sqrt(self.zeta))
