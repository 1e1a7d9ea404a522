"""The tests of the checkpoint doctor: a prior on noisy images, a restorer on degraded ones."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.datasets.images.crops import random_phase
from wellposed.datasets.images.phantoms import dead_leaves
from wellposed.datasets.ultrasound import compand, simulate_echoes
from wellposed.errors import NonFiniteError, require
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.operators import Blur, SuperResolution, gaussian_kernel
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prior import Prior, broadcast
from wellposed.priors.sampling import restored, sample

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Levels of sigma / alpha, in the units of the loaded prior."""

HAZE = 0.03
"""Root mean square of the synthetic haze."""

SAMPLES, SIZE, STEPS = 4, 64, 20
"""Number and side of the images of the test, and steps of sampling."""


PLACES = (0.1, 0.25, 0.5, 0.75)
"""Times of a restorer, as fractions of T."""

BLUR, HARM_DB = 1.5, -1.0
"""Blur in pixels of the images that restorers are tested on, and the gain below which a restorer
fails: one trained for another degradation leaves the images almost unchanged.
"""


@dataclass(frozen=True)
class Denoising:
    """A test of a plain prior on clean images."""

    images: Tensor
    seed: int
    axis: ClassVar[str] = "sigma / alpha"
    verb: ClassVar[str] = "denoise"
    least: ClassVar[float] = 0.0
    kinds: ClassVar[tuple[str, ...]] = ("noise", "sample", "velocity", "flow", "score", "edm")

    def gains(self, prior: Prior) -> dict[float, float]:
        """Return the gain in dB at each noise level."""
        gains, noise = {}, _noise(self.images, self.seed)
        for level in LEVELS:
            error = level * prior.scale * noise.draw(self.images)
            t = prior.schedule.time_at(level)
            alpha = broadcast(prior.schedule(t)[0], self.images)
            noisy = alpha * prior.to_units(self.images + error)
            estimate = _finite(prior.to_public(prior.denoise(noisy, t)), t)
            gains[level] = _gain(estimate - self.images, error)
        return gains

    def score(self, prior: Prior) -> float:
        """Return the mean gain in dB, to compare readings."""
        return mean(self.gains(prior))

    def draws(self, prior: Prior) -> Tensor:
        """Return samples of the prior."""
        size, device = self.images.shape[-2:], self.images.device
        return sample(prior, SAMPLES, size, steps=STEPS, seed=self.seed, device=device)


@dataclass(frozen=True)
class Restoring:
    """A test of a restorer on clean images, which are first reduced or blurred."""

    images: Tensor
    seed: int
    axis: ClassVar[str] = "t / T"
    verb: ClassVar[str] = "restore"
    least: ClassVar[float] = HARM_DB
    kinds: ClassVar[tuple[str, ...]] = ("noise", "sample", "residual", "velocity")

    def degraded(self, prior: Prior) -> Tensor:
        """Return the degraded images."""
        shape = self.images.shape[1:]
        if prior.upsample > 1:
            return SuperResolution(shape, prior.upsample).A(self.images)
        return Blur(gaussian_kernel(BLUR), shape).A(self.images)

    def gains(self, prior: Prior) -> dict[float, float]:
        """Return the gain in dB over the degraded images from each time."""
        given, x0 = prior.degraded(self.degraded(prior)), prior.to_units(self.images)
        m, gains, noise = given.anchor, {}, _noise(self.images, self.seed)
        for place in PLACES:
            t = self._time(place, prior)
            alpha, sigma = (broadcast(v, x0) for v in prior.schedule(t))
            x_t = m + alpha * (x0 - m) + sigma * noise.draw(x0)
            estimate = _finite(prior.to_public(prior.denoise(x_t, t, given)), t)
            gains[place] = _gain(estimate - self.images, prior.to_public(m) - self.images)
        return gains

    def score(self, prior: Prior) -> float:
        """Return the mean gain in dB over the best linear estimate, to compare readings.

        Schedules differ in their noise at the same place, and less noise is easier to remove.
        """
        anchor = prior.degraded(self.degraded(prior)).anchor
        variance = (prior.to_units(self.images) - anchor).abs().square().mean()
        linear = {}
        for place in PLACES:
            alpha, sigma = prior.schedule(self._time(place, prior))
            left = sigma**2 / (alpha**2 * variance + sigma**2)
            linear[place] = -10 * math.log10(float(left))
        return mean(self.gains(prior)) - mean(linear)

    @staticmethod
    def _time(place: float, prior: Prior) -> Tensor:
        return torch.tensor(max(1.0, round(place * prior.schedule.T)), dtype=torch.float64)

    def draws(self, prior: Prior) -> Tensor:
        """Return the restored images."""
        return restored(prior, prior.degraded(self.degraded(prior)), STEPS, self.seed)


def mean(gains: dict[float, float]) -> float:
    """Return the mean over the levels."""
    return sum(gains.values()) / len(gains)


def _noise(images: Tensor, seed: int) -> ItemNoise:
    return ItemNoise(seed, [(n,) for n in range(len(images))], MEASUREMENT)


def _finite(estimate: Tensor, t: Tensor) -> Tensor:
    if not bool(estimate.isfinite().all()):
        raise NonFiniteError(f"prior: returns NaN or infinite values at t = {float(t):g}")
    return estimate


def _gain(error: Tensor, before: Tensor) -> float:
    """Return the reduction of an error in dB."""
    left = error.abs().square().mean() / before.abs().square().mean()
    return -10 * math.log10(float(left.clamp(min=1e-20)))


def is_signal(prior: Prior) -> bool:
    """Return whether a prior is for companded RF."""
    return isinstance(prior, NetworkPrior) and prior.is_signal


def synthetic(prior: Prior, seed: int) -> Tensor:
    """Return synthetic clean images for a prior, in public values."""
    channels = prior.channels or 0
    accepted = "clean images, as the prior accepts any number of channels"
    require(channels > 0, "images", None, accepted)
    if is_signal(prior):
        return _echoes(seed)
    images = dead_leaves(SAMPLES, channels, SIZE, seed)
    return random_phase(images, seed) if prior.is_complex else images


def _echoes(seed: int) -> Tensor:
    """Return companded tissue and haze (2, 1, 128, 128) from intermediate depths."""
    frames = simulate_echoes([seed], "validation")
    both = torch.cat([frames.tissue, HAZE * frames.haze])
    return compand(both[:, :, 448:576].clamp(-1, 1))
