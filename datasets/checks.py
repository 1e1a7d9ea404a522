"""What loaders and writers of files share: errors that name the file or the argument."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
)

EXPANSION = 1032
"""How much larger than its file an array may be: what zlib reaches at most."""

SLACK = 2**26
"""Bytes that any file may expand to: constant images of other coders have few bytes each."""


def require_file(argument: str, path: str | Path) -> Path:
    """Return the path of a file that is there.

    Raises:
        FileError: there is none, or no file could have that name.
        ArgumentError: no path at all.
    """
    path = require_path(argument, path)
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:  # too long, or with a NUL
        raise FileError(f"{argument}: cannot read {str(path)[:80]!r}: {error}") from error
    if not found:
        raise FileError(f"{argument}: no such file {str(path)!r}")
    return path


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever fails within into a `FileError` that names the file.

    Args:
        path: the file, which must exist.
        kind: what it should be, for the message.
    """
    require_file("path", path)
    try:
        yield
    except WellposedError:
        raise
    except Exception as error:  # every reader has its own exceptions; the user needs the name
        raise FileError(f"path: cannot read {str(path)!r} as {kind}: {error}") from error


def check_claim(path: Path, what: str, size: int) -> None:
    """Raise before memory is taken for what a file cannot hold.

    Args:
        path: the file.
        what: the part of it, for the message.
        size: bytes that its header claims.

    Raises:
        FileError: more than the file may hold however it is compressed, or than there is memory.
    """
    import psutil

    held = path.stat().st_size
    if size > SLACK + EXPANSION * held:
        raise FileError(
            f"path: {what} of {path.name} would take {size / 1e9:.3g} GB, but the file has "
            f"{held} bytes: its header is wrong or the file truncated"
        )
    free = psutil.virtual_memory().available
    if size > free:
        raise FileError(
            f"path: {what} of {path.name} would take {size / 1e9:.3g} GB, {free / 1e9:.3g} GB are "
            "free"
        )


def stored_array(path: Path, group: Any, key: str, axes: tuple[int, ...]) -> Any:
    """Return the data set ``key`` of an HDF5 file or group, not yet read.

    Raises:
        FileError: no such data set, or its number of axes is not one of ``axes``.
    """
    found = group.get(key)
    if not hasattr(found, "shape"):
        holds = ", ".join(group) or "nothing"
        raise FileError(f"path: {path.name} has no data set {key!r}, it holds: {holds}")
    if len(found.shape) not in axes:
        accepted = " or ".join(map(str, axes))
        raise FileError(
            f"path: {key!r} in {path.name} has shape {found.shape}, accepted: {accepted} axes"
        )
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


def one_or_all(argument: str, index: int | None, count: int) -> slice:
    """Return the rows that ``index`` chooses of ``count``; all for None."""
    if index is None:
        return slice(count)
    first = require_integer(argument, index, 0, count - 1)
    return slice(first, first + 1)


def finite(path: Path, key: str, values: np.ndarray) -> np.ndarray:
    """Return the values, or raise a `FileError` where any is NaN or infinite."""
    bad = values.size - int(np.isfinite(values).sum())
    if bad:
        raise FileError(
            f"path: {key!r} in {path.name} holds {bad} NaN or infinite of {values.size} values"
        )
    return values


def as_stored(volume: Tensor | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a real, finite volume as a float64 array of ``shape``, to be written.

    Axes of length one may be missing or additional, as in (1, 1, D, H, W) for (D, H, W).

    Raises:
        DtypeError, ShapeError, NonFiniteError: the volume is not real, of another shape, or
            holds NaN or infinite values.
    """
    tensor = torch.as_tensor(np.array(volume) if isinstance(volume, np.ndarray) else volume)
    if tensor.is_complex():
        raise DtypeError(f"volume: got {tensor.dtype}, accepted: real values, as magnitudes")
    if [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
        raise ShapeError(
            f"volume: got shape {tuple(tensor.shape)}, accepted: {shape} as the reference has"
        )
    check_finite("volume", tensor)
    return tensor.detach().cpu().double().reshape(shape).numpy()
