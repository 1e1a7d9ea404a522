"""Reading of images and volumes from common files: PNG, JPEG, NPY, zarr, HDF5, MAT, NIfTI."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wellposed.checks import checked
from wellposed.datasets.checks import as_complex, located, reading, require_file
from wellposed.datasets.images.photograph import PHOTOGRAPH_SUFFIXES, read_photograph
from wellposed.datasets.lazy import Box, LazyArray
from wellposed.datasets.mri.bart import read_cfl
from wellposed.datasets.volumes.zarr_stores import is_zarr, load_zarr
from wellposed.errors import FileError, require_package
from wellposed.integrity import check_claim, check_held

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

_log = logging.getLogger(__name__)

HDF5_SUFFIXES = (".h5", ".hdf5")
KEYED_SUFFIXES = (*HDF5_SUFFIXES, ".mat")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
VOLUME_SUFFIXES = (".npy", ".cfl", *KEYED_SUFFIXES, *NIFTI_SUFFIXES)
READABLE_SUFFIXES = PHOTOGRAPH_SUFFIXES + VOLUME_SUFFIXES


def suffix_of(path: str | Path) -> str:
    """Return the file suffix in lower case; ``.nii.gz`` is one suffix."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem_of(path: str | Path) -> str:
    """Return a file's name without its suffix, see `suffix_of`."""
    name = Path(path).name
    return name[: len(name) - len(suffix_of(name))]


@checked
def read_array(
    path: str | Path, key: str | None = None, min_axes: int = 2, page: int | None = None
) -> np.ndarray:
    """Return the array stored in a file.

    Photographs are (H, W, 3) or (H, W) in [0, 1], see `read_photograph`; other formats are
    returned as stored.

    Args:
        path: a PNG, JPEG, BMP, TIFF, WebP, NPY, CFL (see `read_cfl`), HDF5, MAT or NIfTI file, or
            a zarr store, see `load_zarr`.
        key: data set inside an HDF5 or MAT file or a store; by default the only or largest one.
        min_axes: data sets with fewer axes are ignored.
        page: which page of a TIFF, or frame of an animation.

    Raises:
        FileError: the file is missing, unreadable, of an unknown kind, or has no such key; a
            photograph with transparent pixels.
        ArgumentError: a photograph of several pages without ``page``, or no such page.

    Example:
        >>> import h5py, numpy as np
        >>> from wellposed import datasets
        >>> with h5py.File("data.h5", "w") as file:
        ...     file["image"] = np.ones((32, 40))
        >>> datasets.read_array("data.h5", key="image").shape
        (32, 40)
    """
    path = located("path", path)
    if is_zarr(path):
        return load_zarr(path, key=key).values
    path, suffix = require_file("path", path), suffix_of(path)
    readers: dict[str, Callable[[Path], np.ndarray]] = {
        **dict.fromkeys(PHOTOGRAPH_SUFFIXES, lambda p: _read_image(p, page)),
        ".npy": lambda p: _open_npy(p).values,
        ".cfl": read_cfl,
        **dict.fromkeys(HDF5_SUFFIXES, lambda p: _open_hdf5(p, key, min_axes).values),
        ".mat": lambda p: _read_mat(p, key, min_axes),
        **dict.fromkeys(NIFTI_SUFFIXES, lambda p: open_nifti(p)[1]),
    }
    if suffix not in readers:
        raise FileError(f"path: got {path.name!r}, accepted: {', '.join(READABLE_SUFFIXES)}")
    with reading(path, suffix):
        return readers[suffix](path)


def open_array(path: str | Path, key: str | None = None) -> np.ndarray | LazyArray:
    """Return the array of a file, see `read_array`; those of NPY and HDF5 are not yet read."""
    path = located("path", path)
    suffix = suffix_of(path)
    if suffix not in (".npy", *HDF5_SUFFIXES):
        return read_array(path, key)
    with reading(path, suffix):
        return _open_npy(path) if suffix == ".npy" else _open_hdf5(path, key, 2)


