"""IR-SDE: the mean-reverting diffusion (Luo et al. 2023)."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, implied_noise, levels, variance
from wellposed.solvers.base import State
from wellposed.solvers.problem import Problem
from wellposed.solvers.restoration.base import Restoration


@dataclass(frozen=True, kw_only=True)
class IRSDE(Restoration):
    r"""IR-SDE: the reversed mean-reverting diffusion, by its posterior or by Euler steps.

    For each pair of times t -> s, with the decay ``F = log(alpha_s / alpha_t)`` between them
    (``theta dt`` for one step) and the variance ``G = 2 lambda^2 F`` of the added noise::

        posterior:  x_s ~ p(x_s | x_t, x0), the transition with variance rule "markov"
        sde:        x_s = x_t + F (x_t - m) - (G / sigma_t) eps - sqrt(G) z
        ode:        x_s = x_t + F (x_t - m) - (G / 2 sigma_t) eps

    On any schedule ``G = integral of alpha^2 d(sigma^2 / alpha^2)``. It is computed with
    ``sigma^2 / alpha^2`` linear in ``1 / alpha^2``, which holds for the schedules of IR-SDE and
    DDPM. From ``alpha = 0``, where Euler steps are undefined, all methods use the transition.

    Reference: "Image Restoration with Mean-Reverting Stochastic Differential Equations", ICML
    2023, arXiv 2301.11699. With fewer steps than T the published code skips times but keeps the
    decay of one time step, so most of the noise remains; here a step has the decay between its
    two times.

    Args:
        method: "posterior", "sde" or "ode".

    Example:
        >>> import torch
        >>> from wellposed import priors, solvers
        >>> restorer = priors.load("irsde-deblur")
        >>> blurred = torch.rand(1, 3, 16, 16)
        >>> solvers.IRSDE(steps=5)(blurred, None, restorer, num_samples=2, seed=0).samples.shape
        torch.Size([2, 1, 3, 16, 16])
    """

    steps: Count = 100
    method: Annotated[str, Choice("posterior", "sde", "ode")] = "posterior"

    name: ClassVar[str] = "ir-sde"

    def fresh(self, level: Levels) -> Tensor:
        """The posterior's variance; none for the ODE."""
        return variance("zero" if self.method == "ode" else "markov", level)

    def draw(self, like: Tensor, s: float, noise: NoiseSource) -> Tensor:
        """Return the fresh noise; the ODE has none."""
        return torch.zeros_like(like) if self.method == "ode" else super().draw(like, s, noise)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, correct by the data if requested, take a posterior or Euler step."""
        level = levels(problem.prior.schedule, t, s)
        if self.method == "posterior" or level.alpha_t == 0:
            return super().step(state, t, s, problem, noise)
        x0 = self.correct(self.estimate(state.x, t, problem), level, problem, noise)
        return State(self._euler(state.x, x0, level, problem.anchor, noise), x0)

    def _euler(
        self, x: Tensor, x0: Tensor, level: Levels, m: Tensor | float, noise: NoiseSource
    ) -> Tensor:
        decay, added = torch.log(level.alpha_s / level.alpha_t), noise_added(level)
        share = 1.0 if self.method == "sde" else 0.5
        eps = implied_noise(x, x0, level, m)
        x_s = x + decay * (x - m) - share * added / level.sigma_t * eps
        return x_s - added.sqrt() * noise.draw(x) if self.method == "sde" else x_s


def noise_added(level: Levels) -> Tensor:
    """Return the variance that the forward diffusion adds from s to t; see `IRSDE`."""
    a_t, a_s = level.alpha_t**2, level.alpha_s**2
    growth = level.sigma_t**2 / a_t - level.sigma_s**2 / a_s
    gap = float((a_s - a_t) / a_t)
    # The logarithmic mean of alpha^2, 1 / its harmonic counterpart.
    mean = a_s * (math.log1p(gap) / gap if abs(gap) > 1e-12 else 1.0)
    return growth * mean
