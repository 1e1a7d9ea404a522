"""Estimates without a prior and without iterations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from wellposed.checks import Whole
from wellposed.errors import ArgumentError
from wellposed.noise import NoiseSource
from wellposed.operators.plain import filtered_back_projection
from wellposed.solvers.base import State
from wellposed.solvers.estimates.base import PointEstimate
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Direct(PointEstimate):
    """Base of the estimates that are a formula."""

    steps: Annotated[int, Whole(1, 1)] = 1

    uses_prior: ClassVar[bool] = False

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Apply the formula."""
        x = self.formula(problem)
        return State(x, x)

    def formula(self, problem: Problem) -> Tensor:
        """Return the estimate."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BackProjection(Direct):
    """The adjoint image ``A^H y``: of undersampled k-space the zero-filled image.

    Example:
        >>> import torch
        >>> from wellposed import operators, solvers
        >>> mask = operators.uniform_random_lines(16, acceleration=2)
        >>> operator = operators.SingleCoilMRI(mask.expand(16, 16))
        >>> kspace = operator.A(torch.randn(1, 1, 16, 16, dtype=torch.complex64))
        >>> solvers.BackProjection()(kspace, operator).mean.shape  # the zero-filled image
        torch.Size([1, 1, 16, 16])
    """

    name: ClassVar[str] = "back-projection"
    linear_only: ClassVar[bool] = True

    def formula(self, problem: Problem) -> Tensor:
        """Return ``A^H y``."""
        return problem.back_projection


@dataclass(frozen=True, kw_only=True)
class FBP(Direct):
    """Filtered back-projection of sinograms; FDK of cone-beam projections.

    Example:
        >>> import torch
        >>> from wellposed import operators, solvers
        >>> operator = operators.ParallelBeamCT(32, angles=60)
        >>> y = operator.A(torch.ones(1, 1, 32, 32))
        >>> solvers.FBP()(y, operator).mean.shape
        torch.Size([1, 1, 32, 32])
    """

    name: ClassVar[str] = "fbp"
    linear_only: ClassVar[bool] = True

    def check(self, problem: Problem) -> None:
        """Refuse what is not CT."""
        super().check(problem)
        _filtered(problem)

    def formula(self, problem: Problem) -> Tensor:
        """Return the filtered back-projection."""
        return _filtered(problem)(problem.y)


def _filtered(problem: Problem) -> Callable[[Tensor], Tensor]:
    """Return the operator's own filtered back-projection.

    Raises:
        ArgumentError: it has none.
    """
    found = filtered_back_projection(problem.operator)
    if found is not None:
        return found
    raise ArgumentError(
        f"operator: got {type(problem.operator).__name__}, accepted by FBP: ParallelBeamCT, "
        "FanBeamCT or ConeBeamCT, or slices of the first two"
    )
