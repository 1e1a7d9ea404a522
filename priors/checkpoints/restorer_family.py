"""What a family of restoration checkpoints is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wellposed.errors import require
from wellposed.priors.checkpoints.family import Family, State
from wellposed.priors.restorer import Restorer
from wellposed.priors.schedule import Schedule


@dataclass(frozen=True)
class RestorerFamily(Family):
    """One published layout of restoration checkpoints; see `Family`."""

    build: Callable[[State, str, dict[str, Any]], Restorer]


def image_pair(channels: tuple[int, int]) -> int:
    """Return the channels of the images of a network that takes two and returns one.

    Raises:
        ValueError: it takes something else.
    """
    taken, returned = channels
    if taken != 2 * returned:
        raise ValueError(
            f"{taken} channels in and {returned} out; a network that takes x_t and one degraded "
            "image has twice as many in as out"
        )
    return returned


def schedule_option(options: Mapping[str, Any], default: Callable[[], Schedule]) -> Schedule:
    """Return the option ``schedule``, else the default; `ArgumentError` where it is none."""
    schedule = options["schedule"] if "schedule" in options else default()
    require(isinstance(schedule, Schedule), "schedule", schedule, "a Schedule")
    return schedule
