"""Priors made of others: deepinv's denoisers, another schedule."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.priors.prior import Adapter, Prior, broadcast
from wellposed.priors.schedule import VE, Schedule


class DenoiserPrior(Prior):
    """Any deepinv denoiser ``D(x, sigma)`` on [0, 1] images as a prior.

    Args:
        denoiser: a deepinv ``Denoiser`` or any module called the same way.
        schedule: diffusion to sample with, up to a finite noise level (as `Flow` with ``T`` below
            1); variance exploding up to noise level 50 by default.
        data_range: public values of -1 and 1; [0, 1] is what deepinv's denoisers expect.
        channels, is_complex: see `Prior`.
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule | None = None,
        data_range: tuple[float, float] = (0.0, 1.0),
        **images: Any,
    ) -> None:
        super().__init__(schedule or VE(sigma_max=50.0), data_range=data_range, **images)
        finite = bool(torch.isfinite(self.schedule.ratio(self.schedule.T)))
        name = type(self.schedule).__name__
        require(finite, "schedule", name, "one whose largest sigma / alpha is finite")
        self.denoiser, self.expected = denoiser, self.data_range

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return the denoiser's estimate at noise level sigma_t / alpha_t."""
        alpha, sigma = (broadcast(v, x_t) for v in self.schedule(t))
        low, high = self.expected
        scale, centre = (high - low) / 2, (high + low) / 2
        public = x_t / alpha * scale + centre
        level = (sigma / alpha * scale).flatten().expand(len(x_t))
        return (self.denoiser(public, level) - centre) / scale


class Rescheduled(Adapter):
    """A prior sampled with another schedule than it was trained with.

    At equal ``sigma / alpha`` two Gaussian kernels differ by a factor only, so
    ``E[x_0 | x_t]`` of one gives that of the other.

    Args:
        prior: the trained prior.
        schedule: the schedule to sample with.
    """

    def __init__(self, prior: Prior, schedule: Schedule) -> None:
        kind = type(prior).__name__
        require(prior.is_affine, "prior", kind, "a prior on images; reschedule the inner one")
        super().__init__(prior, schedule)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return the wrapped prior's estimate at the same noise-to-signal ratio."""
        alpha, sigma = self.schedule(t)
        # Where alpha vanishes (flow, t = 1) the inner schedule's largest time stands in.
        inner_t = self.prior.schedule.time_at(sigma / alpha).to(alpha.device)
        inner_alpha, inner_sigma = self.prior.schedule(inner_t)
        by_alpha = inner_alpha / alpha
        factor = torch.where(alpha > sigma, by_alpha, inner_sigma / sigma.clamp(min=1e-30))
        return self.prior.denoise(broadcast(factor, x_t) * x_t, inner_t, condition)
