"""RED-diff: variational sampling by denoising regularisation (Mardani et al. 2024)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, NonNegative, Positive, Range
from wellposed.linalg import as_real, like, per_item
from wellposed.noise import NoiseSource
from wellposed.solvers.base import Solver, State
from wellposed.solvers.data import (
    PROXIMAL_STEPS,
    matched_weight,
    misfit_gradient,
    proximal,
    pseudo_inverse,
)
from wellposed.solvers.problem import Problem
from wellposed.solvers.scope import require_linear

WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda r: r,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "log": torch.log1p,
    "trunc_linear": lambda r: r.clamp(max=1),
    "power2over3": lambda r: r ** (2 / 3),
    "const": torch.ones_like,
}
"""Weights of the prior term as functions of ``r = sigma_t / alpha_t``."""


Decay = Annotated[float, Range(0, 1, "[)")]


@dataclass(frozen=True, eq=False)
class REDDiffState(State):
    """State of RED-diff: ``x`` is the mean ``mu`` of the variational posterior.

    Attributes:
        first, second: Adam's moments, of real and imaginary parts separately.
        count: Adam steps taken.
    """

    first: Tensor
    second: Tensor
    count: int


@dataclass(frozen=True, kw_only=True)
class REDDiff(Solver):
    r"""RED-diff: Adam on the data misfit plus a denoising regulariser, t from T to 0.

    ``mu`` starts at ``argmin ||A mu - y||^2 + sigma_y^2 ||mu||^2``. Without noise this is the
    pseudo-inverse, as published; with noise it does not amplify it. For each time t::

        x0 = mu + sigma_x0 z0,   x_t = alpha_t x0 + sigma_t z,   eps = eps_net(x_t, t)
        g  = lambda w(sigma_t / alpha_t) (eps - z) / d + obs_weight A^H (A x0 - y) / m
        mu <- Adam(mu, g)

    Both losses are means over the d image and m measurement values (real numbers), as in the
    published code, or sums (d = m = 1 above), as in the paper's equations; lambda then differs by
    the factor d / m. No gradient passes through the network. Nonlinear operators and latent priors
    use automatic differentiation.

    ``regularization=None`` needs no tuning where the noise is known: the weight of the prior is
    then ``(sigma_t / alpha_t) sigma_y^2 / v_t`` in sums, with v_t the variance of the denoised
    image, see `matched_weight`.

    The result is near a mode, not the mean: on Gaussian problems it is .2 to .9 posterior standard
    deviations from the mean, and its spread over seeds, .5 to 1.3 of the exact variance, has no
    meaning (docs/posterior.md). Started at the pseudo-inverse it is 18.6 standard deviations off
    on blurred fields: Adam does not remove the noise that the start has amplified.

    Reference: "A Variational Perspective on Solving Inverse Problems with Diffusion Models",
    ICLR 2024, arXiv 2305.04391. The published code returns the ``x0`` of the last iteration, one
    Adam step behind ``mu``: ``returned="x0"``. It also averages over the batch, which scales the
    gradients of all items equally; Adam compensates this except for its epsilon.

    Args:
        regularization: lambda, weight of the prior; .25 as published, None follows the noise.
        weighting: w(r): linear (default), sqrt, square, log, trunc_linear, power2over3, const.
        obs_weight: weight of the data term.
        learning_rate, beta1, beta2, epsilon: Adam; (.9, .99) and 1e-8 as published.
        sigma_x0: dispersion of the variational posterior.
        reduction: "mean" as in the published code or "sum" as in the paper, for both losses.
        start: "damped", see above; "pseudo-inverse" as published, which for nonlinear operators is
            the same; or "back-projection" A^H y.
        returned: "mu", the last mean, or "x0" as in the published code.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Blur(operators.uniform_kernel(3), (3, 16, 16), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> solver = solvers.REDDiff(steps=20, regularization=None)  # weight by the noise level
        >>> solver(y, operator, prior, seed=0).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    regularization: NonNegative | None = 0.25
    weighting: Annotated[str, Choice(*WEIGHTINGS)] = "linear"
    obs_weight: NonNegative = 1.0
    learning_rate: Positive = 0.1
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    epsilon: NonNegative = 1e-8
    sigma_x0: NonNegative = 0.0
    reduction: Annotated[str, Choice("mean", "sum")] = "mean"
    start: Annotated[str, Choice("damped", "pseudo-inverse", "back-projection")] = "damped"
    returned: Annotated[str, Choice("mu", "x0")] = "mu"

    name: ClassVar[str] = "red-diff"

    def check(self, problem: Problem) -> None:
        """Raise for a back-projection with a nonlinear operator."""
        super().check(problem)
        if self.start == "back-projection":
            require_linear(problem, 'REDDiff(start="back-projection")')

    def init(self, problem: Problem, noise: NoiseSource) -> REDDiffState:
        """Start from a direct reconstruction of the measurement."""
        mu = self._direct(problem)
        # Squares of gradients underflow in half precision.
        zeros = torch.zeros_like(
            as_real(mu), dtype=torch.promote_types(mu.real.dtype, torch.float32)
        )
        return REDDiffState(mu, mu, zeros, zeros, 0)

    def _direct(self, problem: Problem) -> Tensor:
        if self.start == "back-projection":
            return problem.back_projection
        if self.start == "pseudo-inverse" or not problem.is_linear:
            return pseudo_inverse(problem)
        return proximal(problem, problem.zeros(), problem.noise_sigma**2, PROXIMAL_STEPS)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> REDDiffState:
        """Take one Adam step at time ``t``."""
        assert isinstance(state, REDDiffState)
        mu = state.x
        alpha, sigma = problem.prior.schedule(t)
        x0 = mu + self.sigma_x0 * noise.draw(mu) if self.sigma_x0 > 0 else mu
        z = noise.draw(mu)
        x_t = alpha * x0 + sigma * z
        eps = (x_t - alpha * problem.denoise(x_t, t)) / sigma
        # Pure noise (alpha = 0) carries no information on the image.
        mean = self.reduction == "mean"
        d, m = (problem.space.count(v) if mean else 1 for v in (mu, problem.y))
        weight = self._weight(sigma / alpha, d / m, problem) if alpha > 0 else 0
        gradient = weight * (eps - z) / d + self.obs_weight * misfit_gradient(problem, x0) / m
        return self._adam(state, x0, gradient)

    def _weight(self, ratio: Tensor, means: float, problem: Problem) -> Tensor:
        """Return the weight of the prior at ``sigma_t / alpha_t``; ``means`` is d / m."""
        if self.regularization is None:
            matched = ratio / matched_weight(ratio, problem)
            return per_item(means * matched, problem.zeros())
        return self.regularization * WEIGHTINGS[self.weighting](ratio)

    def _adam(self, state: REDDiffState, x0: Tensor, gradient: Tensor) -> REDDiffState:
        """Return the state after Adam's update (Kingma and Ba 2015)."""
        g, count = as_real(gradient).to(state.first.dtype), state.count + 1
        first = self.beta1 * state.first + (1 - self.beta1) * g
        second = self.beta2 * state.second + (1 - self.beta2) * g**2
        deviation = (second / (1 - self.beta2**count)).sqrt() + self.epsilon
        update = self.learning_rate / (1 - self.beta1**count) * first / deviation
        update = like(update.to(gradient.real.dtype), gradient)
        return REDDiffState(state.x - update, x0, first, second, count)

    def finish(self, state: State) -> Tensor:
        """Return ``mu``, or the ``x0`` of the published code."""
        return state.x if self.returned == "mu" else state.x0
