"""Calibrated (conformal) intervals, from a few images whose truth is known."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Self

import torch
from torch import Tensor

from wellposed.checks import require_path
from wellposed.conditions import Conditions, require_same, solver_conditions
from wellposed.errors import FileError, ShapeError, require
from wellposed.integrity import read_json
from wellposed.reconstruction import Reconstruction
from wellposed.results import Calibrated
from wellposed.writing import write_text


@dataclass(frozen=True, eq=False)
class Conformal:
    """Intervals ``mean +- factor std`` calibrated on images whose truth is known.

    For a new image exchangeable with the ``n`` calibration images, the expected fraction of pixels
    inside is at least ``level``, for any sampler, prior and noise. The factor is the smallest one
    for which ``(sum of the images' fractions of missed pixels + 1) / (n + 1)`` is at most
    ``1 - level``. With one pixel per image this is the ``ceil((n + 1) level)``-th smallest of
    ``|truth - mean| / std``: split conformal prediction.

    For complex images, mean and std are those of the magnitude.

    The factor holds for one solver with its settings, number of samples and image size, and for
    one prior and kind of measurement: others are refused. A file (`save`, `load`) keeps these
    conditions.

    References: Lei et al., "Distribution-free predictive inference for regression", 2018,
    doi 10.1080/01621459.2017.1307116; Angelopoulos et al., "Conformal risk control", ICLR 2024,
    arXiv 2208.02814.

    Attributes:
        level: fraction of pixels whose truth lies in the interval.
        factor: a scalar, or (C, ...) if each pixel has its own factor.
        conditions: what the reconstructions were made with.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.uncertainty import Conformal
        >>> operator, prior = operators.Denoising((1, 8, 8), 0.1), priors.GaussianPrior(0.5, 0.1)
        >>> truth = torch.rand(10, 1, 8, 8)
        >>> y = operator.measure(truth)
        >>> result = solvers.DDS(steps=10)(y, operator, prior, num_samples=4, seed=0)
        >>> lower, upper = Conformal.fit([result], [truth], level=0.9).interval(result)
        >>> bool(((lower < truth) & (truth < upper)).float().mean() > 0.85)
        True
    """

    level: float
    factor: Tensor
    conditions: Conditions = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        reconstructions: Sequence[Reconstruction],
        truths: Sequence[Tensor],
        level: float = 0.9,
        *,
        per_pixel: bool = False,
        conditions: Conditions | None = None,
    ) -> Self:
        """Calibrate on reconstructions whose truth is known.

        Args:
            reconstructions: results of one solver with fixed settings, of one image size; all
                items are the ``n`` calibration images, at least ``level / (1 - level)``.
            truths: (B, C, ...) each.
            level: fraction of pixels, in (0, 1).
            per_pixel: calibrate a factor for every pixel, which then holds at each pixel but is
                noisier.
            conditions: those that reconstructions do not tell, of
                `validation.conditions.problem_conditions`; ``reconstruct --calibration`` needs
                them.

        Raises:
            ArgumentError, ShapeError: too few images, a single sample, unequal shapes, or
                different solvers or settings.
        """
        require(0 < level < 1, "level", level, "a number in (0, 1)")
        pairs = len(reconstructions) == len(truths) > 0
        got = f"{len(truths)} for {len(reconstructions)} reconstructions"
        require(pairs, "truths", got, "one truth per reconstruction, at least one")
        sizes = {tuple(r.mean.shape[1:]) for r in reconstructions}
        require(len(sizes) == 1, "reconstructions", f"image sizes {sizes}", "one image size")
        made = {**conditions_of(reconstructions[0]), **(conditions or {})}
        for reconstruction in reconstructions:
            require_same("reconstructions", made, conditions_of(reconstruction))
        scores = torch.cat([scores_of(r, t) for r, t in zip(reconstructions, truths, strict=True)])
        count = len(scores)
        require_images("truths", count, level)
        scores = scores if per_pixel else scores.flatten()
        return cls(level, smallest_factor(scores, count, level), {**made, "images": count})

    def interval(
        self, reconstruction: Reconstruction, conditions: Conditions | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the ends of the calibrated interval of each pixel, (B, C, ...) each, real.

        Raises:
            ArgumentError, ShapeError: see `maps`.
        """
        found = self.maps(reconstruction, conditions)
        return found.lower, found.upper

    def maps(
        self, reconstruction: Reconstruction, conditions: Conditions | None = None
    ) -> Calibrated:
        """Return the calibrated standard deviation and interval of each pixel.

        The interval is that of a Gaussian of the standard deviation.

        Args:
            reconstruction: two samples or more, made as those of the calibration.
            conditions: those that it does not tell, see `fit`; what is left out is not compared.

        Raises:
            ArgumentError, ShapeError: a single sample, or a condition that does not fit.
        """
        self.require_fit({**conditions_of(reconstruction), **(conditions or {})})
        mean, std = _moments(reconstruction)
        reach = self.factor.to(std) * std
        # A magnitude is known not to be negative.
        low = 0.0 if reconstruction.samples.is_complex() else -math.inf
        ends = (mean - reach).clamp(min=low), mean + reach
        return Calibrated(self.level, reach / gaussian_factor(self.level), *ends)

    def require_fit(self, conditions: Conditions, argument: str = "reconstruction") -> None:
        """Raise if one of the conditions differs from that of the calibration.

        Args:
            conditions: those that are known.
            argument: its name in errors.

        Raises:
            ArgumentError, ShapeError: names the condition and both values.
        """
        require_same(argument, self.conditions, conditions)

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, atomically, and return its path.

        Raises:
            ArgumentError: a factor for each pixel, which such a file does not hold.
            FileError: the file cannot be written.
        """
        require(not self.factor.ndim, "factor", "one of each pixel", "one factor, to be saved")
        content = {"level": self.level, "factor": float(self.factor), **self.conditions}
        write_text(path, json.dumps(content, indent=1) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the file that `save` wrote; raises `FileError` for any other file."""
        path = require_path("path", path)
        try:
            conditions = dict(read_json(path))
            level, factor = (float(conditions.pop(name)) for name in ("level", "factor"))
        except (OSError, KeyError, ValueError, TypeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise FileError(f"path: {str(path)!r} is not a calibration file: {what}") from error
        if not (0 < level < 1 and 0 <= factor < math.inf):
            raise FileError(f"path: {str(path)!r} has the level {level} and the factor {factor}")
        return cls(level, torch.tensor(factor, dtype=torch.float64), conditions)


def gaussian_factor(level: float) -> float:
    """Return the standard deviations of a Gaussian's central interval, 1.645 for 90 %."""
    return NormalDist().inv_cdf((1 + level) / 2)


def require_images(argument: str, count: int, level: float) -> None:
    """Raise if images are too few to calibrate intervals of a level."""
    require(0 < level < 1, "level", level, "a number in (0, 1)")
    # Rounding must not raise (n + 1) level, e.g. 10 * .9, above the integer it equals.
    least = math.ceil(level / (1 - level) - 1e-9)
    require(count >= least, argument, f"{count} images", f"at least {least} images")


def conditions_of(reconstruction: Reconstruction) -> dict[str, object]:
    """Return what a reconstruction tells of how it was made: solver, settings, samples, size."""
    result = reconstruction
    size = result.mean.shape[1:]
    return solver_conditions(result.solver, result.settings, len(result.samples), size)


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
