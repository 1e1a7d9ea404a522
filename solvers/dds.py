"""DDS: decomposed diffusion sampling (Chung, Lee and Ye 2024, arXiv 2303.05754)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.linalg import conjugate_gradient
from wellposed.noise import NoiseSource
from wellposed.priors.transition import implied_noise, levels, transition, variance
from wellposed.solvers.base import Solver, State
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class DDS(Solver):
    r"""Decomposed diffusion sampling: Tweedie, a few conjugate-gradient steps, re-noise.

    For each pair of times t -> s::

        x0  = E[x_0 | x_t],  eps = (x_t - alpha_t x0) / sigma_t
        x0' = CG_M( I + gamma A^H A,  x0 + gamma A^H y;  start x0 )
        x_s = alpha_s x0' + sigma_s (sqrt(1 - eta^2) eps + eta z),   z ~ N(0, I)

    ``gamma = math.inf`` is the hard, noise-free form ``CG_M(A^H A, A^H y; start x0)``. The same
    equations serve variance-preserving, variance-exploding and flow priors.

    Reference: "Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse Problems",
    ICLR 2024, arXiv 2303.05754. The published multi-coil code adds ``(1 + i) gamma A^H y``; here
    the right-hand side is that of the paper.

    Args:
        eta: share of fresh noise, 0 (deterministic) to 1; the paper uses .15, .5, .8 at 20, 50,
            100 steps for MRI, the code .85.
        gamma: weight of the data, in the prior's units; 1 as published, infinity for hard
            consistency.
        cg_steps: conjugate-gradient steps M.
        renoise_last: keep re-noising on the step into the last network time, as the equations
            say; the published code skips it there (``False``).
    """

    eta: float = 0.85
    gamma: float = 1.0
    cg_steps: int = 5
    renoise_last: bool = True

    linear_only: ClassVar[bool] = True
    in_slabs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.eta <= 1, "eta", self.eta, "0 <= eta <= 1")
        require(self.gamma > 0, "gamma", self.gamma, "a positive number or math.inf")
        require(self.cg_steps >= 1, "cg_steps", self.cg_steps, "at least 1")

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, pull to the data, re-noise."""
        level = levels(problem.prior.schedule, t, s)
        x0 = problem.denoise(state.x, t)
        eps = implied_noise(state.x, x0, level)
        x0 = self.consistent(x0, problem)
        if s == 0:
            return State(x0, x0)
        z = noise.draw(x0)
        if not self.renoise_last and s == self.times(problem)[-2]:
            return State(x0, x0)
        v = variance("fresh", level, self.eta)
        return State(transition(x0, eps, z, level, v), x0)

    def consistent(self, x0: Tensor, problem: Problem) -> Tensor:
        """Return ``x0`` pulled towards the measurement by ``cg_steps`` of CG."""
        if math.isinf(self.gamma):
            return problem.project(x0, self.cg_steps)

        def apply(x: Tensor) -> Tensor:
            return torch.add(x, problem.normal(x), alpha=self.gamma)

        b = torch.add(x0, problem.back_projection, alpha=self.gamma)
        total = problem.slab.sum
        return conjugate_gradient(apply, b, x0, iterations=self.cg_steps, total=total).x
