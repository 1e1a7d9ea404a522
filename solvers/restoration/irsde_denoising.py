"""IR-SDE for images with noise only (Luo et al. 2023)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count
from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.priors.processes import DenoisingProcess
from wellposed.priors.transition import implied_noise, levels
from wellposed.solvers.base import Solver, State
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class IRSDEDenoising(Solver):
    r"""IR-SDE's denoising: from the noisy image back to the clean one by Euler steps.

    The measurement is ``x_t`` of the process ``x_t = x_0 + sigma_t eps`` at the integer time t
    that is nearest to its noise level. From there, with ``A_t = 1 - sigma_t^2 / lambda^2`` and the
    decay ``F = log(A_s / A_t) / 2`` between two times (``theta dt`` for one step)::

        ode:  x_s = x_t - lambda^2 F A_t / sigma_t eps
        sde:  x_s = x_t - lambda^2 F (1 + A_t) / sigma_t eps - sqrt(2 lambda^2 F) z

    Only the "sde" draws noise. Its last step draws noise too, as published.

    Reference: "Image Restoration with Mean-Reverting Stochastic Differential Equations", ICML
    2023, arXiv 2301.11699, section 5 and the code ``DenoisingSDE``, which uses "ode".

    Args:
        steps: steps of the whole process, from its largest noise; those at times above t are left
            out.
        spacing: "linspace" in t; with the T steps of the process all of its times.
        method: "ode" or "sde".

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Denoising((3, 16, 16), noise_sigma=0.2)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12, priors.DenoisingProcess())
        >>> solvers.IRSDEDenoising()(y, operator, prior).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    steps: Count = 100
    spacing: str = "linspace"
    method: Annotated[str, Choice("ode", "sde")] = "ode"

    name: ClassVar[str] = "ir-sde-denoising"
    linear_only: ClassVar[bool] = True
    operators: ClassVar[tuple[str, ...]] = ("Denoising",)

    def check(self, problem: Problem) -> None:
        """Raise for another process, or noise that it does not have."""
        super().check(problem)
        schedule, sigma = problem.prior.schedule, problem.noise_sigma
        accepted = "a prior with a DenoisingProcess, e.g. Rescheduled(prior, DenoisingProcess())"
        fits = isinstance(schedule, DenoisingProcess)
        require(fits, "prior", f"the schedule {type(schedule).__name__}", accepted)
        largest, one = float(schedule.ratio(schedule.T)), bool((sigma == sigma[0]).all())
        top = largest * problem.prior.scale
        inside = one and 0 < float(sigma[0]) <= largest
        shown = (sigma * problem.prior.scale).tolist()
        accepted = f"one noise level of all items, above 0 and at most {top:.4g}"
        require(inside, "noise_sigma", shown, accepted)

    def times(self, problem: Problem) -> list[float]:
        """Return the time of the measurement's noise, and the times of the process below it."""
        schedule = problem.prior.schedule
        start = max(float(schedule.time_at(float(problem.noise_sigma[0])).round()), 1.0)
        # Times of a spacing are off by rounding.
        return [start, *(t for t in super().times(problem) if t < start - 1e-6)]

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Start from the measurement."""
        return State(problem.y, problem.y)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, and take an Euler step."""
        schedule = problem.prior.schedule
        level, x0 = levels(schedule, t, s), problem.denoise(state.x, t)
        eps, limit = implied_noise(state.x, x0, level), schedule.terminal_std
        A_t, A_s = (_kept(sigma, limit) for sigma in (level.sigma_t, level.sigma_s))
        added = limit**2 * torch.log(A_s / A_t)
        share = A_t if self.method == "ode" else 1 + A_t
        x = state.x - added / 2 * share / level.sigma_t * eps
        return State(x - added.sqrt() * noise.draw(x) if self.method == "sde" else x, x0)


def _kept(sigma: Tensor, limit: float) -> Tensor:
    """Return ``1 - sigma^2 / lambda^2``."""
    return 1 - (sigma / limit) ** 2
