"""A measured problem in the scanner's own units."""

from dataclasses import dataclass, field

from torch import Tensor

from wellposed import operators
from wellposed.cli.settings import InputOptions
from wellposed.operators.base import LinearOperator
from wellposed.units import Units


@dataclass(frozen=True, eq=False)
class ScanTask:
    """A measured problem; the prior is yet to be fitted to its units.

    Attributes:
        y: measurement (1, ...).
        operator: what measured it.
        truth: the file's own image, or that of all data, (1, 1, ...), or None.
        units: what the image's values are.
        crop: (h, w) of the image that is written, or None for all of it.
    """

    y: Tensor
    operator: LinearOperator
    truth: Tensor | None = None
    units: Units = field(default_factory=Units)
    crop: tuple[int, int] | None = None


def assembled(
    y: Tensor, operator: LinearOperator, truth: Tensor | None, units: Units, o: InputOptions
) -> ScanTask:
    """Return slices (D, K, ...) as the volume that they are, or the only one as an image."""
    if not o.volume:
        return ScanTask(y, operator, truth, units)
    whole = None if truth is None else truth.transpose(0, 1)[None]
    stacked = operators.Stacked(operator, len(y))
    return ScanTask(y.transpose(0, 1)[None].contiguous(), stacked, whole, units)
