"""Checks of whole numbers and of image sizes that the operators share."""

from collections.abc import Sequence
from dataclasses import field
from numbers import Integral
from typing import Any

from wellposed.errors import ShapeError, require


def setting(default: Any, help_: str) -> Any:
    """Return a dataclass field with a default and the help of its option on the command line."""
    return field(default=default, metadata={"help": help_})


def require_size(name: str, size: float, least: int = 1, most: int | None = None) -> int:
    """Return an integer of Python's or NumPy's, no bool, from ``least`` to ``most``.

    Raises:
        ArgumentError: it is none; names ``name``.
    """
    whole = isinstance(size, Integral) and not isinstance(size, bool)
    fits = whole and least <= size and (most is None or size <= most)
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    require(fits, name, size, f"an integer {limits}")
    return int(size)


def image_sides(image_size: Sequence[int]) -> tuple[int, int, int]:
    """Return ``image_size`` as (C, H, W).

    Raises:
        ShapeError: it does not hold three sides.
        ArgumentError: a side is not an integer of at least 1.
    """
    size = tuple(image_size)
    if len(size) != 3:
        raise ShapeError(f"image_size: got {size}, accepted: (C, H, W)")
    channels, height, width = (require_size("image_size", side) for side in size)
    return channels, height, width


def divisible_sides(image_size: Sequence[int], unit: int, what: str) -> tuple[int, int, int]:
    """Return ``image_size`` as (C, H, W) with H and W divisible by ``unit``, named ``what``.

    Raises:
        ShapeError: a side is not divisible; names the largest size that is.
    """
    channels, height, width = image_sides(image_size)
    if height % unit or width % unit:
        raise ShapeError(
            f"image_size: got {height} x {width}, accepted: sides divisible by the {what} "
            f"{unit}; crop to {height - height % unit} x {width - width % unit}"
        )
    return channels, height, width
