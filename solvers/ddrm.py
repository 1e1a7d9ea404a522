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
    r"""DDRM: diffusion in the operator's singular coordinates, each with its own noise level.

    Let ``A = U diag(s_i) V^H``. The image has coordinates ``x_i = (V^H x)_i``, measured as
    ``y_i = (U^H y)_i / s_i`` with noise ``sigma_y / s_i``. For each pair of times t -> s, with
    ``r_s = sigma_s / alpha_s``::

        x0 = E[x_0 | x_t]
        s_i = 0:             x0_i + r_s (sqrt(1 - eta^2) eps_i + eta z_i),  the network's eps
        sigma_y / s_i > r_s: x0_i + r_s (sqrt(1 - eta^2) (y_i - x0_i) s_i / sigma_y + eta z_i)
        else:                (1 - eta_b) x0_i + eta_b y_i
                             + sqrt(r_s^2 - eta_b^2 sigma_y^2 / s_i^2) z_i

    is ``x_s / alpha_s``. The run starts at ``y_i`` plus the noise that it lacks. Only for
    `Decomposable` operators.

    A step starts from the mean of x_0, which makes the samples too narrow: on Gaussian problems
    their variance is .53 of the exact one with 20 steps; ``MMPS(spread_steps=2)`` draws x_0.

    Reference: "Denoising Diffusion Restoration Models", NeurIPS 2022, arXiv 2201.11793.

    Args:
        steps: 20 as published.
        eta: share of fresh noise in coordinates that are unmeasured or noisier than ``r_s``.
        eta_b: weight of the measurement in coordinates that are less noisy than ``r_s``.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Blur(operators.uniform_kernel(3), (3, 16, 16), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> solvers.DDRM(steps=10)(y, operator, prior, num_samples=4, seed=0).std.shape
        torch.Size([1, 3, 16, 16])
    """

    steps: Count = 20
    eta: Fraction = 0.85
    eta_b: Fraction = 1.0

    name: ClassVar[str] = "ddrm"
    linear_only: ClassVar[bool] = True
    decomposable_only: ClassVar[bool] = True

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Start from pure noise, or from the measurement where it is less noisy."""
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
        """The share ``eta^2`` of the noise variance, for unmeasured coordinates."""
        return variance("fresh", level, self.eta)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise and re-noise; the measured coordinates use the measurement."""
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
        """Return the measured coordinates of ``x_s``, and the mask of these coordinates."""
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
