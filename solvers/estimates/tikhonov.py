"""Least squares with a quadratic penalty; of coil images regularised SENSE."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, NonNegative
from wellposed.noise import NoiseSource
from wellposed.solvers.base import State
from wellposed.solvers.data import squared_norm
from wellposed.solvers.estimates.base import PointEstimate
from wellposed.solvers.estimates.discrepancy import (
    LEAST_WEIGHT,
    allowed_misfit,
    least_squares,
    require_noise,
)
from wellposed.solvers.problem import Problem

WEIGHTS = (LEAST_WEIGHT, 1e2)
"""Weights over ``||A||^2`` between which the discrepancy principle searches."""


@dataclass(frozen=True, eq=False)
class Bracket(State):
    """State of the search for a weight.

    Attributes:
        low, high: ends of the bracket, weights over ``||A||^2``, (B,).
        norm2: ``||A||^2`` of each item, (B,).
        allowed: misfit that the solution should have, (B,); zero with a given weight.
    """

    low: Tensor
    high: Tensor
    norm2: Tensor
    allowed: Tensor


@dataclass(frozen=True, kw_only=True)
class Tikhonov(PointEstimate):
    r"""``argmin_x ||A x - y||^2 + weight ||A||^2 ||x||^2``; for multi-coil MRI CG-SENSE.

    Without a weight it is found for each item by bisection, such that the misfit is the noise's,
    ``||A x - y||^2 = m sigma_y^2`` (Morozov's discrepancy principle, 1966), or a tenth above the
    least misfit where no image reaches that. Needs no prior.

    Reference: "Advances in sensitivity encoding with arbitrary k-space trajectories", Pruessmann
    et al., Magn. Reson. Med. 2001.

    Args:
        steps: halvings of the bracket of weights.
        weight: over ``||A||^2``; None chooses it by the noise level of the operator.

    Example:
        >>> import torch
        >>> from wellposed import operators, solvers
        >>> operator = operators.Blur(operators.uniform_kernel(3), (3, 16, 16), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> result = solvers.Tikhonov()(y, operator)  # needs no prior
        >>> result.mean.shape, round(float(result.residual), 1)
        (torch.Size([1, 3, 16, 16]), 1.0)
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
            require_noise(problem)

    def init(self, problem: Problem, noise: NoiseSource) -> Bracket:
        """Start with the whole range of weights."""
        x, norm2 = problem.zeros(), squared_norm(problem)
        low, high = (torch.full_like(norm2, end) for end in WEIGHTS)
        none = torch.zeros_like(norm2)
        allowed = allowed_misfit(problem, norm2) if self.weight is None else none
        return Bracket(x, x, low, high, norm2, allowed)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> Bracket:
        """Solve with the geometric mean of the bracket, and halve it."""
        assert isinstance(state, Bracket)
        low, high, norm2 = state.low, state.high, state.norm2
        middle = (low * high).sqrt()
        weight = middle if self.weight is None else torch.full_like(low, self.weight)
        x = least_squares(problem, weight * norm2, start=state.x)
        if self.weight is None:
            over = problem.space.norm(problem.A(x) - problem.y) > state.allowed
            low, high = torch.where(over, low, weight), torch.where(over, weight, high)
        return Bracket(x, x, low, high, norm2, state.allowed)
