"""Posterior projection with plain DDIM steps: the simplest solver, added as an example."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, Fraction
from wellposed.linalg import per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, variance
from wellposed.solvers.corrected import Corrected, Correction, Estimate
from wellposed.solvers.data import noised_weight, project, proximal
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Projection(Correction):
    """``x0' = x0 + A^H (A A^H + w)^-1 (y - A x0)``, see `DDIMProjection`.

    Args:
        cg_steps: conjugate-gradient steps of the solution.
    """

    cg_steps: Count = 20

    linear_only: ClassVar[bool] = True

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Project onto the data, as far as they are less noisy than x_s."""
        x0, noisy = found.x0, problem.noise_sigma > 0
        if not bool(noisy.any()):
            return project(problem, x0, self.cg_steps)
        soft = proximal(problem, x0, noised_weight(level, problem), self.cg_steps)
        if bool(noisy.all()):
            return soft
        return torch.where(per_item(noisy, x0), soft, project(problem, x0, self.cg_steps))


@dataclass(frozen=True, kw_only=True)
class DDIMProjection(Corrected):
    r"""DDIM with the clean estimate projected onto the data at each step.

    For each pair of times t -> s::

        x0  = E[x_0 | x_t]
        x0' = x0 + A^H (A A^H + w)^-1 (y - A x0),   w = (alpha_s sigma_y / sigma_s)^2
        x_s = alpha_s x0' + sqrt(sigma_s^2 - v) eps' + sqrt(v) z,   eps' implied by x0'

    with DDIM's variance ``v`` (rule "markov", eta). Without noise the second line is the
    projection ``x0 + A^+ (y - A x0)``; with noise it leaves what the data show worse than x_s.
    `DDS` is closer to the posterior, as it weighs the data by the variance of the estimate. The
    method combines the range-null-space step of DDNM (Wang, Yu and Zhang, ICLR 2023,
    arXiv 2212.00490, eq. 13) with the sampler of Song, Meng and Ermon (ICLR 2021,
    arXiv 2010.02502, eq. 12).

    Args:
        eta: DDIM's eta: 0 is deterministic, 1 is DDPM.
        cg_steps: conjugate-gradient steps of the solution.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.SuperResolution((3, 16, 16), factor=2, noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> result = solvers.DDIMProjection(steps=10)(y, operator, prior, seed=0)
        >>> result.mean.shape, result.nfe
        (torch.Size([1, 3, 16, 16]), 10)
    """

    eta: Fraction = 0.0
    cg_steps: Count = 20

    name: ClassVar[str] = "ddim-projection"
    linear_only: ClassVar[bool] = True

    @property
    def correction(self) -> Projection:
        """The projection."""
        return Projection(cg_steps=self.cg_steps)

    def fresh(self, level: Levels) -> Tensor:
        """DDIM's variance."""
        return variance("markov", level, self.eta)
