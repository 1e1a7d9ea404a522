"""The options of the operators known by name, see `presets`."""

import math
from dataclasses import dataclass

from wellposed.checks import require_integer, setting
from wellposed.errors import require


@dataclass(frozen=True, kw_only=True)
class OperatorOptions:
    """Options of the named operators; the help of each option says which operator uses it.

    Raises:
        ArgumentError: an invalid value.
    """

    noise_sigma: float = setting(0.0, "Noise level, in the units of the measurement.")
    seed: int = setting(0, "Seed of all random draws: masks, coil maps, noise and samples.")
    factor: int = setting(4, "Super-resolution factor.")
    kernel: str = setting("bicubic", "Super-resolution kernel, bicubic or average.")
    blur_sigma: float = setting(3.0, "Standard deviation of the Gaussian blur in pixels.")
    keep: float = setting(0.5, "Inpainting: fraction of pixels kept at random.")
    acceleration: float | None = setting(
        None, "MRI: undersampling factor; default: 4 of images, and measured k-space as it is."
    )
    coils: int = setting(8, "MRI: number of simulated coils.")
    ratio: float = setting(0.1, "Compressed sensing: measurements per pixel.")
    views: int = setting(60, "CT: number of views, equally spaced over the arc.")
    arc: float | None = setting(
        None, "CT: angular range of the views in degrees; default: 180, of a fan beam 360."
    )
    fan: tuple[float, float, float] | None = setting(
        None,
        "CT: a fan beam, by the distances of its source to the rotation centre and to the "
        "detector, and the width of a bin; of a simulated scan in pixels.",
    )

    @property
    def factor_of_lines(self) -> float:
        """The MRI undersampling, 4 if none was asked for."""
        return 4.0 if self.acceleration is None else self.acceleration

    def __post_init__(self) -> None:
        quiet, blurred = 0 <= self.noise_sigma < math.inf, 0 < self.blur_sigma < math.inf
        require(quiet, "noise_sigma", self.noise_sigma, "a finite number of at least 0")
        require(blurred, "blur_sigma", self.blur_sigma, "a positive number")
        require_integer("seed", self.seed, 0)
        require_integer("coils", self.coils, 1, 1024)
        arc = self.arc is None or 0 < self.arc <= 360
        require(arc, "arc", self.arc, "an angle in degrees, in (0, 360]")
        lengths = self.fan is None or all(0 < length < math.inf for length in self.fan)
        require(lengths, "fan", self.fan, "three positive lengths")

    def view_angles(self, views: int) -> list[float]:
        """Return the angles in degrees of so many CT views."""
        arc = self.arc or (180.0 if self.fan is None else 360.0)
        return [arc / views * number for number in range(views)]
