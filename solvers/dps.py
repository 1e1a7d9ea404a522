"""DPS: diffusion posterior sampling (Chung et al. 2023)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, NonNegative
from wellposed.errors import require
from wellposed.linalg import norm, per_item
from wellposed.noise import NoiseSource
from wellposed.priors.network import NetworkPrior
from wellposed.priors.transition import Levels, levels, variance
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected, estimate
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
        variance: of the fresh noise: "markov", DDPM's, or "learned", as in the published code, by
            the network for every pixel, see `NetworkPrior.denoise_with_variance`. The published
            networks for FFHQ and ImageNet (ADM) learned it; real images only.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Inpainting(operators.random_mask(8, 8, 0.5), noise_sigma=0.2)
        >>> y = operator.measure(torch.rand(1, 3, 8, 8), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> solvers.DPS(steps=50, zeta=0.5)(y, operator, prior, seed=0).mean.shape
        torch.Size([1, 3, 8, 8])
    """

    steps: Count = 1000
    zeta: NonNegative = 0.3
    clip: bool = False
    variance: Annotated[str, Choice("markov", "learned")] = "markov"

    name: ClassVar[str] = "dps"
    differentiates: ClassVar[bool] = True

    def check(self, problem: Problem) -> None:
        """Raise for clipping or a learned variance of images or priors without them."""
        super().check(problem)
        prior, real = problem.prior, not problem.image_dtype.is_complex
        ranged = prior.is_affine and real
        require(ranged or not self.clip, "clip", self.clip, "False for complex or latent images")
        learned = self.variance == "learned"
        fits = real and isinstance(prior, NetworkPrior)
        accepted = "'markov' unless the prior is a NetworkPrior of real images"
        require(fits or not learned, "variance", self.variance, accepted)

    def fresh(self, level: Levels) -> Tensor:
        """DDPM's variance."""
        return variance("markov", level)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Take one ancestral step and one gradient step."""
        level, shares = levels(problem.prior.schedule, t, s), []

        def look(x: Tensor) -> Tensor:
            x0, share = self._look(x, t, problem)
            shares.append(share)
            return x0

        found = estimate(look, state.x, problem, differentiable=True)
        gradient = found.vjp(norm_gradient(found.x0, problem))
        # x^VP = x / size: grad^VP = size_t grad, x_s = size_s x_s^VP.
        size_t, size_s = level.sizes
        z = self.draw(found.x0, s, noise)
        if self.variance == "learned" and s > 0:
            # beta / beta~ is the square of sigma_t / sigma_s in variance-preserving coordinates.
            z = z * (level.sigma_t / size_t / (level.sigma_s / size_s)) ** shares[0]
        x_s = self.onwards(found, found.x0, z, level, problem)
        return State(x_s - self.zeta * size_t * size_s * gradient, found.x0)

    def _look(self, x_t: Tensor, t: float, problem: Problem) -> tuple[Tensor, Tensor | float]:
        """Return ``x0``, clipped if ``clip``, and the share of beta in the variance."""
        share: Tensor | float = 0.0
        if self.variance == "learned":
            assert isinstance(problem.prior, NetworkPrior)
            x0, share = problem.evaluate(problem.prior.denoise_with_variance, x_t, t)
        else:
            x0 = problem.denoise(x_t, t)
        return x0.clamp(-1, 1) if self.clip else x0, share


def norm_gradient(x0: Tensor, problem: Problem) -> Tensor:
    """Return the gradient of ``||y - A(x0)||_2`` with respect to ``x0``."""
    with torch.enable_grad():
        x0 = x0.detach().requires_grad_()
        gap = problem.y - problem.A(x0)
        gradient = torch.autograd.grad(norm(gap).sum(), x0)[0]
    # The derivative of the norm of all parts of y with respect to this part's norm is its share.
    return per_item(problem.space.share(gap.detach()), x0) * gradient
