"""Checks of the training settings."""

import math

from wellposed.errors import require


def require_integer(name: str, value: object, least: int) -> None:
    """Raise unless a setting is an integer of at least ``least``."""
    fits = isinstance(value, int) and value >= least
    require(fits, name, value, f"an integer of at least {least}")


def require_pair(name: str, pair: tuple[float, float] | None) -> None:
    """Raise unless a setting is two finite numbers, or None."""
    fits = pair is None or (len(pair) == 2 and all(map(math.isfinite, pair)))
    require(fits, name, pair, "two finite numbers")
