"""Trained restoration diffusions: what they share, ResShift's chain and IR-SDE's samplers."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.errors import require, require_choice
from wellposed.noise import NoiseSource
from wellposed.priors.prediction import Components
from wellposed.priors.transition import (
    Levels,
    implied_noise,
    levels,
    starting_std,
    transition,
    variance,
)
from wellposed.solvers.base import Solver, State
from wellposed.solvers.dds import DDS
from wellposed.solvers.problem import Problem

METHODS = ("posterior", "sde", "ode")


@dataclass(frozen=True, kw_only=True)
class Restoration(Solver):
    r"""Base of the samplers of restoration processes, from ``m + sigma_T z`` to the clean image.

    They sample any process of the kernel ``x_t = m + alpha_t (x_0 - m) + sigma_t eps``: about
    the degraded image ``m`` of a prior with an anchor, and with ``m = 0`` of a plain prior. Where
    the operator is known, ``data_steps`` of conjugate gradients pull each estimate to the data as
    `DDS` does, ``x0' = CG(I + gamma A^H A, x0 + gamma A^H y; start x0)``, and the noise that is
    kept is the one implied by ``x0'``. That helps a network that knows the degradation less well,
    as one trained on many; a large ``gamma`` brings the noise of the measurement into the image.

    Args:
        data_steps: conjugate-gradient steps for each network evaluation; 0 leaves the operator
            unused, and a plain prior without a measurement.
        gamma: weight of the data, in the prior's units; infinity for hard consistency.
    """

    spacing: str = "trailing"
    data_steps: int = 0
    gamma: float = 1.0

    restores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.data_steps >= 0, "data_steps", self.data_steps, "at least 0")
        require(self.gamma > 0, "gamma", self.gamma, "a positive number or math.inf")

    def check(self, problem: Problem) -> None:
        """Refuse data steps where the measurement is not linear in units."""
        if self.data_steps > 0:
            problem.require_linear(f"{type(self).__name__}(data_steps={self.data_steps})")

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Return ``m`` plus the noise of the first time."""
        schedule, t = problem.prior.schedule, min(self.times(problem)[0], problem.prior.schedule.T)
        if problem.condition is None:
            std = starting_std(schedule, t)
        else:  # the signal that is left at t is part of m, not of the noise
            std = schedule.terminal_std * float(schedule(t)[1] / schedule(schedule.T)[1])
        x_T = problem.anchor + std * noise.draw(problem.zeros())
        return State(x_T, x_T)

    def consistent(
        self, parts: Components, x_t: Tensor, level: Levels, problem: Problem
    ) -> Components:
        """Return the parts of ``x_t`` with the clean one pulled to the measurement."""
        if self.data_steps == 0:
            return parts
        x0 = DDS(gamma=self.gamma, cg_steps=self.data_steps).consistent(parts.x0, problem)
        residual = parts.residual + parts.x0 - x0
        return Components(x0, residual, remaining_noise(x_t, x0, residual, level))


def has_range(problem: Problem) -> bool:
    """Tell whether images have a range, [-1, 1] in units: real ones on pixels."""
    return problem.prior.is_affine and not problem.image_dtype.is_complex


def remaining_noise(x_t: Tensor, x0: Tensor, residual: Tensor, level: Levels) -> Tensor:
    """Return what ``x_t`` holds besides a clean image and a residual, as noise ``eps``."""
    return (x_t - x0 - (1 - level.alpha_t) * residual) / level.sigma_t


