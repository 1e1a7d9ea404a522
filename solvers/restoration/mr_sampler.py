"""The MR Sampler: multistep exponential integrators of mean-reverting diffusions (2025)."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, Whole
from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, levels, variance
from wellposed.solvers.base import State
from wellposed.solvers.problem import Problem
from wellposed.solvers.restoration.base import Restoration
from wellposed.solvers.restoration.grids import GRIDS, grid


class Outputs(NamedTuple):
    """The output ``q`` and its derivatives ``D1``, ``D2``, see `MRSampler`; 0 beyond the order."""

    q: Tensor
    D1: Tensor | float = 0.0
    D2: Tensor | float = 0.0


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
    ICLR 2025, arXiv 2502.07856. The published code differs, see ``published``: it interpolates
    alpha, sigma and lambda independently between integer times, here one schedule gives all
    three; its grids "trailing" and "karras-t" end before 0 with noise left, here their last time
    is 0; its third order uses half of ``D2``, as DPM-Solver++ does, and converges with order 2,
    here it uses all of ``D2``. Its thresholding is a correction, see `DynamicThreshold`.

    Args:
        order: 1, 2 or, for the ODE, 3; the first steps are of lower order.
        method: "ode" or "sde".
        parametrization: "data" or "noise".
        spacing: "linspace" in t, "linear-lambda", "karras-n" (rho 7 on sigma / alpha),
            "karras-t" (rho 7 on t), "leading" or "trailing"; see `grid`.
        lower_order_final: lower the order towards the last step, 3 2 1; the noise parametrization
            is better without it.
        denoise_last: the last step returns ``x0`` instead of a state with the noise that the
            schedule leaves at its last time; an option of the published code.
        published: as the published code. Half of ``D2``. The order of step n of N is min(order,
            n), and with N < 10 also at most N - n, except for the last step. lambda is linear
            between integer times; so are alpha and sigma with the schedule
            ``MeanReverting(50, shifted=False, interpolated="levels")``, and where lambda is not
            ``log(alpha / sigma)`` the updates by data add a share of m. Times of "linear-lambda"
            and "karras-n" are linear between those of the table, "trailing" and "karras-t" end at
            T / (N + 1) and at 1, and "leading" starts with the noise of T.

    Example:
        >>> import torch
        >>> from wellposed import priors, solvers
        >>> restorer = priors.load("irsde-deblur")
        >>> blurred = torch.rand(1, 3, 16, 16)
        >>> result = solvers.MRSampler(steps=5, order=2)(blurred, None, restorer, seed=0)
        >>> result.mean.shape, result.nfe
        (torch.Size([1, 3, 16, 16]), 5)
    """

    steps: Count = 20
    spacing: str = "linspace"
    order: Annotated[int, Whole(1, 3)] = 2
    method: Annotated[str, Choice("ode", "sde")] = "ode"
    parametrization: Annotated[str, Choice("data", "noise")] = "data"
    lower_order_final: bool = True
    denoise_last: bool = False
    published: bool = False

    name: ClassVar[str] = "mr-sampler"
    spacings: ClassVar[tuple[str, ...]] = GRIDS

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.order < 3 or self.method == "ode"
        require(fits, "order", self.order, f"1 or 2 by method {self.method!r}")

    def times(self, problem: Problem) -> list[float]:
        """Return the decreasing times of the run, ending in 0, or where published grids end."""
        schedule = problem.prior.schedule
        return grid(schedule, self.steps, self.spacing, self.published).tolist()

    def init(self, problem: Problem, noise: NoiseSource) -> MRState:
        """Return ``m`` plus the noise of the first time, without previous outputs."""
        if self.published:  # at every first time
            std = problem.prior.schedule.terminal_std
            x = problem.anchor + std * noise.draw(problem.zeros())
        else:
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
        look = partial(problem.components, t=t)
        x0, _, eps = self.consistent(look, state.x, level, problem, noise)
        q = x0 - m if self.parametrization == "data" else eps
        if level.sigma_s == 0 or (self.denoise_last and state.count + 1 == self.steps):
            x = x0
        elif level.alpha_t == 0:
            x = m + self._data(state.x - m, Outputs(x0 - m), _step(level), level, noise)
        else:
            lambdas = self._lambdas((s, t, state.t1, state.t2), problem)
            outputs = self._differences(state, q, lambdas)
            h = lambdas[0] - lambdas[1] if self.published else _step(level)
            update = self._data if self.parametrization == "data" else self._noise
            x = m + update(state.x - m, outputs, h, level, noise)
            x = x + self._drift(h, level) * m if self.published else x
        return MRState(x, x0, q, state.q1, t, state.t1, state.count + 1)

    def order_of(self, number: int) -> int:
        """Return the order of a step, counted from 1."""
        order = min(self.order, number)
        if self.published:
            falls = self.steps < 10 and number < self.steps
            return min(order, self.steps - number) if falls else order
        return min(order, self.steps - number + 1) if self.lower_order_final else order

    def _lambdas(self, times: tuple[float, ...], problem: Problem) -> list[Tensor]:
        """Return ``log(alpha / sigma)`` at times."""
        schedule = problem.prior.schedule
        exact = [-schedule.ratio(time).log() for time in times]
        if not self.published or not isinstance(schedule.T, int):
            return exact
        table = -schedule.ratio(torch.arange(schedule.T + 1, dtype=torch.float64)).log()
        low = [min(int(time), schedule.T - 1) for time in times]
        ends = ((table[i], table[i + 1], time - i) for i, time in zip(low, times, strict=True))
        linear = [torch.lerp(*end) for end in ends]
        # Where no noise is left at t = 0, lambda is infinite there.
        return [v if v.isfinite() else e for v, e in zip(linear, exact, strict=True)]

    def _differences(self, state: MRState, q: Tensor, lambdas: list[Tensor]) -> Outputs:
        """Return the output and its divided differences, 0 beyond the order."""
        order = self.order_of(state.count + 1)
        if order == 1:
            return Outputs(q)
        at_s, at_t, at_t1, at_t2 = lambdas
        h = at_s - at_t
        r = (at_t - at_t1) / h
        d0 = (q - state.q1) / r
        if order == 2:
            return Outputs(q, d0)
        r1 = (at_t1 - at_t2) / h
        d1 = (state.q1 - state.q2) / r1
        D2 = (d0 - d1) / (r + r1)
        return Outputs(q, d0 + r * D2, D2 if self.published else 2 * D2)

    def _data(
        self, u: Tensor, outputs: Outputs, h: Tensor, level: Levels, noise: NoiseSource
    ) -> Tensor:
        (q, D1, D2), shrink = outputs, level.sigma_s / level.sigma_t
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
        self, u: Tensor, outputs: Outputs, h: Tensor, level: Levels, noise: NoiseSource
    ) -> Tensor:
        (q, D1, D2), grow = outputs, level.alpha_s / level.alpha_t
        f1 = torch.expm1(h)
        f2 = f1 / h - 1
        if self.method == "ode":
            f3 = f2 / h - 0.5
            return grow * u - level.sigma_s * (f1 * q + f2 * D1 + f3 * D2)
        mean = grow * u - 2 * level.sigma_s * (f1 * q + f2 * D1)
        return mean + level.sigma_s * torch.expm1(2 * h).sqrt() * noise.draw(u)

    def _drift(self, h: Tensor, level: Levels) -> Tensor | float:
        """Return the share of m that the published updates of data add, as lambda differs."""
        if self.parametrization == "noise":
            return 0.0
        gap = level.sigma_s / level.sigma_t - level.alpha_s / level.alpha_t * torch.exp(-h)
        return gap * (level.alpha_t if self.method == "ode" else torch.exp(-h))


def _step(level: Levels) -> Tensor:
    """Return ``h``, the growth of ``log(alpha / sigma)``."""
    return torch.log(level.alpha_s / level.sigma_s) - torch.log(level.alpha_t / level.sigma_t)
