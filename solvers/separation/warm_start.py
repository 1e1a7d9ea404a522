"""Base of solvers that can start from the measurement at an intermediate noise level."""

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
    """Base of solvers that can leave out the times with much noise.

    Args:
        steps: steps of the whole schedule; those above ``start`` are left out.
        start: noise-to-signal ratio at which sampling starts. The run starts from the
            pseudo-inverse of y plus noise, at the largest ``sigma / alpha`` of the times that is
            not above ``start``; if infinite, it starts from pure noise.
    """

    start: PositiveOrInfinite = math.inf

    def check(self, problem: Problem) -> None:
        """Raise for a start below all times."""
        super().check(problem)
        lowest = float(problem.prior.schedule.ratio(super().times(problem)[-2]))
        accepted = f"at least {lowest:.3g}, the lowest level of {self.steps} steps; use more steps"
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
