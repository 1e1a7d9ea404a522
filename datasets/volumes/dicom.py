"""DICOM series: slices sorted by position, in physical units."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.checks import located
from wellposed.datasets.volumes.dicom_choice import Volume, choose
from wellposed.datasets.volumes.dicom_frames import (
    Frame,
    frames_of,
    is_dicom,
    physical,
    read_pixels,
)
from wellposed.errors import FileError, require
from wellposed.integrity import check_claim

if TYPE_CHECKING:
    from pydicom import Dataset
GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
"""Attributes that define the position of a slice, with their numbers of values."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomSeries:
    """A volume read from a DICOM series.

    Attributes:
        values: (D, H, W) float32, in the units of the modality (HU for CT), or of the real-world
            map if the file gives no others.
        spacing: distances between slices, rows and columns in mm.
        headers: headers of the slices in the order of the volume, without pixels; those of the
            frames of an enhanced file have its functional groups at the top.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> from wellposed import datasets
        >>> series = datasets.read_dicom_series(get_testdata_file("CT_small.dcm"))
        >>> series.values.shape, len(series.headers)
        ((1, 128, 128), 1)
    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    headers: "list[Dataset]"

    @property
    def volume(self) -> Tensor:
        """The values as (1, 1, D, H, W)."""
        return torch.from_numpy(self.values)[None, None]


@checked
def read_dicom_series(
    path: str | Path,
    *,
    series: str | int | None = None,
    where: Mapping[str, object] | None = None,
) -> DicomSeries:
    """Read a volume from a folder of DICOM files, or from one file, sorted along the slice normal.

    Files are recognised by content or suffix, and may be compressed or have many frames. Files
    without images, and single images beside a volume, are skipped with a line in the log.

    Args:
        path: a folder, or a file.
        series: SeriesInstanceUID, SeriesDescription or SeriesNumber of the volume, if there are
            several.
        where: tags of its images and their values, e.g. ``{"DiffusionBValue": 800}``.

    Raises:
        FileError: no or unreadable files, several volumes and no choice, slices without
            geometry, missing or duplicate slices, or a tilted gantry; names the file, the gap or
            the choices.
        ArgumentError: ``where`` is not a mapping.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> from wellposed import datasets
        >>> series = datasets.read_dicom_series(get_testdata_file("CT_small.dcm"))  # or a folder
        >>> series.values.shape, [round(side, 2) for side in series.spacing]  # in HU and mm
        ((1, 128, 128), [5.0, 0.66, 0.66])
    """
    path = located("path", path)
    if not path.exists():
        raise FileError(f"path: no such folder {str(path)!r}")
    mapping = where is None or isinstance(where, Mapping)
    require(mapping, "where", where, "None or a dict of tags and their values")
    require(series is None or isinstance(series, str | int), "series", series, "None or text")
    volume = choose(path, _images(path), series, where)
    for frame in volume:
        _check_geometry(frame)
    orientation = np.asarray(volume[0].header.ImageOrientationPatient, float)
    normal = np.cross(*orientation.reshape(2, 3))
    place = {id(f): float(normal @ _position(f)) for f in volume}
    volume = sorted(volume, key=lambda frame: place[id(frame)])
    step = _slice_distance(volume, [place[id(frame)] for frame in volume])
    headers = [frame.header for frame in volume]
    _check_upright(path, headers, normal)
    rows, columns = (float(v) for v in headers[0].PixelSpacing)
    return DicomSeries(_values(volume), (step or _thickness(headers[0]), rows, columns), headers)


def _images(path: Path) -> list[Frame]:
    """Return the images of a folder or file; other DICOM files are named in the log."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    files = [file for file in files if is_dicom(file)]
    if not files:
        raise FileError(f"path: no DICOM files in {str(path)!r}")
    found = {file: frames_of(file) for file in files}
    others = [file.name for file, frames in found.items() if not frames]
    if len(others) == len(files):
        raise FileError(
            f"path: {str(path)!r} contains DICOM files without images: {', '.join(others[:4])}"
        )
    if others:
        _log.warning("%s: skipped files without images: %s", path, ", ".join(others))
    return [frame for frames in found.values() for frame in frames]


