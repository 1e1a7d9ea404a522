"""DDS: decomposed diffusion sampling (Chung, Lee and Ye 2024, arXiv 2303.05754)."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, Fraction, PositiveOrInfinite
from wellposed.errors import require
from wellposed.linalg import conjugate_gradient
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, variance
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected, Correction, Estimate
from wellposed.solvers.data import matched_weight, project, proximal
from wellposed.solvers.problem import Problem
from wellposed.solvers.spread import isotropic_draw, variance_of_residual

PUBLISHED_STEPS, MATCHED_STEPS = 5, 60
"""Conjugate-gradient steps of the paper, and the most for a solution with a matched weight."""


@dataclass(frozen=True, kw_only=True)
class DataSteps(Correction):
    """``x0' = CG_M( I + gamma A^H A,  x0 + gamma A^H y;  start x0 )``.

    Args:
        gamma: weight of the data; infinity for ``CG_M(A^H A, A^H y; start x0)``; None for
            `matched_weight`.
        cg_steps: conjugate-gradient steps M; None for `PUBLISHED_STEPS` with a gamma, and at most
            `MATCHED_STEPS` without.
    """

    gamma: PositiveOrInfinite | None = None
    cg_steps: Count | None = None

    linear_only: ClassVar[bool] = True

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Take the conjugate-gradient steps."""
        x0, gamma = found.x0, self.gamma
        if gamma is None:
            rho = 1 / matched_weight(level.sigma_t / level.alpha_t, problem)
            return proximal(problem, x0, rho, self.cg_steps or MATCHED_STEPS)
        steps = self.cg_steps or PUBLISHED_STEPS
        if math.isinf(gamma):
            return project(problem, x0, steps)

        def apply(x: Tensor) -> Tensor:
            return torch.add(x, problem.normal(x), alpha=gamma)

        b = torch.add(x0, problem.back_projection, alpha=gamma)
        return conjugate_gradient(apply, b, x0, iterations=steps, space=problem.space).x


@dataclass(frozen=True, kw_only=True)
class DataDraw(Correction):
    """A draw of x_0 given x_t and y, with the variance of a pixel that the residual shows.

    Args:
        cg_steps: conjugate-gradient steps at most, until the residual is 1e-3.
    """

    cg_steps: Count = MATCHED_STEPS

    linear_only: ClassVar[bool] = True

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Draw; pure noise (alpha_t = 0) shows no variance."""
        if level.alpha_t == 0:
            return found.x0
        rho2 = variance_of_residual(found, level, problem)
        return isotropic_draw(found, rho2, problem, noise, self.cg_steps)


@dataclass(frozen=True, kw_only=True)
class DDS(Corrected):
    r"""Decomposed diffusion sampling: denoise, a few conjugate-gradient steps, re-noise.

    For each pair of times t -> s::

        x0  = E[x_0 | x_t],  eps = (x_t - alpha_t x0) / sigma_t
        x0' = CG_M( I + gamma A^H A,  x0 + gamma A^H y;  start x0 )
        x_s = alpha_s x0' + sigma_s (sqrt(1 - eta^2) eps + eta z),   z ~ N(0, I)

    By default gamma is matched to the noise at each t, which needs no tuning; the paper has a
    constant, ``DDS(gamma=1.0)``. ``gamma = math.inf`` gives the hard, noise-free form
    ``CG_M(A^H A, A^H y; start x0)``. The equations hold for variance-preserving,
    variance-exploding and flow priors.

    Without fresh noise (``eta=0``) each step adds its share of the noise in y. The error grows
    with the number of steps, to 10 dB above the least one on convolved random walks.

    A step from the mean of x_0 makes the samples too narrow, the more the fewer the steps
    (docs/posterior.md). With ``draws="sample"`` x0' is a draw of x_0 given x_t and y
    (`wellposed.solvers.spread`), without any gradient: the variance of a pixel is what the
    residual shows. It needs ``eta=1``, 100 steps and ``spacing="karras"``; with fewer steps the
    samples are too wide.

    Reference: "Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse Problems",
    ICLR 2024, arXiv 2303.05754. The published multi-coil code adds ``(1 + i) gamma A^H y``; here
    the right-hand side is that of the paper.

    Args:
        eta: share of fresh noise, 0 (deterministic) to 1; for MRI the paper uses .15, .5, .8 at
            20, 50, 100 steps, and the code .85.
        gamma: weight of the data, in the prior's units; None follows the noise, see
            `matched_weight`; 1 as published; infinity for hard consistency.
        cg_steps: conjugate-gradient steps M; None takes 5 as published with a gamma, and without
            one up to 60, until the residual is 1e-3.
        renoise_last: re-noise on the step to the last network time, as in the equations; the
            published code does not (``False``).
        draws: x0' is the "mean" of x_0 as published, or a "sample", see above.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> maps = operators.simulate_sensitivity_maps(4, 16, 16)
        >>> operator = operators.MultiCoilMRI(operators.uniform_random_lines(16, 2), maps, 0.01)
        >>> y = operator.measure(torch.randn(1, 1, 16, 16, dtype=torch.complex64), seed=0)
        >>> prior = priors.GaussianPrior(0.0, 0.5, is_complex=True)
        >>> solvers.DDS(steps=10)(y, operator, prior, num_samples=2, seed=0).samples.shape
        torch.Size([2, 1, 1, 16, 16])
    """

    eta: Fraction = 0.85
    gamma: PositiveOrInfinite | None = None
    cg_steps: Count | None = None
    renoise_last: bool = True
    draws: Annotated[str, Choice("mean", "sample")] = "mean"

    name: ClassVar[str] = "dds"
    linear_only: ClassVar[bool] = True
    keeps_network_noise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws == "sample":
            accepted = '{} with draws="sample", {}'
            weight = accepted.format("None", "whose weight is that of the residual")
            require(self.gamma is None, "gamma", self.gamma, weight)
            fresh = accepted.format("1", "as the kept noise is that of the mean")
            require(self.eta == 1, "eta", self.eta, fresh)

    @property
    def correction(self) -> Correction:
        """The conjugate-gradient steps, or the draw."""
        if self.draws == "sample":
            return DataDraw(cg_steps=self.cg_steps or MATCHED_STEPS)
        return DataSteps(gamma=self.gamma, cg_steps=self.cg_steps)

    def fresh(self, level: Levels) -> Tensor:
        """The share ``eta^2`` of the noise variance."""
        return variance("fresh", level, self.eta)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, correct by the data, re-noise."""
        after = super().step(state, t, s, problem, noise)
        if not self.renoise_last and s == self.times(problem)[-2]:
            return State(after.x0, after.x0)
        return after
