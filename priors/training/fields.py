"""Checks of the training settings."""

import math

from wellposed.errors import require


def require_pair(name: str, pair: tuple[float, float] | None) -> None:
    """Raise unless a setting is two finite numbers, or None."""
    fits = pair is None or (len(pair) == 2 and all(map(math.isfinite, pair)))
    require(fits, name, pair, "two finite numbers")
