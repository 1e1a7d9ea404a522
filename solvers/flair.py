"""FLAIR: a variational estimate with flows, of images or latents (Erbach et al. 2025)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, NonNegative, Positive, Range
from wellposed.noise import NoiseSource
from wellposed.solvers.base import Solver, State
from wellposed.solvers.data import pseudo_inverse
from wellposed.solvers.descent import descend
from wellposed.solvers.flow_dps import flow_time
from wellposed.solvers.problem import Problem

Time = Annotated[float, Range(0, 1, "[)")]

SD3_ERRORS = tuple(
    thousandths / 1000
    for thousandths in (
        *(646, 488, 388, 346, 326, 305, 294, 279, 272, 265, 258, 253, 248, 244, 241, 238, 237),
        *(235, 233, 233, 233, 232, 231, 231, 232, 232, 233, 234, 235, 236, 237, 238, 240, 242),
        *(244, 246, 248, 250, 253, 255, 257, 260, 263, 266, 270, 273, 277, 281, 284, 289, 293),
        *(297, 302, 307, 312, 317, 324, 329, 335, 342, 347, 355, 363, 370, 378, 386, 395, 405),
        *(414, 422, 433, 445, 455, 469, 480, 493, 507, 520, 537, 552, 569, 587, 605, 626, 646),
        *(668, 691, 716, 741, 768, 798, 827, 857, 888, 919, 950, 976, 997, 1009, 1086),
    )
)
"""Errors of the velocity of Stable Diffusion 3 on DIV2K, as published with FLAIR (MIT)."""


@dataclass(frozen=True, eq=False)
class FLAIRState(State):
    """State of FLAIR; x is the estimate.

    Attributes:
        noise: what the network took for the noise in the last image.
    """

    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class FLAIR(Solver):
    r"""FLAIR: an estimate drawn to the flow's own, then down the misfit to the noise of the data.

    At times t from about 1 to ``last_time``, in the coordinates of the flow
    ``x_t = (1 - t) x_0 + t eps`` with velocity v::

        eps = (1 - t) n + sqrt(1 - (1 - t)^2) z,   z ~ N(0, I)
        x   = (1 - t) mu + t eps
        n   = x + (1 - t) v(x, t)
        mu  = mu + w(t) (eps - v(x, t) - mu),   then a few steps down || y - A(mu) ||^2

    The noise n that the network sees in x is kept in part, so that x stays on one trajectory. The
    weight ``w(t) = regularization max(1 / e(t) - 1 / e(0), 0) / mean(1 / e)`` trusts the velocity
    where its mean squared error e(t) is small; that of Stable Diffusion 3 is the default. The
    misfit is taken through the decoder of a latent prior. No gradient passes through the network.

    Other priors are transformed to the coordinates of the flow, as in `FlowDPS`. Works for
    nonlinear operators. The result is an estimate, and its spread over seeds has no meaning. On
    Gaussians of unit variance it is .1 posterior standard deviations from the mean.

    Reference: "Solving Inverse Problems with FLAIR", 2025, arXiv 2506.02680. The published code
    takes gradient steps of lengths in proportion to w(t), 15 at most, until the misfit is below a
    constant. Here conjugate gradients find their lengths, and stop at the misfit of the noise. mu
    does not go beyond the flow's estimate, so ``w(t) <= t``, as of the published weights down to
    the published ``last_time``.

    Args:
        steps: 50 as published.
        last_time: where the run ends.
        regularization: factor of w.
        data_steps: conjugate-gradient steps on the misfit at each time.
        errors: e at equally spaced times from 1 to 0; the nearest one counts, as published.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.SuperResolution((3, 16, 16), factor=2, noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12, priors.Flow())
        >>> solvers.FLAIR(steps=10)(y, operator, prior, seed=0).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    steps: Count = 50
    last_time: Time = 0.18
    regularization: NonNegative = 0.5
    data_steps: Count = 15
    errors: tuple[Positive, ...] = SD3_ERRORS

    name: ClassVar[str] = "flair"
    encodes: ClassVar[bool] = True

    def times(self, problem: Problem) -> list[float]:
        """Return the prior's times with the flow's noise levels, and 0."""
        schedule = problem.prior.schedule
        t = torch.linspace(1, self.last_time, self.steps + 2, dtype=torch.float64)[1:-1]
        ratio = (t / (1 - t)).clamp(schedule.min_ratio, float(schedule.ratio(schedule.T)))
        return [*schedule.time_at(ratio).tolist(), 0.0]

    def init(self, problem: Problem, noise: NoiseSource) -> FLAIRState:
        """Start from the pseudo-inverse, of which the first noise hides nearly all."""
        mu = pseudo_inverse(problem)
        return FLAIRState(mu, mu, noise.draw(mu))

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> FLAIRState:
        """Renew part of the noise, go towards the denoised image, then towards the data."""
        assert isinstance(state, FLAIRState)
        mu, (alpha, sigma) = state.x, problem.prior.schedule(t)
        time = flow_time(alpha, sigma)
        eps = (1 - time) * state.noise + (1 - (1 - time) ** 2).sqrt() * noise.draw(mu)
        x = alpha * mu + sigma * eps
        x0 = problem.denoise(x, t)
        # In the flow, eps - v - mu is (x0 - mu) / t.
        mu = mu + min(self.weight(float(time)) / float(time), 1) * (x0 - mu)
        mu = descend(problem, mu, self.data_steps)
        return FLAIRState(mu, mu, (x - alpha * x0) / sigma)

    def weight(self, time: float) -> float:
        """Return w at a time of the flow."""
        trust = [1 / error - 1 / self.errors[-1] for error in self.errors]
        mean = sum(1 / error for error in self.errors) / len(self.errors)
        nearest = round((1 - time) * (len(self.errors) - 1))
        return self.regularization * max(trust[nearest], 0) / mean

    def finish(self, state: State) -> Tensor:
        """Return the estimate."""
        return state.x
