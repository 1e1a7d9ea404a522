"""Geometries of the ASTRA toolbox, and of tomosipo, which describes scans as ASTRA does."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wellposed.checks import NonNegative, checked
from wellposed.errors import ArgumentError, ShapeError, require, require_choice
from wellposed.operators.ct.orbits import TOLERANCE, ForeignScan, Orbit, scan_of

Geometry = Mapping[str, Any]


@checked
def from_astra(
    proj_geom: Mapping[str, Any], vol_geom: Mapping[str, Any], noise_sigma: NonNegative = 0.0
) -> ForeignScan:
    """Return our operator of a scan of ASTRA, and the order of its data.

    Line integrals are in the same units. Images are those of ASTRA as they are; data of two axes
    are (views, bins), of three (rows, views, columns). Angles of ASTRA are counter-clockwise in
    radians as seen in its images in 2-D; in 3-D its Y axis points down the rows.

    Args:
        proj_geom: of `astra.create_proj_geom`, or ``to_astra()`` of a geometry of tomosipo:
            parallel, fanflat, parallel3d or cone, or ``..._vec`` of a circular scan.
        vol_geom: of `astra.create_vol_geom`, centred, of square pixels or cubic voxels.
        noise_sigma: standard deviation of the noise in the line integrals.

    Returns:
        The scan, for example ``scan.operator`` and ``scan.measurement(sinogram)``.

    Raises:
        ArgumentError: another type, a missing or invalid entry, or a scan that is not a circle
            about the axis of the volume.

    Example:
        >>> import math
        >>> from wellposed import operators
        >>> volume = {"GridRowCount": 32, "GridColCount": 32}  # astra.create_vol_geom(32, 32)
        >>> beam = {"type": "parallel", "DetectorWidth": 1.0, "DetectorCount": 48}
        >>> beam["ProjectionAngles"] = [math.pi * view / 60 for view in range(60)]
        >>> operators.from_astra(beam, volume).operator.measurement_size
        (1, 60, 48)
    """
    kind = require_choice("proj_geom", str(_entry(proj_geom, "proj_geom", "type")), _READERS)
    try:
        orbit = _READERS[kind](proj_geom)
    except (TypeError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"proj_geom: got invalid entries of {kind}: {error}") from error
    size, pixel = _volume(vol_geom, orbit.planar)
    return scan_of(orbit, size, pixel, noise_sigma)


def _entry(geometry: Geometry, name: str, key: str) -> Any:
    require(isinstance(geometry, Mapping), name, geometry, "a geometry of ASTRA")
    if key not in geometry:
        raise ArgumentError(f"{name}: got no {key!r}, accepted: a geometry of ASTRA")
    return geometry[key]


def _numbers(geometry: Geometry, *keys: str) -> list[float]:
    return [float(_entry(geometry, "proj_geom", key)) for key in keys]


def _turned(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors ``(cos, sin, 0)`` and ``(-sin, cos, 0)`` of the views, (views, 3)."""
    theta = np.asarray(_entry(geometry, "proj_geom", "ProjectionAngles"), float).ravel()
    zero = np.zeros_like(theta)
    across = np.stack([np.cos(theta), np.sin(theta), zero], 1)
    return across, np.stack([-np.sin(theta), np.cos(theta), zero], 1)


def _parallel(geometry: Geometry) -> Orbit:
    (width,), (u, d) = _numbers(geometry, "DetectorWidth"), _turned(geometry)
    zero = np.zeros_like(u)
    return Orbit(d, zero, width * u, zero, _line(geometry), True)


def _fan(geometry: Geometry) -> Orbit:
    (width,), (u, d) = _numbers(geometry, "DetectorWidth"), _turned(geometry)
    source, detector = _numbers(geometry, "DistanceOriginSource", "DistanceOriginDetector")
    return Orbit(-source * d, detector * d, width * u, np.zeros_like(u), _line(geometry), False)


