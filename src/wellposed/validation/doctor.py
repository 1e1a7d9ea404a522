"""The checkpoint doctor: does a prior denoise, and were its conventions read correctly?

A wrong kind of prediction or value range raises no error: images are merely noisy, grey or
saturated. A wrong prediction increases the denoising error, which is smaller when the same network
is read with the right one. A wrong value range changes the range of the prior's own samples.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, NonFiniteError, require
from wellposed.priors.adapters.autoencoder import Latent
from wellposed.priors.adapters.channelwise import Channelwise
from wellposed.priors.adapters.guided import innermost
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.conv_unet import parameters_in_millions
from wellposed.priors.prior import Prior
from wellposed.priors.text.prior import Prompted
from wellposed.validation.readings import Reading, other_readings, remembered
from wellposed.validation.self_tests import Denoising, Restoring, is_signal, synthetic

MARGIN_DB = 1.0
"""Average gain over the levels from which another reading is reported."""

ROUNDS = 3
"""How many ways in which a reading is wrong are found at most."""

RANGES = {
    (0.0, 1.0): "[-1, 1]",
    (-1.0, 1.0): "[0, 1]",
    (-0.5, 1.5): "[-0.5, 0.5]",
    (-1 / 255, 1 / 255): "[0, 255]",
}
"""Usual data ranges of real images, with the network values of public [0, 1]."""


@dataclass(frozen=True)
class Diagnosis:
    """Result of a self-test.

    Attributes:
        axis: meaning of the levels: ``sigma / alpha``, or ``t / T`` for a restorer.
        gains: noise reduction in dB at each level; for a restorer, the reduction of the error of
            the degraded image by the estimate from that time.
        sample_range: 1st and 99th percentile of the values (magnitudes) of the prior's samples.
        warnings: one sentence for each suspected fault.
    """

    axis: str
    gains: dict[float, float]
    sample_range: tuple[float, float]
    warnings: tuple[str, ...]


def describe(prior: Prior) -> dict[str, str]:
    """Return how a prior's checkpoint was read, for the user to check."""
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
    inner = innermost(prior.prior if isinstance(prior, Latent) else prior)
    if prior.anchor is not None:
        facts["degraded images"] = f"enlarged {prior.upsample} x"
    if isinstance(inner, NetworkPrior):
        plain = "x_t" if inner.anchor is None else f"{inner.anchor.input}, see priors.Anchor"
        facts["prediction"] = inner.prediction
        facts["input"] = plain if inner.sigma_data is None else f"{plain} scaled to unit variance"
        facts["classes"] = "none" if inner.num_classes is None else str(inner.num_classes)
    return facts | (_told_by_text(prior) if isinstance(prior, Prompted) else {})


def _told_by_text(prior: Prompted) -> dict[str, str]:
    """Return what was found in a text-conditioned pipeline."""
    code, tokens = prior.autoencoder, prior.condition.embeddings.shape[1]
    told = prior.condition.guidance
    guidance = prior.prior.guidance if told is None else f"{float(told[0]):g}, told to the network"
    return {
        **prior.found,
        "condition": f"{tokens} tokens",
        "guidance": str(guidance),
        "latents": f"{code.latent_channels} channels, sides divided by {code.factor}, times "
        f"{code.scaling_factor:g} after {code.shift_factor:g} is subtracted",
        "dtype": str(next(prior.diffusion.parameters()).dtype).removeprefix("torch."),
    }


@torch.no_grad()
def diagnose(prior: Prior, images: Tensor | None = None, seed: int = 0) -> Diagnosis:
    """Test a prior on images, and the same network under other conventions.

    Args:
        prior: any prior on images.
        images: clean images (B, C, H, W) in public values, similar to the training images. The
            default are synthetic images: dead leaves, with a smooth phase for complex priors;
            simulated RF of tissue and haze for priors of companded RF.
        seed: seed of the noise and the synthetic images.

    Raises:
        ArgumentError: a latent prior, or no images for a prior of any number of channels.
        NonFiniteError: the prior returns NaN or infinite values.
    """
    if isinstance(prior, Channelwise):
        inner = prior.prior
        given = None if images is None else inner.to_public(prior.to_units(images))
        return diagnose(inner, given, seed)
    latent = f"{type(prior).__name__}, whose units are an autoencoder's"
    fits = prior.is_affine or prior.anchor is not None
    require(fits, "prior", latent, "a prior on images; or test its inner prior")
    device = next((weight.device for weight in prior.parameters()), torch.device("cpu"))
    images = (synthetic(prior, seed) if images is None else images).to(device)
    prior.check_image(images)
    test = Denoising(images, seed) if prior.anchor is None else Restoring(images, seed)
    known = remembered(prior)
    gains = test.gains(known)
    warnings = [
        f"it does not {test.verb} at {test.axis} = {level:g} ({gain:+.1f} dB)"
        for level, gain in gains.items()
        if gain < test.least
    ]
    misread = _better_reading(known, test)
    low, high = _percentiles(test.draws(prior))
    if misread:  # its samples would not be informative about the range
        warnings.append(misread)
    else:
        warnings += _range_warning(prior, low, high)
    return Diagnosis(test.axis, gains, (low, high), tuple(warnings))


@torch.no_grad()
def latent_gains(prior: Latent, images: Tensor, seed: int = 0) -> dict[float, float]:
    """Return the noise reduction in dB of latents, at each level of ``sigma / alpha``.

    Args:
        prior: a latent prior.
        images: clean images (B, C, H, W) in public values.
        seed: seed of the noise.
    """
    images = images.to(prior.computes_on)
    prior.check_image(images)
    return Denoising(prior.to_units(images), seed).gains(prior.prior)


def _better_reading(prior: Prior, test: Denoising | Restoring) -> str | None:
    """Return a warning if the same network works better with another reading.

    A reading may be wrong in several ways: the best change is made first, then the best other.
    """
    before, found = test.score(prior), list[Reading]()
    score, current = before, prior
    for _ in range(ROUNDS):
        others = [r for r in other_readings(current, test.kinds) if r.axis not in _axes(found)]
        scores = [_score(reading.prior, test) for reading in others]
        best = max(range(len(others)), key=scores.__getitem__, default=None)
        if best is None or scores[best] - score < MARGIN_DB:
            break
        found.append(others[best])
        score, current = scores[best], others[best].prior
    if not found:
        return None
    names = " and ".join(reading.name for reading in found)
    better = f"it would {test.verb} better by {score - before:.1f} dB on average"
    return f"with {names} {better}; see the options of load, --load"


def _score(prior: Prior, test: Denoising | Restoring) -> float:
    try:
        return test.score(prior)
    except (NonFiniteError, ArgumentError):  # as where a prediction says nothing at pure noise
        return -math.inf


def _axes(readings: list[Reading]) -> set[str]:
    return {reading.axis for reading in readings}


def _range_warning(prior: Prior, low: float, high: float) -> list[str]:
    """Return a warning if the range of the samples is unusual for public images."""
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
    return [f"its samples have values in {low:.2g}..{high:.2g}, {usual_range(prior)}{hint}"]


def usual_range(prior: Prior) -> str:
    """Return the usual range of public values of such images, in words."""
    return "companded RF in -1..1" if is_signal(prior) else "public images in 0..1"


def _looks_public(low: float, high: float) -> bool:
    return -0.25 < low < 0.4 and 0.3 < high < 1.25


def _percentiles(images: Tensor) -> tuple[float, float]:
    values = (images.abs() if images.is_complex() else images).flatten()
    low, high = torch.quantile(values, torch.tensor([0.01, 0.99], device=values.device))
    return float(low), float(high)
