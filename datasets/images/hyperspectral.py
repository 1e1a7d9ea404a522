"""Hyperspectral cubes in MATLAB files."""

from dataclasses import dataclass
from math import inf, isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked, require_path
from wellposed.datasets.checks import finite
from wellposed.datasets.ct.mat import read_mat
from wellposed.errors import FileError, ShapeError


@dataclass(frozen=True, eq=False)
class HyperspectralCube:
    """A cube in [0, 1]; what was stored is ``image * scale + offset``.

    Attributes:
        image: float32 (1, bands, H, W).
        scale: one for all bands, so that spectra keep their shape.
        offset: 0, or the least value where that is negative.
    """

    image: Tensor
    scale: float
    offset: float


@checked
def load_hyperspectral(
    path: str | Path, key: str | None = None, size: tuple[int, int] | None = None
) -> HyperspectralCube:
    """Load a cube (H, W, bands), or a matrix (bands, pixels) with pixels column by column.

    The latter is the layout of Jasper Ridge, Samson and Urban as distributed for unmixing (Zhu,
    "Hyperspectral Unmixing: Ground Truth Labeling, Datasets, Benchmark Performances and Survey",
    2017, arXiv:1708.05125).

    Args:
        path: a MAT file of any version.
        key: the variable; the largest of two or three axes by default.
        size: (H, W). By default the cube's, or for a matrix the file's ``nRow`` and ``nCol``,
            else a square.

    Raises:
        FileError: missing or unreadable, no such variable, NaN or infinite values, or none
            that can be scaled to [0, 1], such as zeros; names the file.
        ShapeError: the size does not fit.
    """
    path = require_path("path", path)
    content = read_mat(path)
    values = _choose(path, content, key)
    if values.ndim == 2:
        height, width = size or _stored_size(content, values.shape[1])
        if height * width != values.shape[1]:
            raise ShapeError(
                f"size: {path.name} has {values.shape[1]} pixels, {height} x {width} do not fit; "
                "give (H, W)"
            )
        values = values.reshape(-1, width, height).transpose(2, 1, 0)
    if size is not None and values.shape[:2] != tuple(size):
        raise ShapeError(f"size: got {size}, {path.name} has {values.shape[:2]}")
    offset = min(float(values.min()), 0.0)
    scale = float(values.max()) - offset
    if not 0 < scale < inf:
        raise FileError(
            f"path: {path.name} holds values from {values.min():g} to {values.max():g}, accepted: "
            "not all zero or the same negative one, and of a range that can be divided by"
        )
    # In double precision, which holds what a file may store.
    image = (values.transpose(2, 0, 1).astype(np.float64) - offset) / scale
    tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
    return HyperspectralCube(tensor, scale, offset)


def _choose(path: Path, content: dict[str, Any], key: str | None) -> np.ndarray:
    """Return the wanted variable, by default the largest."""
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
            f"key: {path.name} has no {key!r} among its matrices and cubes of numbers: {holds}"
        )
    return finite(path, key, found[key])


def _stored_size(content: dict[str, Any], pixels: int) -> tuple[int, int]:
    rows, columns = content.get("nRow"), content.get("nCol")
    if rows is None or columns is None:
        return isqrt(pixels), isqrt(pixels)
    return int(rows), int(columns)
