"""DICOM series: slices sorted by their place in space, in physical units."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.datasets.volumes.dicom_choice import Volume, choose
from wellposed.datasets.volumes.dicom_frames import (
    Frame,
    frames_of,
    is_dicom,
    physical,
    read_pixels,
)
from wellposed.errors import FileError, require

GEOMETRY = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
"""What places a slice in space, and how many numbers each is."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomSeries:
    """A volume read from a DICOM series.

    Attributes:
        values: (D, H, W) float32, in the units of the modality (HU for CT) or, where the file
            tells no other, of the real-world map.
        spacing: distance of slices, rows and columns in mm.
        headers: the slices' headers in the order of the volume, without their pixels; those of
            the frames of an enhanced file have its functional groups at the top.
    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    headers: list[Any]

    @property
    def volume(self) -> Tensor:
        """The values as (1, 1, D, H, W)."""
        return torch.from_numpy(self.values)[None, None]


def read_dicom_series(
    path: str | Path,
    *,
    series: str | None = None,
    where: Mapping[str, object] | None = None,
) -> DicomSeries:
    """Read a volume from a folder of DICOM files, or from one, sorted along the slices' normal.

    Files are told by their content or suffix, and may be compressed or hold many frames. What is
    no image, and single images beside a volume, are skipped with a line in the log.

    Args:
        path: a folder, or a file.
        series: SeriesInstanceUID, SeriesDescription or SeriesNumber of the volume, where there
            are several.
        where: tags and their values of its images, as ``{"DiffusionBValue": 800}``.

    Raises:
        FileError: no or unreadable files, several volumes and no choice, slices without
            geometry, missing or doubled slices, or a tilted gantry; names the file, the gap or
            the choices.
        ArgumentError: ``where`` is no mapping.
    """
    path = _existing(path)
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


def _existing(path: str | Path) -> Path:
    require(isinstance(path, str | Path), "path", path, "the path of a folder or file")
    path = Path(path)
    try:
        found = path.exists()
    except (OSError, ValueError) as error:  # too long, or with a NUL
        raise FileError(f"path: cannot read {str(path)[:80]!r}: {error}") from error
    if not found:
        raise FileError(f"path: no such folder {str(path)!r}")
    return path


def _images(path: Path) -> list[Frame]:
    """Return the images of a folder or file; what else is DICOM there is told in the log."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    files = [file for file in files if is_dicom(file)]
    if not files:
        raise FileError(f"path: no DICOM files in {str(path)!r}")
    found = {file: frames_of(file) for file in files}
    others = [file.name for file, frames in found.items() if not frames]
    if len(others) == len(files):
        raise FileError(f"path: {str(path)!r} is DICOM without images: {', '.join(others[:4])}")
    if others:
        _log.warning("%s: skipped what is no image: %s", path, ", ".join(others))
    return [frame for frames in found.values() for frame in frames]


def _values(volume: Volume) -> np.ndarray:
    """Return the values of a volume's images (D, H, W), float32; each file is decoded once."""
    values = np.empty((len(volume), volume[0].header.Rows, volume[0].header.Columns), np.float32)
    rows: dict[Path, list[int]] = {}
    for row, frame in enumerate(volume):
        rows.setdefault(frame.file, []).append(row)
    for file, places in rows.items():
        stored = read_pixels(file)
        for row in places:
            values[row] = _image(volume[row], stored)
    return values


def _image(frame: Frame, stored: np.ndarray) -> np.ndarray:
    image = stored if frame.number is None or stored.ndim == 2 else stored[frame.number]
    if image.ndim != 2:
        raise FileError(
            f"path: {str(frame.file)!r} holds {image.ndim} axes, accepted: one slice with its "
            "geometry"
        )
    try:
        return physical(image, frame.header)
    except Exception as error:  # pydicom raises many kinds; the user needs the file's name
        raise FileError(
            f"path: cannot read {str(frame.file)!r} as DICOM: its values are not told ({error})"
        ) from error


def _check_geometry(frame: Frame) -> None:
    """Raise unless an image has a place in space."""
    header, name = frame.header, str(frame.file)
    missing = [tag for tag, count in GEOMETRY.items() if not _numbers(header.get(tag), count)]
    if missing:
        got = f"lacks {', '.join(missing)}"
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


def _numbers(value: Any, count: int) -> bool:
    """Tell whether a tag holds so many finite numbers."""
    try:
        return np.size(value) == count and bool(np.isfinite(np.asarray(value, float)).all())
    except (TypeError, ValueError):
        return False


def _position(frame: Frame) -> np.ndarray:
    return np.asarray(frame.header.ImagePositionPatient, float)


def _slice_distance(volume: Volume, places: list[float]) -> float | None:
    """Return the distance of slices, or None for a single one; raise where it is not even.

    Scanners round positions, often to .1 mm: each may be as far from an even grid as its last
    digit tells, but never by so much that a slice could be missing.
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
        f"path: {gaps[worst]:.3g} mm lie between {before} and {after}, {usual:.3g} mm between "
        "other slices: a slice is missing or doubled"
    )


def _last_digit(volume: Volume) -> float:
    """Return the unit of the last decimal of the positions, in mm."""
    exponents = [
        Decimal(str(value)).normalize().as_tuple().exponent
        for frame in volume
        for value in frame.header.ImagePositionPatient
    ]
    return float(10.0 ** min(int(e) for e in exponents))


def _thickness(header: Any) -> float:
    """Return the thickness of a single slice in mm, 1 where it is not told."""
    value = header.get("SliceThickness")
    return float(value) if _numbers(value, 1) and float(value) > 0 else 1.0


def _check_upright(path: Path, headers: list[Any], normal: np.ndarray) -> None:
    """Raise where slices are shifted against each other, as no cuboid volume holds them."""
    places = np.array([h.ImagePositionPatient for h in headers], float)
    way = places[-1] - places[0]
    shift = float(np.linalg.norm(way - (way @ normal) * normal))
    if shift > 0.5 * min(float(v) for v in headers[0].PixelSpacing):
        tilt = np.rad2deg(np.arctan2(shift, abs(way @ normal)))
        raise FileError(
            f"path: the slices in {str(path)!r} are sheared by {tilt:.3g} degrees (a tilted "
            "gantry), accepted: slices stacked along their normal; resample the series first"
        )