@dataclass(frozen=True, kw_only=True)
class ResShift(Restoration):
    r"""ResShift: the ancestral chain of residual shifting, 15 or 4 steps.

    With ``alpha = 1 - eta`` and ``sigma = kappa sqrt(eta)``, for each pair of times t -> s::

        x0  = E[x_0 | x_t, m]
        x_s = q x_t + (1 - q) x0 + kappa sqrt(q (eta_t - eta_s)) z,    q = eta_s / eta_t

    which is the transition with the variance rule "shift"; on other processes that rule draws
    from their kernels too, by another coupling of neighbouring times than their own.

    Reference: "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual
    Shifting", NeurIPS 2023, arXiv 2307.12348.

    Args:
        clip: keep estimates within [-1, 1] units, as published; not of complex or latent images.
    """

    steps: int = 15
    clip: bool = True

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, pull to the data if asked to, shift towards ``m`` again."""
        level, m = levels(problem.prior.schedule, t, s), problem.anchor
        parts = problem.components(state.x, t)
        if self.clip and has_range(problem):
            parts = parts._replace(x0=parts.x0.clamp(-1, 1))
        x0 = self.consistent(parts, state.x, level, problem).x0
        if s == 0:
            return State(x0, x0)
        eps = implied_noise(state.x, x0, level, m)
        v = variance("shift", level)
        return State(transition(x0, eps, noise.draw(x0), level, v, m), x0)


@dataclass(frozen=True, kw_only=True)
class IRSDE(Restoration):
    r"""IR-SDE: the mean-reverting diffusion backwards, by its posterior or by Euler steps.

    For each pair of times t -> s, with ``F = log(alpha_s / alpha_t)`` the decay between them
    (``theta dt`` of one step) and ``G = 2 lambda^2 F`` the noise added meanwhile::

        posterior:  x_s ~ p(x_s | x_t, x0), the transition with variance rule "markov"
        sde:        x_s = x_t + F (x_t - m) - (G / sigma_t) eps - sqrt(G) z
        ode:        x_s = x_t + F (x_t - m) - (G / 2 sigma_t) eps

    On any schedule ``G = integral of alpha^2 d(sigma^2 / alpha^2)``, for which
    ``sigma^2 / alpha^2`` is taken as linear in ``1 / alpha^2``, as it is in IR-SDE's and DDPM's.
    From ``alpha = 0``, where Euler's step has no meaning, all take the transition.

    Reference: "Image Restoration with Mean-Reverting Stochastic Differential Equations", ICML
    2023, arXiv 2301.11699. With fewer steps than T the published code leaves out times but keeps
    the decay of a single one, so that most noise stays in; here a step has the decay between its
    times.

    Args:
        method: "posterior", "sde" or "ode".
    """

    steps: int = 100
    method: str = "posterior"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("method", self.method, METHODS)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, pull to the data if asked to, go back by the posterior or Euler's step."""
        level, m = levels(problem.prior.schedule, t, s), problem.anchor
        parts = self.consistent(problem.components(state.x, t), state.x, level, problem)
        if self.method != "posterior" and level.alpha_t > 0:
            return State(self._euler(state.x, parts.x0, level, m, noise), parts.x0)
        if s == 0:
            return State(parts.x0, parts.x0)
        eps = implied_noise(state.x, parts.x0, level, m)
        drawn = self.method != "ode"
        z = noise.draw(state.x) if drawn else torch.zeros_like(state.x)
        v = variance("markov" if drawn else "zero", level)
        return State(transition(parts.x0, eps, z, level, v, m), parts.x0)

    def _euler(
        self, x: Tensor, x0: Tensor, level: Levels, m: Tensor | float, noise: NoiseSource
    ) -> Tensor:
        decay, added = torch.log(level.alpha_s / level.alpha_t), noise_added(level)
        share = 1.0 if self.method == "sde" else 0.5
        eps = implied_noise(x, x0, level, m)
        x_s = x + decay * (x - m) - share * added / level.sigma_t * eps
        return x_s - added.sqrt() * noise.draw(x) if self.method == "sde" else x_s


def noise_added(level: Levels) -> Tensor:
    """Return the variance that the forward diffusion adds from s to t; see `IRSDE`."""
    a_t, a_s = level.alpha_t**2, level.alpha_s**2
    growth = level.sigma_t**2 / a_t - level.sigma_s**2 / a_s
    gap = float((a_s - a_t) / a_t)
    # The logarithmic mean of alpha^2, 1 / its harmonic counterpart.
    mean = a_s * (math.log1p(gap) / gap if abs(gap) > 1e-12 else 1.0)
    return growth * mean
