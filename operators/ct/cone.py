"""Cone-beam tomography of volumes on a flat panel."""

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import ShapeError
from wellposed.operators.base import LinearOperator
from wellposed.operators.ct.fbp import ramp_filter, single_or_double
from wellposed.operators.ct.joseph import ConeGeometry, JosephProjector, Panel
from wellposed.operators.ct.operators import require_distances, require_length, view_angles
from wellposed.operators.ct.projectors import apply_pair


class ConeBeamCT(LinearOperator):
    """Circular cone-beam tomography.

    Volumes (B, 1, D, H, W) hold attenuation per unit length, measurements (B, 1, views, rows,
    columns) line integrals. Slices have the conventions of planar scans; slice k is at height
    ``Z = (k - (D-1)/2) voxel_size``, and the source moves in the plane Z = 0. Cell (r, c) is at
    height ``(r - (rows-1)/2) cell_size + elevation`` on the panel and at ``(c - (columns-1)/2)
    cell_size + offset`` along the view's u.

    The projection uses Joseph's method: a ray is followed through slabs of voxels perpendicular to
    the axis, X or Y, along which it mainly runs, with bilinear interpolation in each slab (Joseph
    1982, https://doi.org/10.1109/TMI.1982.4307572). The adjoint is its exact transpose. Besides
    volumes and data, only the memory for 16 slabs of one view is needed, also for gradients.

    Args:
        volume_size: (D, H, W).
        angles: view angles in degrees (views,), or their number, spaced equally over [0, 360).
        source_distance: source to rotation axis.
        detector_distance: source to panel.
        panel: the detector; by default it covers the whole volume, with cells of the magnified
            voxel size.
        voxel_size: side of a voxel, in any unit of length, e.g. mm.
        noise_sigma: standard deviation of the noise in the line integrals.

    Raises:
        ArgumentError: an invalid size, a source inside the volume, or a panel in front of the
            axis.
        ShapeError, DtypeError, NonFiniteError: volume_size is not three sides; angles are not
            1-D, not real or not finite.

    Warns:
        UserWarning: the data are truncated: a view does not cover the whole elliptic cylinder
            inscribed in the volume.
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
        depth, height, width = _volume_sides(volume_size)
        require_length("voxel_size", voxel_size)
        radius = math.hypot(height, width) / 2 * voxel_size
        require_distances(source_distance, detector_distance, radius)
        if panel is None:
            panel = _covering_panel(depth, radius, source_distance, detector_distance, voxel_size)
        scan = ConeGeometry(
            (depth, height, width),
            view_angles(angles, span=360.0),
            float(source_distance),
            float(detector_distance),
            panel,
            float(voxel_size),
        )
        size = (1, len(scan.angles), panel.rows, panel.columns)
        super().__init__((1, *scan.volume_size), size, noise_sigma)
        _warn_of_truncation(scan)
        self.geometry = scan
        self.register_buffer("angles", torch.tensor(scan.angles, dtype=torch.float64))
        self._projector = JosephProjector(scan)

    def forward_map(self, x: Tensor) -> Tensor:
        """Return the projections of volumes."""
        return apply_pair(self._projector, x)

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Return the unfiltered back-projection, by the exact transpose."""
        return apply_pair(self._projector, y, transpose=True)

    def fdk(self, y: Tensor) -> Tensor:
        """Return the reconstruction of Feldkamp, Davis and Kress, (B, 1, D, H, W), in 1 / length.

        "Practical cone-beam algorithm", 1984, https://doi.org/10.1364/JOSAA.1.000612. Values are
        exact in the plane of the source, for untruncated views equally spaced over 360 degrees.

        Args:
            y: projections (B, 1, views, rows, columns).

        Raises:
            ShapeError, DtypeError, DeviceError: ``y`` is not a measurement of this operator.
        """
        self._check("y", y, self.measurement_size, self.complex_measurement)
        scan, data = self.geometry, single_or_double(y)[:, 0]
        u, v = (cells.to(data) for cells in scan.panel.cells())
        distance = scan.detector_distance
        oblique = distance / torch.sqrt(distance**2 + u**2 + v[:, None] ** 2)
        # Scaled to a panel on the axis.
        pitch = scan.panel.cell_size * scan.source_distance / distance
        filtered = ramp_filter(data * oblique, pitch)
        total = data.new_zeros(len(data), *scan.volume_size)
        for view, angle in enumerate(scan.angles):
            grid, weight = _shadows(scan, math.radians(angle), data)
            spread = F.grid_sample(filtered[None, :, view], grid, align_corners=False)
            total += weight * spread.reshape(total.shape)
        return (math.pi / len(scan.angles) * total)[:, None].to(y.dtype)


def _shadows(scan: ConeGeometry, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return voxel positions on the panel for `grid_sample`, and FDK weights (H, W)."""
    Z, Y, X = (
        (torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2) * scan.voxel_size
        for n in scan.volume_size
    )
    u, v, depth = scan.cast(X, -Y[:, None], Z[:, None, None], theta)
    half_width, half_height = scan.panel.half_sides
    across = ((u - scan.panel.offset) / half_width).expand_as(v)
    up = (v - scan.panel.elevation) / half_height
    grid = torch.stack([across, up], -1).flatten(0, 1)[None]
    return grid, (scan.source_distance / depth) ** 2


def _volume_sides(volume_size: Sequence[int]) -> tuple[int, int, int]:
    if not isinstance(volume_size, Sequence) or len(volume_size) != 3:
        raise ShapeError(f"volume_size: got {volume_size!r}, accepted: (D, H, W)")
    depth, height, width = (require_integer("volume_size", side) for side in volume_size)
    return depth, height, width


def _covering_panel(
    depth: int, radius: float, source: float, detector: float, voxel_size: float
) -> Panel:
    """Return a panel that covers a cylinder of a radius around the axis."""
    cell = voxel_size * detector / source
    half_width = detector * math.tan(math.asin(radius / source))
    # The parts nearest to the source are magnified most.
    half_height = depth / 2 * voxel_size * detector / (source - radius)
    return Panel(2 * math.ceil(half_height / cell), 2 * math.ceil(half_width / cell), cell)


def _warn_of_truncation(scan: ConeGeometry) -> None:
    """Warn unless all views cover the whole elliptic cylinder inscribed in the volume."""
    depth, height, width = (n / 2 * scan.voxel_size for n in scan.volume_size)
    turn = torch.linspace(0, 2 * math.pi, 65, dtype=torch.float64)
    rims = width * turn.cos(), height * turn.sin(), torch.tensor([[-depth], [depth]])
    seen = [scan.cast(*rims, math.radians(angle)) for angle in scan.angles]
    panel = scan.panel
    for name, shadow, shift, half in (
        ("columns", torch.stack([u for u, _, _ in seen]), panel.offset, panel.half_sides[0]),
        ("rows", torch.stack([v for _, v, _ in seen]), panel.elevation, panel.half_sides[1]),
    ):
        low, high = float(shadow.min()), float(shadow.max())
        if low < shift - half * (1 + 1e-6) or high > shift + half * (1 + 1e-6):
            warnings.warn(
                f"panel: its {name} span {shift - half:.4g} to {shift + half:.4g}, but the "
                f"cylinder inscribed in the volume projects to {low:.4g} to {high:.4g}: the data "
                "are truncated; use a larger panel",
                stacklevel=3,
            )
