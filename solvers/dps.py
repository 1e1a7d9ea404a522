"""DPS: diffusion posterior sampling (Chung et al. 2023)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, NonNegative
from wellposed.errors import require
from wellposed.linalg import norm, per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, levels, variance
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class DPS(Corrected):
    r"""Diffusion posterior sampling: ancestral steps, corrected by the misfit's gradient.

    For each pair of times t -> s::

        x0  = E[x_0 | x_t]
        x_s = DDPM step from (x_t, x0)  -  zeta grad_{x_t} || y - A(x0) ||_2

    The gradient passes through the network. The norm is per item; the published code takes one
    norm over the whole batch. Works for nonlinear operators. ``zeta`` refers to
    variance-preserving coordinates for every schedule, so equivalent priors give equal samples.

    Reference: "Diffusion Posterior Sampling for General Noisy Inverse Problems", ICLR 2023,
    arXiv 2209.14687, algorithm 1.

    Args:
        steps: 1000 as published.
        zeta: step size, in the prior's units; .3 for super-resolution and deblurring, .5 for
            random inpainting, 1 for phase retrieval.
        clip: clip ``x0`` to the prior's range [-1, 1] inside the gradient, as in the published
            code but not in the paper; real images only.
    """

    steps: Count = 1000
    zeta: NonNegative = 0.3
    clip: bool = False

    name: ClassVar[str] = "dps"
    differentiates: ClassVar[bool] = True

    def check(self, problem: Problem) -> None:
        """Raise for clipping of images without a range."""
        super().check(problem)
        ranged = problem.prior.is_affine and not problem.image_dtype.is_complex
        require(ranged or not self.clip, "clip", self.clip, "False for complex or latent images")

    def fresh(self, level: Levels) -> Tensor:
        """DDPM's variance."""
        return variance("markov", level)

    def denoise(self, x_t: Tensor, t: float, problem: Problem) -> Tensor:
        """Return ``x0``, clipped if ``clip``."""
        x0 = problem.denoise(x_t, t)
        return x0.clamp(-1, 1) if self.clip else x0

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Take one ancestral step and one gradient step."""
        level = levels(problem.prior.schedule, t, s)
        found = self.estimate(state.x, t, problem)
        gradient = found.vjp(_gradient(found.x0, problem))
        z = self.draw(found.x0, s, noise)
        x_s = self.onwards(found, found.x0, z, level, problem)
        # x^VP = x / size, size^2 = alpha^2 + sigma^2: grad^VP = size_t grad, x_s = size_s x_s^VP.
        size_t = (level.alpha_t**2 + level.sigma_t**2).sqrt()
        size_s = (level.alpha_s**2 + level.sigma_s**2).sqrt()
        return State(x_s - self.zeta * size_t * size_s * gradient, found.x0)


def _gradient(x0: Tensor, problem: Problem) -> Tensor:
    """Return the gradient of ``||y - A(x0)||_2`` with respect to ``x0``."""
    with torch.enable_grad():
        x0 = x0.detach().requires_grad_()
        gap = problem.y - problem.A(x0)
        gradient = torch.autograd.grad(norm(gap).sum(), x0)[0]
    # The derivative of the norm of all parts of y with respect to this part's norm is its share.
    return per_item(problem.space.share(gap.detach()), x0) * gradient
