"""PiGDM: pseudoinverse-guided diffusion (Song et al. 2023)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, Fraction
from wellposed.linalg import per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, levels, share_of_image, variance
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected, Correction, Estimate
from wellposed.solvers.data import proximal
from wellposed.solvers.problem import Problem
from wellposed.solvers.spread import unit_variance

LONGEST = 3.0
"""Longest shift of x0 over that which fits the data best: there it has doubled the misfit."""


@dataclass(frozen=True, kw_only=True)
class PseudoinverseGuidance(Correction):
    """``x0' = x0 + (sigma_t^2 / alpha_t) g``, by Tweedie's formula; see `PiGDM`."""

    linear_only: ClassVar[bool] = True
    differentiates: ClassVar[bool] = True

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Add the guidance; pure noise (alpha_t = 0) gives none."""
        if level.alpha_t == 0:
            return found.x0
        square = level.alpha_t**2 + level.sigma_t**2
        shift = square / level.alpha_t * pull(found, level, problem)
        return found.x0 + per_item(share(shift, found, problem), shift) * shift


def pull(found: Estimate, level: Levels, problem: Problem) -> Tensor:
    """Return ``r_t^2 g``."""
    # The proximal correction is r_t^2 A^T (r_t^2 A A^T + sigma_y^2)^-1 (y - A x0).
    weight = problem.noise_sigma**2 / unit_variance(level)
    return found.vjp(proximal(problem, found.x0, weight) - found.x0)


def share(shift: Tensor, found: Estimate, problem: Problem) -> Tensor:
    """Return the share of a shift of x0 that is taken, (B,): 1 unless it is beyond `LONGEST`."""
    seen, space = problem.A(shift), problem.space
    size = space.norm(seen).square()
    best = space.inner(seen, problem.y - problem.A(found.x0)) / torch.where(size > 0, size, 1)
    return (LONGEST * best).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class PiGDM(Corrected):
    r"""PiGDM: pseudoinverse guidance with a Gaussian model of p(x_0 | x_t), through the network.

    Assume ``x_0 | x_t ~ N(E[x_0 | x_t], r_t^2 I)``, and let ``J`` be the Jacobian of the denoiser.
    For each pair of times t -> s::

        x0  = E[x_0 | x_t],   r_t^2 = sigma_t^2 / (sigma_t^2 + alpha_t^2)
        g   = J^T A^T (r_t^2 A A^T + sigma_y^2)^-1 (y - A x0)   for grad log p(y | x_t)
        x_s = DDIM step from (x_t, x0), eta, plus alpha_t r_t^2 g

    Without noise, ``g`` contains the pseudo-inverse of A. The weight of ``g`` is the published
    one, which was found empirically; it refers to variance-preserving coordinates for every
    schedule. Tweedie's formula gives another weight, ``guidance="score"``::

        x_s = DDIM step from (x_t, x0 + (sigma_t^2 / alpha_t) g)

    This is exact up to the step size for data of unit variance, whose posterior variance is
    ``r_t^2``; but it depends on ``J`` at high noise, where that of a network is inaccurate.

    Where the variance of x_0 given x_t exceeds r_t^2, as it does for data of larger variance, both
    weights overshoot. On the random walks of docs/posterior.md the published runs diverge, to 78
    and 537 dB above the least error. A shift of x0 that would more than double the misfit is
    therefore shortened to where it doubles it, at the cost of two applications of A. Other shifts
    are those of the paper.

    Reference: "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR 2023,
    algorithm 1.

    Args:
        steps: 100 as published.
        eta: DDIM's eta: 0 is deterministic, 1 is DDPM.
        guidance: "published" or "score", see above.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.SuperResolution((3, 16, 16), factor=2, noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> solvers.PiGDM(steps=20)(y, operator, prior, seed=0).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    steps: Count = 100
    eta: Fraction = 1.0
    guidance: Annotated[str, Choice("published", "score")] = "published"

    name: ClassVar[str] = "pigdm"
    linear_only: ClassVar[bool] = True
    differentiates: ClassVar[bool] = True

    @property
    def correction(self) -> Correction | None:
        """The guidance by the score; that published acts after the step."""
        return PseudoinverseGuidance() if self.guidance == "score" else None

    def fresh(self, level: Levels) -> Tensor:
        """DDIM's variance."""
        return variance("markov", level, self.eta)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, guide, take a DDIM step."""
        level = levels(problem.prior.schedule, t, s)
        found = self.estimate(state.x, t, problem)
        x0 = self.correct(found, level, problem, noise)
        z = self.draw(x0, s, noise)
        x_s = self.onwards(found, x0, z, level, problem)
        if self.guidance == "score":
            return State(x_s, x0)
        if level.alpha_t == 0:
            return State(x_s, x0)
        move = level.alpha_t * level.sizes[1] * pull(found, level, problem)
        shift = move / share_of_image(level, self.fresh(level))  # of x0
        return State(x_s + per_item(share(shift, found, problem), move) * move, x0)
