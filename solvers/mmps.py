"""MMPS: moment matching posterior sampling (Rozet et al. 2024), or TMPD (Boys et al. 2023)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wellposed.errors import require
from wellposed.linalg import conjugate_gradient, per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import implied_noise, levels, transition, variance
from wellposed.solvers.base import Solver, State
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class MMPS(Solver):
    r"""Moment matching: the covariance of x_0 given x_t is read off the network's Jacobian J.

    For each pair of times t -> s, with Tweedie's second moment::

        x0  = E[x_0 | x_t],   V = Cov[x_0 | x_t] = (sigma_t^2 / alpha_t) J
        v   = CG( sigma_y^2 I + A V A^T,  y - A x0 )
        x0' = x0 + V A^T v                                          approximates E[x_0 | x_t, y]
        x_s = DDIM step from (x_t, x0'), eta

    ``J`` is symmetric for an exact denoiser, and applied as ``J^T``: a vector-Jacobian product
    for each CG step and one more, on top of the network's one evaluation. Exact for Gaussian
    data, up to step size and CG.

    Reference: "Learning Diffusion Priors from Observations by Expectation Maximization", NeurIPS
    2024, arXiv 2405.13712. The same approximation without its diagonal shortcut is
    "Tweedie Moment Projected Diffusions for Inverse Problems", 2023, arXiv 2310.06721.

    Args:
        steps: network evaluations.
        eta: DDIM's eta: 0 is deterministic, 1 is DDPM.
        cg_steps: conjugate-gradient steps, started at zero; a few suffice for images.
    """

    steps: int = 100
    eta: float = 1.0
    cg_steps: int = 3

    linear_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.eta <= 1, "eta", self.eta, "0 <= eta <= 1")
        require(self.cg_steps >= 1, "cg_steps", self.cg_steps, "at least 1")

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, condition, take a DDIM step."""
        level = levels(problem.prior.schedule, t, s)
        # At alpha_t = 0 the Jacobian is zero and tells nothing of the covariance.
        x0 = (
            self._conditioned(state.x, t, problem)
            if level.alpha_t > 0
            else problem.denoise(state.x, t)
        )
        if s == 0:
            return State(x0, x0)
        eps = implied_noise(state.x, x0, level)
        v = variance("markov", level, self.eta)
        return State(transition(x0, eps, noise.draw(x0), level, v), x0)

    def _conditioned(self, x_t: Tensor, t: float, problem: Problem) -> Tensor:
        """Return ``x0'``, the estimate of ``E[x_0 | x_t, y]``."""
        x0, vjp = problem.denoise_with_vjp(x_t, t)
        alpha, sigma = problem.prior.schedule(t)
        sigma2 = per_item(problem.noise_sigma**2, problem.y)

        def spread(v: Tensor) -> Tensor:
            return sigma**2 / alpha * vjp(problem.A_adjoint(v))  # V A^T v

        def apply(v: Tensor) -> Tensor:
            return sigma2 * v + problem.A(spread(v))

        b = problem.y - problem.A(x0)
        return x0 + spread(conjugate_gradient(apply, b, iterations=self.cg_steps).x)
