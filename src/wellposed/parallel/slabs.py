"""A volume of independent slices as a sequence of slabs, of which one is in memory at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import require

if TYPE_CHECKING:
    from deepinv.physics import Physics

Read = Callable[[int, int], "tuple[Tensor, Physics]"]
"""Returns the measurement (d, K, ...) of some slices, and the operator of their images."""


@dataclass(frozen=True)
class Slabs:
    """The slices of a volume, measured one by one, in slabs.

    Args:
        depth: slices of the volume.
        thickness: slices of a slab; the last slab may be thinner.
        read: function of ``first`` and ``end`` that reads the measurement (d, K, ...) of these
            slices, ``end`` not included, and returns it with the operator of their images
            (C, H, W): one for all slices, or with a mask or maps for each of the d.

    Raises:
        ArgumentError: a number below 1, or ``read`` is no function.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> from wellposed.parallel.slabs import Slabs
        >>> operator, y = operators.Denoising((1, 8, 8), 0.1), torch.rand(5, 1, 8, 8)
        >>> slabs = Slabs(5, 2, lambda first, end: (y[first:end], operator))
        >>> list(slabs.ranges())
        [(0, 2), (2, 4), (4, 5)]
    """

    depth: int
    thickness: int
    read: Read

    def __post_init__(self) -> None:
        require_integer("depth", self.depth)
        require_integer("thickness", self.thickness)
        require(callable(self.read), "read", self.read, "a function of first and end")

    def ranges(self, done: int = 0) -> Iterator[tuple[int, int]]:
        """Yield ``first`` and ``end`` of each slab after the first ``done`` slices."""
        for first in range(done, self.depth, self.thickness):
            yield first, min(first + self.thickness, self.depth)
