"""The settings of `wellposed train-unrolled`."""

import math
from dataclasses import dataclass
from typing import ClassVar

from wellposed.checks import require_integer, setting
from wellposed.errors import require, require_choice
from wellposed.priors.training.settings import ImageSettings, RunSettings

MEASURED = ("compressed-sensing", "inpainting", "mri")
"""Operators that unrolled networks are trained for."""


@dataclass(frozen=True, kw_only=True)
class UnrolledSettings(RunSettings, ImageSettings):
    """Everything that determines a trained unrolled network; saved beside its weights.

    Raises:
        ArgumentError: an invalid setting.
    """

    operator: str = setting("compressed-sensing", "compressed-sensing, inpainting or mri.")
    ratios: tuple[float, ...] = setting(
        (0.1,), "Measured fractions of the pixels, or of the lines of k-space, in turn: .1,.3,.5."
    )
    noise_sigma: float = setting(0.0, "Noise level, in the units of the measurement.")
    coils: int = setting(8, "MRI: number of simulated coils.")
    unrolled_steps: int = setting(3, "Steps of the unrolled network.")
    widths: tuple[int, ...] = setting((64, 128), "Channels of each resolution level.")
    block: str = setting("gated", "Kind of the residual blocks, see train.")
    complex_phase: bool = setting(
        False, "Train on complex images: magnitudes with a random smooth phase; for MRI."
    )
    flips: str = setting("all", "Flips used for augmentation: all, sideways or none.")

    criterion: ClassVar[str] = "l1"

    def __post_init__(self) -> None:
        self.check_images()
        self.check_run(self.image_size)
        require_choice("operator", self.operator, MEASURED)
        fractions = len(self.ratios) > 0 and all(0 < r <= 1 for r in self.ratios)
        require(fractions, "ratios", self.ratios, "numbers in (0, 1]")
        quiet = 0 <= self.noise_sigma < math.inf
        require(quiet, "noise_sigma", self.noise_sigma, "a finite number of at least 0")
        require_integer("coils", self.coils, 1, 1024)
        require_integer("unrolled_steps", self.unrolled_steps, 1, 100)
        is_mri = self.operator == "mri"
        accepted = f"{is_mri}, as images of {self.operator} are {'' if is_mri else 'not '}complex"
        require(self.complex_phase == is_mri, "complex_phase", self.complex_phase, accepted)
        low, high = self.data_range
        zero = low in (0, -high)
        require(zero, "data_range", self.data_range, "(0, high) or (-high, high)")
        for level, width in enumerate(self.widths):
            fits = width % 4 ** (level + 1) == 0
            accepted = f"a multiple of {4 ** (level + 1)} for level {level + 1}"
            require(fits, "widths", width, accepted)
