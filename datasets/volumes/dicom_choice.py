"""Choice of the images of one volume among those of a DICOM folder."""

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wellposed.datasets.volumes.dicom_frames import NO_IMAGES, Frame
from wellposed.errors import FileError

if TYPE_CHECKING:
    from pydicom import Dataset

Volume = list[Frame]

SAME = ("SeriesInstanceUID", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient")
"""Attributes that are equal in all images of a volume."""

DIFFERING = (
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "EchoNumbers",
    "EchoTime",
    "EffectiveEchoTime",
    "InversionTime",
    "FlipAngle",
    "ImageType",
    "FrameType",
    "ComplexImageComponent",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "NominalPercentageOfCardiacPhase",
    "StackID",
    "DiffusionGradientOrientation",
    "AcquisitionNumber",
    "ConvolutionKernel",
    "AcquisitionTime",
    "FrameReferenceDateTime",
)
"""Attributes that distinguish the volumes of a series, the most distinctive first."""

_log = logging.getLogger(__name__)


def choose(
    path: Path,
    frames: Sequence[Frame],
    series: str | int | None,
    where: Mapping[str, object] | None,
) -> Volume:
    """Return the images of the only volume, or of the requested one.

    Other images are named in one line of the log.

    Raises:
        FileError: no image is as requested, or there are several volumes; names them.
    """
    wanted = [f for f in frames if _is_of(f.header, series) and _fits(f.header, where or {})]
    if not wanted:
        raise FileError(
            f"path: no image in {str(path)!r} of series {series!r} where {dict(where or {})}; "
            f"there are: {_listed(volumes_of(frames))}"
        )
    found = volumes_of(wanted)
    images = [v for v in found if v[0].header.get("Modality") not in NO_IMAGES] or found
    # One image beside a volume is a scout or similar.
    thick = [v for v in images if len(v) > 1] or images
    if len(thick) > 1:
        raise FileError(
            f"path: {str(path)!r} has {len(thick)} volumes; choose one by series= or where=, "
            f"or use one folder per volume: {_listed(thick)}"
        )
    _tell_skipped(path, [frame for frame in wanted if frame not in thick[0]])
    return thick[0]


def volumes_of(frames: Sequence[Frame]) -> list[Volume]:
    """Return images grouped into volumes."""
    groups: list[Volume] = []
    for frame in frames:
        fitting = (g for g in groups if all(_equal(g[0].header, frame.header, k) for k in SAME))
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(frame)
    return [volume for group in groups for volume in _split(group)]


def _split(group: Volume) -> list[Volume]:
    """Return the volumes of a series with several images per position, distinguished by tags."""
    if not _doubled(group):
        return [group]
    varying = [tag for tag in DIFFERING if len({_text(f.header, tag) for f in group}) > 1]
    for count in (1, 2):
        for tags in combinations(varying, count):
            parts: dict[tuple[str, ...], Volume] = defaultdict(list)
            for frame in group:
                parts[tuple(_text(frame.header, tag) for tag in tags)].append(frame)
            volumes = list(parts.values())
            if len({len(v) for v in volumes}) == 1 and not any(map(_doubled, volumes)):
                return volumes
    return [group]


def _doubled(group: Volume) -> bool:
    places = Counter(_text(frame.header, "ImagePositionPatient") for frame in group)
    return max(places.values()) > 1


def _is_of(header: "Dataset", series: str | int | None) -> bool:
    names = ("SeriesInstanceUID", "SeriesDescription", "SeriesNumber")
    return series is None or str(series) in {_text(header, name) for name in names}


def _fits(header: "Dataset", where: Mapping[str, object]) -> bool:
    """Return whether tags have the requested values, or contain them."""
    return all(
        any(_same(value, found) for found in (header.get(tag), *_parts(header.get(tag))))
        for tag, value in where.items()
    )


def _equal(one: "Dataset", other: "Dataset", tag: str) -> bool:
    return _same(one.get(tag), other.get(tag))


def _same(a: object, b: object) -> bool:
    """Return whether two values of tags are equal: numbers up to rounding, others as text."""
    if a is None or b is None:
        return a is b
    try:
        x, y = np.asarray(a, float), np.asarray(b, float)
        return x.shape == y.shape and bool(np.allclose(x, y, rtol=1e-4, atol=1e-4))
    except (TypeError, ValueError):
        return str(a) == str(b)


def _parts(value: object) -> tuple[object, ...]:
    return () if isinstance(value, str) or not isinstance(value, Sequence) else tuple(value)


def _text(header: "Dataset", tag: str) -> str:
    return str(header.get(tag))


def _listed(volumes: Sequence[Volume]) -> str:
    """Return how to request each volume, at most eight."""
    choices = [_choice(volume, volumes) for volume in volumes[:8]]
    more = [f"{len(volumes) - 8} more"] if len(volumes) > 8 else []
    return "; ".join(choices + more)


def _choice(volume: Volume, others: Sequence[Volume]) -> str:
    """Return how to request a volume, and its description."""
    header = volume[0].header
    uid = _text(header, "SeriesInstanceUID")
    of_series = [v for v in others if _text(v[0].header, "SeriesInstanceUID") == uid]
    tags = {
        tag: _plain(header.get(tag))
        for tag in (*SAME[1:], *DIFFERING)
        if len({_text(v[0].header, tag) for v in of_series}) > 1
    }
    size = f"{len(volume)} of {header.Rows} x {header.Columns}"
    name = header.get("SeriesDescription") or "no description"
    first = dict(list(tags.items())[:2])
    series = f"series={uid!r}" if len(of_series) < len(others) else ""
    asked = ", ".join(filter(None, (series, f"where={first}" if first else "")))
    return f"{asked or f'series={uid!r}'} ({name}, {size})"


def _plain(value: object) -> object:
    if parts := _parts(value):
        return [_plain(part) for part in parts]
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)
    return int(number) if math.isfinite(number) and number == int(number) else number


def _tell_skipped(path: Path, frames: Sequence[Frame]) -> None:
    if frames:
        names = sorted({frame.file.name for frame in frames})
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        _log.warning("%s: skipped %d images of other volumes: %s", path, len(frames), shown)
