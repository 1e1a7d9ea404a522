"""Units of image values, and sizes of pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from wellposed.errors import require

HOUNSFIELD = "HU"
SOFT_TISSUE = (-160.0, 240.0)
"""Default window of Hounsfield units: level 40, width 400."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """Units of image values, sizes of pixels, and the displayed window.

    Args:
        offset, scale: a value of the result is ``offset + scale * value`` in the file.
        name: unit of the values in the file, e.g. "HU" or "1/mm"; empty if there is none.
        spacing: size of a voxel in mm along the axes of the image, (H, W) or (D, H, W); empty if
            unknown.
        window: values of the file displayed as black and white; by default soft tissue for
            Hounsfield units, otherwise from the image.

    Raises:
        ArgumentError: the scale is 0, or a size or the window is not positive.

    Example:
        >>> from wellposed.units import Units
        >>> units = Units(offset=-1000.0, scale=1000 / 0.0193, name="HU", spacing=(0.7, 0.7))
        >>> round(units.offset + units.scale * 0.0193)  # water
        0
    """

    offset: float = 0.0
    scale: float = 1.0
    name: str = ""
    spacing: tuple[float, ...] = ()
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        numbers = np.isfinite(self.offset) and np.isfinite(self.scale) and self.scale != 0
        require(
            bool(numbers), "scale", (self.offset, self.scale), "finite numbers, the scale not 0"
        )
        lengths = all(0 < side < np.inf for side in self.spacing)
        require(lengths, "spacing", self.spacing, "positive sizes in mm")
        if self.window is not None:
            low, high = self.window
            require(
                -np.inf < low < high < np.inf, "window", self.window, "(low, high) with low < high"
            )

    @classmethod
    def of(cls, stored: Mapping[str, object]) -> Self:
        """Return units from their fields in JSON, which has no tuples."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in stored.items()
        }
        return cls(**values)

    def stored(self, image: Tensor) -> Tensor:
        """Return the values of an image in the file; magnitudes if complex."""
        image = image.abs() if image.is_complex() else image
        return self.offset + self.scale * image

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.spacing[-2] / self.spacing[-1] if len(self.spacing) > 1 else 1.0

    def shown(self, image: np.ndarray) -> tuple[float, float]:
        """Return the values displayed as black and white, from the image if unknown."""
        if self.window is not None:
            return self.window
        if self.name == HOUNSFIELD:
            return SOFT_TISSUE
        low, high = (float(v) for v in np.percentile(image, (0.1, 99.8)))
        low = min(0.0, low)
        return low, max(high, low + 1e-6)
