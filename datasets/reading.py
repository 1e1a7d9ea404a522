"""One reader of all formats: images, volumes and measurements of scanners.

`read` is for the command line and notebooks; the loaders of each format have more options.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from torch import Tensor

from wellposed.datasets.checks import located, reading
from wellposed.datasets.ct.htc import HTCScan, load_htc2022
from wellposed.datasets.ct.mat import read_mat
from wellposed.datasets.ct.tomopy import ParallelScan, count_rows, load_tomopy
from wellposed.datasets.files import HDF5_SUFFIXES, NIFTI_SUFFIXES, open_array, suffix_of
from wellposed.datasets.images.image_files import find_files
from wellposed.datasets.images.photograph import (
    PHOTOGRAPH_SUFFIXES,
    Photograph,
    read_photograph,
)
from wellposed.datasets.lazy import LazyArray
from wellposed.datasets.mri.fastmri import FastMRI, count_slices, is_fastmri, load_fastmri
from wellposed.datasets.mri.ismrmrd import RawScan, load_ismrmrd
from wellposed.datasets.patterns import matched
from wellposed.datasets.volumes.dicom import DicomSeries, read_dicom_series
from wellposed.datasets.volumes.dicom_frames import is_dicom
from wellposed.datasets.volumes.nifti import NiftiVolume, load_nifti
from wellposed.datasets.volumes.zarr_stores import ZarrVolume, is_zarr, load_zarr
from wellposed.errors import DtypeError, FileError
from wellposed.remote import is_folder
from wellposed.units import HOUNSFIELD

if TYPE_CHECKING:
    from pydicom import Dataset

Scan = FastMRI | RawScan | HTCScan | ParallelScan
Source = Photograph | NiftiVolume | DicomSeries | ZarrVolume | Path
"""Model for the file of a result: loaded data, or the file of an array."""

COMPANIONS = ("_recon_fbp.mat", "_recon_fbp_seg.mat")
"""Suffixes of files that belong to a scan of the Helsinki Tomography Challenge."""


@dataclass(frozen=True, eq=False)
class Image:
    """An image, a volume or another array, as stored.

    Attributes:
        path: the file, or the folder of a DICOM series or zarr store.
        kind: "photograph", "array", "nifti", "dicom" or "ome-zarr".
        stored: the values, or the file or zarr store that they are read from when needed.
        source: model for the file of a result, see `write_like`.
        spacing: size of a voxel in mm along (D, H, W); empty if unknown.
        unit: unit of the values, e.g. "HU"; empty if unknown.
        window: values to display as black and white according to the file, or None.

    Example:
        >>> import numpy as np, nibabel
        >>> from wellposed import datasets
        >>> nibabel.save(nibabel.Nifti1Image(np.ones((40, 32, 10)), np.eye(4)), "brain.nii.gz")
        >>> image = datasets.read("brain.nii.gz")
        >>> image.kind, image.spacing
        ('nifti', (1.0, 1.0, 1.0))
    """

    path: Path
    kind: str
    stored: np.ndarray | LazyArray | ZarrVolume
    source: Source
    spacing: tuple[float, ...] = ()
    unit: str = ""
    window: tuple[float, float] | None = None

    @cached_property
    def values(self) -> np.ndarray:
        """The values: (H, W) or (H, W, 3) in [0, 1] for photographs; (D, H, W) in the unit of the
        file for NIfTI, DICOM and OME-NGFF; real or complex arrays of any shape.
        """
        return self.stored if isinstance(self.stored, np.ndarray) else self.stored.values

    def rows(self, axis: int, first: int, end: int) -> np.ndarray:
        """Return the rows ``first`` to ``end`` along an axis.

        Of NPY, HDF5 and zarr nothing else is read.
        """
        if isinstance(self.stored, np.ndarray):
            return np.take(self.stored, range(first, end), axis)
        return self.stored.rows(axis, first, end)


@dataclass(frozen=True, eq=False)
class Measured:
    """A measurement of a scanner.

    Attributes:
        path: the file.
        kind: "fastmri", "ismrmrd", "htc" or "tomopy".
        values: k-space (B, coils, ...) or sinograms (B, 1, views, bins), one item per slice, frame
            or row.
        scan: the loaded data, with the geometry and references of the file.

    Example:
        >>> import h5py, numpy as np
        >>> from wellposed import datasets
        >>> with h5py.File("file.h5", "w") as file:  # in the layout of fastMRI
        ...     file["kspace"] = np.ones((2, 4, 16, 12), "complex64")
        >>> scan = datasets.read("file.h5")
        >>> scan.kind, scan.values.shape
        ('fastmri', torch.Size([2, 4, 16, 12]))
    """

    path: Path
    kind: str
    values: Tensor
    scan: Scan


def read(path: str | Path, key: str | None = None) -> Image | Measured:
    """Read a file of any supported format, the DICOM series of a folder, or a zarr store.

    Photographs, NIfTI, DICOM, OME-NGFF, NPY, zarr, HDF5 and MATLAB files are images or arrays; the
    layouts of fastMRI, ISMRMRD, tomopy (data exchange) and the Helsinki Tomography Challenge are
    recognised by content and are measurements. Values of NPY, HDF5 and zarr arrays are read when
    needed.

    Args:
        path: the file or folder.
        key: data set inside an HDF5 or MAT file or a zarr store, which is then read as an array.

    Raises:
        FileError: the file is missing, unreadable or of another kind; names the file.
        DtypeError: the array does not contain numbers.

    Example:
        >>> import numpy as np
        >>> from wellposed import datasets
        >>> np.save("slice.npy", np.random.rand(32, 40))
        >>> image = datasets.read("slice.npy")  # or a photograph, NIfTI, DICOM, fastMRI, ...
        >>> image.kind, image.stored.shape
        ('array', (32, 40))
    """
    path = located("path", path)
    if is_zarr(path):
        return _zarr(path, key)
    if path.is_dir() or (path.is_file() and is_dicom(path)):
        return _dicom(path)
    if suffix_of(path) in PHOTOGRAPH_SUFFIXES:
        return _photograph(path)
    layout = None if key is not None else _layout(path)
    if layout is not None:
        return _measured(path, layout)
    if suffix_of(path) in NIFTI_SUFFIXES:
        volume = load_nifti(path)
        values = volume.volume[0].numpy()
        while values.ndim > 2 and len(values) == 1:
            values = values[0]
        return Image(path, "nifti", values, volume, volume.spacing)
    stored = open_array(path, key)
    if stored.dtype.kind not in "biufc":
        raise DtypeError(f"input: {path.name} has {stored.dtype}, accepted: numbers")
    return Image(path, "array", stored, path)


def count_parts(path: Path) -> int | None:
    """Return the number of slices or rows that `read_part` reads alone; None for other files."""
    if is_zarr(path) or path.is_dir():
        return None
    count = COUNTS.get(_layout(path) or "")
    return None if count is None else count(path)


def read_part(path: Path, first: int, end: int) -> Measured:
    """Read the slices or rows ``first`` to ``end`` of a measurement, of which `count_parts` is."""
    return _measured(path, _layout(path) or "", (first, end))


def inputs_of(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files and DICOM folders that are named by files, folders and patterns.

    Args:
        paths: files, folders, for all readable files in and below them, and patterns, e.g.
            ``scans/*.h5``.

    Raises:
        FileError: a pattern or folder without a readable file.
    """
    found = [part for path in matched("INPUT", paths) for part in _readable(path)]
    return list(dict.fromkeys(found))


