"""RED-diff: variational sampling by denoising regularisation (Mardani et al. 2024)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import require, require_choice
from wellposed.linalg import as_real, like
from wellposed.noise import NoiseSource
from wellposed.solvers.base import Solver, State
from wellposed.solvers.likelihood import misfit_gradient
from wellposed.solvers.problem import Problem

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


@dataclass(frozen=True)
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

    With ``mu`` started at the pseudo-inverse of y, for each time t of the schedule::

        x0 = mu + sigma_x0 z0,   x_t = alpha_t x0 + sigma_t z,   eps = eps_net(x_t, t)
        g  = lambda w(sigma_t / alpha_t) (eps - z) / d + obs_weight A^H (A x0 - y) / m
        mu <- Adam(mu, g)

    Both losses are means over the d image and m measurement values (real numbers), as in the
    published code, or sums as in the paper's equations (d = m = 1 above), between which lambda
    differs by the factor d / m. No gradient passes through the network. Nonlinear operators and
    latent priors are served by automatic differentiation.

    Reference: "A Variational Perspective on Solving Inverse Problems with Diffusion Models",
    ICLR 2024, arXiv 2305.04391. The published code returns the ``x0`` of the last iteration, one
    Adam step behind ``mu``: ``returned="x0"``. It averages over the batch as well, which scales
    the gradient alike for all items, which Adam undoes but for its epsilon.

    Args:
        regularization: lambda, weight of the prior; .25 as published.
        weighting: w(r): linear (default), sqrt, square, log, trunc_linear, power2over3, const.
        obs_weight: weight of the data term.
        learning_rate, beta1, beta2, epsilon: Adam; (.9, .99) and 1e-8 as published.
        sigma_x0: dispersion of the variational posterior.
        reduction: "mean" as the published code or "sum" as the paper, of both losses.
        start: "pseudo-inverse" as published, or "back-projection" A^H y, for operators whose
            pseudo-inverse amplifies noise, as undersampled MRI.
        returned: "mu", the last mean, or "x0" as the published code.
    """

    regularization: float = 0.25
    weighting: str = "linear"
    obs_weight: float = 1.0
    learning_rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    sigma_x0: float = 0.0
    reduction: str = "mean"
    start: str = "pseudo-inverse"
    returned: str = "mu"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("weighting", self.weighting, WEIGHTINGS)
        require_choice("reduction", self.reduction, ("mean", "sum"))
        require_choice("start", self.start, ("pseudo-inverse", "back-projection"))
        require_choice("returned", self.returned, ("mu", "x0"))
        require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "positive")
        for name in ("regularization", "obs_weight", "sigma_x0", "epsilon"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "a finite number of at least 0")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 <= beta < 1")

    def check(self, problem: Problem) -> None:
        """Refuse a back-projection where there is none."""
        if self.start == "back-projection":
            problem.require_linear('REDDiff(start="back-projection")')

    def init(self, problem: Problem, noise: NoiseSource) -> REDDiffState:
        """Start from a plain reconstruction of the measurement."""
        direct = self.start == "pseudo-inverse"
        mu = problem.A_dagger() if direct else problem.back_projection
        # Squares of gradients underflow in half precision.
        zeros = torch.zeros_like(
            as_real(mu), dtype=torch.promote_types(mu.real.dtype, torch.float32)
        )
        return REDDiffState(mu, mu, zeros, zeros, 0)

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
        # Pure noise (alpha = 0) says nothing of the image.
        weight = (
            self.regularization * WEIGHTINGS[self.weighting](sigma / alpha) if alpha > 0 else 0
        )
        mean = self.reduction == "mean"
        d, m = ((as_real(v)[0].numel() if mean else 1) for v in (mu, problem.y))
        gradient = weight * (eps - z) / d + self.obs_weight * misfit_gradient(x0, problem) / m
        return self._adam(state, x0, gradient)

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
        """Return ``mu`` or the published code's lagging ``x0``."""
        return state.x if self.returned == "mu" else state.x0
