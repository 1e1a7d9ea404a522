"""DICOM series: slices sorted by position, in physical units."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import FileError

if TYPE_CHECKING:
    from pydicom import Dataset, FileDataset

DICOM_SUFFIX = ".dcm"
GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
"""Attributes that define the position of a slice, with their numbers of values."""


@dataclass(frozen=True)
class DicomSeries:
    """A volume read from a DICOM series.

    Attributes:
        values: (D, H, W) float32, after rescale slope and intercept (HU for CT).
        spacing: distances between slices, rows and columns in mm.
        headers: headers of the slices in the order of the volume, without pixels.
    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    headers: "list[FileDataset]"

    @property
    def volume(self) -> Tensor:
        """The values as (1, 1, D, H, W)."""
        return torch.from_numpy(self.values)[None, None]


def read_dicom_series(folder: str | Path) -> DicomSeries:
    """Read the DICOM series in a folder; slices are sorted along their common normal.

    Raises:
        FileError: no or unreadable files, several series, slices of different geometry, missing
            or duplicate slices, or a tilted gantry; names the file or the gap.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileError(f"path: no such folder {str(folder)!r}")
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() == DICOM_SUFFIX)
    if not files:
        raise FileError(f"path: no {DICOM_SUFFIX} files in {str(folder)!r}")
    slices = [(file, *_read_slice(file)) for file in files]
    _check_one_series(folder, slices)
    normal = np.cross(*np.reshape(slices[0][1].ImageOrientationPatient, (2, 3)).astype(float))
    position = {
        file: float(normal @ np.asarray(header.ImagePositionPatient, float))
        for file, header, _ in slices
    }
    slices.sort(key=lambda entry: position[entry[0]])
    step = _slice_distance([(file, position[file]) for file, _, _ in slices])
    _check_upright(folder, [header for _, header, _ in slices], normal)
    first = slices[0][1]
    rows, columns = (float(v) for v in first.PixelSpacing)
    values = np.stack([pixels for _, _, pixels in slices])
    return DicomSeries(
        values, (step or _thickness(first), rows, columns), [h for _, h, _ in slices]
    )


def _read_slice(file: Path) -> "tuple[FileDataset, np.ndarray]":
    import pydicom

    try:
        header = pydicom.dcmread(file)
        slope = float(getattr(header, "RescaleSlope", 1))
        pixels = _decode(header) * slope + float(getattr(header, "RescaleIntercept", 0))
        del header.PixelData
    except Exception as error:  # pydicom raises many kinds of errors, without the file's name
        raise FileError(f"path: cannot read {str(file)!r} as DICOM: {error}") from error
    missing = [name for name, count in GEOMETRY.items() if np.size(header.get(name)) != count]
    if missing or pixels.ndim != 2:
        got = f"has no {', '.join(missing)}" if missing else f"has {pixels.ndim} axes"
        raise FileError(f"path: {str(file)!r} {got}, accepted: one slice with its geometry")
    rows, columns = (float(size) for size in header.PixelSpacing)
    if not (0 < rows < np.inf and 0 < columns < np.inf):
        raise FileError(
            f"path: {str(file)!r} has pixels of {rows:g} x {columns:g} mm, accepted: positive "
            "sizes"
        )
    return header, pixels


def _decode(header: "FileDataset") -> np.ndarray:
    """Return the stored pixels as float32."""
    syntax = header.file_meta.TransferSyntaxUID
    try:
        pixels: np.ndarray = header.pixel_array.astype(np.float32)
        return pixels
    except Exception as error:
        if not syntax.is_compressed:
            raise
        # pydicom's message is the list of decoders that it would need.
        raise ValueError(
            f"its pixels, compressed as {syntax.name}, cannot be decoded; decompress the file "
            "first, e.g. with dcmdjpeg or gdcmconv --raw"
        ) from error


def _check_one_series(folder: Path, slices: "list[tuple[Path, FileDataset, np.ndarray]]") -> None:
    reference, pixels = slices[0][1], slices[0][2]
    for file, header, other in slices:
        same = {
            "SeriesInstanceUID": header.get("SeriesInstanceUID")
            == reference.get("SeriesInstanceUID"),
            "size": other.shape == pixels.shape,
            "PixelSpacing": np.allclose(header.PixelSpacing, reference.PixelSpacing),
            "ImageOrientationPatient": np.allclose(
                header.ImageOrientationPatient, reference.ImageOrientationPatient, atol=1e-4
            ),
        }
        other_in = [name for name, equal in same.items() if not equal]
        if other_in:
            raise FileError(
                f"path: {str(folder)!r} contains several series: {file.name} has another "
                f"{' and '.join(other_in)} than {slices[0][0].name}; use one folder per series"
            )


def _slice_distance(places: list[tuple[Path, float]]) -> float | None:
    """Return the distance between slices, or ``None`` for one slice; raise if it varies."""
    gaps = np.diff([place for _, place in places])
    if len(gaps) == 0:
        return None
    step = float(np.median(gaps))
    for (before, _), (after, _), gap in zip(places, places[1:], gaps, strict=False):
        if gap == 0 or abs(gap - step) > 0.05 * step + 1e-3:
            raise FileError(
                f"path: {before.name} and {after.name} are {gap:.3g} mm apart, but other slices "
                f"{step:.3g} mm: a slice is missing or duplicate"
            )
    return step


def _thickness(header: "Dataset") -> float:
    return float(header.get("SliceThickness") or 1.0)


def _check_upright(folder: Path, headers: "list[FileDataset]", normal: np.ndarray) -> None:
    """Raise if slices are shifted relative to each other, so that they form no cuboid."""
    places = np.array([h.ImagePositionPatient for h in headers], float)
    path = places[-1] - places[0]
    shift = float(np.linalg.norm(path - (path @ normal) * normal))
    if shift > 0.5 * min(float(v) for v in headers[0].PixelSpacing):
        tilt = np.rad2deg(np.arctan2(shift, abs(path @ normal)))
        raise FileError(
            f"path: the slices in {str(folder)!r} are sheared by {tilt:.3g} degrees (a tilted "
            "gantry), accepted: slices stacked along their normal; resample the series first"
        )
