"""What the settings of the training are declared and checked with."""

import math
from dataclasses import field
from typing import Any

from wellposed.errors import require


def setting(default: Any, help_: str) -> Any:
    """Return a field with a default and the help of its option."""
    return field(default=default, metadata={"help": help_})


def require_integer(name: str, value: object, least: int) -> None:
    """Raise unless a setting is an integer of at least ``least``."""
    fits = isinstance(value, int) and value >= least
    require(fits, name, value, f"an integer of at least {least}")


def require_pair(name: str, pair: tuple[float, float] | None) -> None:
    """Raise unless a setting is two finite numbers, or None."""
    fits = pair is None or (len(pair) == 2 and all(map(math.isfinite, pair)))
    require(fits, name, pair, "two finite numbers")
