"""DDS: decomposed diffusion sampling (Chung, Lee and Ye 2024, arXiv 2303.05754)."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, Fraction, PositiveOrInfinite
from wellposed.linalg import conjugate_gradient, per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, levels, variance
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected, Correction, Estimate
from wellposed.solvers.data import matched_weight, noise_level, project, proximal
from wellposed.solvers.problem import Problem
from wellposed.solvers.spread import perturbed, variance_of_residual

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

    def correct(self, found: Estimate, level: Levels, problem: Problem) -> Tensor:
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

    A step from the mean of x_0 makes the samples too narrow: the variance is .75 of the exact one
    on Gaussian problems. ``spread="residual"`` takes x0' as a draw of x_0 given x_t and y
    (`wellposed.solvers.spread`) with the variance of a pixel that the residual shows, and all
    noise fresh, ``x_s = alpha_s x0' + sigma_s z``. With 100 steps on Karras's levels, without
    any gradient, the variance is .93 to 1.06 of the exact one.

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
        spread: "none" as published, or "residual", see above; then eta and gamma are not used.
    """

    eta: Fraction = 0.85
    gamma: PositiveOrInfinite | None = None
    cg_steps: Count | None = None
    renoise_last: bool = True
    spread: Annotated[str, Choice("none", "residual")] = "none"

    name: ClassVar[str] = "dds"
    linear_only: ClassVar[bool] = True
    keeps_network_noise: ClassVar[bool] = True

    @property
    def correction(self) -> DataSteps:
        """The conjugate-gradient steps."""
        return DataSteps(gamma=self.gamma, cg_steps=self.cg_steps)

    def fresh(self, level: Levels) -> Tensor:
        """The share ``eta^2`` of the noise variance, or all of it with a spread."""
        return variance("fresh", level, self.eta if self.spread == "none" else 1.0)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, correct by the data or draw, re-noise."""
        if self.spread == "residual":
            return self._drawn(state, t, s, problem, noise)
        after = super().step(state, t, s, problem, noise)
        if not self.renoise_last and s == self.times(problem)[-2]:
            return State(after.x0, after.x0)
        return after

    def _drawn(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Return the state after a draw of x_0 given x_t and y."""
        level = levels(problem.prior.schedule, t, s)
        found = self.estimate(state.x, t, problem)
        if level.alpha_t == 0:
            x0 = found.x0
        else:
            rho2 = variance_of_residual(found, level, problem)
            u = per_item(rho2.sqrt(), found.x0) * noise.draw(found.x0)
            seen, measured = perturbed(found, u, problem, noise)
            weight = noise_level(problem) ** 2 / rho2
            x0 = proximal(measured, seen.x0, weight, self.cg_steps or MATCHED_STEPS)
        if s == 0:
            return State(x0, x0)
        return State(self.onwards(found, x0, self.draw(x0, s, noise), level, problem), x0)