def _readable(path: Path) -> list[Path]:
    """Return the path of a file or store itself, or the readable files of a folder."""
    if is_folder("INPUT", path):
        path = located("INPUT", path)
    if not path.is_dir() or is_zarr(path):
        return [path]
    files = [file for file in find_files(path) if not file.name.endswith(COMPANIONS)]
    if not files:
        raise FileError(f"INPUT: no readable file in {str(path)!r}")
    return files


def _photograph(path: Path) -> Image:
    photograph = read_photograph(path)
    pixels = photograph.pixels
    return Image(
        path, "photograph", pixels[..., 0] if pixels.shape[-1] == 1 else pixels, photograph
    )


def _zarr(path: Path, key: str | None) -> Image:
    """Return a volume of which nothing is read yet, or an image."""
    volume = load_zarr(path, key=key)
    if volume.dtype.kind not in "biufc":
        raise DtypeError(f"input: {path.name} has {volume.dtype}, accepted: numbers")
    if volume.scene is None:
        return Image(path, "array", volume, path)
    flat = len(volume.shape) == 3 and volume.shape[0] == 1  # as NIfTI of one slice
    return Image(path, "ome-zarr", volume.values[0] if flat else volume, volume, volume.spacing)


def _dicom(path: Path) -> Image:
    series = read_dicom_series(path)
    header = series.headers[len(series.headers) // 2]
    unit = HOUNSFIELD if header.get("Modality") == "CT" else ""
    return Image(path, "dicom", series.values, series, series.spacing, unit, _window(header))


def _window(header: "Dataset") -> tuple[float, float] | None:
    """Return the values to display as black and white according to a DICOM header."""
    centre, width = (
        np.ravel(np.asarray(header.get(name) or [], object))[:1]
        for name in ("WindowCenter", "WindowWidth")
    )
    if not (len(centre) and len(width) and float(width[0]) > 0):
        return None
    return float(centre[0]) - float(width[0]) / 2, float(centre[0]) + float(width[0]) / 2


def _layout(path: Path) -> str | None:
    """Return the name of the scanner layout of a file, or None."""
    if suffix_of(path) == ".mat":
        return "htc" if path.is_file() and _has_htc(path) else None
    if suffix_of(path) not in HDF5_SUFFIXES or not path.is_file():
        return None
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        if "exchange/data" in file:
            return "tomopy"
        if "dataset/data" in file and "dataset/xml" in file:
            return "ismrmrd"
    return "fastmri" if is_fastmri(path) else None


def _has_htc(path: Path) -> bool:
    return any(name.startswith("CtData") for name in read_mat(path))


def _measured(path: Path, layout: str, part: tuple[int, int] | None = None) -> Measured:
    if layout == "htc":
        scan = load_htc2022(path)
        return Measured(path, layout, scan.sinogram, scan)
    if layout == "tomopy":
        rows = load_tomopy(path, part)
        return Measured(path, layout, rows.sinogram, rows)
    raw: FastMRI | RawScan = (
        load_fastmri(path, part) if layout == "fastmri" else load_ismrmrd(path)
    )
    return Measured(path, layout, raw.kspace, raw)


COUNTS = {"fastmri": count_slices, "tomopy": count_rows}
"""Functions that count the slices or rows of files of which parts are read alone."""
