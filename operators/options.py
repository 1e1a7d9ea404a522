"""The options of the operators that go by a name, see `presets`."""

import math
from dataclasses import dataclass

from wellposed.checks import require_integer, setting
from wellposed.errors import require


@dataclass(frozen=True, kw_only=True)
class OperatorOptions:
    """Options of the named operators; each reads its own, and the help of each says which.

    Raises:
        ArgumentError: an option that no operator accepts.
    """

    noise_sigma: float = setting(0.0, "Noise level of the measurement, in its own units.")
    seed: int = setting(0, "Decides every random draw: masks, coil maps, noise and samples.")
    factor: int = setting(4, "Super-resolution factor.")
    kernel: str = setting("bicubic", "Super-resolution kernel, bicubic or average.")
    blur_sigma: float = setting(3.0, "Width of the Gaussian blur, pixels.")
    keep: float = setting(0.5, "Inpainting: fraction of pixels kept at random.")
    acceleration: float | None = setting(
        None, "MRI undersampling; default: 4 of images, and measured k-space as it is."
    )
    coils: int = setting(8, "Simulated MRI coils.")
    views: int = setting(60, "CT views, equally spaced over the arc.")
    arc: float = setting(180.0, "Degrees of the CT views; below 180 a limited angle.")

    @property
    def factor_of_lines(self) -> float:
        """The MRI undersampling, 4 if none was asked for."""
        return 4.0 if self.acceleration is None else self.acceleration

    def __post_init__(self) -> None:
        quiet, blurred = 0 <= self.noise_sigma < math.inf, 0 < self.blur_sigma < math.inf
        require(quiet, "noise_sigma", self.noise_sigma, "a finite number of at least 0")
        require(blurred, "blur_sigma", self.blur_sigma, "a positive number")
        require_integer("seed", self.seed, 0)
        require(0 < self.arc <= 360, "arc", self.arc, "degrees, above 0 and up to 360")
