"""The MR Sampler: multistep exponential integrators of mean-reverting diffusions (2025)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, Whole
from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.priors.schedule import Schedule
from wellposed.priors.transition import Levels, levels, variance
from wellposed.solvers.base import State
from wellposed.solvers.problem import Problem
from wellposed.solvers.restoration.base import Restoration

GRIDS = ("linspace", "linear-lambda", "karras-n", "karras-t", "leading", "trailing")
RHO = 7.0


@dataclass(frozen=True, eq=False)
class MRState(State):
    """State of the MR Sampler: the two previous outputs and their times.

    Attributes:
        q1, q2: outputs of the last step and of the step before.
        t1, t2: their times.
        count: steps taken.
    """

    q1: Tensor
    q2: Tensor
    t1: float
    t2: float
    count: int


@dataclass(frozen=True, kw_only=True)
class MRSampler(Restoration):
    r"""MR Sampler: multistep exponential integrator of the reverse ODE or SDE, orders 1 to 3.

    Let ``u = x - m``, ``lambda = log(alpha / sigma)``, ``h = lambda_s - lambda_t``, and ``q`` the
    output (``x0 - m`` or ``eps``). ``D1`` and ``D2`` are its derivatives with respect to lambda,
    times ``h`` and ``h^2``, by divided differences with the previous outputs::

        ode, data:  u_s = sigma_s / sigma_t u - alpha_s (f1 q - f2 D1 + f3 D2)
                    f1 = e^-h - 1,  f2 = f1 / h + 1,  f3 = f2 / h - 1 / 2
        ode, noise: u_s = alpha_s / alpha_t u - sigma_s (f1 q + f2 D1 + f3 D2)
                    f1 = e^h - 1,  f2 = f1 / h - 1,  f3 = f2 / h - 1 / 2
        sde, data:  u_s = sigma_s / sigma_t e^-h u + alpha_s (f1 q + f2 D1) + sigma_s sqrt(f1) z
                    f1 = 1 - e^-2h,  f2 = 1 - f1 / 2h
        sde, noise: u_s = alpha_s / alpha_t u - 2 sigma_s (f1 q + f2 D1) + sigma_s sqrt(g) z
                    f1 = e^h - 1,  f2 = f1 / h - 1,  g = e^2h - 1

    These are DPM-Solver, DPM-Solver++ and its SDE variant about ``m``; the first order of
    "sde, data" is `IRSDE`'s posterior. Every kind of prediction of a network is converted to
    ``q``. A step from ``alpha = 0`` uses the data form, and a step to ``sigma = 0`` returns x0.

    Reference: "MRS: A Fast Sampler for Mean Reverting Diffusion based on ODE and SDE Solvers",
    ICLR 2025, arXiv 2502.07856. Deviations from the published code: it interpolates alpha, sigma
    and lambda independently between integer times, here one schedule gives all three; its grids
    "trailing" and "karras-t" end before 0 with noise left, here their last time is 0; its third
    order uses half of ``D2``, as DPM-Solver++ does, and converges with order 2, here it uses all
    of ``D2``.

    Args:
        order: 1, 2 or, for the ODE, 3; the first steps are of lower order.
        method: "ode" or "sde".
        parametrization: "data" or "noise".
        spacing: "linspace" in t, "linear-lambda", "karras-n" (rho 7 on sigma / alpha),
            "karras-t" (rho 7 on t), "leading" or "trailing"; see `grid`.
        lower_order_final: lower the order towards the last step, 3 2 1; the noise parametrization
            is better without it.
        published: use half of ``D2`` and the orders of the published code: in step n of N it is
            min(order, n), and with N < 10 also at most N - n, except for the last step.
    """

    steps: Count = 20
    spacing: str = "linspace"
    order: Annotated[int, Whole(1, 3)] = 2
    method: Annotated[str, Choice("ode", "sde")] = "ode"
    parametrization: Annotated[str, Choice("data", "noise")] = "data"
    lower_order_final: bool = True
    published: bool = False

    name: ClassVar[str] = "mr-sampler"
    spacings: ClassVar[tuple[str, ...]] = GRIDS

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.order < 3 or self.method == "ode"
        require(fits, "order", self.order, f"1 or 2 by method {self.method!r}")

    def times(self, problem: Problem) -> list[float]:
        """Return the decreasing times of the run, ending in 0."""
        return grid(problem.prior.schedule, self.steps, self.spacing).tolist()

    def init(self, problem: Problem, noise: NoiseSource) -> MRState:
        """Return ``m`` plus the noise of the first time, without previous outputs."""
        x = super().init(problem, noise).x
        empty = torch.zeros_like(x)
        return MRState(x, x, empty, empty, 0.0, 0.0, 0)

    def fresh(self, level: Levels) -> Tensor:
        """Return the variance of the fresh noise of a first-order step."""
        return variance("zero" if self.method == "ode" else "markov", level)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> MRState:
        """Denoise, correct by the data if requested, integrate to ``s``."""
        assert isinstance(state, MRState)
        level, m = levels(problem.prior.schedule, t, s), problem.anchor
        x0, _, eps = self.consistent(lambda x: problem.components(x, t), state.x, level, problem)
        q = x0 - m if self.parametrization == "data" else eps
        if level.sigma_s == 0:
            x = x0
        elif level.alpha_t == 0:
            x = m + self._data(state.x - m, x0 - m, 0.0, 0.0, level, noise)
        else:
            D1, D2 = self._differences(state, q, (s, t, state.t1, state.t2), problem)
            update = self._data if self.parametrization == "data" else self._noise
            x = m + update(state.x - m, q, D1, D2, level, noise)
        return MRState(x, x0, q, state.q1, t, state.t1, state.count + 1)

    def order_of(self, number: int) -> int:
        """Return the order of a step, counted from 1."""
        order = min(self.order, number)
        if self.published:
            falls = self.steps < 10 and number < self.steps
            return min(order, self.steps - number) if falls else order
        return min(order, self.steps - number + 1) if self.lower_order_final else order

    def _differences(
        self, state: MRState, q: Tensor, times: tuple[float, ...], problem: Problem
    ) -> tuple[Tensor | float, Tensor | float]:
        """Return the divided differences ``D1``, ``D2`` of the outputs, 0 beyond the order."""
        order = self.order_of(state.count + 1)
        if order == 1:
            return 0.0, 0.0
        schedule = problem.prior.schedule
        at_s, at_t, at_t1, at_t2 = (-schedule.ratio(time).log() for time in times)
        h = at_s - at_t
        r = (at_t - at_t1) / h
        d0 = (q - state.q1) / r
        if order == 2:
            return d0, 0.0
        r1 = (at_t1 - at_t2) / h
        d1 = (state.q1 - state.q2) / r1
        D2 = (d0 - d1) / (r + r1)
        return d0 + r * D2, D2 if self.published else 2 * D2

    def _data(
        self,
        u: Tensor,
        q: Tensor,
        D1: Tensor | float,
        D2: Tensor | float,
        level: Levels,
        noise: NoiseSource,
    ) -> Tensor:
        h, shrink = _step(level), level.sigma_s / level.sigma_t
        if self.method == "ode":
            f1 = torch.expm1(-h)
            f2 = f1 / h + 1
            f3 = f2 / h - 0.5
            return shrink * u - level.alpha_s * (f1 * q - f2 * D1 + f3 * D2)
        f1 = -torch.expm1(-2 * h)
        f2 = 1 - f1 / (2 * h)
        mean = shrink * torch.exp(-h) * u + level.alpha_s * (f1 * q + f2 * D1)
        return mean + level.sigma_s * f1.sqrt() * noise.draw(u)

    def _noise(
        self,
        u: Tensor,
        q: Tensor,
        D1: Tensor | float,
        D2: Tensor | float,
        level: Levels,
        noise: NoiseSource,
    ) -> Tensor:
        h, grow = _step(level), level.alpha_s / level.alpha_t
        f1 = torch.expm1(h)
        f2 = f1 / h - 1
        if self.method == "ode":
            f3 = f2 / h - 0.5
            return grow * u - level.sigma_s * (f1 * q + f2 * D1 + f3 * D2)
        mean = grow * u - 2 * level.sigma_s * (f1 * q + f2 * D1)
        return mean + level.sigma_s * torch.expm1(2 * h).sqrt() * noise.draw(u)


def _step(level: Levels) -> Tensor:
    """Return ``h``, the growth of ``log(alpha / sigma)``."""
    return torch.log(level.alpha_s / level.sigma_s) - torch.log(level.alpha_t / level.sigma_t)


def grid(schedule: Schedule, steps: int, spacing: str) -> Tensor:
    """Return the ``steps + 1`` decreasing times of a published grid, the last one being 0.

    Times are integers if the schedule is discrete: "leading" has multiples of
    ``T // (steps + 1)`` and "karras-t" goes to time 1. The grids in ``sigma / alpha`` go down to
    the ratio of ``t = 0``, or, if this is 0, to the smallest ratio of the schedule and then to 0.
    """
    T, left = schedule.T, torch.arange(steps, -1, -1, dtype=torch.float64)
    whole = isinstance(T, int)
    if spacing == "linspace":
        times = T * left / steps
    elif spacing == "leading":
        size = T // (steps + 1) if whole else T / (steps + 1)
        times = (size or T / (steps + 1)) * left
    elif spacing == "trailing":
        times = T * (left + 1) / (steps + 1)
    elif spacing == "karras-t":
        last = 1.0 if whole else float(schedule.time_at(schedule.min_ratio))
        times = _rho(T, last, 1 - left / steps)
    else:
        times = _by_ratio(schedule, steps, spacing)
    return torch.cat([times[:-1].clamp(max=T), times.new_zeros(1)])


def _by_ratio(schedule: Schedule, steps: int, spacing: str) -> Tensor:
    """Return times spaced in ``sigma / alpha``: geometrically, or as Karras et al. do."""
    low, high = float(schedule.ratio(0.0)), float(schedule.ratio(schedule.T))
    if low == 0:
        return schedule.times(steps, "karras" if spacing == "karras-n" else "geometric")
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    ratios = _rho(high, low, u) if spacing == "karras-n" else high * (low / high) ** u
    return schedule.time_at(ratios)


def _rho(high: float, low: float, u: Tensor) -> Tensor:
    power = 1 / RHO
    ratios: Tensor = (high**power + u * (low**power - high**power)) ** RHO
    return ratios
