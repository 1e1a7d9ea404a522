"""What a family of checkpoints is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wellposed.priors.prior import Prior

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Family:
    """One published layout of checkpoints.

    Attributes:
        name: as a user knows it.
        matches: tells from the keys whether a state dict is of this family.
        build: makes the prior; gets the state dict, the beginning of error messages (it names
            the file), and the caller's options.
    """

    name: str
    matches: Callable[[State], bool]
    build: Callable[[State, str, dict[str, Any]], Prior]
