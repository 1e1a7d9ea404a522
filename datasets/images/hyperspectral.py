"""Hyperspectral cubes in MATLAB files."""

from dataclasses import dataclass
from math import inf, isqrt
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.checks import finite, located
from wellposed.datasets.ct.mat import read_mat
from wellposed.errors import FileError, ShapeError


@dataclass(frozen=True, eq=False)
class HyperspectralCube:
    """A cube in [0, 1]; the stored values are ``image * scale + offset``.

    Attributes:
        image: float32 (1, bands, H, W).
        scale: one scale for all bands, so that spectra keep their shape.
        offset: 0, or the smallest value if it is negative.

    Example:
        >>> import numpy as np, scipy.io
        >>> from wellposed import datasets
        >>> scipy.io.savemat("cube.mat", {"cube": 4000.0 * np.random.rand(16, 20, 30)})
        >>> cube = datasets.load_hyperspectral("cube.mat")
        >>> cube.image.shape, float(cube.image.max())
        (torch.Size([1, 30, 16, 20]), 1.0)
    """

    image: Tensor
    scale: float
    offset: float


@checked
def load_hyperspectral(
    path: str | Path, key: str | None = None, size: tuple[int, int] | None = None
) -> HyperspectralCube:
    """Load a cube (H, W, bands), or a matrix (bands, pixels) with pixels column by column.

    The matrix is the layout of Jasper Ridge, Samson and Urban as distributed for unmixing (Zhu,
    "Hyperspectral Unmixing: Ground Truth Labeling, Datasets, Benchmark Performances and Survey",
    2017, arXiv:1708.05125).

    Args:
        path: a MAT file of any version.
        key: the variable; by default the largest with two or three axes.
        size: (H, W). By default that of the cube; for a matrix the file's ``nRow`` and ``nCol``,
            or a square.

    Raises:
        FileError: the file is missing or unreadable, or has no such variable, NaN or infinite
            values, or values that cannot be scaled to [0, 1], such as zeros; names the file.
        ShapeError: the size does not fit.

    Example:
        >>> import numpy as np, scipy.io
        >>> from wellposed import datasets
        >>> scipy.io.savemat("cube.mat", {"cube": 4000.0 * np.random.rand(16, 20, 30)})
        >>> datasets.load_hyperspectral("cube.mat", key="cube").image.shape
        torch.Size([1, 30, 16, 20])
    """
    path = located("path", path)
    content = read_mat(path)
    values = _choose(path, content, key)
    if values.ndim == 2:
        height, width = size or _stored_size(content, values.shape[1])
        if height * width != values.shape[1]:
            raise ShapeError(
                f"size: got {height} x {width}, but {path.name} has {values.shape[1]} pixels; use "
                "another (H, W)"
            )
        values = values.reshape(-1, width, height).transpose(2, 1, 0)
    if size is not None and values.shape[:2] != tuple(size):
        raise ShapeError(f"size: got {size}, but {path.name} has {values.shape[:2]}")
    offset = min(float(values.min()), 0.0)
    scale = float(values.max()) - offset
    if not 0 < scale < inf:
        raise FileError(
            f"path: {path.name} has values from {values.min():g} to {values.max():g}, accepted: "
            "values that can be scaled to [0, 1]"
        )
    # In double precision, which represents all values that a file may store.
    image = (values.transpose(2, 0, 1).astype(np.float64) - offset) / scale
    tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
    return HyperspectralCube(tensor, scale, offset)


def _choose(path: Path, content: dict[str, object], key: str | None) -> np.ndarray:
    """Return the requested variable, by default the largest."""
    found = {
        name: value
        for name, value in content.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.ndim in (2, 3)
    }
    if key is None and found:
        key = max(found, key=lambda name: found[name].size)
    if key not in found:
        holds = ", ".join(found) or "none"
        raise FileError(
            f"key: {path.name} has no {key!r}, its matrices and cubes of numbers are: {holds}"
        )
    return finite(path, key, found[key])


def _stored_size(content: dict[str, object], pixels: int) -> tuple[int, int]:
    rows, columns = content.get("nRow"), content.get("nCol")
    if isinstance(rows, Real) and isinstance(columns, Real):
        return int(float(rows)), int(float(columns))
    return isqrt(pixels), isqrt(pixels)
