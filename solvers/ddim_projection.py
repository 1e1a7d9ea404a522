"""Posterior projection with plain DDIM steps: the simplest solver, added as an example."""

from dataclasses import dataclass
from typing import ClassVar

from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.priors.transition import implied_noise, levels, transition, variance
from wellposed.solvers.base import Solver, State
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class DDIMProjection(Solver):
    r"""DDIM with the clean estimate projected onto the data: x0 + A^+ (y - A x0) at each step.

    For each pair of times t -> s::

        x0  = E[x_0 | x_t]
        x0' = x0 + A^+ (y - A x0)
        x_s = alpha_s x0' + sqrt(sigma_s^2 - v) eps' + sqrt(v) z,   eps' implied by x0'

    with DDIM's variance ``v`` (rule "markov", eta). For noise-free data; noise in y goes straight
    into the image. The range-null-space step of DDNM (Wang, Yu and Zhang, ICLR 2023,
    arXiv 2212.00490, eq. 13) with the sampler of Song, Meng and Ermon (ICLR 2021,
    arXiv 2010.02502, eq. 12).

    Args:
        eta: DDIM's eta: 0 is deterministic, 1 is DDPM.
        cg_steps: conjugate-gradient steps that compute ``A^+``.
    """

    eta: float = 0.0
    cg_steps: int = 20

    linear_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.eta <= 1, "eta", self.eta, "0 <= eta <= 1")
        require(self.cg_steps >= 1, "cg_steps", self.cg_steps, "at least 1")

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, project, take a DDIM step."""
        level = levels(problem.prior.schedule, t, s)
        x0 = problem.denoise(state.x, t)
        x0 = problem.project(x0, self.cg_steps)
        if s == 0:
            return State(x0, x0)
        eps = implied_noise(state.x, x0, level)
        v = variance("markov", level, self.eta)
        return State(transition(x0, eps, noise.draw(x0), level, v), x0)
