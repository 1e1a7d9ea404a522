"""PiGDM: pseudoinverse-guided diffusion (Song et al. 2023)."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from wellposed.errors import require, require_choice
from wellposed.noise import NoiseSource
from wellposed.priors.transition import implied_noise, levels, transition, variance
from wellposed.solvers.base import Solver, State
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class PiGDM(Solver):
    r"""Pseudoinverse guidance: the score of a Gaussian guess of p(x_0 | x_t), through the network.

    For each pair of times t -> s, with ``x_0 | x_t ~ N(E[x_0 | x_t], r_t^2 I)`` assumed and ``J``
    the Jacobian of the denoiser::

        x0  = E[x_0 | x_t],   r_t^2 = sigma_t^2 / (sigma_t^2 + alpha_t^2)
        g   = J^T A^T (r_t^2 A A^T + sigma_y^2)^-1 (y - A x0)   for grad log p(y | x_t)
        x_s = DDIM step from (x_t, x0), eta, plus alpha_t r_t^2 g

    Without noise ``g`` becomes that of the pseudo-inverse. The weight of ``g`` is the published
    one, found by trial; it is stated in variance-preserving coordinates whatever the prior's
    schedule. Tweedie's formula has another, ``guidance="score"``::

        x_s = DDIM step from (x_t, x0 + (sigma_t^2 / alpha_t) g)

    which is exact up to the step size for data of unit variance, of which ``r_t^2`` is the
    posterior variance; it trusts ``J`` at high noise, where a network's is poor.

    Reference: "Pseudoinverse-Guided Diffusion Models for Inverse Problems", ICLR 2023,
    algorithm 1.

    Args:
        steps: 100 as published.
        eta: DDIM's eta: 0 is deterministic, 1 is DDPM.
        guidance: "published" or "score", see above.
    """

    steps: int = 100
    eta: float = 1.0
    guidance: str = "published"

    linear_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.eta <= 1, "eta", self.eta, "0 <= eta <= 1")
        require_choice("guidance", self.guidance, ("published", "score"))

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, guide, take a DDIM step."""
        level = levels(problem.prior.schedule, t, s)
        x0, vjp = problem.denoise_with_vjp(state.x, t)
        square = level.alpha_t**2 + level.sigma_t**2
        r2 = level.sigma_t**2 / square
        # The proximal correction is r_t^2 A^T (r_t^2 A A^T + sigma_y^2)^-1 (y - A x0).
        pull = vjp(problem.proximal(x0, problem.noise_sigma**2 / r2) - x0)
        by_score = self.guidance == "score"
        # Pure noise (alpha_t = 0) says nothing of x_0; its weight would be infinite.
        x0 = x0 + square / level.alpha_t * pull if by_score and level.alpha_t > 0 else x0
        z = noise.draw(x0) if s > 0 else torch.zeros_like(x0)
        v = variance("markov", level, self.eta)
        x_s = transition(x0, implied_noise(state.x, x0, level), z, level, v)
        size_s = torch.hypot(level.alpha_s, level.sigma_s)
        return State(x_s if by_score else x_s + level.alpha_t * size_s * pull, x0)