def _parallel3d(geometry: Geometry) -> Orbit:
    u, d = _turned(geometry)
    return _downward(d, np.zeros_like(u), *_panel(geometry, u), _cells(geometry), True)


def _cone(geometry: Geometry) -> Orbit:
    u, d = _turned(geometry)
    source, detector = _numbers(geometry, "DistanceOriginSource", "DistanceOriginDetector")
    panel = _panel(geometry, u)
    return _downward(-source * d, detector * d, *panel, _cells(geometry), False)


def _vectors(count: int, parallel: bool) -> Callable[[Geometry], Orbit]:
    """Return the reader of geometries with vectors of 2 or 3 coordinates."""

    def read(geometry: Geometry) -> Orbit:
        stored = np.asarray(_entry(geometry, "proj_geom", "Vectors"), float)
        columns = 6 if count == 2 else 12
        if stored.ndim != 2 or stored.shape[1] != columns:
            raise ShapeError(
                f"proj_geom: got Vectors {stored.shape}, accepted: (views, {columns})"
            )
        parts = np.split(stored, columns // count, 1)
        if count == 2:
            beam, centre, u = (np.pad(part, ((0, 0), (0, 1))) for part in parts)
            return Orbit(beam, centre, u, np.zeros_like(u), _line(geometry), parallel)
        beam, centre, u, v = parts
        return _downward(beam, centre, u, v, _cells(geometry), parallel)

    return read


def _panel(geometry: Geometry, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps along columns and rows of a panel."""
    width, height = _numbers(geometry, "DetectorSpacingX", "DetectorSpacingY")
    return width * u, np.tile([0.0, 0.0, height], (len(u), 1))


def _downward(
    beam: np.ndarray,
    centre: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    shape: tuple[int, int],
    parallel: bool,
) -> Orbit:
    """Return an orbit from vectors whose Y axis points down the rows of the volume."""
    flip = np.array([1.0, -1.0, 1.0])
    return Orbit(flip * beam, flip * centre, flip * u, flip * v, shape, parallel)


def _line(geometry: Geometry) -> tuple[int, int]:
    return 1, int(_entry(geometry, "proj_geom", "DetectorCount"))


def _cells(geometry: Geometry) -> tuple[int, int]:
    rows, columns = (
        int(_entry(geometry, "proj_geom", f"Detector{name}Count")) for name in ("Row", "Col")
    )
    return rows, columns


_READERS: dict[str, Callable[[Geometry], Orbit]] = {
    "parallel": _parallel,
    "fanflat": _fan,
    "parallel3d": _parallel3d,
    "cone": _cone,
    "parallel_vec": _vectors(2, True),
    "fanflat_vec": _vectors(2, False),
    "parallel3d_vec": _vectors(3, True),
    "cone_vec": _vectors(3, False),
}


def _volume(geometry: Geometry, planar: bool) -> tuple[tuple[int, ...], float]:
    """Return the size of an image or volume, and the side of its pixels."""
    axes = {"Row": "Y", "Col": "X"} if planar else {"Slice": "Z", "Row": "Y", "Col": "X"}
    window, size, sides = geometry.get("option") or {}, [], []
    for name, axis in axes.items():
        count = int(_entry(geometry, "vol_geom", f"Grid{name}Count"))
        require(count > 0, "vol_geom", count, "positive sizes")
        low = float(window.get(f"WindowMin{axis}", -count / 2))
        high = float(window.get(f"WindowMax{axis}", count / 2))
        centred = low < high and abs(low + high) <= TOLERANCE * (high - low)
        require(centred, "vol_geom", f"{axis} from {low:g} to {high:g}", "a centred volume")
        size.append(count)
        sides.append((high - low) / count)
    equal = math.isclose(min(sides), max(sides), rel_tol=TOLERANCE)
    require(equal, "vol_geom", f"sides {sides}", "square pixels or cubic voxels")
    return tuple(size), sides[-1]
