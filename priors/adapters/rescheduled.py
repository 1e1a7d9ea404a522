"""Priors from deepinv denoisers, and priors with another schedule."""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Adapter, Prior, broadcast
from wellposed.priors.schedule import VE, Schedule


class DenoiserPrior(Prior):
    """Any deepinv denoiser ``D(x, sigma)`` on [0, 1] images as a prior.

    Args:
        denoiser: a deepinv ``Denoiser``, or a module with the same call.
        schedule: schedule to sample with, up to a finite noise level, e.g. `Flow` with ``T``
            below 1; by default variance exploding up to noise level 50.
        data_range: public values of -1 and 1; deepinv's denoisers expect [0, 1].
        channels, is_complex: see `Prior`.

    Example:
        >>> import torch
        >>> from deepinv.models import MedianFilter
        >>> from wellposed import priors
        >>> prior = priors.DenoiserPrior(MedianFilter(3), priors.VE(80.0), channels=3)
        >>> prior.denoise(torch.randn(1, 3, 16, 16), 0.5).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule | None = None,
        data_range: tuple[float, float] = (0.0, 1.0),
        channels: int | None = None,
        is_complex: bool = False,
    ) -> None:
        super().__init__(schedule or VE(sigma_max=50.0), channels, is_complex, data_range)
        finite = bool(torch.isfinite(self.schedule.ratio(self.schedule.T)))
        name = type(self.schedule).__name__
        require(finite, "schedule", name, "a schedule with a finite largest sigma / alpha")
        self.denoiser, self.expected = denoiser, self.data_range

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the denoiser's estimate at noise level sigma_t / alpha_t."""
        alpha, sigma = (broadcast(v, x_t) for v in self.schedule(t))
        low, high = self.expected
        scale, centre = (high - low) / 2, (high + low) / 2
        public = x_t / alpha * scale + centre
        level = (sigma / alpha * scale).flatten().expand(len(x_t))
        return (self.denoiser(public, level) - centre) / scale


class Rescheduled(Adapter):
    """A prior with another schedule than the one it was trained with.

    At equal ``sigma / alpha`` two Gaussian kernels differ only by a factor, so ``E[x_0 | x_t]``
    for one gives that for the other.

    Args:
        prior: the trained prior.
        schedule: the schedule to sample with.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prior = priors.Rescheduled(priors.GaussianPrior(0.5, 0.1), priors.VE(80.0))
        >>> prior.denoise(torch.randn(1, 3, 16, 16), 2.0).shape  # the time is the noise level
        torch.Size([1, 3, 16, 16])
    """

    def __init__(self, prior: Prior, schedule: Schedule) -> None:
        kind = type(prior).__name__
        require(prior.is_affine, "prior", kind, "a prior on images; or reschedule its inner prior")
        super().__init__(prior, schedule)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the wrapped prior's estimate at the same noise-to-signal ratio."""
        alpha, sigma = self.schedule(t)
        # If alpha vanishes (flow, t = 1) the inner schedule's largest time is used.
        inner_t = self.prior.schedule.time_at(sigma / alpha).to(alpha.device)
        inner_alpha, inner_sigma = self.prior.schedule(inner_t)
        by_alpha = inner_alpha / alpha
        factor = torch.where(alpha > sigma, by_alpha, inner_sigma / sigma.clamp(min=1e-30))
        return self.prior.denoise(broadcast(factor, x_t) * x_t, inner_t, condition)
