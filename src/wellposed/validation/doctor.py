"""The checkpoint doctor: does a prior denoise, and were its conventions read rightly?

A wrong kind of prediction or value range raises no error: images merely come out noisy, grey or
saturated. But the one shows in the denoising error, which the same network lowers under the right
convention, and the other in the range of the prior's own samples.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.datasets.images.crops import random_phase
from wellposed.datasets.images.phantoms import dead_leaves
from wellposed.datasets.ultrasound import compand, simulate_echoes
from wellposed.errors import NonFiniteError, require
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.priors.adapters.autoencoder import Latent
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.conv_unet import parameters_in_millions
from wellposed.priors.prior import Prior, broadcast
from wellposed.priors.sampling import sample

LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Levels of sigma / alpha, in the units of the prior as it was loaded."""

MARGIN_DB = 2.0
"""How much better, on average over the levels, another kind of prediction must be to be named."""

RANGES = {
    (0.0, 1.0): "[-1, 1]",
    (-1.0, 1.0): "[0, 1]",
    (-0.5, 1.5): "[-0.5, 0.5]",
    (-1 / 255, 1 / 255): "[0, 255]",
}
"""Usual data ranges of real images, and where they put public [0, 1] in the network."""

HAZE = 0.03
"""Root mean square of the synthetic haze."""

SAMPLES, SIZE, STEPS = 4, 64, 20
"""Number and side of the images of the test, and steps of sampling."""


@dataclass(frozen=True)
class Diagnosis:
    """What a self-test found.

    Attributes:
        gains: of each level of sigma / alpha, by how many dB the prior lowers the noise.
        sample_range: 1st and 99th percentile of values (magnitudes) of the prior's own samples.
        warnings: what looks wrong, one sentence each.
    """

    gains: dict[float, float]
    sample_range: tuple[float, float]
    warnings: tuple[str, ...]


def describe(prior: Prior) -> dict[str, str]:
    """Return what a prior's checkpoint was taken to be, for people to check."""
    schedule = prior.schedule
    highest = float(schedule.ratio(schedule.T))
    low, high = prior.data_range
    facts = {
        "kind": type(prior).__name__,
        "channels": f"{prior.channels} {'complex' if prior.is_complex else 'real'}",
        "public values of -1 and 1": f"{low:g} and {high:g}",
        "schedule": f"{type(schedule).__name__}, T = {schedule.T:g}, sigma / alpha up to "
        f"{highest:.4g}",
        "parameters": f"{parameters_in_millions(prior):.1f} M",
    }
    inner = prior.prior if isinstance(prior, Latent) else prior
    if isinstance(inner, NetworkPrior):
        facts["prediction"] = inner.prediction
        facts["input"] = "x_t" if inner.sigma_data is None else "x_t scaled to unit variance"
        facts["classes"] = "none" if inner.num_classes is None else str(inner.num_classes)
    return facts


@torch.no_grad()
def diagnose(prior: Prior, images: Tensor | None = None, seed: int = 0) -> Diagnosis:
    """Test a prior on images, and the same network under other conventions.

    Args:
        prior: a prior on images, of any kind.
        images: clean images (B, C, H, W) in public values, like those it was trained on;
            synthetic ones by default: dead leaves, with smooth phase for complex priors; simulated
            RF, of tissue and of haze, for priors of companded RF.
        seed: of the noise and the synthetic images.

    Raises:
        ArgumentError: no images for a prior of any number of channels or of a latent prior.
        NonFiniteError: the prior returns NaN or infinite values.
    """
    latent = f"{type(prior).__name__}, whose units are an autoencoder's"
    require(prior.is_affine, "prior", latent, "a prior on images; test its inner prior")
    images = _synthetic(prior, seed) if images is None else images
    prior.check_image(images)
    levels = [level * prior.scale for level in LEVELS]
    gains = dict(zip(LEVELS, _gains(prior, images, levels, seed), strict=True))
    warnings = [
        f"it does not denoise at sigma / alpha = {level:g} ({gain:+.1f} dB)"
        for level, gain in gains.items()
        if gain < 0
    ]
    other_kind = _better_prediction(prior, images, gains, seed)
    samples = sample(prior, SAMPLES, images.shape[-2:], steps=STEPS, seed=seed)
    low, high = _percentiles(samples)
    if other_kind:  # whose samples would say nothing of the range
        warnings.append(other_kind)
    else:
        warnings += _range_warning(prior, low, high)
    return Diagnosis(gains, (low, high), tuple(warnings))


