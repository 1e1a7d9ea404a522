"""What the values of images mean, and where their pixels lie."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from wellposed.errors import require

HOUNSFIELD = "HU"
SOFT_TISSUE = (-160.0, 240.0)
"""Hounsfield units shown black and white where nothing else is known: level 40, width 400."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """What the values of images mean, where their pixels lie, and which values are shown.

    Args:
        offset, scale: the file has ``offset + scale * value`` for a value of the result.
        name: unit of the file's values, as "HU" or "1/mm"; empty where it has none.
        spacing: size of a voxel in mm along the axes of the image, (H, W) or (D, H, W); empty if
            unknown.
        window: values of the file shown black and white; by default soft tissue for Hounsfield
            units, else from the image.

    Raises:
        ArgumentError: the scale is 0, or a size or the window is not positive.
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
                -np.inf < low < high < np.inf, "window", self.window, "(low, high), low < high"
            )

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Self:
        """Return units from what JSON keeps of their fields, which knows no tuples."""
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in stored.items()
        }
        return cls(**values)

    def stored(self, image: Tensor) -> Tensor:
        """Return the values that the file has for an image; of complex ones the magnitude."""
        image = image.abs() if image.is_complex() else image
        return self.offset + self.scale * image

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width."""
        return self.spacing[-2] / self.spacing[-1] if len(self.spacing) > 1 else 1.0

    def shown(self, image: np.ndarray) -> tuple[float, float]:
        """Return the values shown black and white, those of an image unless they are known."""
        if self.window is not None:
            return self.window
        if self.name == HOUNSFIELD:
            return SOFT_TISSUE
        low, high = (float(v) for v in np.percentile(image, (0.1, 99.8)))
        low = min(0.0, low)
        return low, max(high, low + 1e-6)
