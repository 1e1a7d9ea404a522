"""Flower: refining the destination of a flow by the data (Pourya, El Rawas and Unser 2025)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wellposed.checks import Count, Fraction
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, variance
from wellposed.solvers.corrected import Corrected, Correction, Estimate
from wellposed.solvers.data import proximal
from wellposed.solvers.problem import Problem
from wellposed.solvers.spread import perturbed, unit_variance


@dataclass(frozen=True, kw_only=True)
class Refinement(Correction):
    """``x0' ~ N(mu, gamma C)`` with the posterior ``N(mu, C)`` of x ~ N(x0, nu_t^2), see `Flower`.

    Args:
        gamma: share of the covariance with which x0' is drawn.
    """

    gamma: Fraction = 0.0

    linear_only: ClassVar[bool] = True

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Solve the proximal problem; a draw perturbs its centre and the data."""
        variance_of_x0 = unit_variance(level)
        weight = problem.noise_sigma**2 / variance_of_x0
        if self.gamma > 0:
            u = (self.gamma * variance_of_x0).sqrt() * noise.draw(found.x0)
            sigma = self.gamma**0.5 * problem.noise_sigma
            found, problem = perturbed(found, u, problem, sigma, noise)
        return proximal(problem, found.x0, weight)


@dataclass(frozen=True, kw_only=True)
class Flower(Corrected):
    r"""Flower: find the destination of the flow, refine it by the data, go back with new noise.

    For each pair of times t -> s, with ``sigma_y`` the noise of the data::

        x0   = E[x_0 | x_t]                                   destination of the flow
        nu_t = sigma_t / sqrt(alpha_t^2 + sigma_t^2)
        mu, C = mean and covariance of N(x0, nu_t^2 I) given y = A x + n
        x0'  ~ N(mu, gamma C)                                 refined destination
        x_s  = alpha_s x0' + sigma_s z,   z ~ N(0, I)

    ``mu`` is the proximal solution of `DiffPIR` with ``rho_t = sigma_y^2 / nu_t^2``. The spread
    ``nu_t`` of the clean image is that of a prior of unit variance. For the prior N(0, I) the
    samples with gamma 1 follow the posterior and those with gamma 0 have its mean, for any
    operator and any number of steps. Images are narrower than this prior in most directions, so
    that the draws of gamma 1 have too much variance. The times are those of a flow,
    ``sigma_t / (alpha_t + sigma_t)``, with the default spacing; the formulas hold for any process,
    so that equivalent priors give equal samples at equal noise levels.

    Reference: "FLOWER: A Flow-Matching Solver for Inverse Problems", 2025, arXiv 2509.26287,
    algorithm 1. Published results use gamma 0 and are means of 5 samples: ``num_samples=5`` and
    ``result.mean``.

    Args:
        steps: 100 as published.
        spacing: "trailing" is the published grid of a flow.
        gamma: share of the covariance; 0 as published for images, 1 for posterior draws.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.SuperResolution((3, 16, 16), factor=2, noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12, priors.Flow())
        >>> solvers.Flower(steps=10)(y, operator, prior, num_samples=5, seed=0).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    steps: Count = 100
    spacing: str = "trailing"
    gamma: Fraction = 0.0

    name: ClassVar[str] = "flower"
    linear_only: ClassVar[bool] = True

    @property
    def correction(self) -> Refinement:
        """The refinement of the destination."""
        return Refinement(gamma=self.gamma)

    def fresh(self, level: Levels) -> Tensor:
        """All noise is fresh."""
        return variance("fresh", level)
