"""Inverse problems from what scanners measured: k-space and sinograms, scaled for the priors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from deepinv.physics import GaussianNoise
from torch import Tensor

from wellposed import operators
from wellposed.cli.settings import InputOptions
from wellposed.datasets.ct.htc import HTCScan
from wellposed.datasets.ct.tomopy import ParallelScan
from wellposed.datasets.mri.fastmri import FastMRI
from wellposed.datasets.mri.ismrmrd import RawScan
from wellposed.datasets.reading import Measured
from wellposed.errors import ShapeError, require
from wellposed.operators.base import LinearOperator
from wellposed.operators.ct.operators import PlanarCT
from wellposed.operators.mri.cartesian import fft2c
from wellposed.units import Units

BRIGHT = 0.998
"""Quantile of a plain image that becomes 1, as priors expect."""

CALIBRATION = 24
"""Rows and columns of k-space that coil maps of a non-Cartesian scan come from."""


@dataclass(frozen=True, eq=False)
class ScanTask:
    """A measured problem, scaled so that the image lies in about [0, 1].

    Attributes:
        y: measurement (1, ...).
        operator: what measured it.
        truth: the file's own image, or that of all data, (1, 1, ...), or None.
        units: what the image's values are in the file.
        crop: (h, w) of the image that is written, or None for all of it.
    """

    y: Tensor
    operator: LinearOperator
    truth: Tensor | None
    units: Units
    crop: tuple[int, int] | None = None


def scan_task(measured: Measured, operator: str, o: InputOptions) -> ScanTask:
    """Return the problem of a scan.

    Args:
        measured: what was read.
        operator: "mri" or "ct", by the kind of scan.
        o: the options: which slice, or all with ``volume``; ``simulate`` undersamples k-space
            that is complete.

    Raises:
        ArgumentError, ShapeError: another operator, no such slice, or a scan that no operator
            here fits.
    """
    scan, name = measured.scan, measured.path.name
    wanted = "mri" if isinstance(scan, FastMRI | RawScan) else "ct"
    accepted = f"{wanted} for {name}, a scan of kind {measured.kind}"
    require(operator == wanted, "--operator", operator, accepted)
    chosen = _chosen(len(measured.values), o)
    if isinstance(scan, FastMRI):
        known = None if scan.reference is None else scan.reference[chosen]
        spacing = () if scan.encoding is None else scan.encoding.voxel_mm[1:]
        task = kspace_task(scan.kspace[chosen], o, scan.mask[chosen], known)
        return replace(task, crop=scan.recon_size, units=replace(task.units, spacing=spacing))
    if isinstance(scan, RawScan):
        return _raw(scan, chosen, name, o)
    if isinstance(scan, HTCScan):
        return _fan(scan, o)
    return _parallel(scan, chosen, o)


def _chosen(count: int, o: InputOptions) -> slice:
    """Return the items that are taken: one, or those of a volume."""
    if o.volume:
        first, end = (0, count) if o.slices is None else o.slices
        accepted = f"A:B with 0 <= A < B <= {count}"
        require(0 <= first < end <= count, "slices", f"{first}:{end}", accepted)
        return slice(first, end)
    index = count // 2 if o.slice is None else o.slice
    require(0 <= index < count, "slice", index, f"0 to {count - 1}")
    return slice(index, index + 1)


def kspace_task(
    kspace: Tensor,
    o: InputOptions,
    mask: Tensor | None = None,
    reference: Tensor | None = None,
    calibration: Tensor | None = None,
) -> ScanTask:
    """Return the problem of Cartesian k-space of one slice, or of those of a volume.

    Args:
        kspace: (D, coils, H, W), centred, zero where not measured.
        o: the options; with ``simulate`` lines are left out by ``acceleration``.
        mask: (D, H, W) of 0 and 1; by default where k-space is not zero.
        reference: images (D, 1, h, w) to compare with.
        calibration: k-space (D, coils, H, W) that coil maps come from; by default the same.
    """
    mask = (kspace != 0).any(1).float() if mask is None else mask
    maps = coil_maps(kspace if calibration is None else calibration)
    full = operators.MultiCoilMRI(mask, maps)
    scale = _bright(full.coil_combined_rss(kspace))
    truth = None if reference is None else reference / scale
    if o.simulate:
        complete = bool(mask.flatten(1).any(0).all()) and float(mask.mean()) > 0.99
        require(complete, "simulate", True, "False for k-space that is undersampled already")
        truth = full.A_adjoint(kspace) / scale if truth is None else truth
        lines = operators.uniform_random_lines(kspace.shape[-1], o.acceleration, seed=o.seed)
        mask = mask * lines
    operator = operators.MultiCoilMRI(mask, maps, o.noise_sigma / scale)
    y = operator.restrict(kspace) / scale
    return _assembled(y, operator, truth, Units(scale=scale), o)


def coil_maps(kspace: Tensor) -> Tensor:
    """Return coil maps (D, coils, H, W) by ESPIRiT, ones for a single coil."""
    if kspace.shape[1] == 1:
        return torch.ones_like(kspace)
    # Maps in every pixel: where they were cut to zero, no datum would hold the image to anything.
    return operators.espirit(kspace, calibration=None, crop=0.0)


def _assembled(
    y: Tensor, operator: LinearOperator, truth: Tensor | None, units: Units, o: InputOptions
) -> ScanTask:
    """Return slices (D, K, ...) as the volume that they are, or the only one as an image."""
    if not o.volume:
        return ScanTask(y, operator, truth, units)
    whole = None if truth is None else truth.transpose(0, 1)[None]
    stacked = operators.Stacked(operator, len(y))
    return ScanTask(y.transpose(0, 1)[None].contiguous(), stacked, whole, units)


def _bright(images: Tensor) -> float:
    """Return the value of plain images that becomes 1."""
    values = images.abs().flatten()
    values = values[:: max(1, len(values) // 1_000_000)]
    bright = float(torch.quantile(values, BRIGHT))
    require(bright > 0, "input", "only zeros", "a measurement")
    return bright


def _raw(scan: RawScan, chosen: slice, name: str, o: InputOptions) -> ScanTask:
    """Return the problem of raw data, whose readout is cut to the image after the solver."""
    size, spacing = scan.encoding.recon_size, scan.encoding.voxel_mm[1:]
    if scan.trajectory is not None:
        require(not o.volume, "--volume", True, f"--slice for {name}, which is not Cartesian")
        image = (size[1], size[2])
        task = spokes_task(scan.kspace[chosen], scan.trajectory[chosen][0], image, o)
        return replace(task, units=replace(task.units, spacing=spacing))
    if scan.kspace.ndim != 4 or scan.mask is None:
        raise ShapeError(
            f"input: {name} holds k-space {tuple(scan.kspace.shape[1:])} with partitions, "
            "accepted: slices (coils, H, W); the library has operators.MultiCoilMRI3D"
        )
    other = None if scan.calibration is None else scan.calibration[chosen]
    task = kspace_task(scan.kspace[chosen], o, scan.mask[chosen], calibration=other)
    return replace(task, crop=(size[1], size[2]), units=replace(task.units, spacing=spacing))


def spokes_task(
    kspace: Tensor, trajectory: Tensor, size: Sequence[int], o: InputOptions
) -> ScanTask:
    """Return the problem of k-space on a trajectory; coil maps come from its gridded images.

    Args:
        kspace: (1, coils, readouts, samples).
        trajectory: (readouts, samples, 2), cycles per field of view.
        size: (H, W) of the image.
        o: the options.
    """
    if trajectory.shape[-1] != 2:
        raise ShapeError(f"input: a trajectory in {trajectory.shape[-1]} axes, accepted: 2")
    density = operators.pipe_menon_density(trajectory, size)
    alone = torch.ones(1, *size, dtype=torch.complex64)
    coils = operators.NonCartesianMRI(trajectory, alone, density=density)
    images = coils.gridding(kspace.transpose(0, 1)).transpose(0, 1)
    maps = torch.ones_like(images)
    if images.shape[1] > 1:
        maps = operators.espirit(fft2c(images), calibration=CALIBRATION, crop=0.0)
    scale = _bright(images.abs().square().sum(1).sqrt())
    sigma = o.noise_sigma / scale
    operator = operators.NonCartesianMRI(trajectory, maps, sigma, density)
    return ScanTask(kspace / scale, operator, None, Units(scale=scale))


def _fan(scan: HTCScan, o: InputOptions) -> ScanTask:
    fan = scan.geometry
    side = fan.bins if scan.fbp is None else scan.fbp.shape[-1]

    def make(angles: Tensor) -> PlanarCT:
        return operators.FanBeamCT(
            side,
            angles,
            fan.source_distance,
            fan.detector_distance,
            operators.Detector(fan.bins, fan.bin_size),
            fan.pixel_size,
        )

    units = Units(name="1/mm", spacing=(fan.pixel_size, fan.pixel_size))
    return sinogram_task(scan.sinogram, fan.angles, make, o, units)


def _parallel(scan: ParallelScan, chosen: slice, o: InputOptions) -> ScanTask:
    rows = scan.sinogram[chosen]
    return sinogram_task(rows, scan.angles, parallel_beam(rows.shape[-1], o), o)


def parallel_beam(bins: int, o: InputOptions) -> Callable[[Tensor], PlanarCT]:
    """Return what makes the operator of parallel beams on bins a pixel wide, given the angles."""
    middle = (bins - 1) / 2
    offset = 0.0 if o.centre is None else middle - o.centre
    detector = operators.Detector(bins, 1.0, offset)
    return lambda angles: operators.ParallelBeamCT(bins, angles, detector)


def fan_beam(
    bins: int, fan: tuple[float, float, float], o: InputOptions
) -> Callable[[Tensor], PlanarCT]:
    """Return what makes the operator of a fan beam, on pixels of a bin seen at the centre."""
    source, far, bin_size = fan
    offset = 0.0 if o.centre is None else ((bins - 1) / 2 - o.centre) * bin_size
    detector, pixel = operators.Detector(bins, bin_size, offset), bin_size * source / far
    return lambda angles: operators.FanBeamCT(bins, angles, source, far, detector, pixel)


def array_task(sinogram: Tensor, o: InputOptions) -> ScanTask:
    """Return the problem of sinograms (D, 1, views, bins), by the options' geometry."""
    views, bins = sinogram.shape[-2:]
    angles = torch.tensor(o.view_angles(views), dtype=torch.float64)
    make = parallel_beam(bins, o) if o.fan is None else fan_beam(bins, o.fan, o)
    return sinogram_task(sinogram, angles, make, o)


def sinogram_task(
    sinogram: Tensor,
    angles: Tensor,
    make: Callable[[Tensor], PlanarCT],
    o: InputOptions,
    units: Units | None = None,
) -> ScanTask:
    """Return the problem of sinograms (D, 1, views, bins), scaled by their FBP.

    Args:
        sinogram: line integrals.
        angles: their views in degrees, (views,).
        make: returns the operator of views.
        o: the options; with ``simulate`` only ``views`` of the measured views are kept, equally
            spaced, and compared with the FBP of all.
        units: of the attenuation; by default per pixel.
    """
    fbp = make(angles).fbp(sinogram)
    scale, kept = _bright(fbp.clamp(min=0)), torch.arange(len(angles))
    if o.simulate:
        few = 1 <= o.views <= len(angles)
        require(few, "views", o.views, f"1 to {len(angles)}, as measured")
        kept = torch.arange(o.views) * len(angles) // o.views
    operator = make(angles[kept])
    operator.noise_model = GaussianNoise(o.noise_sigma / scale)
    units = replace(units or Units(name="1/pixel"), scale=scale)
    y = sinogram[:, :, kept].contiguous() / scale
    return _assembled(y, operator, fbp / scale if o.simulate else None, units, o)
