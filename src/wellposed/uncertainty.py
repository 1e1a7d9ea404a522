"""Calibrated (conformal) intervals, from a few images whose truth is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wellposed.errors import ShapeError, require
from wellposed.reconstruction import Reconstruction


@dataclass(frozen=True, eq=False)
class Conformal:
    """Intervals ``mean +- factor std`` calibrated on images whose truth is known.

    For a new image exchangeable with the ``n`` calibration images, the expected fraction of pixels
    inside is at least ``level``, for any sampler, prior and noise. The factor is the smallest one
    for which ``(sum of the images' fractions of missed pixels + 1) / (n + 1)`` is at most
    ``1 - level``. With one pixel per image this is the ``ceil((n + 1) level)``-th smallest of
    ``|truth - mean| / std``: split conformal prediction.

    For complex images, mean and std are those of the magnitude.

    References: Lei et al., "Distribution-free predictive inference for regression", 2018,
    doi 10.1080/01621459.2017.1307116; Angelopoulos et al., "Conformal risk control", ICLR 2024,
    arXiv 2208.02814.

    Attributes:
        level: fraction of pixels whose truth lies in the interval.
        factor: a scalar, or (C, ...) if each pixel has its own factor.
    """

    level: float
    factor: Tensor

    @classmethod
    def fit(
        cls,
        reconstructions: Sequence[Reconstruction],
        truths: Sequence[Tensor],
        level: float = 0.9,
        *,
        per_pixel: bool = False,
    ) -> Self:
        """Calibrate on reconstructions whose truth is known.

        Args:
            reconstructions: results of one solver with fixed settings, of one image size; all
                items are the ``n`` calibration images, at least ``level / (1 - level)``.
            truths: (B, C, ...) each.
            level: fraction of pixels, in (0, 1).
            per_pixel: calibrate a factor for every pixel, which then holds at each pixel but is
                noisier.

        Raises:
            ArgumentError, ShapeError: too few images, a single sample, or unequal shapes.
        """
        require(0 < level < 1, "level", level, "a number in (0, 1)")
        pairs = len(reconstructions) == len(truths) > 0
        got = f"{len(truths)} for {len(reconstructions)} reconstructions"
        require(pairs, "truths", got, "one truth per reconstruction, at least one")
        sizes = {tuple(r.mean.shape[1:]) for r in reconstructions}
        require(len(sizes) == 1, "reconstructions", f"image sizes {sizes}", "one image size")
        scores = torch.cat([scores_of(r, t) for r, t in zip(reconstructions, truths, strict=True)])
        count = len(scores)
        # Rounding must not raise (n + 1) level, e.g. 10 * .9, above the integer it equals.
        enough = (count + 1) * level <= count + 1e-9
        require(
            enough,
            "truths",
            f"{count} images",
            f"at least {math.ceil(level / (1 - level) - 1e-9)} images",
        )
        if per_pixel:
            return cls(level, smallest_factor(scores, count, level))
        return cls(level, smallest_factor(scores.flatten(), count, level))

    def interval(self, reconstruction: Reconstruction) -> tuple[Tensor, Tensor]:
        """Return the ends of the calibrated interval of each pixel, (B, C, ...) each, real.

        Raises:
            ShapeError: the factors are per pixel, of images of another size.
        """
        mean, std = _moments(reconstruction)
        if self.factor.ndim and self.factor.shape != mean.shape[1:]:
            raise ShapeError(
                f"reconstruction: got images {tuple(mean.shape[1:])}, accepted: "
                f"{tuple(self.factor.shape)} as in the calibration"
            )
        reach = self.factor.to(std) * std
        lower = mean - reach
        # A magnitude is known not to be negative.
        is_complex = reconstruction.samples.is_complex()
        return lower.clamp(min=0) if is_complex else lower, mean + reach


def _moments(reconstruction: Reconstruction) -> tuple[Tensor, Tensor]:
    samples = reconstruction.samples
    require(len(samples) >= 2, "reconstruction", "a single sample", "2 samples or more")
    values = samples.abs() if samples.is_complex() else samples
    std, mean = torch.std_mean(values, 0)
    # A spread below rounding counts as zero: scores relative to it would be meaningless.
    info = torch.finfo(std.dtype)
    return mean, torch.maximum(std, 4 * info.eps * mean.abs() + info.tiny)


def scores_of(reconstruction: Reconstruction, truth: Tensor) -> Tensor:
    """Return ``|truth - mean| / std`` of each pixel, (B, C, ...), in double precision.

    Raises:
        ArgumentError, ShapeError: a single sample, or unequal shapes.
    """
    mean, std = _moments(reconstruction)
    if truth.shape != mean.shape:
        raise ShapeError(f"truths: got shape {tuple(truth.shape)}, accepted: {tuple(mean.shape)}")
    value = truth.abs() if truth.is_complex() else truth
    return (value - mean).abs().double() / std.double()


def smallest_factor(scores: Tensor, images: int, level: float) -> Tensor:
    """Return the smallest factor that holds enough of ``scores``, see `Conformal`.

    Args:
        scores: ``|truth - mean| / std`` of all pixels of all images along the first axis.
        images: number of images.
        level: fraction of pixels.
    """
    per_image = len(scores) // images
    needed = math.ceil(per_image * (images + 1) * level - 1e-9)
    return scores.sort(0).values[max(needed, 1) - 1]