def _values(volume: Volume) -> np.ndarray:
    """Return the values of a volume's images (D, H, W), float32; each file is decoded once."""
    rows: dict[Path, list[int]] = {}
    for row, frame in enumerate(volume):
        rows.setdefault(frame.file, []).append(row)
    size = volume[0].header.Rows, volume[0].header.Columns
    for file, places in rows.items():
        check_claim(file, "the pixels", len(places) * math.prod(size))  # at least a byte each
    values = np.empty((len(volume), *size), np.float32)
    for file, places in rows.items():
        stored = read_pixels(file)
        for row in places:
            values[row] = _image(volume[row], stored)
    return values


def _image(frame: Frame, stored: np.ndarray) -> np.ndarray:
    image = stored if frame.number is None or stored.ndim == 2 else stored[frame.number]
    if image.ndim != 2:
        raise FileError(
            f"path: {str(frame.file)!r} has {image.ndim} axes, accepted: one slice with its "
            "geometry"
        )
    try:
        return physical(image, frame.header)
    except Exception as error:  # pydicom raises many kinds of errors, without the file's name
        raise FileError(
            f"path: cannot read {str(frame.file)!r} as DICOM: its values are not defined ({error})"
        ) from error


def _check_geometry(frame: Frame) -> None:
    """Raise unless the position of an image is defined."""
    header, name = frame.header, str(frame.file)
    missing = [tag for tag, count in GEOMETRY.items() if not _numbers(header.get(tag), count)]
    if missing:
        got = f"has no {', '.join(missing)}"
        raise FileError(f"path: {name!r} {got}, accepted: one slice with its geometry")
    rows, columns = (float(size) for size in header.PixelSpacing)
    if not (rows > 0 and columns > 0):
        raise FileError(
            f"path: {name!r} has pixels of {rows:g} x {columns:g} mm, accepted: positive sizes"
        )
    along = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
    if not np.allclose(along @ along.T, np.eye(2), atol=1e-2):
        raise FileError(
            f"path: {name!r} has ImageOrientationPatient {along.ravel().tolist()}, accepted: two "
            "directions of length 1 at right angles"
        )


def _numbers(value: object, count: int) -> bool:
    """Return whether a tag has ``count`` finite numbers."""
    try:
        numbers = np.asarray(value, float)
        return numbers.size == count and bool(np.isfinite(numbers).all())
    except (TypeError, ValueError):
        return False


def _position(frame: Frame) -> np.ndarray:
    return np.asarray(frame.header.ImagePositionPatient, float)


def _slice_distance(volume: Volume, places: list[float]) -> float | None:
    """Return the distance between slices, or ``None`` for one slice; raise if it varies.

    Scanners round positions, often to .1 mm: each may be as far from an even grid as its last
    digit, but never by so much that a slice could be missing.
    """
    if len(places) < 2:
        return None
    gaps = np.diff(places)
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = np.abs(np.asarray(places) - places[0] - step * np.arange(len(places))).max()
    if gaps.min() > 0 and off <= 0.02 * step + min(_last_digit(volume), 0.3 * step):
        return step
    usual = float(np.median(gaps))
    worst = 0 if len(gaps) == 1 else int(np.abs(gaps - usual).argmax())
    before, after = volume[worst].file.name, volume[worst + 1].file.name
    raise FileError(
        f"path: {before} and {after} are {gaps[worst]:.3g} mm apart, but other slices "
        f"{usual:.3g} mm: a slice is missing or duplicate"
    )


def _last_digit(volume: Volume) -> float:
    """Return the unit of the last decimal of the positions, in mm."""
    exponents = [
        Decimal(str(value)).normalize().as_tuple().exponent
        for frame in volume
        for value in frame.header.ImagePositionPatient
    ]
    return float(10.0 ** min(int(e) for e in exponents))


def _thickness(header: "Dataset") -> float:
    """Return the thickness of a single slice in mm, 1 if it is not given."""
    value = header.get("SliceThickness")
    return float(value) if _numbers(value, 1) and float(value) > 0 else 1.0


def _check_upright(path: Path, headers: "list[Dataset]", normal: np.ndarray) -> None:
    """Raise if slices are shifted relative to each other, so that they form no cuboid."""
    places = np.array([h.ImagePositionPatient for h in headers], float)
    way = places[-1] - places[0]
    shift = float(np.linalg.norm(way - (way @ normal) * normal))
    if shift > 0.5 * min(float(v) for v in headers[0].PixelSpacing):
        tilt = np.rad2deg(np.arctan2(shift, abs(way @ normal)))
        raise FileError(
            f"path: the slices in {str(path)!r} are sheared by {tilt:.3g} degrees (a tilted "
            "gantry), accepted: slices stacked along their normal; resample the series first"
        )
