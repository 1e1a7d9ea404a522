"""Read images and volumes from the usual files: PNG, JPEG, NPY, HDF5, MAT, NIfTI."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.datasets.checks import as_complex, check_claim, reading, require_file
from wellposed.datasets.images.photograph import PHOTOGRAPH_SUFFIXES, read_photograph
from wellposed.errors import FileError

_log = logging.getLogger(__name__)

KEYED_SUFFIXES = (".h5", ".hdf5", ".mat")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
VOLUME_SUFFIXES = (".npy", *KEYED_SUFFIXES, *NIFTI_SUFFIXES)
READABLE_SUFFIXES = PHOTOGRAPH_SUFFIXES + VOLUME_SUFFIXES


def suffix_of(path: str | Path) -> str:
    """Return the lower-case file suffix, with ``.nii.gz`` kept whole."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem_of(path: str | Path) -> str:
    """Return a file's name without its suffix, as `suffix_of` tells it."""
    name = Path(path).name
    return name[: len(name) - len(suffix_of(name))]


def read_array(
    path: str | Path, key: str | None = None, min_axes: int = 2, page: int | None = None
) -> np.ndarray:
    """Return the array stored in a file.

    Photographs come as (H, W, 3) or (H, W) in [0, 1], see `read_photograph`; every other format as
    it is stored.

    Args:
        path: a PNG, JPEG, BMP, TIFF, WebP, NPY, HDF5, MAT or NIfTI file.
        key: the data set inside an HDF5 or MAT file; without it the only (or largest) one is
            taken.
        min_axes: data sets of fewer axes do not count there.
        page: which page of a TIFF, or frame of an animation.

    Raises:
        FileError: the file is missing, unreadable, of an unknown kind, or has no such key; a
            photograph with transparent pixels.
        ArgumentError: a photograph of several pages without ``page``, or no such page.
    """
    path = require_file("path", path)
    suffix = suffix_of(path)
    readers: dict[str, Callable[[Path], np.ndarray]] = {
        **dict.fromkeys(PHOTOGRAPH_SUFFIXES, lambda p: _read_image(p, page)),
        ".npy": _read_npy,
        **dict.fromkeys((".h5", ".hdf5"), lambda p: _read_hdf5(p, key, min_axes)),
        ".mat": lambda p: _read_mat(p, key, min_axes),
        **dict.fromkeys(NIFTI_SUFFIXES, lambda p: open_nifti(p)[1]),
    }
    if suffix not in readers:
        raise FileError(f"path: got {path.name!r}, accepted: {', '.join(READABLE_SUFFIXES)}")
    with reading(path, suffix):
        return readers[suffix](path)


def _read_image(path: Path, page: int | None) -> np.ndarray:
    photograph = read_photograph(path, page)
    if not photograph.opaque:
        raise FileError(
            f"path: {path.name} has transparent pixels, accepted: opaque ones; flatten it, or "
            "read_photograph gives them and their alpha"
        )
    pixels = photograph.pixels
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        shape, _, kind = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    check_claim(path, "the array", math.prod(shape) * kind.itemsize)
    return np.asarray(np.load(path, allow_pickle=False))


def _read_hdf5(path: Path, key: str | None, min_axes: int) -> np.ndarray:
    import h5py

    found: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {})
        )
        name = _choose(path, found, key, min_axes)
        check_claim(path, repr(name), found[name].nbytes)
        return as_complex(np.asarray(found[name]))


def _read_mat(path: Path, key: str | None, min_axes: int) -> np.ndarray:
    import h5py
    import scipy.io

    if h5py.is_hdf5(path):  # MATLAB 7.3, which stores arrays transposed
        return _read_hdf5(path, key, min_axes).T
    found = {
        name: value
        for name, value in scipy.io.loadmat(path).items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
    }
    return found[_choose(path, found, key, min_axes)]


def _choose(path: Path, found: dict[str, Any], key: str | None, min_axes: int) -> str:
    """Return the name of the wanted data set, by default the largest."""
    sizes = {name: array.size for name, array in found.items() if array.ndim >= min_axes}
    if not sizes:
        raise FileError(f"path: {path.name} holds no data set of {min_axes} or more axes")
    if key is not None and key not in sizes:
        raise FileError(f"key: {path.name} has no {key!r}, it holds: {', '.join(sizes)}")
    return key or max(sizes, key=sizes.__getitem__)


def open_nifti(path: Path) -> tuple[Any, np.ndarray]:
    """Return a NIfTI image of nibabel's, and its values after the file's scaling."""
    import nibabel

    image: Any = nibabel.load(path)
    shape, kind = image.shape, image.get_data_dtype()
    held = image.file_map["image"].filename or path  # beside a header, in formats of two files
    check_claim(Path(held), "the image", math.prod(map(int, shape)) * kind.itemsize)
    return image, np.asarray(image.dataobj)


def files_below(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the files of some kinds in a folder and below, in order; a warning lists the others.

    Hidden files do not count.
    """
    below = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    files, accepted = sorted(below), set(suffixes)
    report_skipped(folder, [path for path in files if suffix_of(path) not in accepted])
    return [path for path in files if suffix_of(path) in accepted]


def report_skipped(folder: Path, files: Sequence[Path], shown: int = 8) -> None:
    """Log a warning that files of a folder are not read, naming the first of them."""
    if files:
        names = [str(path.relative_to(folder)) for path in files[:shown]]
        more = f" and {len(files) - shown} more" if len(files) > shown else ""
        _log.warning("%s: skipped %s%s, of no known kind", folder, ", ".join(names), more)
