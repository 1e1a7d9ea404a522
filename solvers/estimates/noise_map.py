"""The most probable noise of a measurement."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from wellposed.checks import NonNegative, Positive, Steps
from wellposed.errors import ArgumentError
from wellposed.inversion.gradient import generate
from wellposed.linalg import as_real, like, per_item
from wellposed.noise import NoiseSource
from wellposed.priors.schedule import Schedule
from wellposed.solvers.data import misfit_gradient, noise_level
from wellposed.solvers.estimates.base import PointEstimate
from wellposed.solvers.problem import Problem
from wellposed.solvers.sampler import State


class _Flow(NamedTuple):
    """The prior as the chain sees it; its calls are counted by the problem."""

    problem: Problem

    @property
    def schedule(self) -> Schedule:
        return self.problem.prior.schedule

    def denoise(self, x_t: Tensor, t: float) -> Tensor:
        return self.problem.denoise(x_t, t)


@dataclass(frozen=True, eq=False)
class NoiseState(State):
    """State of `NoiseMAP`: x is the noise, x0 its image.

    Attributes:
        first, second: Adam's moments.
        count: Adam's steps so far.
    """

    first: Tensor
    second: Tensor
    count: int


@dataclass(frozen=True, kw_only=True)
class NoiseMAP(PointEstimate):
    r"""The most probable noise of a measurement: its image explains the data.

    ``min_z |A G(z) - y|^2 / 2 + w sigma_y^2 |z|^2 / 2`` with the prior's sampler ``G`` as a
    function of its noise, `inversion.generate`, whose gradient takes the memory of one network
    call. For any operator that can be differentiated, linear or not; the estimate is always an
    image of the prior. For a Gaussian prior it is the posterior mean. By Adam, from z = 0. Each
    step costs nearly twice ``levels`` network calls, and half of them backwards too.

    References: "DMPlug: A Plug-in Method for Solving Inverse Problems with Diffusion Models",
    2024, arXiv 2405.16749, with 3 DDIM steps and the whole graph, from random noise; "D-Flow:
    Differentiating through Flows for Controlled Generation", 2024, arXiv 2402.14017.

    Args:
        steps: steps of Adam.
        levels: noise levels of G.
        weight: w; 1 is the most probable noise of a known noise level, 0 has no prior of it.
        learning_rate: of Adam.
    """

    steps: Steps = 100
    levels: Steps = 8
    weight: NonNegative = 1.0
    learning_rate: Positive = 0.1

    name: ClassVar[str] = "noise-map"
    differentiates: ClassVar[bool] = True

    def init(self, problem: Problem, noise: NoiseSource) -> NoiseState:
        """Start from the image of no noise."""
        z = problem.zeros()
        zeros = torch.zeros_like(as_real(z), dtype=torch.float64)
        return NoiseState(z, z, zeros, zeros, 0)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> NoiseState:
        """Take one step of Adam, and return the image of the noise before it."""
        assert isinstance(state, NoiseState)
        with torch.enable_grad():
            z = state.x.detach().requires_grad_()
            x0 = generate(z, _Flow(problem), self.levels)  # type: ignore[arg-type]
        if not x0.requires_grad:
            kind = type(problem.prior).__name__
            raise ArgumentError(f"prior: got {kind}, accepted: one that can be differentiated")
        pull = torch.autograd.grad(x0, z, misfit_gradient(problem, x0.detach()))[0]
        strength = self.weight * noise_level(problem) ** 2
        return self._adam(state, x0.detach(), pull + per_item(strength, state.x) * state.x)

    def finish(self, state: State) -> Tensor:
        """Return the image."""
        return state.x0

    def _adam(self, state: NoiseState, x0: Tensor, gradient: Tensor) -> NoiseState:
        g, count = as_real(gradient).double(), state.count + 1
        first = 0.9 * state.first + 0.1 * g
        second = 0.99 * state.second + 0.01 * g**2
        deviation = (second / (1 - 0.99**count)).sqrt() + 1e-12
        rate = self.learning_rate * min(1.0, 2 - 2 * count / (self.steps + 1))  # falls to 0
        update = rate / (1 - 0.9**count) * first / deviation
        moved = state.x - like(update.to(gradient.real.dtype), gradient)
        return NoiseState(moved, x0, first, second, count)