def _better_prediction(
    prior: Prior, images: Tensor, gains: dict[float, float], seed: int
) -> str | None:
    """Name the kind of prediction under which the same network denoises better, if one does."""
    if not isinstance(prior, NetworkPrior):
        return None
    mean = {prior.prediction: sum(gains.values()) / len(gains)}
    for kind in ("noise", "sample", "velocity", "flow", "score", "edm"):
        if kind != prior.prediction and (kind != "edm" or prior.sigma_data is not None):
            other = copy.copy(prior)
            other.prediction = kind
            theirs = _gains(other, images, [level * prior.scale for level in gains], seed)
            mean[kind] = sum(theirs) / len(theirs)
    best = max(mean, key=mean.__getitem__)
    better = mean[best] - mean[prior.prediction]
    if better < MARGIN_DB:
        return None
    return f"with prediction {best!r} it would denoise better by {better:.1f} dB on average"


def _range_warning(prior: Prior, low: float, high: float) -> list[str]:
    """Compare the values of samples with the public [0, 1], or magnitudes up to about 1, or RF."""
    if prior.is_complex:
        fits = 0.1 < high < 3
        hint = ""
    elif is_signal(prior):
        fits, hint = -1.25 < low < -0.05 and 0.05 < high < 1.25, ""
    else:
        fits = _looks_public(low, high)
        units = prior.to_units(torch.tensor([low, high])).tolist()
        others = {
            text: [u * (b - a) / 2 + (a + b) / 2 for u in units] for (a, b), text in RANGES.items()
        }
        found = [text for text, ends in others.items() if _looks_public(*ends)]
        hint = f"; its network may have been trained on {' or '.join(found)}" if found else ""
    if fits:
        return []
    return [f"its samples lie in {low:.2g}..{high:.2g}, {usual_range(prior)}{hint}"]


def usual_range(prior: Prior) -> str:
    """Return where public values of such images usually lie, in words."""
    return "companded RF in -1..1" if is_signal(prior) else "public images in 0..1"


def is_signal(prior: Prior) -> bool:
    """Tell whether a prior is of companded RF."""
    return isinstance(prior, NetworkPrior) and prior.is_signal


def _looks_public(low: float, high: float) -> bool:
    return -0.25 < low < 0.4 and 0.3 < high < 1.25


def _percentiles(images: Tensor) -> tuple[float, float]:
    values = (images.abs() if images.is_complex() else images).flatten()
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], device=values.device))
    return float(low), float(high)


def _gains(prior: Prior, images: Tensor, levels: list[float], seed: int) -> list[float]:
    """Return the gain in dB at each noise level, which is in public values."""
    gains, noise = [], ItemNoise(seed, [(n,) for n in range(len(images))], MEASUREMENT)
    for level in levels:
        error = level * noise.draw(images)
        t = prior.schedule.time_at(level / prior.scale)
        alpha = broadcast(prior.schedule(t)[0], images)
        estimate = prior.to_public(prior.denoise(alpha * prior.to_units(images + error), t))
        if not bool(estimate.isfinite().all()):
            raise NonFiniteError(f"prior: returns NaN or infinite values at t = {float(t):g}")
        left = (estimate - images).abs().square().mean() / error.abs().square().mean()
        gains.append(-10 * math.log10(float(left.clamp(min=1e-20))))
    return gains


def _synthetic(prior: Prior, seed: int) -> Tensor:
    channels = prior.channels or 0
    require(channels > 0, "images", None, "clean images, as the prior takes any channels")
    if is_signal(prior):
        return _echoes(seed)
    images = dead_leaves(SAMPLES, channels, SIZE, seed)
    return random_phase(images, seed) if prior.is_complex else images


def _echoes(seed: int) -> Tensor:
    """Return companded tissue and haze (2, 1, 128, 128) of middle depths."""
    frames = simulate_echoes([seed], "validation")
    both = torch.cat([frames.tissue, HAZE * frames.haze])
    return compand(both[:, :, 448:576].clamp(-1, 1))
