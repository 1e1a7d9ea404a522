"""Cone-beam tomography of volumes on a flat panel."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.checks import Count, Positive, RealTensor, require_integer
from wellposed.errors import ShapeError, warn
from wellposed.operators.base import LinearOperator
from wellposed.operators.ct.fbp import ramp_filter, single_or_double
from wellposed.operators.ct.joseph import ConeGeometry, JosephProjector, Panel
from wellposed.operators.ct.operators import require_distances, require_length, scan_angles
from wellposed.operators.ct.pair import apply_pair


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
        UserWarning: the data are truncated: rays through the elliptic cylinder inscribed in the
            volume miss the panel, across the axis (from both sides) or along it. Angles look like
            radians.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> panel = operators.Panel(rows=12, columns=40, cell_size=1.5)
        >>> operator = operators.ConeBeamCT(
        ...     (4, 16, 16), angles=12, source_distance=100.0, detector_distance=150.0, panel=panel
        ... )
        >>> operator.A(torch.full((1, 1, 4, 16, 16), operators.MU_WATER)).shape
        torch.Size([1, 1, 12, 12, 40])
    """

    def __init__(
        self,
        volume_size: Sequence[Count],
        angles: RealTensor | Sequence[float] | Count,
        source_distance: float,
        detector_distance: float,
        panel: Panel | None = None,
        voxel_size: Positive = 1.0,
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
            scan_angles(angles, span=360.0),
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

        "Practical cone-beam algorithm", 1984, https://doi.org/10.1364/JOSAA.1.000612, of
        projections (B, 1, views, rows, columns). Values are exact in the plane of the source if
        every ray is measured from one side or from both: by views over 180 degrees and the fan
        angle, even or not, or over 360 degrees by a panel that covers slightly more than half.
        See `Coverage`.

        Raises:
            ShapeError, DtypeError, DeviceError: ``y`` is not a measurement of this operator.
        """
        self._check("y", y, self.measurement_size, self.complex_measurement)
        views = self.geometry.coverage.view_weights.tolist()
        filtered, scan = _filter(single_or_double(y)[:, 0], self.geometry)
        total = filtered.new_zeros(len(y), *scan.volume_size)
        angles = zip(scan.angles, views, strict=True)
        for view, (angle, share) in enumerate(angles):
            grid, weight = _shadows(scan, math.radians(angle), filtered)
            spread = F.grid_sample(filtered[None, :, view], grid, align_corners=False)
            total += share * weight * spread.reshape(total.shape)
        return total[:, None].to(y.dtype)


def _filter(data: Tensor, scan: ConeGeometry) -> tuple[Tensor, ConeGeometry]:
    """Return weighted and filtered rows, and the scan by the panel that they fill."""
    panel, distance = scan.panel, scan.detector_distance
    u, v = panel.cells()
    twice = scan.coverage.redundancy((u / distance).atan())[:, None]
    oblique = distance / torch.sqrt(distance**2 + u**2 + v[:, None] ** 2)
    left, right = scan.coverage.unseen(panel.offset, panel.cell_size)
    data = F.pad(data * oblique.to(data) * twice.to(data), (left, right))
    shift = (right - left) / 2 * panel.cell_size
    panel = replace(panel, columns=data.shape[-1], offset=panel.offset + shift)
    # As if the panel stood on the axis.
    pitch = panel.cell_size * scan.source_distance / distance
    return ramp_filter(data, pitch), replace(scan, panel=panel)


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


def _volume_sides(volume_size: Sequence[Count]) -> tuple[int, int, int]:
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
    """Warn unless all rays through the elliptic cylinder inscribed in the volume are measured."""
    depth, height, width = (n / 2 * scan.voxel_size for n in scan.volume_size)
    turn = torch.linspace(0, 2 * math.pi, 65, dtype=torch.float64)
    rims = width * turn.cos(), height * turn.sin(), torch.tensor([[-depth], [depth]])
    seen = [scan.cast(*rims, math.radians(angle)) for angle in scan.angles]
    across, up = torch.stack([u for u, _, _ in seen]), torch.stack([v for _, v, _ in seen])
    theta = torch.deg2rad(torch.tensor(scan.angles, dtype=torch.float64))
    wide = scan.coverage.measures(theta[:, None], (across / scan.detector_distance).atan())
    panel = scan.panel
    high_enough = (up - panel.elevation).abs() <= panel.half_sides[1] * (1 + 1e-6)
    for name, measured, shadow, shift, half in (
        ("columns", wide, across, panel.offset, panel.half_sides[0]),
        ("rows", high_enough, up, panel.elevation, panel.half_sides[1]),
    ):
        if not bool(measured.all()):
            low, high = float(shadow.min()), float(shadow.max())
            warn(
                f"panel: its {name} span {shift - half:.4g} to {shift + half:.4g}, but the "
                f"cylinder inscribed in the volume projects to {low:.4g} to {high:.4g}: the data "
                "are truncated; use a larger panel"
            )
