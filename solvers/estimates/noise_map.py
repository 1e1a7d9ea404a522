"""The most probable noise of a measurement."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from wellposed.checks import NonNegative, Positive, Steps, Whole
from wellposed.errors import ArgumentError
from wellposed.inversion.gradient import generate
from wellposed.linalg import as_real, like, per_item, squares
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


RISE = 20
"""Steps in which the learning rate rises. Adam's first steps are alike in all pixels: full ones
overshoot the mean of the image, and intensities then lead to the negative image, which has the
same."""

DESCENT = ("x", "x0", "first", "second", "objective")
"""What the state holds of a descent."""


@dataclass(frozen=True, eq=False)
class NoiseState(State):
    """State of `NoiseMAP`: x is the noise, x0 its image.

    Attributes:
        first, second: Adam's moments.
        objective: what is minimised, at the image, (B,).
        best_x, best_x0, best_first, best_second, best_objective: of the best start so far.
    """

    first: Tensor
    second: Tensor
    objective: Tensor
    best_x: Tensor
    best_x0: Tensor
    best_first: Tensor
    best_second: Tensor
    best_objective: Tensor

    @classmethod
    def begun(cls, z: Tensor) -> "NoiseState":
        """Return the state of a first start."""
        moment = torch.zeros_like(as_real(z), dtype=torch.float64)
        parts = (z, z, moment, moment, moment.new_full((len(z),), torch.inf))
        return cls(*parts, *parts)

    def started(self, z: Tensor) -> "NoiseState":
        """Return the state at another start."""
        return replace(self, x=z, first=0 * self.first, second=0 * self.second)

    def with_the_best(self) -> "NoiseState":
        """Return the state that keeps the better one of its descent and the best, by item."""
        better, found = self.objective < self.best_objective, {}
        for name in DESCENT:
            own, best = getattr(self, name), getattr(self, f"best_{name}")
            found[f"best_{name}"] = torch.where(per_item(better, own), own, best)
        return replace(self, **found)

    def at_the_best(self) -> "NoiseState":
        """Return the state that goes on from the best."""
        return replace(self, **{name: getattr(self, f"best_{name}") for name in DESCENT})


@dataclass(frozen=True, kw_only=True)
class NoiseMAP(PointEstimate):
    r"""The most probable noise of a measurement: its image explains the data.

    ``min_z |A G(z) - y|^2 / 2 + w sigma_y^2 |z|^2 / 2`` with the prior's sampler ``G`` as a
    function of its noise, `inversion.generate`, whose gradient takes the memory of one network
    call. For any operator that can be differentiated, linear or not; the estimate is always an
    image of the prior. For a Gaussian prior it is the posterior mean. Each step of Adam costs
    nearly twice ``levels`` network calls, and half of them backwards too.

    Linear measurements begin at z = 0. There, nonlinear ones such as intensities may have no
    slope, and their descents end in different minima: they begin with random noise, ``starts``
    times. After ``trial_steps`` each, the start with the least objective is descended to the end.
    On phase retrieval this equals the best of 4 samples of `DPS`; see docs/inversion.md.

    References: "DMPlug: A Plug-in Method for Solving Inverse Problems with Diffusion Models",
    2024, arXiv 2405.16749, with 3 DDIM steps and the whole graph, from random noise; "D-Flow:
    Differentiating through Flows for Controlled Generation", 2024, arXiv 2402.14017. The choice
    among starts is ours.

    Args:
        steps: steps of Adam.
        levels: noise levels of G. Few are quick, as DMPlug's 3, but their G is not the prior's
            sampler: for a Gaussian and 8 levels the mean of the posterior is met to some 10 %.
        weight: w; 1 is the most probable noise of a known noise level, 0 has no prior of it.
        learning_rate: of Adam.
        starts: random starts of nonlinear measurements.
        trial_steps: steps after which the starts are compared.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Inpainting(operators.random_mask(8, 8, 0.5), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 8, 8), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> solvers.NoiseMAP(steps=20, levels=4)(y, operator, prior).mean.shape
        torch.Size([1, 3, 8, 8])
    """

    steps: Steps = 300
    levels: Steps = 8
    weight: NonNegative = 1.0
    learning_rate: Positive = 0.1
    starts: Annotated[int, Whole(1, 1000)] = 8
    trial_steps: Steps = 50

    name: ClassVar[str] = "noise-map"
    differentiates: ClassVar[bool] = True

    def times(self, problem: Problem) -> list[float]:
        """Return the numbers of steps that are left, those of all starts included."""
        others = 0 if problem.is_linear else (self.starts - 1) * self._trial
        return [float(left) for left in range(self.steps + others, -1, -1)]

    @property
    def _trial(self) -> int:
        return min(self.trial_steps, self.steps)

    def init(self, problem: Problem, noise: NoiseSource) -> NoiseState:
        """Start from no noise, or from random noise if A is not linear."""
        zeros = problem.zeros()
        return NoiseState.begun(zeros if problem.is_linear else noise.draw(zeros))

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> NoiseState:
        """Take one step of Adam, and return the image of the noise before it."""
        assert isinstance(state, NoiseState)
        total = int(self.times(problem)[0])
        number, last = total - int(t), total - self.steps  # of the step, where the last start is
        if 0 < number <= last and number % self._trial == 0:
            state = state.with_the_best().started(noise.draw(state.x))
        elif number == last + self._trial:
            state = state.with_the_best().at_the_best()
        return self._descend(
            state, number - min(number // self._trial * self._trial, last), problem
        )

    def finish(self, state: State) -> Tensor:
        """Return the image."""
        assert isinstance(state, NoiseState)
        return state.with_the_best().best_x0

    def _descend(self, state: NoiseState, count: int, problem: Problem) -> NoiseState:
        """Return the state after one more step than ``count`` of a descent."""
        with torch.enable_grad():
            z = state.x.detach().requires_grad_()
            x0 = generate(z, _Flow(problem), self.levels)  # type: ignore[arg-type]
        if not x0.requires_grad:
            kind = type(problem.prior).__name__
            raise ArgumentError(f"prior: got {kind}, accepted: one that can be differentiated")
        found = x0.detach()
        pull = torch.autograd.grad(x0, z, misfit_gradient(problem, found))[0]
        strength = self.weight * noise_level(problem) ** 2
        misfit = squares(problem.y - problem.A(found))
        objective = problem.space.sum(misfit + strength * squares(state.x))
        state = replace(state, x0=found, objective=objective)
        return self._adam(state, count + 1, pull + per_item(strength, state.x) * state.x)

    def _adam(self, state: NoiseState, count: int, gradient: Tensor) -> NoiseState:
        g = as_real(gradient).double()
        first = 0.9 * state.first + 0.1 * g
        second = 0.99 * state.second + 0.01 * g**2
        deviation = (second / (1 - 0.99**count)).sqrt() + 1e-12
        falling = 2 - 2 * count / (self.steps + 1)  # to 0
        rate = self.learning_rate * min(1.0, count / RISE, falling)
        update = rate / (1 - 0.9**count) * first / deviation
        moved = state.x - like(update.to(gradient.real.dtype), gradient)
        return replace(state, x=moved, first=first, second=second)
