"""DDRM: denoising diffusion restoration in the operator's coordinates (Kawar et al. 2022)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, Fraction
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, levels, starting_std, variance
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected
from wellposed.solvers.data import decomposed, spectrum
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class DDRM(Corrected):
    r"""Diffusion in the operator's singular coordinates, each as noisy as its measurement.

    With ``A = U diag(s_i) V^H``, coordinates ``x_i = (V^H x)_i`` and measured ones
    ``y_i = (U^H y)_i / s_i`` of noise ``sigma_y / s_i``, for each pair of times t -> s and with
    ``r_s = sigma_s / alpha_s``::

        x0 = E[x_0 | x_t]
        s_i = 0:             x0_i + r_s (sqrt(1 - eta^2) eps_i + eta z_i),  the network's eps
        sigma_y / s_i > r_s: x0_i + r_s (sqrt(1 - eta^2) (y_i - x0_i) s_i / sigma_y + eta z_i)
        else:                (1 - eta_b) x0_i + eta_b y_i
                             + sqrt(r_s^2 - eta_b^2 sigma_y^2 / s_i^2) z_i

    is ``x_s / alpha_s``; the run starts at ``y_i`` with the noise it lacks. Only for operators
    with their decomposition at hand.

    Reference: "Denoising Diffusion Restoration Models", NeurIPS 2022, arXiv 2201.11793.

    Args:
        steps: 20 as published.
        eta: share of fresh noise where the measurement says little.
        eta_b: trust in the measurement where it is better than the current noise.
    """

    steps: Count = 20
    eta: Fraction = 0.85
    eta_b: Fraction = 1.0

    name: ClassVar[str] = "ddrm"
    linear_only: ClassVar[bool] = True
    decomposable_only: ClassVar[bool] = True

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Start from pure noise, but around the measurement where that is less noisy."""
        t = self.times(problem)[0]
        alpha, sigma_t = problem.prior.schedule(t)
        z = noise.draw(problem.zeros())
        x_T = starting_std(problem.prior.schedule, t) * z
        operator = decomposed(problem)
        measured = operator.U_adjoint(problem.y)
        s_i, sigma_y, kept = spectrum(problem, measured)
        missing = (sigma_t**2 - (alpha * sigma_y / s_i) ** 2).clamp(min=0).sqrt()
        around = alpha * measured / s_i + missing * operator.V_adjoint(z)
        known = kept & (sigma_t * s_i >= alpha * sigma_y)
        x_T = x_T + operator.V(torch.where(known, around - operator.V_adjoint(x_T), 0))
        return State(x_T, x_T)

    def fresh(self, level: Levels) -> Tensor:
        """A share of all noise, where nothing is measured."""
        return variance("fresh", level, self.eta)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, re-noise, and do so by the measurement in the coordinates it reaches."""
        level, operator = levels(problem.prior.schedule, t, s), decomposed(problem)
        found = self.estimate(state.x, t, problem)
        z = self.draw(found.x0, s, noise)
        x_s = self.onwards(found, found.x0, z, level, problem)
        coordinates, kept = self._measured(found.x0, z, level, problem)
        x_s = x_s + operator.V(torch.where(kept, coordinates - operator.V_adjoint(x_s), 0))
        return State(x_s, found.x0)

    def _measured(
        self, x0: Tensor, z: Tensor, level: Levels, problem: Problem
    ) -> tuple[Tensor, Tensor]:
        """Return the coordinates of ``x_s`` that are measured, and which these are."""
        operator = decomposed(problem)
        x0_i, z_i = operator.V_adjoint(x0), operator.V_adjoint(z)
        s_i, sigma_y, kept = spectrum(problem, x0_i)
        gap = operator.U_adjoint(problem.y) - s_i * x0_i
        rough = math.sqrt(1 - self.eta**2) * gap / sigma_y + self.eta * z_i
        known = self.eta_b * level.alpha_s / s_i
        missing = (level.sigma_s**2 - (known * sigma_y) ** 2).clamp(min=0).sqrt()
        noisier = level.alpha_s * sigma_y > level.sigma_s * s_i
        step = torch.where(noisier, level.sigma_s * rough, known * gap + missing * z_i)
        return level.alpha_s * x0_i + step, kept
