"""The levels of an inversion, and the steps between any two of them.

Between two levels of a plain diffusion, upwards or downwards, there is one map:

    M(x, e; t -> s) = A x + B e,    A = alpha_s / alpha_t,    B = sigma_s - A sigma_t,

with ``e = (x - alpha_t D(x, t)) / sigma_t``. Downwards it is a DDIM step, or an Euler step of a
flow. With ``e`` at ``t`` it equals ``alpha_s D + sigma_s e``, which needs no signal at ``t``.

States are at most as large as unit noise: they are divided by ``max(1, hypot(alpha, sigma))``,
which is 1 for variance-preserving diffusions and flows. A variance-exploding diffusion is so run
as its variance-preserving form. In its own scale leap-frog steps amplify what is not on the path
by sigma_max: decoding a `BDIA` code under another condition was wrong by 20 where now it is .01.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from wellposed.priors.schedule import Schedule


class Denoising(Protocol):
    """What an inversion asks of a prior."""

    schedule: Schedule

    def denoise(self, x_t: Tensor, t: float) -> Tensor:
        """Return ``E[x_0 | x_t]``."""


class Look(NamedTuple):
    """What the prior finds in a noisy image: ``E[x_0 | x_t]``, and the noise that is left."""

    x0: Tensor
    eps: Tensor


class Chain:
    """A prior at increasing noise levels 0, 1, ..., the lowest one positive; counts its calls.

    Args:
        prior: a plain prior.
        times: increasing times, all above 0.
    """

    def __init__(self, prior: Denoising, times: Sequence[float]) -> None:
        self.prior, self.times, self.calls = prior, list(times), 0
        levels = [scaled(prior, t) for t in self.times]
        self.alpha: list[float] = [alpha for alpha, _, _ in levels]
        self.sigma: list[float] = [sigma for _, sigma, _ in levels]
        self.scale: list[float] = [scale for _, _, scale in levels]

    @property
    def top(self) -> int:
        """The noisiest level."""
        return len(self.times) - 1

    def look(self, x: Tensor, level: int, prior: Denoising | None = None) -> Look:
        """Return clean image and noise of ``x`` at a level, with one call.

        Args:
            x: the image at the level.
            level: the level.
            prior: another prior of the same schedule; by default the chain's own.
        """
        return self.look_at(x, self.times[level], prior)

    def look_at(self, x: Tensor, t: float, prior: Denoising | None = None) -> Look:
        """Return clean image and noise of ``x`` at any time, with one call; see `look`."""
        self.calls += 1
        alpha, sigma, scale = scaled(self.prior, t)
        x0 = (prior or self.prior).denoise(scale * x, t)
        return Look(x0, (x - alpha * x0) / sigma)

    def place(self, look: Look, level: int) -> Tensor:
        """Return the image at a level: ``alpha D + sigma e``."""
        return self.alpha[level] * look.x0 + self.sigma[level] * look.eps

    def along(self, look: Look, start: int, end: int) -> Tensor:
        """Return the difference of `place` between two levels."""
        alpha, sigma = self.alpha[end] - self.alpha[start], self.sigma[end] - self.sigma[start]
        return alpha * look.x0 + sigma * look.eps

    def factors(self, start: int, end: int) -> tuple[float, float]:
        """Return A and B of the step between two levels; see the module."""
        a = self.alpha[end] / self.alpha[start]
        return a, self.sigma[end] - a * self.sigma[start]


def scaled(prior: Denoising, t: float) -> tuple[float, float, float]:
    """Return alpha and sigma of the states of a chain, and how much larger the prior's are."""
    alpha, sigma = (float(v) for v in prior.schedule(t))
    scale = max(1.0, math.hypot(alpha, sigma))
    return alpha / scale, sigma / scale, scale
