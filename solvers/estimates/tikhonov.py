"""Least squares with a quadratic penalty; of coil images regularised SENSE."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, NonNegative
from wellposed.linalg import conjugate_gradient, per_item
from wellposed.noise import NoiseSource
from wellposed.solvers.base import State
from wellposed.solvers.data import PROXIMAL_STEPS, is_decomposable, proximal, squared_norm
from wellposed.solvers.estimates.base import PointEstimate
from wellposed.solvers.estimates.discrepancy import allowed_misfit
from wellposed.solvers.problem import Problem

TOLERANCE = 1e-5
"""Relative residual of a solution."""

WEIGHTS = (1e-6, 1e2)
"""Weights over ``||A||^2`` between which the discrepancy principle searches."""


@dataclass(frozen=True, eq=False)
class Bracket(State):
    """State of the search for a weight.

    Attributes:
        low, high: ends of the bracket, weights over ``||A||^2``, (B,).
        norm2: ``||A||^2`` of each item, (B,).
    """

    low: Tensor
    high: Tensor
    norm2: Tensor


@dataclass(frozen=True, kw_only=True)
class Tikhonov(PointEstimate):
    r"""``argmin_x ||A x - y||^2 + weight ||A||^2 ||x||^2``; for multi-coil MRI CG-SENSE.

    Without a weight it is found for each item by bisection, such that the misfit is the noise's,
    ``||A x - y||^2 = m sigma_y^2`` (Morozov's discrepancy principle, 1966). Needs no prior.

    Reference: "Advances in sensitivity encoding with arbitrary k-space trajectories", Pruessmann
    et al., Magn. Reson. Med. 2001.

    Args:
        steps: halvings of the bracket of weights.
        weight: over ``||A||^2``; None chooses it by the noise level of the operator.
    """

    steps: Count = 10
    weight: NonNegative | None = None

    name: ClassVar[str] = "tikhonov"
    linear_only: ClassVar[bool] = True
    uses_prior: ClassVar[bool] = False

    def times(self, problem: Problem) -> list[float]:
        """Return the numbers of halvings left; one solution takes one step."""
        return super().times(problem) if self.weight is None else [1.0, 0.0]

    def check(self, problem: Problem) -> None:
        """Ask for a weight where the noise is unknown."""
        super().check(problem)
        if self.weight is None:
            allowed_misfit(problem)

    def init(self, problem: Problem, noise: NoiseSource) -> Bracket:
        """Start with the whole range of weights."""
        x, norm2 = problem.zeros(), squared_norm(problem)
        low, high = (torch.full_like(norm2, end) for end in WEIGHTS)
        return Bracket(x, x, low, high, norm2)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> Bracket:
        """Solve with the geometric mean of the bracket, and halve it."""
        assert isinstance(state, Bracket)
        low, high, norm2 = state.low, state.high, state.norm2
        middle = (low * high).sqrt()
        weight = middle if self.weight is None else torch.full_like(low, self.weight)
        x = _solution(problem, weight * norm2, start=state.x)
        if self.weight is None:
            over = problem.space.norm(problem.A(x) - problem.y) > allowed_misfit(problem)
            low, high = torch.where(over, low, weight), torch.where(over, weight, high)
        return Bracket(x, x, low, high, norm2)


def _solution(problem: Problem, weight: Tensor, start: Tensor) -> Tensor:
    """Return ``argmin_x ||A x - y||^2 + weight ||x||^2``; the last solution is a good start."""
    if is_decomposable(problem.operator):
        return proximal(problem, problem.zeros(), weight)
    found = conjugate_gradient(
        lambda x: problem.normal(x) + per_item(weight, x) * x,
        problem.back_projection,
        start,
        iterations=PROXIMAL_STEPS,
        tolerance=TOLERANCE,
        space=problem.space,
    )
    return found.x
