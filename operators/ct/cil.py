"""Geometries of the Core Imaging Library (CIL)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wellposed.checks import NonNegative, checked
from wellposed.errors import ArgumentError, require
from wellposed.operators.ct.orbits import TOLERANCE, ForeignScan, Orbit, scan_of

ROWS, VIEWS, COLUMNS = "vertical", "angle", "horizontal"
"""Labels of the axes of data in CIL."""


@checked
def from_cil(
    geometry: Any, image_geometry: Any | None = None, noise_sigma: NonNegative = 0.0
) -> ForeignScan:
    """Return our operator of a scan of CIL, and the order of its data.

    Images (horizontal_y, horizontal_x), or (vertical, horizontal_y, horizontal_x), are those of
    CIL as they are; its Y axis points down the rows. CIL turns the object by its angles, which
    turns the beam the other way, and counter-clockwise in the image.

    Args:
        geometry: an `AcquisitionGeometry`, parallel or cone beam, 2-D or 3-D, of one channel.
        image_geometry: an `ImageGeometry`, centred, of square pixels or cubic voxels; by default
            that of CIL: as wide as the detector, with its pixels seen at the rotation axis.
        noise_sigma: standard deviation of the noise in the line integrals.

    Raises:
        ArgumentError: the objects are of another kind, or the scan is not a circle about the
            vertical axis.

    Example:
        >>> from cil.framework import AcquisitionGeometry  # cil # doctest: +SKIP
        >>> from wellposed import operators
        >>> geometry = AcquisitionGeometry.create_Parallel2D()  # doctest: +SKIP
        >>> geometry = geometry.set_angles(range(180)).set_panel(64)  # doctest: +SKIP
        >>> operators.from_cil(geometry).operator.measurement_size  # doctest: +SKIP
        (1, 180, 64)
    """
    try:
        orbit, labels = _orbit(geometry), [str(name) for name in geometry.dimension_labels]
        size, pixel = _image(orbit, image_geometry)
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(
            f"geometry: got {type(geometry).__name__} ({error}), accepted: an AcquisitionGeometry "
            "and an ImageGeometry of CIL"
        ) from error
    wanted = [VIEWS, COLUMNS] if orbit.planar else [ROWS, VIEWS, COLUMNS]
    require(sorted(labels) == sorted(wanted), "geometry", f"axes {labels}", f"{wanted}")
    places = tuple(labels.index(name) for name in wanted)
    scan = scan_of(orbit, size, pixel, noise_sigma, None if orbit.planar else places)
    return ForeignScan(scan.operator, places, scan.flips) if orbit.planar else scan


def _orbit(geometry: Any) -> Orbit:
    """Return the views in our frame, whose Y axis points against that of CIL."""
    require(int(geometry.channels) == 1, "geometry", f"{geometry.channels} channels", "one")
    system, panel = geometry.config.system, geometry.config.panel
    parallel = str(getattr(geometry.geom_type, "value", geometry.geom_type)) == "parallel"
    axis = _vector(system.rotation_axis.position)
    across = _vector(system.detector.direction_x)
    planar = len(system.detector.position) == 2
    if not planar:
        upright = _vector(system.rotation_axis.direction)[:2]
        accepted = "the direction (0, 0, 1)"
        require(not upright.any(), "geometry", "a tilted rotation axis", accepted)
    beam = _vector(system.ray.direction) if parallel else _vector(system.source.position) - axis
    centre = _vector(system.detector.position) - axis
    up = np.zeros(3) if planar else _vector(system.detector.direction_y)
    width, height = (float(side) for side in panel.pixel_size)
    u = width * across * (-1 if "right" in str(panel.origin) else 1)
    v = height * up * (-1 if "top" in str(panel.origin) else 1)
    columns, rows = (int(n) for n in panel.num_pixels)
    turns = _turns(geometry.config.angles)
    flip = np.array([1.0, -1.0, 1.0])
    beam, centre, u, v = (
        np.einsum("vij,j->vi", turns, flip * part) for part in (beam, centre, u, v)
    )
    return Orbit(beam, centre, u, v, (1 if planar else rows, columns), parallel)


def _vector(stored: Sequence[float]) -> np.ndarray:
    """Return a vector of 2 or 3 coordinates with 3."""
    values = np.asarray(stored, float).ravel()
    return np.pad(values, (0, 3 - len(values)))


def _turns(angles: Any) -> np.ndarray:
    """Return the rotations about Z of the views, (views, 3, 3)."""
    values = np.asarray(angles.angle_data, float).ravel() + float(angles.initial_angle)
    unit = str(getattr(angles.angle_unit, "value", angles.angle_unit)).lower()
    require(unit in ("degree", "radian"), "geometry", f"angles in {unit}", "degree or radian")
    theta = np.deg2rad(values) if unit == "degree" else values
    turns = np.tile(np.eye(3), (len(theta), 1, 1))
    turns[:, 0, 0] = turns[:, 1, 1] = np.cos(theta)
    turns[:, 1, 0], turns[:, 0, 1] = np.sin(theta), -np.sin(theta)
    return turns


def _image(orbit: Orbit, image: Any | None) -> tuple[tuple[int, ...], float]:
    """Return the size of the image, and the side of its pixels."""
    if image is None:
        return _seen(orbit)
    names = "yx" if orbit.planar else "zyx"
    size = tuple(int(getattr(image, f"voxel_num_{name}")) for name in names)
    sides = [float(getattr(image, f"voxel_size_{name}")) for name in names]
    centre = [float(getattr(image, f"center_{name}", 0)) for name in names]
    equal = max(sides) - min(sides) <= TOLERANCE * max(sides)
    require(equal, "image_geometry", f"sides {sides}", "square pixels or cubic voxels")
    require(not any(centre), "image_geometry", f"the centre {centre}", "one at the rotation axis")
    return size, sides[-1]


def _seen(orbit: Orbit) -> tuple[tuple[int, ...], float]:
    """Return as many pixels as the detector has, of their size seen at the rotation axis."""
    source = float(np.linalg.norm(orbit.beam[0, :2]))
    distance = float(np.linalg.norm((orbit.centre - orbit.beam)[0, :2]))
    magnification = 1.0 if orbit.parallel else distance / source
    rows, columns = orbit.shape
    size = (columns, columns) if orbit.planar else (rows, columns, columns)
    return size, float(np.linalg.norm(orbit.u[0])) / magnification
