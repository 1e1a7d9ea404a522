"""Checks for loaders and writers of files: errors that name the file or the argument."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import require_integer, require_path
from wellposed.errors import (
    DtypeError,
    FileError,
    ShapeError,
    WellposedError,
    check_finite,
    require,
)
from wellposed.integrity import check_held
from wellposed.remote import fetched

if TYPE_CHECKING:
    import h5py


def located(argument: str, path: str | Path) -> Path:
    """Return the path of a file or folder on this machine, that of its copy if it is at a URL.

    Raises:
        FileError: no file could have that name, or there is nothing at the URL.
        ArgumentError: ``path`` is not a path.
    """
    return fetched(argument, require_path(argument, path))


def require_file(argument: str, path: str | Path) -> Path:
    """Return the path of an existing file.

    Raises:
        FileError: the file does not exist, or no file could have that name.
        ArgumentError: ``path`` is not a path.
    """
    path = located(argument, path)
    if not path.is_file():
        raise FileError(f"{argument}: no such file {str(path)!r}")
    return path


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Convert all errors within into a `FileError` that names the file.

    Args:
        path: the file, which must exist.
        kind: expected kind of the file, for the message.
    """
    require_file("path", path)
    with translating(path, kind):
        yield


@contextmanager
def translating(path: Path, kind: str, verb: str = "read") -> Iterator[None]:
    """Convert all errors within into a `FileError` that names a file or folder."""
    try:
        yield
    except WellposedError:
        raise
    except Exception as error:  # every reader has its own exceptions, without the file's name
        raise FileError(f"path: cannot {verb} {str(path)!r} as {kind}: {error}") from error


def stored_array(
    path: Path, group: "h5py.Group", key: str, axes: tuple[int, ...]
) -> "h5py.Dataset":
    """Return the data set ``key`` of an HDF5 file or group, not yet read.

    Raises:
        FileError: no such data set, or its number of axes is not one of ``axes``.
    """
    found = group.get(key)
    if not hasattr(found, "shape"):
        holds = ", ".join(group) or "nothing"
        raise FileError(f"path: {path.name} has no data set {key!r}, it contains: {holds}")
    if len(found.shape) not in axes:
        accepted = " or ".join(map(str, axes))
        raise FileError(
            f"path: {key!r} in {path.name} has shape {found.shape}, accepted: {accepted} axes"
        )
    check_held(path, repr(key), found.nbytes)
    return found


def as_complex(values: np.ndarray) -> np.ndarray:
    """Return compounds of a real and an imaginary part as complex numbers, others as they are.

    As MATLAB 7.3 and other writers of HDF5 have them, by whatever names: (real, imag), (re, im).
    """
    names = [name.lower() for name in values.dtype.names or ()]
    if len(names) != 2 or (names[0][0], names[1][0]) != ("r", "i"):
        return values
    real, imaginary = (values[name] for name in values.dtype.names or ())
    return np.asarray(real + 1j * imaginary)


def chosen_rows(argument: str, chosen: int | tuple[int, int] | None, count: int) -> slice:
    """Return the slice of a row, of the rows ``first`` to ``end``, or of all ``count`` rows."""
    if chosen is None:
        return slice(count)
    if isinstance(chosen, tuple):
        fits = len(chosen) == 2 and all(isinstance(n, int) for n in chosen)
        fits = fits and 0 <= chosen[0] < chosen[1] <= count
        require(fits, argument, chosen, f"(first, end) with 0 <= first < end <= {count}")
        return slice(*chosen)
    first = require_integer(argument, chosen, 0, count - 1)
    return slice(first, first + 1)


def finite(path: Path, key: str, values: np.ndarray) -> np.ndarray:
    """Return the values; raise a `FileError` if any is NaN or infinite."""
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise FileError(
            f"path: {key!r} in {path.name} has {bad} NaN or infinite values of {values.size}"
        )
    return values


def as_stored(volume: Tensor | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a real, finite volume as a float64 array of ``shape``, for writing.

    Axes of length one may be missing or additional, e.g. (1, 1, D, H, W) for (D, H, W).

    Raises:
        DtypeError, ShapeError, NonFiniteError: the volume is not real, has another shape, or
            contains NaN or infinite values.
    """
    tensor = torch.as_tensor(np.array(volume) if isinstance(volume, np.ndarray) else volume)
    if tensor.is_complex():
        raise DtypeError(f"volume: got {tensor.dtype}, accepted: real values, e.g. magnitudes")
    if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
        raise ShapeError(
            f"volume: got shape {tuple(tensor.shape)}, accepted: {shape} as for the reference"
        )
    check_finite("volume", tensor)
    return tensor.detach().cpu().double().reshape(shape).numpy()
