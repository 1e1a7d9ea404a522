"""Synchrotron tomography in the data exchange format of tomopy."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.checks import (
    chosen_rows,
    finite,
    located,
    reading,
    stored_array,
)
from wellposed.errors import FileError, require, warn

DEGREES, RADIANS = ("deg", "degree", "degrees"), ("rad", "radian", "radians")


@dataclass(frozen=True, eq=False)
class ParallelScan:
    """A parallel-beam scan corrected for the beam and the dark current, one item per row.

    Attributes:
        transmission: (data - dark) / (white - dark), float32 (rows, 1, views, bins).
        sinogram: its negative logarithm, the line integrals, of the same shape.
        angles: view angles in degrees, float64 (views,).

    Example:
        >>> from wellposed import datasets, operators
        >>> scan = datasets.load_tomopy("tooth.h5", row=0)  # download # doctest: +SKIP
        >>> bins = scan.sinogram.shape[-1]  # doctest: +SKIP
        >>> operator = operators.ParallelBeamCT(bins, scan.angles, bins)  # doctest: +SKIP
    """

    transmission: Tensor
    sinogram: Tensor
    angles: Tensor


@checked
def load_tomopy(
    path: str | Path, row: int | tuple[int, int] | None = None, floor: float = 0.0
) -> ParallelScan:
    """Load an HDF5 file of ``exchange/{data, data_white, data_dark, theta}``.

    De Carlo et al., "Scientific data exchange: a schema for HDF5-based storage of raw and
    analyzed data", Journal of Synchrotron Radiation 21, 2014,
    https://doi.org/10.1107/S160057751401604X. White and dark frames are averaged; ``theta`` is in
    degrees unless its attribute ``units`` is radians.

    Args:
        path: an HDF5 file; ``data`` is (views, rows, bins), white and dark (frames, rows, bins).
        row: a single detector row to read, from 0, or the rows (first, end) without the last; by
            default all.
        floor: smaller transmissions are set to this value, e.g. 1e-4; by default none, and a
            transmission that is not positive is an error.

    Raises:
        FileError: the file is missing or unreadable or has another layout, NaN or infinite
            values, inconsistent sizes, a row of white frames not above the dark ones,
            transmissions that are not positive, or a unit of ``theta`` other than degrees and
            radians; names the file and counts the pixels.
        ArgumentError: no such rows, or the floor is not in [0, 1).

    Warns:
        UserWarning: dead pixels, whose white is not above the dark, were interpolated.

    Example:
        >>> import h5py, numpy as np
        >>> from wellposed import datasets
        >>> with h5py.File("scan.h5", "w") as file:
        ...     file["exchange/data"] = np.full((90, 3, 64), 370.0)
        ...     file["exchange/data_white"] = np.full((2, 3, 64), 1000.0)
        ...     file["exchange/data_dark"] = np.full((2, 3, 64), 0.0)
        ...     file["exchange/theta"] = np.arange(90) * 2.0
        >>> datasets.load_tomopy("scan.h5", row=1).sinogram.shape
        torch.Size([1, 1, 90, 64])
    """
    require(0 <= floor < 1, "floor", floor, "a number in [0, 1)")
    path = located("path", path)
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        data, white, dark = (
            stored_array(path, file, f"exchange/{key}", (3,))
            for key in ("data", "data_white", "data_dark")
        )
        theta = stored_array(path, file, "exchange/theta", (1,))
        _check_sizes(path, data, white, dark, theta)
        rows = chosen_rows("row", row, data.shape[1])
        counts, beam, current = (
            finite(path, d.name, d[:, rows].astype(np.float32)) for d in (data, white, dark)
        )
        angles = _degrees(path, finite(path, "theta", theta[()].astype(float)), theta.attrs)
    transmission = _transmission(path, counts, beam.mean(0), current.mean(0), floor)
    transmission = np.ascontiguousarray(transmission.swapaxes(0, 1)[:, None])
    tensor = torch.from_numpy(transmission)
    return ParallelScan(tensor, -tensor.log(), torch.from_numpy(angles))


def count_rows(path: Path) -> int:
    """Return the number of detector rows in a file of this kind."""
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        return int(stored_array(path, file, "exchange/data", (3,)).shape[1])


def _check_sizes(
    path: Path, data: h5py.Dataset, white: h5py.Dataset, dark: h5py.Dataset, theta: h5py.Dataset
) -> None:
    if len(theta) != len(data):
        raise FileError(
            f"path: {path.name} has {len(data)} views in 'data' but {len(theta)} in 'theta'"
        )
    for other in (white, dark):
        if other.shape[1:] != data.shape[1:] or len(other) == 0:
            raise FileError(
                f"path: {other.name!r} in {path.name} has shape {other.shape}, accepted: (frames, "
                f"{data.shape[1]}, {data.shape[2]}) as for 'data'"
            )


def _degrees(path: Path, theta: np.ndarray, attributes: h5py.AttributeManager) -> np.ndarray:
    stored = np.ravel(attributes.get("units", DEGREES[0])).tolist()
    texts = [unit.decode() if isinstance(unit, bytes) else str(unit) for unit in stored]
    unit = " ".join(texts).strip().lower()
    if unit not in DEGREES + RADIANS:
        raise FileError(
            f"path: 'theta' in {path.name} has the unit {unit!r}, accepted: "
            f"{', '.join(DEGREES + RADIANS)}"
        )
    return np.rad2deg(theta) if unit in RADIANS else theta


def _interpolate(transmission: np.ndarray, lit: np.ndarray) -> None:
    """Interpolate, in place, the bins of (views, rows, bins) that are not lit (rows, bins)."""
    bins = np.arange(lit.shape[1])
    for row, good in enumerate(lit):
        for view in transmission[:, row] if not good.all() else ():
            view[~good] = np.interp(bins[~good], bins[good], view[good])


def _transmission(
    path: Path, counts: np.ndarray, white: np.ndarray, dark: np.ndarray, floor: float
) -> np.ndarray:
    """Return the corrected transmission (views, rows, bins)."""
    beam = white - dark
    lit = beam > 0
    unlit = int((~lit).sum())
    if not lit.any(-1).all():
        raise FileError(
            f"path: in {path.name}, {unlit} of {beam.size} detector pixels have 'data_white' not "
            "above 'data_dark', in some rows all, so that there is no beam to divide by"
        )
    transmission: np.ndarray = (counts - dark) / np.where(lit, beam, 1)
    if unlit:
        warn(
            f"path: in {path.name}, {unlit} of {beam.size} detector pixels have 'data_white' not "
            "above 'data_dark': they are interpolated from their neighbours"
        )
        _interpolate(transmission, lit)
    if floor > 0:
        return np.asarray(transmission.clip(floor))
    opaque = int((transmission <= 0).sum())
    if opaque:
        raise FileError(
            f"path: {opaque} of {transmission.size} transmissions in {path.name} are not "
            "positive, so they have no logarithm; set a floor, e.g. 1e-4"
        )
    return transmission
