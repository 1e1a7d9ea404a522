"""Cone-beam tomography of volumes on a flat panel."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.errors import require
from wellposed.operators.base import LinearOperator
from wellposed.operators.ct.fbp import ramp_filter
from wellposed.operators.ct.operators import require_distances, require_length, view_angles


@dataclass(frozen=True)
class Panel:
    """A flat panel of square cells.

    Args:
        rows: number of cells along the rotation axis.
        columns: number of cells across it.
        cell_size: side of a cell, in the unit of ``voxel_size``.
    """

    rows: int
    columns: int
    cell_size: float

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            value = getattr(self, name)
            whole = isinstance(value, Integral) and int(value) >= 1
            require(whole, name, value, "an int >= 1")
        require_length("cell_size", self.cell_size)


class ConeBeamCT(LinearOperator):
    """Circular cone-beam tomography.

    Volumes (B, 1, D, H, W) hold attenuation per unit length, measurements (B, 1, views, rows,
    columns) line integrals. Slices have the conventions of planar scans; slice k is at height
    ``Z = (k - (D-1)/2) voxel_size``, and the source moves in the plane Z = 0. Cell (r, c) is at
    height ``(r - (rows-1)/2) cell_size`` on the panel and at ``(c - (columns-1)/2) cell_size``
    along the view's u.

    Joseph's method: a ray is followed through the slabs of voxels across that of the axes X and Y
    which the view looks along more, interpolated bilinearly in each (Joseph 1982,
    https://doi.org/10.1109/TMI.1982.4307572). The adjoint is its exact transpose. Memory is that
    of one slab of one view.

    Args:
        volume_size: (D, H, W).
        angles: view angles in degrees (views,), or their number, spaced equally over [0, 360).
        source_distance: source to rotation axis.
        detector_distance: source to panel.
        panel: the detector; by default one that sees the whole volume, its cells being voxels
            magnified to it.
        voxel_size: side of a voxel, in the unit of length wanted, e.g. mm.
        noise_sigma: standard deviation of the noise in the line integrals.

    Raises:
        ArgumentError: an impossible size, a source inside the volume or a panel in front of the
            axis.
        ShapeError, DtypeError, NonFiniteError: angles are not 1-D, not real or not finite.
    """

    def __init__(
        self,
        volume_size: Sequence[int],
        angles: Tensor | int,
        source_distance: float,
        detector_distance: float,
        panel: Panel | None = None,
        voxel_size: float = 1.0,
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        whole = len(volume_size) == 3 and all(
            isinstance(n, Integral) and n >= 1 for n in volume_size
        )
        require(whole, "volume_size", volume_size, "three ints >= 1, (D, H, W)")
        require_length("voxel_size", voxel_size)
        radius = math.hypot(*volume_size[1:]) / 2 * voxel_size
        require_distances(source_distance, detector_distance, radius)
        views = view_angles(angles, span=360.0)
        if panel is None:
            panel = _covering_panel(
                volume_size[0], radius, source_distance, detector_distance, voxel_size
            )
        size = (1, len(views), panel.rows, panel.columns)
        super().__init__((1, *volume_size), size, noise_sigma)
        self.panel, self.voxel_size = panel, float(voxel_size)
        self.source_distance = float(source_distance)
        self.detector_distance = float(detector_distance)
        self.register_buffer("angles", torch.tensor(views, dtype=torch.float64))

    def forward_map(self, x: Tensor) -> Tensor:
        """Return the projections of volumes."""
        working = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        views = [self._project(working, theta) for theta in self._radians()]
        return torch.stack(views, 2).to(x.dtype)

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Return the back-projection, the transpose of `forward_map`, view by view."""
        working = y.to(torch.float64 if y.dtype == torch.float64 else torch.float32)
        total = working.new_zeros(len(y), *self.img_size)
        for view, theta in enumerate(self._radians()):
            project = partial(self._project, theta=theta)
            total = total + _transpose(project, total.shape, working[:, :, view])
        return total.to(y.dtype)

    def fdk(self, y: Tensor) -> Tensor:
        """Return the reconstruction of Feldkamp, Davis and Kress, (B, 1, D, H, W), in 1 / length.

        "Practical cone-beam algorithm", 1984, https://doi.org/10.1364/JOSAA.1.000612. Values are
        right in the plane of the source, for views equally spaced over 360 degrees.

        Args:
            y: projections (B, 1, views, rows, columns).

        Raises:
            ShapeError, DtypeError, DeviceError: ``y`` is no measurement of this operator.
        """
        self._check("y", y, self.measurement_size, self.complex_measurement)
        data = y.to(torch.float64 if y.dtype == torch.float64 else torch.float32)
        u, v = self._cells(data)
        distance = self.detector_distance
        oblique = distance / torch.sqrt(distance**2 + u**2 + v[:, None] ** 2)
        # As if the panel stood on the axis.
        pitch = self.panel.cell_size * self.source_distance / distance
        filtered = ramp_filter(data * oblique, pitch)
        total = data.new_zeros(len(y), *self.img_size)
        for view, theta in enumerate(self._radians()):
            grid, weight = self._places(data, theta)
            grid = grid.expand(len(y), -1, -1, -1)
            spread = F.grid_sample(filtered[:, :, view], grid, align_corners=False)
            total += weight * spread.reshape(total.shape)
        return (math.pi / len(self.angles) * total).to(y.dtype)

    def _cells(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places of columns and rows on the panel."""
        u, v = (
            (torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2)
            * self.panel.cell_size
            for n in (self.panel.columns, self.panel.rows)
        )
        return u, v

    def _places(self, like: Tensor, theta: float) -> tuple[Tensor, Tensor]:
        """Return where voxels are seen, (1, D H, W, 2) of `grid_sample`, and their weights."""
        Z, Y, X = (
            (torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2) * self.voxel_size
            for n in self.img_size[1:]
        )
        Y = -Y[:, None]
        cos, sin = math.cos(theta), math.sin(theta)
        depth = self.source_distance - X * sin + Y * cos
        scale = 2 * self.detector_distance / self.panel.cell_size / depth
        across = (X * cos + Y * sin) * scale / self.panel.columns
        up = Z[:, None, None] * scale / self.panel.rows
        grid = torch.stack([across.expand_as(up), up], -1).flatten(0, 1)[None]
        return grid, (self.source_distance / depth) ** 2

    def _radians(self) -> list[float]:
        return torch.deg2rad(self.angles).tolist()

    def _project(self, x: Tensor, theta: float) -> Tensor:
        """Return one view (B, 1, rows, columns), slab by slab."""
        turned, phi = _looking_along_rows(x, theta)
        depth, _, width = turned.shape[-3:]
        total = x.new_zeros(len(x), 1, self.panel.rows, self.panel.columns)
        for row, (across, up, length) in enumerate(self._crossings(turned, phi)):
            # Places in units of grid_sample: -1 and 1 are the outer edges of the slab's image.
            grid = torch.stack([2 * across / width, 2 * up / depth], -1)
            slab = turned[..., row, :]  # (B, 1, D, W)
            grid = grid.expand(len(x), -1, -1, -1)
            total = total + length * F.grid_sample(slab, grid, align_corners=False)
        return total

    def _crossings(self, turned: Tensor, phi: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield where rays cross the middle of each row's slab, from the top row down.

        That is the place across the row and up from the source's plane, in voxels, and the
        length of the ray within a slab; each (rows, columns).
        """
        cos, sin = math.cos(phi), math.sin(phi)
        height, (u, v) = turned.shape[-2], self._cells(turned)
        # From the source at -source_distance d to the cells.
        dx = u * cos - self.detector_distance * sin
        dy = u * sin + self.detector_distance * cos
        start_x, start_y = self.source_distance * sin, -self.source_distance * cos
        length = torch.sqrt(dx**2 + dy**2 + v[:, None] ** 2) / dy.abs() * self.voxel_size
        for row in range(height):
            y = ((height - 1) / 2 - row) * self.voxel_size
            share = (y - start_y) / dy
            across = (start_x + share * dx) / self.voxel_size
            up = share * v[:, None] / self.voxel_size
            yield across.expand_as(up), up, length


def _looking_along_rows(x: Tensor, theta: float) -> tuple[Tensor, float]:
    """Return volumes turned by a quarter turn where that makes a view look more along Y."""
    if abs(math.cos(theta)) >= abs(math.sin(theta)):
        return x, theta
    return torch.rot90(x, 1, (-2, -1)), theta + math.pi / 2


def _transpose(linear: Callable[[Tensor], Tensor], size: torch.Size, y: Tensor) -> Tensor:
    """Return the transpose of a linear map, applied to ``y``; differentiable in ``y``."""
    with torch.enable_grad():
        x = y.new_zeros(size).requires_grad_()
        keep = y.requires_grad
        return torch.autograd.grad(linear(x), x, y, create_graph=keep)[0]


def _covering_panel(
    depth: int, radius: float, source: float, detector: float, voxel_size: float
) -> Panel:
    """Return a panel that sees a cylinder of a radius around the axis."""
    cell = voxel_size * detector / source
    half_width = detector * math.tan(math.asin(radius / source))
    # The nearest slices' ends are magnified most.
    half_height = depth / 2 * voxel_size * detector / (source - radius)
    return Panel(2 * math.ceil(half_height / cell), 2 * math.ceil(half_width / cell), cell)
