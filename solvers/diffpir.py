"""DiffPIR: plug-and-play restoration by denoising diffusion (Zhu et al. 2023)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.linalg import inner, norm, per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import implied_noise, levels, transition, variance
from wellposed.solvers.base import Solver, State
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class DiffPIR(Solver):
    r"""Half-quadratic splitting: denoise, solve the proximal problem of the data, re-noise.

    For each pair of times t -> s::

        x0  = E[x_0 | x_t],   rho_t = lambda sigma_y^2 / (sigma_t / alpha_t)^2
        x0' = argmin_x ||y - A x||^2 + rho_t ||x - x0||^2
        x_s = alpha_s x0' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) z),   eps' implied by x0'

    For linear problems the minimiser is exact (CG where there is no closed form); without noise
    it is the projection ``x0 + A^+ (y - A x0)``. Otherwise it is one gradient step on the misfit
    linearised at ``x0``, of the length that minimises the objective; the published fixed length
    ``1 / (2 rho_t)`` is that of a vanishing misfit and overshoots at high noise.

    Reference: "Denoising Diffusion Models for Plug-and-Play Image Restoration", CVPRW 2023,
    arXiv 2305.08995, algorithm 1.

    Args:
        steps: 100 as published.
        lambda_: weight of the prior; the paper tunes it by task.
        zeta: share of fresh noise in the variance, 0 (deterministic) to 1; tuned by task.
    """

    steps: int = 100
    lambda_: float = 7.0
    zeta: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.lambda_ < math.inf, "lambda_", self.lambda_, "a positive number")
        require(0 <= self.zeta <= 1, "zeta", self.zeta, "0 <= zeta <= 1")

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, pull to the data, re-noise."""
        level = levels(problem.prior.schedule, t, s)
        x0 = problem.denoise(state.x, t)
        rho = self.lambda_ * (problem.noise_sigma * level.alpha_t / level.sigma_t) ** 2
        x0 = problem.proximal(x0, rho) if problem.is_linear else gradient_step(x0, rho, problem)
        if s == 0:
            return State(x0, x0)
        eps = implied_noise(state.x, x0, level)
        v = variance("fresh", level, math.sqrt(self.zeta))
        return State(transition(x0, eps, noise.draw(x0), level, v), x0)


def gradient_step(x0: Tensor, weight: Tensor, problem: Problem) -> Tensor:
    """Return the best ``x = x0 + tau g`` for ``||y - A(x)||^2 + weight ||x - x0||^2``.

    ``g = A'^T (y - A(x0))`` is the descent direction at ``x0``, with the derivative ``A'``
    there, and ``tau = ||g||^2 / (||A' g||^2 + weight ||g||^2)`` of each item.
    """
    with torch.enable_grad():
        x = x0.detach().requires_grad_()
        measured = problem.A(x)
    g = torch.autograd.grad(measured, x, problem.y - measured.detach())[0]
    # A' g by a difference: forward-mode derivatives are missing for attention in decoders.
    reach = torch.finfo(g.dtype).eps ** (1 / 3) * (1 + norm(x0)) / norm(g).clamp(min=1e-12)
    h = per_item(reach, measured)
    ahead, behind = (problem.A(x0 + sign * per_item(reach, g) * g) for sign in (1, -1))
    along = (ahead - behind) / (2 * h)
    square, objective = inner(g, g), inner(along, along) + weight * inner(g, g)
    tau = torch.where(objective > 0, square / objective, 0)
    return x0 + per_item(tau, x0) * g
