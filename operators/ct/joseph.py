"""Scans of volumes with a cone beam, and their projection by Joseph's method."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.checks import Count, Positive, check_fields
from wellposed.operators.ct.coverage import Coverage

SLABS = 16
"""Number of slabs processed at a time: few enough for memory, many enough for all threads."""

ALONG_Y, ALONG_X = 2, 3
"""Axes of volumes (B, D, H, W) that rays can be followed along."""


@dataclass(frozen=True)
class Panel:
    """A flat panel of square cells.

    Args:
        rows: number of cells along the rotation axis.
        columns: number of cells across it.
        cell_size: side of a cell, in the unit of ``voxel_size``.
        offset: position of the panel's middle across the axis, relative to the central ray; if the
            rotation centre projects to column c, ``offset = ((columns - 1) / 2 - c) cell_size``.
        elevation: height of the panel's middle above the plane of the source.

    Raises:
        ArgumentError: a number or size that is not positive, or a shift that is not finite.

    Example:
        >>> from wellposed import operators
        >>> panel = operators.Panel(rows=12, columns=40, cell_size=1.5, offset=0.3)
        >>> operators.ConeBeamCT((4, 16, 16), 12, 100.0, 150.0, panel).measurement_size
        (1, 12, 12, 40)
    """

    rows: Count
    columns: Count
    cell_size: Positive
    offset: float = 0.0
    elevation: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def half_sides(self) -> tuple[float, float]:
        """Half the panel's width and half its height."""
        return self.columns * self.cell_size / 2, self.rows * self.cell_size / 2

    def cells(self) -> tuple[Tensor, Tensor]:
        """Return the positions u of columns and the heights v of rows, float64."""
        u, v = (
            (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * self.cell_size + shift
            for count, shift in ((self.columns, self.offset), (self.rows, self.elevation))
        )
        return u, v


@dataclass(frozen=True)
class ConeGeometry:
    """A circular scan with a cone beam; for the arguments see `ConeBeamCT`."""

    volume_size: tuple[int, int, int]
    angles: tuple[float, ...]
    source_distance: float
    detector_distance: float
    panel: Panel
    voxel_size: float

    @property
    def coverage(self) -> Coverage:
        """Which rays are measured, in the plane of the source."""
        half, _ = self.panel.half_sides
        left, right = (
            math.atan((self.panel.offset + side) / self.detector_distance)
            for side in (-half, half)
        )
        return Coverage(self.angles, (left, right))

    def cast(self, x: Tensor, y: Tensor, z: Tensor, theta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return the projections u and v of points on the panel, and their depth."""
        cos, sin = math.cos(theta), math.sin(theta)
        depth = self.source_distance - x * sin + y * cos
        scale = self.detector_distance / depth
        return (x * cos + y * sin) * scale, z * scale, depth


@dataclass(frozen=True)
class _Rays:
    """Some rays of a view, and where they cross the middles of slabs, in units of `grid_sample`.

    Those are -1 and 1 at the outer edges of a slab's image.

    Attributes:
        columns: columns of the panel that the rays hit, (C,).
        v: heights of the panel's rows, (R,).
        across: positions across the slabs, (slabs, C).
        rise: vertical positions in the slabs per unit of v, (slabs, C).
        length: length of a ray within a slab, (R, C).
    """

    columns: Tensor
    v: Tensor
    across: Tensor
    rise: Tensor
    length: Tensor

    def places(self, part: slice) -> Tensor:
        """Return the positions in some of the slabs, (slabs, R, C, 2)."""
        up = self.rise[part, None] * self.v[:, None]
        return torch.stack([self.across[part, None].expand_as(up), up], -1)


class JosephProjector:
    """Projection of volumes (B, D, H, W) to (B, views, rows, columns), and its transpose.

    Args:
        geometry: the scan.
    """

    def __init__(self, geometry: ConeGeometry) -> None:
        self.geometry = geometry

    def project(self, volumes: Tensor) -> Tensor:
        """Return the projections of volumes, float32 or float64."""
        panel, views = self.geometry.panel, len(self.geometry.angles)
        out = volumes.new_zeros(len(volumes), views, panel.rows, panel.columns)
        for axis in (ALONG_Y, ALONG_X):
            slabs = volumes.movedim(axis, 0).contiguous()  # (slabs, B, D, across)
            for view, rays in self._rays(axis, volumes):
                total = out.new_zeros(len(out), *rays.length.shape)
                for part in _parts(len(slabs)):
                    sampled = F.grid_sample(slabs[part], rays.places(part), align_corners=False)
                    total += sampled.sum(0)
                out[:, view][..., rays.columns] = rays.length * total
        return out

    def backproject(self, data: Tensor) -> Tensor:
        """Return the transpose applied to projections."""
        total = data.new_zeros(len(data), *self.geometry.volume_size)
        for axis in (ALONG_Y, ALONG_X):
            slabs = total.new_zeros(total.movedim(axis, 0).shape)
            for view, rays in self._rays(axis, data):
                values = rays.length * data[:, view][..., rays.columns]
                for part in _parts(len(slabs)):
                    slabs[part] += _sampling_transpose(values, slabs[part], rays.places(part))
            total += slabs.movedim(0, axis)
        return total

    def _rays(self, axis: int, like: Tensor) -> Iterator[tuple[int, _Rays]]:
        """Yield the views with rays that run mainly along an axis, and these rays."""
        for view, angle in enumerate(self.geometry.angles):
            rays = self._rays_of_view(math.radians(angle), axis, like)
            if len(rays.columns):
                yield view, rays

    def _rays_of_view(self, theta: float, axis: int, like: Tensor) -> _Rays:
        scan, cos, sin = self.geometry, math.cos(theta), math.sin(theta)
        (depth, height, width), size = scan.volume_size, scan.voxel_size
        u, v = scan.panel.cells()
        # Down the rows and along the columns of slices, in voxels: the way from the source to the
        # cells, the source, and the number of slabs.
        down = -(u * sin + scan.detector_distance * cos) / size
        right = (u * cos - scan.detector_distance * sin) / size
        ways = [
            (down, (height - 1) / 2 + scan.source_distance * cos / size, height),
            (right, (width - 1) / 2 + scan.source_distance * sin / size, width),
        ]
        (along, start, slabs), (aside, begin, side) = ways if axis == ALONG_Y else ways[::-1]
        columns = ((down.abs() >= right.abs()) == (axis == ALONG_Y)).nonzero()[:, 0]
        along, aside = along[columns], aside[columns]
        share = (torch.arange(slabs, dtype=u.dtype)[:, None] - start) / along
        across = (2 * (begin + share * aside) + 1) / side - 1
        length = torch.sqrt(along**2 + aside**2 + (v[:, None] / size) ** 2) / along.abs() * size
        parts = (t.to(like) for t in (v, across, share * (2 / (size * depth)), length))
        return _Rays(columns.to(like.device), *parts)


def _parts(slabs: int) -> list[slice]:
    return [slice(start, start + SLABS) for start in range(0, slabs, SLABS)]


def _sampling_transpose(values: Tensor, slabs: Tensor, places: Tensor) -> Tensor:
    """Return the transpose of `grid_sample`, (n, B, D, across), of the same values for all slabs.

    Args:
        values: (B, R, C).
        slabs: a tensor of the shape of the result.
        places: (n, R, C, 2).
    """
    # The function that PyTorch's gradient calls, without a public name. Bilinear, zero outside.
    gather = torch.ops.aten.grid_sampler_2d_backward
    values = values.expand(len(slabs), -1, -1, -1)
    gathered: Tensor = gather(values, slabs, places, 0, 0, False, [True, False])[0]
    return gathered
