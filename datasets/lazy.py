"""Arrays of HDF5 and NPY files, of which rows are read when they are needed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wellposed.datasets.checks import reading
from wellposed.integrity import check_free

Box = tuple[slice, ...]
"""The rows that are taken along each axis."""


@dataclass(frozen=True, eq=False)
class LazyArray:
    """An array of a file, of which no value is read before it is needed.

    Attributes:
        path: the file.
        shape: its shape.
        dtype: the kind of its values.
        read: returns the values of a box.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Box], np.ndarray]

    @property
    def values(self) -> np.ndarray:
        """All values, read now; raises `FileError` if they are damaged or exceed the memory."""
        return self._of(tuple(slice(0, n) for n in self.shape))

    def rows(self, axis: int, first: int, end: int) -> np.ndarray:
        """Return the rows ``first`` to ``end`` along an axis; nothing else is read."""
        box = [slice(0, n) for n in self.shape]
        box[axis] = slice(first, end)
        return self._of(tuple(box))

    def _of(self, box: Box) -> np.ndarray:
        size = math.prod(part.stop - part.start for part in box) * self.dtype.itemsize
        check_free(self.path, "the array", size)
        with reading(self.path, self.path.suffix):
            return self.read(box)
