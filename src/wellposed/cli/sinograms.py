"""Inverse problems from measured sinograms."""

from collections.abc import Callable

import torch
from deepinv.physics import GaussianNoise
from torch import Tensor

from wellposed import operators
from wellposed.cli.measured import ScanTask, assembled
from wellposed.cli.settings import InputOptions
from wellposed.datasets.ct.htc import HTCScan
from wellposed.datasets.ct.tomopy import ParallelScan
from wellposed.errors import require
from wellposed.operators.ct.operators import PlanarCT
from wellposed.units import Units


def fan_task(scan: HTCScan, o: InputOptions) -> ScanTask:
    """Return the problem of a scan of the Helsinki Tomography Challenge."""
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


def parallel_task(scan: ParallelScan, chosen: slice, o: InputOptions) -> ScanTask:
    """Return the problem of the rows that are chosen of a parallel scan."""
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
    """Return the problem of sinograms (D, 1, views, bins) of some angles.

    Args:
        sinogram: line integrals.
        angles: their views in degrees, (views,).
        make: returns the operator of views.
        o: the options; with ``simulate`` only ``views`` of the measured views are kept, equally
            spaced, and compared with the FBP of all.
        units: of the attenuation; by default per pixel.
    """
    fbp, kept = None, torch.arange(len(angles))
    if o.simulate:
        fbp = make(angles).fbp(sinogram)
        few = 1 <= o.views <= len(angles)
        require(few, "views", o.views, f"1 to {len(angles)}, as measured")
        kept = torch.arange(o.views) * len(angles) // o.views
    operator = make(angles[kept])
    operator.noise_model = GaussianNoise(o.noise_sigma)
    y = sinogram[:, :, kept].contiguous()
    return assembled(y, operator, fbp, units or Units(name="1/pixel"), o)
