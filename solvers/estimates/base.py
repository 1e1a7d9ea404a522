"""What point estimates share: a deterministic iteration, counted down to 0."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wellposed.linalg import per_item
from wellposed.noise import NoiseSource
from wellposed.solvers.base import Solver, State
from wellposed.solvers.data import pseudo_inverse
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class PointEstimate(Solver):
    """Base of the solvers that return one image and draw nothing.

    The times of the run are the numbers of iterations that are left.
    """

    deterministic: ClassVar[bool] = True

    def times(self, problem: Problem) -> list[float]:
        """Return steps, steps - 1, ..., 0."""
        return [float(left) for left in range(self.steps, -1, -1)]

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Start from the centre of the prior's range; from a pseudo-inverse if A is not linear.

        At the centre, nothing of the noise in y has been amplified. Nonlinear measurements such
        as intensities may have no gradient there.
        """
        x: Tensor = problem.zeros() if problem.is_linear else pseudo_inverse(problem)
        return State(x, x)


def denoised_at(x: Tensor, level: Tensor, problem: Problem) -> Tensor:
    """Return the denoised image of an ``x`` with noise of a level for each item, (B,)."""
    t = problem.prior.schedule.time_at(level)
    alpha = problem.prior.schedule(t)[0].to(x.real.dtype)
    return problem.denoise(per_item(alpha, x) * x, t)
