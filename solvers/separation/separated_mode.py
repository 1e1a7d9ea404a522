"""Sums of companded images: the most probable blocks, in few evaluations and without noise."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Positive, Steps
from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.solvers.base import State
from wellposed.solvers.estimates.base import PointEstimate, denoised_at
from wellposed.solvers.problem import Problem
from wellposed.solvers.separation.variance_sharing import RMS, SharedMisfit


@dataclass(frozen=True, eq=False)
class DenoisedState(State):
    """State of `SeparatedMode`.

    Attributes:
        denoised: what the networks returned in the step before, in units.
    """

    denoised: Tensor


@dataclass(frozen=True, kw_only=True)
class SeparatedMode(PointEstimate):
    r"""Climb to the most probable blocks of a companded sum, from large to small noise levels.

    For levels s from ``start`` to ``stop``, equidistant in their square root, with the next one
    s', the one before s'' and the prior's denoiser D::

        d = D(x, s)
        e = d + 1/2 log(s / s') / log(s'' / s) (d - d'')      (e = d in the first and last step)
        x = x + (1 - (s' / s)^2) (e - x)                      (s' = 0 in the last step)
        x = the misfit of the sum is shared among the blocks, as by `VarianceSharing`

    ``(D(x, s) - x) / s^2`` is the gradient of the log density of noisy images (Tweedie), so that
    x follows the flow ``dx / d log s = 2 (x - D(x, s))`` by second-order steps of an exponential
    integrator, each followed by the sharing. With many steps, Gaussian blocks of the given rms end
    at their posterior mode. With the default 8, the estimate is near a mode. No noise is added,
    unlike in sampling: the estimate has less error than a sample.

    References: the ascent is that of Kadkhodaie and Simoncelli, "Stochastic solutions for linear
    inverse problems using the prior implicit in a denoiser", arXiv 2007.13640, without noise; the
    second-order steps are those of DPM-Solver++(2M), arXiv 2211.01095, for data prediction.

    Args:
        steps: number of levels, each with one evaluation of the networks.
        start, stop: first and last level, ``sigma / alpha`` in the prior's units; a prior whose
            least level is higher ends there.
        rms: root mean square of each block, in units.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> one = operators.Denoising((1, 16, 16))
        >>> operator = operators.Companded(operators.Superposition([one, one]))
        >>> y = operator.A(torch.rand(1, 2, 16, 16) - 0.5)
        >>> prior = priors.Product([priors.GaussianPrior(0.0, 0.09)] * 2, channels=[1, 1])
        >>> solvers.SeparatedMode(rms=(0.3, 0.3))(y, operator, prior).mean.shape
        torch.Size([1, 2, 16, 16])
    """

    steps: Steps = 8
    start: Positive = 2.0
    stop: Positive = 0.03
    rms: tuple[Positive, ...] = RMS

    name: ClassVar[str] = "separated-mode"
    operators: ClassVar[tuple[str, ...]] = SharedMisfit.operators

    def __post_init__(self) -> None:
        """Raise if the levels do not fall."""
        super().__post_init__()
        require(self.stop < self.start, "stop", self.stop, f"less than start, {self.start}")

    @property
    def correction(self) -> SharedMisfit:
        """The sharing of the misfit."""
        return SharedMisfit(rms=self.rms)

    def check(self, problem: Problem) -> None:
        """Raise for another operator, and for levels that the prior does not know."""
        super().check(problem)
        self.correction.check(problem)
        schedule = problem.prior.schedule
        lowest, highest = schedule.min_ratio, float(schedule.ratio(schedule.T))
        accepted = f"more than {lowest:.3g} and at most {highest:.3g}, the levels of the prior"
        require(lowest < self.start <= highest, "start", self.start, accepted)

    def init(self, problem: Problem, noise: NoiseSource) -> DenoisedState:
        """Start from the pseudo-inverse, which divides the measurement among the blocks."""
        x = super().init(problem, noise).x
        return DenoisedState(x, x, x)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> DenoisedState:
        """Denoise, climb, share the misfit."""
        assert isinstance(state, DenoisedState)
        level, after = self.level(t, problem), self.level(s, problem) if s > 0 else 0.0
        levels = torch.full((len(state.x),), level, dtype=torch.float64, device=state.x.device)
        denoised = denoised_at(state.x, levels, problem)
        ahead = denoised
        if 0 < s < self.steps - 1:
            ratio = math.log(level / after) / math.log(self.level(t + 1, problem) / level)
            ahead = denoised + ratio / 2 * (denoised - state.denoised)
        x = state.x + (1 - (after / level) ** 2) * (ahead - state.x)
        x = self.correction.shared(x, levels[0], problem)
        return DenoisedState(x, x, denoised)

    def level(self, left: float, problem: Problem) -> float:
        """Return the noise level with so many steps left."""
        stop = max(self.stop, problem.prior.schedule.min_ratio)
        done = (self.steps - left) / max(self.steps - 1, 1)
        return ((1 - done) * math.sqrt(self.start) + done * math.sqrt(stop)) ** 2
