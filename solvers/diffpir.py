"""DiffPIR: plug-and-play restoration by denoising diffusion (Zhu et al. 2023)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, Fraction, Positive
from wellposed.linalg import per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, variance
from wellposed.solvers.corrected import Corrected, Correction, Estimate
from wellposed.solvers.data import proximal
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class ProximalStep(Correction):
    """``x0' = argmin_x ||y - A x||^2 + rho_t ||x - x0||^2``, see `DiffPIR`.

    Args:
        lambda_: weight of the prior, ``rho_t = lambda sigma_y^2 / (sigma_t / alpha_t)^2``.
    """

    lambda_: Positive = 7.0

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Minimise, or take the best gradient step if the measurement is not linear."""
        rho = self.lambda_ * (problem.noise_sigma * level.alpha_t / level.sigma_t) ** 2
        if problem.is_linear:
            return proximal(problem, found.x0, rho)
        return gradient_step(found.x0, rho, problem)


@dataclass(frozen=True, kw_only=True)
class DiffPIR(Corrected):
    r"""DiffPIR: half-quadratic splitting: denoise, solve a proximal data problem, re-noise.

    For each pair of times t -> s::

        x0  = E[x_0 | x_t],   rho_t = lambda sigma_y^2 / (sigma_t / alpha_t)^2
        x0' = argmin_x ||y - A x||^2 + rho_t ||x - x0||^2
        x_s = alpha_s x0' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) z),   eps' implied by x0'

    For linear problems the minimiser is exact, or computed by CG without a closed form; without
    noise it is the projection ``x0 + A^+ (y - A x0)``. For other problems one gradient step is
    taken on the misfit linearised at ``x0``, with the length that minimises the objective. The
    fixed length ``1 / (2 rho_t)`` of the paper holds for a vanishing misfit and overshoots at high
    noise.

    Reference: "Denoising Diffusion Models for Plug-and-Play Image Restoration", CVPRW 2023,
    arXiv 2305.08995, algorithm 1.

    Args:
        steps: 100 as published.
        lambda_: weight of the prior; the paper tunes it for each task.
        zeta: share of fresh noise in the variance, 0 (deterministic) to 1; tuned for each task.
    """

    steps: Count = 100
    lambda_: Positive = 7.0
    zeta: Fraction = 0.3

    name: ClassVar[str] = "diffpir"

    @property
    def correction(self) -> ProximalStep:
        """The proximal step."""
        return ProximalStep(lambda_=self.lambda_)

    def fresh(self, level: Levels) -> Tensor:
        """The share zeta of the noise variance."""
        return variance("fresh", level, math.sqrt(self.zeta))


def gradient_step(x0: Tensor, weight: Tensor, problem: Problem) -> Tensor:
    """Return the best ``x = x0 + tau g`` for ``||y - A(x)||^2 + weight ||x - x0||^2``.

    ``g = A'^T (y - A(x0))`` is the descent direction at ``x0``, with the derivative ``A'``
    there, and ``tau = ||g||^2 / (||A' g||^2 + weight ||g||^2)`` of each item.
    """
    space = problem.space
    with torch.enable_grad():
        x = x0.detach().requires_grad_()
        measured = problem.A(x)
    g = torch.autograd.grad(measured, x, problem.y - measured.detach())[0]
    # A' g by a finite difference: attention in decoders has no forward-mode derivative.
    small = torch.finfo(g.dtype).eps ** (1 / 3)
    reach = small * (1 + space.norm(x0)) / space.norm(g).clamp(min=1e-12)
    h = per_item(reach, measured)
    ahead, behind = (problem.A(x0 + sign * per_item(reach, g) * g) for sign in (1, -1))
    along = (ahead - behind) / (2 * h)
    square = space.inner(g, g)
    objective = space.inner(along, along) + weight * square
    tau = torch.where(objective > 0, square / objective, 0)
    return x0 + per_item(tau, x0) * g
