"""What solvers share that may start from the measurement at an intermediate noise level."""

import math
from dataclasses import dataclass

from wellposed.checks import PositiveOrInfinite
from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.solvers.base import Solver, State
from wellposed.solvers.data import pseudo_inverse
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class WarmStart(Solver):
    """Base of solvers that leave out the times of much noise if asked.

    Args:
        steps: of the whole schedule; those above ``start`` are left out.
        start: the run starts from the pseudo-inverse of y, noised to the largest ``sigma / alpha``
            of the schedule's times that is not above this; from pure noise where infinite.
    """

    start: PositiveOrInfinite = math.inf

    def check(self, problem: Problem) -> None:
        """Refuse a start below all times."""
        super().check(problem)
        lowest = float(problem.prior.schedule.ratio(super().times(problem)[-2]))
        accepted = f"at least {lowest:.3g}, the lowest level of {self.steps} steps; or more steps"
        require(self.start >= lowest, "start", self.start, accepted)

    def times(self, problem: Problem) -> list[float]:
        """Return the times of the schedule from ``start`` on."""
        ratio, times = problem.prior.schedule.ratio, super().times(problem)
        return [t for t in times if float(ratio(t)) <= self.start]

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Start from pure noise, or from the noisy pseudo-inverse."""
        if math.isinf(self.start):
            return super().init(problem, noise)
        x0 = pseudo_inverse(problem)
        alpha, sigma = problem.prior.schedule(self.times(problem)[0])
        return State(alpha * x0 + sigma * noise.draw(x0), x0)
