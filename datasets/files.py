"""Reading of images and volumes from common files: PNG, JPEG, NPY, HDF5, MAT, NIfTI."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wellposed.errors import FileError

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
KEYED_SUFFIXES = (".h5", ".hdf5", ".mat")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
VOLUME_SUFFIXES = (".npy", *KEYED_SUFFIXES, *NIFTI_SUFFIXES)
GREY_MODES = ("L", "I;16")
"""Pillow's names for grey pixels of 8 and 16 bits."""

READABLE_SUFFIXES = IMAGE_SUFFIXES + VOLUME_SUFFIXES


def suffix_of(path: str | Path) -> str:
    """Return the file suffix in lower case; ``.nii.gz`` is one suffix."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem_of(path: str | Path) -> str:
    """Return a file's name without its suffix, see `suffix_of`."""
    name = Path(path).name
    return name[: len(name) - len(suffix_of(name))]


def read_array(path: str | Path, key: str | None = None, min_axes: int = 2) -> np.ndarray:
    """Return the array stored in a file.

    Photographs are (H, W, 3) or (H, W) in [0, 1]; other formats are returned as stored.

    Args:
        path: a PNG, JPEG, BMP, TIFF, NPY, HDF5, MAT or NIfTI file.
        key: data set inside an HDF5 or MAT file; by default the only or largest data set.
        min_axes: data sets with fewer axes are ignored.

    Raises:
        FileError: the file is missing, unreadable, of an unknown kind, or has no such key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"path: no such file {str(path)!r}")
    suffix = suffix_of(path)
    readers: dict[str, Callable[[Path], np.ndarray]] = {
        **dict.fromkeys(IMAGE_SUFFIXES, _read_image),
        ".npy": lambda p: np.load(p, allow_pickle=False),
        **dict.fromkeys((".h5", ".hdf5"), lambda p: _read_hdf5(p, key, min_axes)),
        ".mat": lambda p: _read_mat(p, key, min_axes),
        **dict.fromkeys(NIFTI_SUFFIXES, lambda p: open_nifti(p)[1]),
    }
    if suffix not in readers:
        raise FileError(f"path: got {path.name!r}, accepted: {', '.join(READABLE_SUFFIXES)}")
    try:
        return readers[suffix](path)
    except FileError:
        raise
    except Exception as error:  # every reader has its own exceptions, without the file's name
        raise FileError(f"path: cannot read {str(path)!r} as {suffix}: {error}") from error


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return (H, W, C) of a photograph, see `read_array`, without decoding its pixels.

    Raises:
        FileError: the file is missing, not an image, or has pixels that `read_array` refuses.
    """
    from PIL import Image

    if not path.is_file():
        raise FileError(f"path: no such file {str(path)!r}")
    try:
        with Image.open(path) as image:
            _check_depth(path, image.mode)
            width, height = image.size
            return height, width, 1 if image.mode in GREY_MODES else 3
    except FileError:
        raise
    except Exception as error:
        raise FileError(f"path: cannot read {str(path)!r} as an image: {error}") from error


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        _check_depth(path, image.mode)
        as_stored = image.mode == "RGB" or image.mode in GREY_MODES
        pixels = np.asarray(image if as_stored else image.convert("RGB"))
    return pixels.astype(np.float32) / float(np.iinfo(pixels.dtype).max)


def _check_depth(path: Path, mode: str) -> None:
    if mode in ("I", "F"):  # Pillow would clip them to 0..255
        raise FileError(f"path: {path.name} has 32-bit pixels, accepted: 8 or 16 bits; use NPY")


def _read_hdf5(path: Path, key: str | None, min_axes: int) -> np.ndarray:
    import h5py

    found: dict[str, h5py.Dataset] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {})
        )
        return np.asarray(found[_choose(path, found, key, min_axes)])


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
    import nibabel
    from nibabel.spatialimages import SpatialImage

    image = nibabel.load(path)
    if not isinstance(image, SpatialImage):
        raise FileError(f"path: {path.name} is a {type(image).__name__}, accepted: an image")
    return image, np.asarray(image.dataobj)
