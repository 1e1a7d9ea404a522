"""Scans that other packages describe by vectors: which circle they are, and our operator of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.operators.base import LinearOperator
from wellposed.operators.ct.cone import ConeBeamCT
from wellposed.operators.ct.geometry import Detector
from wellposed.operators.ct.joseph import Panel
from wellposed.operators.ct.operators import FanBeamCT, ParallelBeamCT
from wellposed.operators.stacked import Stacked

TOLERANCE = 1e-5
"""Largest deviation from a circle, over the largest length of the scan."""


@dataclass(frozen=True, eq=False)
class Orbit:
    """The views of a scan in the frame of `geometry`: X right, Y up, Z along the slices.

    Attributes:
        beam: places of the source, or directions of the rays of a parallel beam, (views, 3).
        centre: places of the detector's middle, (views, 3).
        u: steps from a column of the detector to the next, (views, 3).
        v: steps from a row to the next, (views, 3); zero for a line of bins.
        shape: numbers of rows and columns; one row of a line of bins.
        parallel: whether the beam is parallel.
    """

    beam: np.ndarray
    centre: np.ndarray
    u: np.ndarray
    v: np.ndarray
    shape: tuple[int, int]
    parallel: bool

    @property
    def planar(self) -> bool:
        """Whether the detector is a line."""
        return not self.v.any()

    def __post_init__(self) -> None:
        for vectors in (self.beam, self.centre, self.u, self.v):
            good = vectors.ndim == 2 and len(vectors) > 0 and bool(np.isfinite(vectors).all())
            require(good, "geometry", vectors.shape, "finite vectors of one or more views")


@dataclass(frozen=True)
class Circle:
    """An `Orbit` in the terms of our operators, see `FanBeamCT` and `ConeBeamCT`.

    Attributes:
        angles: in degrees.
        source, detector: distances from the source; 0 for a parallel beam.
        cell: distances of columns and of rows; 0 for a line of bins.
        offset, elevation: of the detector's middle.
        flipped: whether columns and rows are counted against ours.
    """

    angles: tuple[float, ...]
    source: float
    detector: float
    cell: tuple[float, float]
    offset: float
    elevation: float
    flipped: tuple[bool, bool]


def circle_of(orbit: Orbit) -> Circle:
    """Return the circle that source and detector move on.

    Raises:
        ArgumentError: they do not move on a circle about the Z axis, or the detector is tilted.
    """
    size = float(max(np.abs(part).max() for part in (orbit.u, orbit.centre, orbit.beam)))
    width = _common("detector spacing", np.linalg.norm(orbit.u, axis=1), size)
    height = _common("detector spacing", np.linalg.norm(orbit.v, axis=1), size)
    require(width > 0, "geometry", f"a detector spacing of {width:g}", "a positive one")
    u, beam = orbit.u / width, orbit.beam
    _zero("the detector's columns are tilted out of the plane", u[:, 2])
    _zero("the detector's rows are tilted", orbit.v[:, :2] / (height or 1.0))
    turned = False
    if not orbit.parallel:  # e points from the source to the detector
        turned = bool((_dot(beam, _quarter(u)) > 0).all())
        u = -u if turned else u
    e, unit = _quarter(u), np.linalg.norm(beam, axis=1).min() if orbit.parallel else size
    _zero("rays or source do not face the detector", _dot(beam, u) / unit)
    _zero("rays or source leave the plane Z = 0", beam[:, 2] / unit)
    source = detector = 0.0
    if not orbit.parallel:
        source = _common("distance of the source", -_dot(beam, e), size)
        detector = source + _common("distance of the detector", _dot(orbit.centre, e), size)
    down = bool(orbit.v[:, 2].sum() < 0)
    return Circle(
        tuple(np.rad2deg(np.arctan2(u[:, 1], u[:, 0])).tolist()),
        source,
        detector,
        (width, height),
        _common("offset of the detector", _dot(orbit.centre, u), size),
        _common("height of the detector", orbit.centre[:, 2], size),
        (turned, down),
    )


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a * b).sum(1))


def _quarter(u: np.ndarray) -> np.ndarray:
    """Return vectors of the plane turned counter-clockwise by 90 degrees."""
    return np.stack([-u[:, 1], u[:, 0], np.zeros(len(u))], 1)


def _common(name: str, values: np.ndarray, size: float) -> float:
    """Return the value that all views have."""
    low, high = float(values.min()), float(values.max())
    same = high - low <= TOLERANCE * size
    accepted = "one for all views: a circular scan about the Z axis"
    require(same, "geometry", f"a {name} of {low:g} to {high:g}", accepted)
    middle = (low + high) / 2
    return 0.0 if abs(middle) <= 1e-9 * size else middle


def _zero(problem: str, values: np.ndarray) -> None:
    if np.abs(values).max() > TOLERANCE:
        raise ArgumentError(
            f"geometry: {problem}, accepted: a circular scan about the Z axis, with the detector "
            "perpendicular to the central ray"
        )


@dataclass(frozen=True, eq=False)
class ForeignScan:
    """A scan of another package.

    Attributes:
        operator: our operator of it. Its images have the package's order of axes and rows.
        order: axes of the package's data in the order of our measurement.
        flips: axes of our measurement that the package counts the other way.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.ParallelBeamCT(32, angles=60, detector=48)
        >>> scan = operators.ForeignScan(operator, order=(1, 0))  # data (bins, views)
        >>> scan.measurement(torch.rand(48, 60)).shape
        torch.Size([1, 1, 60, 48])
    """

    operator: LinearOperator
    order: tuple[int, ...]
    flips: tuple[int, ...] = ()

    def measurement(self, data: Tensor | np.ndarray) -> Tensor:
        """Return the package's data as a measurement of the operator, with a batch of one.

        Raises:
            ShapeError: the data are not those of the scan.
        """
        wanted = tuple(int(n) for n in self.operator.measurement_size[1:])
        stored = tuple(wanted[self.order.index(axis)] for axis in range(len(self.order)))
        if tuple(data.shape) != stored:
            raise ShapeError(f"data: got shape {tuple(data.shape)}, accepted: {stored}")
        ours = torch.as_tensor(data).permute(self.order)
        return ours.flip(self.flips)[None, None].contiguous()

    def data(self, y: Tensor) -> Tensor:
        """Return a measurement (1, 1, ...) of the operator as the package's data.

        Raises:
            ShapeError: it is none.
        """
        wanted = (1, *(int(n) for n in self.operator.measurement_size))
        if tuple(y.shape) != wanted:
            raise ShapeError(f"y: got shape {tuple(y.shape)}, accepted: {wanted}")
        back = [self.order.index(axis) for axis in range(len(self.order))]
        return y[0, 0].flip(self.flips).permute(back).contiguous()


def scan_of(
    orbit: Orbit,
    size: Sequence[int],
    pixel: float,
    noise_sigma: float,
    order: tuple[int, ...] | None = None,
) -> ForeignScan:
    """Return our operator of an orbit.

    Args:
        orbit: the views.
        size: (H, W) of the image or (D, H, W) of the volume.
        pixel: side of its pixels or voxels.
        noise_sigma: standard deviation of the noise.
        order: axes of the package's data that are rows, views and columns; by default these.

    Raises:
        ArgumentError: no circle, or a scan that no operator here fits.
    """
    circle, (rows, columns) = circle_of(orbit), orbit.shape
    angles, noise = list(circle.angles), noise_sigma
    if orbit.planar:
        detector = Detector(columns, circle.cell[0], circle.offset)
        require(
            len(size) == 2, "geometry", f"an image of {len(size)} axes", "2 for a line of bins"
        )
        plane = (
            ParallelBeamCT(size, angles, detector, pixel, noise)
            if orbit.parallel
            else FanBeamCT(size, angles, circle.source, circle.detector, detector, pixel, noise)
        )
        return ForeignScan(plane, (0, 1), (1,) * circle.flipped[0])
    require(len(size) == 3, "geometry", f"an image of {len(size)} axes", "3 for a panel")
    by_row, by_view, by_column = (0, 1, 2) if order is None else order
    if orbit.parallel:
        slices = _slices(circle, orbit, size, pixel, noise)
        return ForeignScan(slices, (by_row, by_view, by_column), (0,) * circle.flipped[1])
    width, height = circle.cell
    square = abs(width - height) <= TOLERANCE * width
    require(square, "geometry", f"cells of {width:g} x {height:g}", "square cells of a panel")
    panel = Panel(rows, columns, width, circle.offset, circle.elevation)
    cone = ConeBeamCT(size, angles, circle.source, circle.detector, panel, pixel, noise)
    flips = tuple(
        axis for axis, turned in ((2, circle.flipped[0]), (1, circle.flipped[1])) if turned
    )
    return ForeignScan(cone, (by_view, by_row, by_column), flips)


def _slices(
    circle: Circle, orbit: Orbit, size: Sequence[int], pixel: float, noise: float
) -> LinearOperator:
    """Return the operator of a parallel beam whose rows are the slices of the volume."""
    rows, columns = orbit.shape
    near = TOLERANCE * pixel
    fits = (
        rows == size[0] and abs(circle.cell[1] - pixel) <= near and abs(circle.elevation) <= near
    )
    got = f"{rows} rows of {circle.cell[1]:g} at {circle.elevation:g}"
    require(fits, "geometry", got, f"the {size[0]} slices of {pixel:g} at 0 of the volume")
    detector = Detector(columns, circle.cell[0], circle.offset)
    plane = ParallelBeamCT(tuple(size[1:]), list(circle.angles), detector, pixel, noise)
    return Stacked(plane, size[0])
