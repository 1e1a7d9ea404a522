"""Inverse problems from what scanners measured: scans by their kind, and k-space."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wellposed import operators
from wellposed.cli.inputs import slices_of
from wellposed.cli.measured import ScanTask, assembled
from wellposed.cli.settings import InputOptions
from wellposed.cli.sinograms import fan_task, parallel_task
from wellposed.datasets.ct.htc import HTCScan
from wellposed.datasets.mri.encoding import center_crop, crop_readout
from wellposed.datasets.mri.fastmri import FastMRI
from wellposed.datasets.mri.ismrmrd import RawScan
from wellposed.datasets.reading import Measured
from wellposed.errors import ShapeError, require
from wellposed.operators import presets
from wellposed.operators.mri.cartesian import fft2c, ifft2c
from wellposed.operators.mri.coils import root_sum_of_squares
from wellposed.units import Units

CALIBRATION = 24
"""Rows and columns of k-space that coil maps of a non-Cartesian scan come from."""


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
        task = kspace_task(scan.kspace[chosen], o, reference=known, rows=scan.recon_size[0])
        return replace(task, crop=scan.recon_size, units=replace(task.units, spacing=spacing))
    if isinstance(scan, RawScan):
        return _raw(scan, chosen, name, o)
    if isinstance(scan, HTCScan):
        return fan_task(scan, o)
    return parallel_task(scan, chosen, o)


def _chosen(count: int, o: InputOptions) -> slice:
    """Return the items that are taken: one, or those of a volume."""
    if o.volume:
        return slice(*slices_of(count, o))
    index = count // 2 if o.slice is None else o.slice
    require(0 <= index < count, "slice", index, f"0 to {count - 1}")
    return slice(index, index + 1)


def kspace_task(
    kspace: Tensor,
    o: InputOptions,
    mask: Tensor | None = None,
    reference: Tensor | None = None,
    calibration: Tensor | None = None,
    rows: int | None = None,
) -> ScanTask:
    """Return the problem of Cartesian k-space of one slice, or of those of a volume.

    Args:
        kspace: (D, coils, H, W), centred, zero where not measured.
        o: the options; ``acceleration`` or ``simulate`` leave out lines of complete k-space.
        mask: (D, H, W) of 0 and 1; by default where k-space is not zero.
        reference: images (D, 1, h, w) to compare with; of lines left out the image of all.
        calibration: k-space (D, coils, H, W) that coil maps come from; by default the same.
        rows: pixels along the readout H that are kept, without its oversampling; by default all.
    """
    rows = kspace.shape[-2] if rows is None else rows
    if o.simulate or o.acceleration is not None:
        _require_complete(kspace, o)
        full = root_sum_of_squares(ifft2c(crop_readout(kspace, rows)))
        reference, mask = full if reference is None else reference, None
        kspace = presets.undersampled(kspace, o)
    # Maps come from the whole field of view: in one that cuts the object they are wrong, as its
    # ends are neighbours for the Fourier transform.
    maps = coil_maps(kspace if calibration is None else calibration)
    maps, kspace = center_crop(maps, (rows, maps.shape[-1])), crop_readout(kspace, rows)
    mask = (kspace != 0).any(1).float() if mask is None else mask
    operator = operators.MultiCoilMRI(mask, maps, o.noise_sigma)
    return assembled(operator.restrict(kspace), operator, reference, Units(), o)


def _require_complete(kspace: Tensor, o: InputOptions) -> None:
    """Raise where samples are missing between others: their image would be no truth.

    Margins without any, as of partial Fourier scans and ellipses, are none of these.
    """
    measured = (kspace != 0).flatten(0, 1).any(0)
    counts = measured.int().cumsum(1)
    between = (counts > 0) & (counts < counts[:, -1:])
    gaps = int((between & ~measured).sum())
    accepted = f"None for k-space of which {gaps} samples between others are missing already"
    require(gaps == 0, "acceleration", o.factor_of_lines, accepted)


def coil_maps(kspace: Tensor) -> Tensor:
    """Return coil maps (D, coils, H, W) by ESPIRiT, ones for a single coil."""
    if kspace.shape[1] == 1:
        return torch.ones_like(kspace)
    # Maps in every pixel: where they were cut to zero, no datum would hold the image to anything.
    return operators.espirit(kspace, calibration=None, crop=0.0)


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
    operator = operators.NonCartesianMRI(trajectory, maps, o.noise_sigma, density)
    return ScanTask(kspace, operator)
