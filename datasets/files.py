"""Read images and volumes from the usual files: PNG, JPEG, NPY, HDF5, NIfTI."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.errors import FileError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUME_SUFFIXES = (".npy", ".h5", ".hdf5", ".nii", ".nii.gz")


def suffix_of(path: str | Path) -> str:
    """Return the lower-case file suffix, with ``.nii.gz`` kept whole."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def read_array(path: str | Path, key: str | None = None) -> np.ndarray:
    """Return the array stored in a file.

    Photographs come as (H, W, 3) or (H, W) in [0, 1]; every other format as it is stored.

    Args:
        path: a PNG, JPEG, BMP, TIFF, NPY, HDF5 or NIfTI file.
        key: the data set inside an HDF5 file; without it the only (or largest) one is taken.

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
        **dict.fromkeys((".h5", ".hdf5"), lambda p: _read_hdf5(p, key)),
        **dict.fromkeys((".nii", ".nii.gz"), _read_nifti),
    }
    if suffix not in readers:
        raise FileError(
            f"path: got {path.name!r}, accepted: {', '.join(IMAGE_SUFFIXES + VOLUME_SUFFIXES)}"
        )
    try:
        return readers[suffix](path)
    except FileError:
        raise
    except Exception as error:  # every reader has its own exceptions; the user needs the name
        raise FileError(f"path: cannot read {str(path)!r} as {suffix}: {error}") from error


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        if image.mode in ("I", "F"):  # Pillow would clip them to 0..255
            raise FileError(f"path: {path.name} has 32-bit pixels, accepted: 8 or 16; use NPY")
        pixels = np.asarray(image if image.mode in ("L", "RGB", "I;16") else image.convert("RGB"))
    return pixels.astype(np.float32) / float(np.iinfo(pixels.dtype).max)


def _read_hdf5(path: Path, key: str | None) -> np.ndarray:
    import h5py

    found: dict[str, int] = {}

    def collect(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2:
            found[name] = item.size

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        if not found:
            raise FileError(f"path: {path.name} holds no data set of two or more axes")
        if key is not None and key not in found:
            raise FileError(f"key: {path.name} has no {key!r}, it holds: {', '.join(found)}")
        return np.asarray(file[key or max(found, key=found.__getitem__)])


def _read_nifti(path: Path) -> np.ndarray:
    import nibabel

    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj)
