"""RDDM: residual denoising diffusion models (Liu et al. 2023)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

from torch import Tensor

from wellposed.checks import Choice, Count, Fraction
from wellposed.noise import NoiseSource
from wellposed.priors.prediction import TWO_HEADS, Components
from wellposed.priors.transition import Levels, kept_noise, variance
from wellposed.solvers.base import State
from wellposed.solvers.problem import Problem
from wellposed.solvers.restoration.base import Restoration, has_range, remaining_noise


class Clocks(NamedTuple):
    """Time of the residual, which determines alpha, and of the noise, which determines sigma."""

    residual: float
    noise: float


@dataclass(frozen=True, kw_only=True)
class RDDM(Restoration):
    r"""RDDM: removes residual and noise together, or one after the other.

    A network predicts the residual ``r = m - x_0`` and the noise ``eps``, or one of them, which
    determines the other. For each pair of times t -> s::

        x_s = x_t - (alpha_s - alpha_t) r - (sigma_t - sqrt(sigma_s^2 - v)) eps + sqrt(v) z
        v   = eta sigma_s^2 (1 - sigma_s^2 / sigma_t^2)

    and at the end ``x_0``. If the predictions agree, ``x_t = x0 + (1 - alpha_t) r + sigma_t eps``,
    this is the transition with the variance rule "shift".

    ``path="residual-first"`` is the paper's partially path-independent process: first ``alpha``
    goes to 1 with constant noise, then the noise is removed, with twice as many evaluations. The
    published code gives its two networks the time of the residual and that of the noise. Here
    every network is evaluated at the time of equal ``sigma / alpha``, where it is exact for any
    process, see `Rescheduled`. The published code also discards all noise after the first half and
    starts the second half as if the image were noisy; here the noise is kept.

    Reference: "Residual Denoising Diffusion Models", CVPR 2024, arXiv 2308.13712. Non-integer
    times are rounded; the published code truncates them.

    Args:
        eta: share of fresh noise, from 0, as published for restoration, to 1, the ancestral chain.
            With fresh noise ``eps`` is the remainder of x_t after clipping x0 and r, as in the
            chain.
        clip: clip residuals and the result to [-1, 1] units, as published; complex and latent
            images are not clipped.
        path: "joint" or "residual-first".

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.SuperResolution((3, 16, 16), factor=2, noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12, priors.rddm())
        >>> solvers.RDDM(data_steps=3, clip=False)(y, operator, prior, seed=0).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    steps: Count = 5
    eta: Fraction = 0.0
    clip: bool = True
    path: Annotated[str, Choice("joint", "residual-first")] = "joint"

    name: ClassVar[str] = "rddm"

    def fresh(self, level: Levels) -> Tensor:
        """The share eta of the chain's variance."""
        return variance("shift", level, self.eta)

    def times(self, problem: Problem) -> list[float]:
        """Return the times of the run; those of the residual come first and are shifted by T."""
        times = super().times(problem)
        if self.path == "joint":
            return times
        return [problem.prior.schedule.T + t for t in times] + times[1:]

    def _clocks(self, t: float, problem: Problem) -> Clocks:
        T = problem.prior.schedule.T
        return Clocks(t, t) if self.path == "joint" else Clocks(max(t - T, 0.0), min(t, T))

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Estimate residual and noise, and remove their change between the times."""
        x, schedule = state.x, problem.prior.schedule
        at_t, at_s = self._clocks(t, problem), self._clocks(s, problem)
        level = Levels(
            schedule(at_t.residual)[0],
            schedule(at_t.noise)[1],
            schedule(at_s.residual)[0],
            schedule(at_s.noise)[1],
        )

        def look(x: Tensor) -> Components:
            parts = _parts_at(x, at_t, level, problem)
            clips = self.clip and has_range(problem)
            return clipped(parts, x, level, problem) if clips else parts

        x0, r, eps = self.consistent(look, x, level, problem, noise)
        if s == 0:
            return State(x0, x0)
        if self.eta > 0:
            eps = remaining_noise(x, x0, r, level)
        v = self.fresh(level)
        x = x - (level.alpha_s - level.alpha_t) * r - (level.sigma_t - kept_noise(level, v)) * eps
        return State(x + v.sqrt() * noise.draw(x) if self.eta > 0 else x, x0)


def _parts_at(x: Tensor, clocks: Clocks, level: Levels, problem: Problem) -> Components:
    """Return the components of an ``x`` whose alpha and sigma belong to different times."""
    if clocks.residual == clocks.noise:
        return problem.components(x, clocks.residual)
    alpha, sigma, m = level.alpha_t, level.sigma_t, problem.anchor
    t = float(problem.prior.schedule.time_at(sigma / alpha))
    # At equal sigma / alpha images differ only in scale; sigma never vanishes here.
    scale = problem.prior.schedule(t)[1] / sigma
    parts = problem.components(m + scale * (x - m), t)
    if _predicts(problem) in ("residual+noise", "residual+sum"):
        return parts._replace(x0=_remainder(x, parts, level))
    return parts


def _predicts(problem: Problem) -> str:
    prior = problem.prior
    return "sample" if prior.anchor is None else prior.prediction


def _remainder(x: Tensor, parts: Components, level: Levels) -> Tensor:
    """Return ``x`` without its residual and noise."""
    return x - (1 - level.alpha_t) * parts.residual - level.sigma_t * parts.eps


def clipped(parts: Components, x: Tensor, level: Levels, problem: Problem) -> Components:
    """Return components clipped to [-1, 1] units, by the published rule for each prediction."""
    predicts, m = _predicts(problem), problem.anchor
    x0, eps = parts.x0.clamp(-1, 1), parts.eps
    if predicts == "noise":
        return Components(x0, (m - x0).clamp(-1, 1), eps)
    r = parts.residual.clamp(-1, 1)
    if predicts in ("residual+noise", "residual+sum"):
        return Components(_remainder(x, Components(x0, r, eps), level).clamp(-1, 1), r, eps)
    if predicts in TWO_HEADS:
        return Components(x0, r, eps)
    return Components((m - r).clamp(-1, 1), r, (x - m + level.alpha_t * r) / level.sigma_t)
