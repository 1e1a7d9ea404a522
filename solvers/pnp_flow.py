"""PnP-Flow: plug-and-play restoration with flow matching (Martin et al. 2025)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wellposed.checks import Count, NonNegative
from wellposed.linalg import per_item
from wellposed.noise import NoiseSource
from wellposed.solvers.base import Solver, State
from wellposed.solvers.data import LangevinRate, misfit_gradient, squared_norm
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class PnPFlow(Solver):
    r"""PnP-Flow: a gradient step on the misfit, noise up to the path of the flow, the denoiser.

    For each time t, in the coordinates of the flow with ``tau = sigma_t / (alpha_t + sigma_t)``::

        z  = x - step_size tau^alpha A^H (A x - y) / ||A||^2
        x <- mean over averages of E[x_0 | x_t = alpha_t z + sigma_t eps],   eps ~ N(0, I)

    The start does not matter, as the first x_t is pure noise. No gradient passes through the
    network. The method seeks an image that fits the data and does not sample the posterior; the
    spread of its samples comes from eps and falls with the number of averages. The weight of the
    data does not depend on their noise. Works for nonlinear operators, with ``||A|| = 1``, and
    for latent priors.

    Reference: "PnP-Flow: Plug-and-Play Image Restoration with Flow Matching", ICLR 2025, arXiv
    2410.02423, algorithm 3. Published operators have ``||A|| = 1``. The paper tunes alpha for each
    task: .8 for denoising, .5 for inpainting of boxes, .3 for super-resolution, .01 for deblurring
    and for random inpainting.

    Args:
        steps: 100 as published; each evaluates the network ``averages`` times.
        spacing: "trailing" is the published grid of a flow.
        step_size: step relative to ``1 / ||A||^2``, below 2; 1 as published.
        alpha: exponent with which the steps shrink; the published default.
        averages: noisy images that are denoised in each step; 5 as published.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Inpainting(operators.box_mask(16, 16, (6, 6)), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12, priors.Flow())
        >>> result = solvers.PnPFlow(steps=10, alpha=0.5)(y, operator, prior, seed=0)
        >>> result.mean.shape, result.nfe  # 5 noisy images in each step
        (torch.Size([1, 3, 16, 16]), 50)
    """

    steps: Count = 100
    spacing: str = "trailing"
    step_size: LangevinRate = 1.0
    alpha: NonNegative = 1.0
    averages: Count = 5

    name: ClassVar[str] = "pnp-flow"

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Start from the prior's centre."""
        return State(problem.zeros(), problem.zeros())

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Fit the data, go to the path of the flow, denoise."""
        alpha, sigma = problem.prior.schedule(t)
        rate = self.step_size * (sigma / (alpha + sigma)) ** self.alpha
        length = per_item(rate / problem.once(squared_norm), state.x)
        z = state.x - length * misfit_gradient(problem, state.x)

        def denoised() -> Tensor:
            return problem.denoise(alpha * z + sigma * noise.draw(z), t)

        x = sum((denoised() for _ in range(1, self.averages)), denoised()) / self.averages
        return State(x, x)
