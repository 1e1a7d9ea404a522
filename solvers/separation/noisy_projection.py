"""Projection guidance: noisy images are pulled towards equally noisy data (Stevens et al.)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from wellposed.checks import Choice, Count, NonNegative
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, levels, variance
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected
from wellposed.solvers.data import misfit_gradient
from wellposed.solvers.problem import Problem
from wellposed.solvers.scope import require_linear
from wellposed.solvers.separation.warm_start import WarmStart


@dataclass(frozen=True, kw_only=True)
class NoisyProjection(WarmStart, Corrected):
    r"""Projection guidance: each noisy image is pulled towards an equally noisy measurement.

    For each pair of times t -> s::

        x_s = DDPM step from (x_t, E[x_0 | x_t])
        y_s = alpha_s y + sigma_s z,   z ~ N(0, I)
        x_s <- x_s - step_size A^T (A x_s - y_s),   except for s = 0

    No gradient passes through the network. If there are several blocks (`Product`,
    `Superposition`), all move at once with the same ``step_size``, times the step weights of the
    product: the published lambda and kappa. The noise in ``A x_s`` has the covariance
    ``sigma_s^2 A A^T``, not that of ``y_s``, so the samples are too wide, increasingly with the
    step. With ``noise="shared"`` both have the same noise, so only the clean estimate enters::

        x_s <- x_s - step_size alpha_s A'(x0)^T (A(x0) - y)

    This also works for nonlinear operators such as companding, whose range noisy images leave.

    Reference: "Dehazing Ultrasound Using Diffusion Models", IEEE TMI 2024, arXiv 2307.11204, and
    "Removing Structured Noise using Diffusion Models", arXiv 2302.05290. The noisy measurement is
    that of "Solving Inverse Problems in Medical Imaging with Score-Based Generative Models", ICLR
    2022, arXiv 2111.08005. The published code takes Euler-Maruyama steps instead of DDPM's.

    Args:
        steps: steps of the whole schedule, 200 as published; those above ``start`` are left out.
        spacing: "geometric", uniform in log noise, similar to the published VE process.
        step_size: .5 as published, in the prior's units; stable below ``2 / ||A||^2``.
        noise: noise of the measurement, "fresh" as published or "shared".
        start: see `WarmStart`. Published is 5.16, the level at time .8 of 1.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> one = operators.Denoising((1, 16, 16))
        >>> operator = operators.Superposition([one, one], noise_sigma=0.05)
        >>> y = operator.measure(torch.randn(1, 2, 16, 16), seed=0)
        >>> prior = priors.Product([priors.GaussianPrior(0.0, 1.0)] * 2, channels=[1, 1])
        >>> solvers.NoisyProjection(steps=20)(y, operator, prior, seed=0).mean.shape
        torch.Size([1, 2, 16, 16])
    """

    steps: Count = 200
    spacing: str = "geometric"
    step_size: NonNegative = 0.5
    noise: Annotated[str, Choice("fresh", "shared")] = "fresh"

    name: ClassVar[str] = "noisy-projection"

    def check(self, problem: Problem) -> None:
        """Raise for fresh noise with a nonlinear operator, and for a start below all times."""
        if self.noise == "fresh":
            require_linear(problem, 'NoisyProjection(noise="fresh")')
        super().check(problem)

    def fresh(self, level: Levels) -> Tensor:
        """DDPM's variance."""
        return variance("markov", level)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Take an ancestral step, then a step towards the measurement."""
        level = levels(problem.prior.schedule, t, s)
        after = super().step(state, t, s, problem, noise)
        if s == 0:
            return after
        if self.noise == "shared":
            pull = level.alpha_s * misfit_gradient(problem, after.x0)
        else:
            y_s = level.alpha_s * problem.y + level.sigma_s * noise.draw(problem.y)
            pull = problem.A_adjoint(problem.A(after.x) - y_s)
        return State(after.x - self.step_size * pull, after.x0)
