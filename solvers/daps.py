"""DAPS: decoupled annealing posterior sampling (Zhang et al. 2024)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, Positive, Range
from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.priors.sampling import reverse, times_between
from wellposed.solvers.base import Solver, State
from wellposed.solvers.data import GaussianCoupling, LangevinRate, noise_level, squared_norm
from wellposed.solvers.problem import Problem
from wellposed.solvers.scope import require_linear


@dataclass(frozen=True, eq=False)
class DAPSState(State):
    """State of DAPS.

    Attributes:
        norm2: ``||A||^2`` of each item, (B,); the Langevin step is relative to it.
    """

    norm2: Tensor


@dataclass(frozen=True, kw_only=True)
class DAPS(Solver):
    r"""DAPS: follow the probability flow to a clean image, sample around it, add noise again.

    For each pair of noise levels, with ``r = sigma_t / alpha_t``::

        x0  = probability flow from x_t to 0, ode_steps Euler steps
        x0' ~ exp(-||y - A(x0')||^2 / (2 tau^2) - ||x0' - x0||^2 / (2 r^2))
        x_s = alpha_s x0' + sigma_s z,   z ~ N(0, I)

    The draw uses Langevin steps, as published, or is exact for linear operators. Exact draws do
    not make the method exact: a Gaussian of width r approximates ``p(x_0 | x_t)``, so the
    components that the data do not determine keep their spread and gain r at each level. On
    Gaussian priors the variance of the samples is about 1.6 times too large for any number of
    levels. The small published tau reduces it if the noise of the data is larger. Nonlinear
    operators and latent priors use Langevin steps with automatic differentiation and
    ``||A|| = 1``.

    Reference: "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing",
    2024, arXiv 2407.01521. The published code has an absolute Langevin step 1e-4 and tau .01. For
    ``||A|| = 1`` this is a step of 1 over the curvature, which is used here for any operator and
    noise.

    Args:
        steps: annealing levels, 200 as published.
        spacing: only "karras", with power 7 as published.
        sigma_max, sigma_min: first and last level in ``sigma_t / alpha_t``, the prior's units.
        ode_steps: network evaluations per level.
        draw: "langevin", or "exact" for linear operators.
        langevin_steps: Langevin steps per level.
        learning_rate: Langevin step times the largest curvature ``||A||^2 / tau^2 + 1 / r^2``;
            stable below 2.
        lr_min_ratio: factor of the learning rate at the last level, reached linearly.
        tau: noise level of the likelihood in units; by default that of the operator, or .01 if it
            is noise-free. Published is .01 for any noise.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.PhaseRetrieval((1, 8, 8), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 1, 8, 8), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> result = solvers.DAPS(steps=5, langevin_steps=10)(y, operator, prior, seed=0)
        >>> result.mean.shape, result.nfe
        (torch.Size([1, 1, 8, 8]), 25)
    """

    steps: Count = 200
    spacing: str = "karras"
    sigma_max: Positive = 100.0
    sigma_min: Positive = 0.1
    ode_steps: Count = 5
    draw: Annotated[str, Choice("langevin", "exact")] = "langevin"
    langevin_steps: Count = 100
    learning_rate: LangevinRate = 1.0
    lr_min_ratio: Annotated[float, Range(0, 1, "(]")] = 0.01
    tau: Positive | None = None

    name: ClassVar[str] = "daps"
    spacings: ClassVar[tuple[str, ...]] = ("karras",)

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = self.sigma_min < self.sigma_max
        require(ordered, "sigma_max", self.sigma_max, "a finite number above sigma_min")

    def check(self, problem: Problem) -> None:
        """Raise for exact draws with a nonlinear operator."""
        super().check(problem)
        if self.draw == "exact":
            require_linear(problem, 'DAPS(draw="exact")')

    def times(self, problem: Problem) -> list[float]:
        """Return the times of the annealed levels, and 0."""
        return times_between(problem.prior.schedule, self.sigma_max, self.sigma_min, self.steps)

    def init(self, problem: Problem, noise: NoiseSource) -> DAPSState:
        """Start from pure noise."""
        start = super().init(problem, noise)
        return DAPSState(start.x, start.x0, squared_norm(problem))

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> DAPSState:
        """Follow the flow to a clean image, sample around it, add the noise of the next level."""
        assert isinstance(state, DAPSState)
        schedule = problem.prior.schedule
        ratio = float(schedule.ratio(t))
        inner = [t, *times_between(schedule, ratio, schedule.min_ratio, self.ode_steps)[1:]]
        x0 = reverse(problem.denoise, state.x, schedule, inner, 0.0, noise)
        tau = noise_level(problem)
        tau = tau if self.tau is None else torch.full_like(tau, self.tau)
        target = GaussianCoupling(problem, tau, x0, ratio)
        if self.draw == "exact":
            x0 = target.draw(noise)
        else:
            rate = self._rate(t, problem)
            x0 = target.langevin(x0, noise, self.langevin_steps, rate, state.norm2)
        if s == 0:
            return DAPSState(x0, x0, state.norm2)
        alpha, sigma = schedule(s)
        return DAPSState(alpha * x0 + sigma * noise.draw(x0), x0, state.norm2)

    def _rate(self, t: float, problem: Problem) -> float:
        """Return the relative Langevin step at time ``t``."""
        times = self.times(problem)
        done = times.index(t) / (len(times) - 1)
        return self.learning_rate * (1 + done * (self.lr_min_ratio - 1))
