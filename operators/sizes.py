"""Checks of sizes that the image operators share."""

from collections.abc import Sequence
from numbers import Integral

from wellposed.errors import ShapeError, require


def require_size(name: str, size: int) -> None:
    """Raise `ArgumentError` naming ``name`` unless ``size`` is an integer of at least 1."""
    require(isinstance(size, Integral) and size >= 1, name, size, "an integer of at least 1")


def image_sides(image_size: Sequence[int]) -> tuple[int, int, int]:
    """Return ``image_size`` as (C, H, W).

    Raises:
        ShapeError: it does not hold three sides.
        ArgumentError: a side is not an integer of at least 1.
    """
    size = tuple(image_size)
    if len(size) != 3:
        raise ShapeError(f"image_size: got {size}, accepted: (C, H, W)")
    for side in size:
        require_size("image_size", side)
    return size


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