def _read_image(path: Path, page: int | None) -> np.ndarray:
    photograph = read_photograph(path, page)
    if not photograph.opaque:
        raise FileError(
            f"path: {path.name} has transparent pixels, accepted: opaque pixels; flatten it, or "
            "read it with its alpha by read_photograph"
        )
    pixels = photograph.pixels
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _open_npy(path: Path) -> LazyArray:
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        shape, _, kind = (read if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    check_held(path, "the array", math.prod(shape) * kind.itemsize)
    whole = kind.hasobject or math.prod(shape) == 0  # which cannot be mapped to memory

    def values(box: Box) -> np.ndarray:
        array = np.load(path, mmap_mode=None if whole else "r", allow_pickle=False)
        return np.array(array[box])

    return LazyArray(path, shape, kind, values)


def _open_hdf5(path: Path, key: str | None, min_axes: int) -> LazyArray:
    import h5py

    found: dict[str, h5py.Dataset] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {})
        )
        name = _choose(path, found, key, min_axes)
        check_held(path, repr(name), found[name].nbytes)
        shape, kind = found[name].shape, as_complex(np.empty(0, found[name].dtype)).dtype

    def values(box: Box) -> np.ndarray:
        with h5py.File(path, "r") as file:
            return as_complex(np.asarray(file[name][box]))

    return LazyArray(path, shape, kind, values)


def _read_mat(path: Path, key: str | None, min_axes: int) -> np.ndarray:
    import h5py

    if h5py.is_hdf5(path):  # MATLAB 7.3, which stores arrays transposed
        return _open_hdf5(path, key, min_axes).values.T
    found = {
        name: value
        for name, value in load_mat(path).items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc"
    }
    return found[_choose(path, found, key, min_axes)]


def _choose(path: Path, found: Mapping[str, np.ndarray], key: str | None, min_axes: int) -> str:
    """Return the name of the requested data set, by default the largest."""
    sizes = {name: array.size for name, array in found.items() if array.ndim >= min_axes}
    if not sizes:
        raise FileError(f"path: {path.name} has no data set of {min_axes} or more axes")
    if key is not None and key not in sizes:
        raise FileError(f"key: {path.name} has no {key!r}, it contains: {', '.join(sizes)}")
    return key or max(sizes, key=sizes.__getitem__)


def open_nifti(path: Path) -> "tuple[SpatialImage, np.ndarray]":
    """Return a nibabel NIfTI image, and its values after the file's scaling."""
    require_package("nibabel", "nifti", f"path: {path.name}")
    import nibabel
    from nibabel.spatialimages import SpatialImage

    image = nibabel.load(path)
    if not isinstance(image, SpatialImage):
        raise FileError(f"path: {path.name} is a {type(image).__name__}, accepted: an image")
    shape, kind = image.shape, image.get_data_dtype()
    held = image.file_map["image"].filename or path  # beside a header, in formats of two files
    check_claim(Path(held), "the image", math.prod(map(int, shape)) * kind.itemsize)
    return image, np.asarray(image.dataobj)


def load_mat(path: Path, simplify_cells: bool = False) -> dict[str, object]:
    """Return the variables of a MAT file of version 7.2 or older; see `scipy.io.loadmat`."""
    import scipy.io

    sizes = {"double": 8, "int64": 8, "uint64": 8, "single": 4, "int32": 4, "uint32": 4}
    for name, shape, kind in scipy.io.whosmat(path):
        check_claim(path, repr(name), math.prod(map(int, shape)) * sizes.get(kind, 1))
    return dict(scipy.io.loadmat(path, simplify_cells=simplify_cells))


def files_below(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Return the sorted files of some kinds in a folder and below; a warning lists the others.

    Hidden files are ignored.
    """
    below = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    files, accepted = sorted(below), set(suffixes)
    report_skipped(folder, [path for path in files if suffix_of(path) not in accepted])
    return [path for path in files if suffix_of(path) in accepted]


def report_skipped(folder: Path, files: Sequence[Path], shown: int = 8) -> None:
    """Log a warning that files of a folder are not read; it names the first files."""
    if files:
        names = [str(path.relative_to(folder)) for path in files[:shown]]
        more = f" and {len(files) - shown} more" if len(files) > shown else ""
        _log.warning("%s: skipped %s%s, of unknown kind", folder, ", ".join(names), more)
