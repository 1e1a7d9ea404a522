"""Raw scanner data in the ISMRMRD format: acquisitions sorted into k-space."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.checks import finite, located, reading, stored_array
from wellposed.datasets.mri.encoding import CARTESIAN, Encoding, parse_header
from wellposed.datasets.mri.ismrmrd_sorting import (
    Acquisition,
    Frame,
    frame_of,
    grid,
    grid_calibration,
    stack,
)
from wellposed.datasets.mri.trajectory_units import in_cycles
from wellposed.errors import FileError

SKIPPED = (
    "ACQ_IS_PHASECORR_DATA",
    "ACQ_IS_NAVIGATION_DATA",
    "ACQ_IS_HPFEEDBACK_DATA",
    "ACQ_IS_DUMMYSCAN_DATA",
    "ACQ_IS_RTFEEDBACK_DATA",
    "ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA",
    "ACQ_IS_PHASE_STABILIZATION_REFERENCE",
    "ACQ_IS_PHASE_STABILIZATION",
)
"""Flags of acquisitions that are neither image, calibration nor noise."""


@dataclass(frozen=True, eq=False)
class RawScan:
    """Raw data of a scan, with one batch item per frame.

    Attributes:
        kspace: complex64. Cartesian: (B, coils, H, W) or, with partitions, (B, coils, D, H, W);
            H is the readout, W the phase encoding; centred, zero where not measured, repeated
            lines averaged. Otherwise (B, coils, readouts, samples).
        mask: float32, 1 where measured, (B, H, W) or (B, D, H, W); None if not Cartesian.
        trajectory: k-space positions of the samples in cycles per field of view, in the order
            (rows, columns) or (z, rows, columns) of images of ``encoding.recon_size`` pixels, as
            `NonCartesianMRI` takes them, float32 (B, readouts, samples, 2 or 3); None if
            Cartesian.
        calibration: acquisitions flagged as calibration of parallel imaging, sorted like
            ``kspace``, for `wellposed.operators.espirit`; frames without calibration use that of
            their slice. None if there are none or if not Cartesian.
        noise: samples without signal, complex64 (coils, samples), scaled to the bandwidth of
            the image data, for prewhitening; None if there are none.
        frames: slice, contrast, ... of every batch item.
        positions: centres of the frames in the patient's coordinates (left, posterior,
            superior) in mm, float32 (B, 3).
        directions: unit vectors along readout, phase encoding and slices, as rows, in the same
            coordinates, float32 (B, 3, 3).
        encoding: matrix sizes and fields of view in mm.

    Example:
        >>> from wellposed import datasets, operators
        >>> scan = datasets.load_ismrmrd("scan.h5")  # scanner # doctest: +SKIP
        >>> maps = operators.espirit(scan.kspace, calibration=None)  # doctest: +SKIP
        >>> operator = operators.MultiCoilMRI(scan.mask, maps, noise_sigma=0.01)  # doctest: +SKIP
    """

    kspace: Tensor
    mask: Tensor | None
    trajectory: Tensor | None
    calibration: Tensor | None
    noise: Tensor | None
    frames: tuple[Frame, ...]
    positions: Tensor
    directions: Tensor
    encoding: Encoding


@checked
def load_ismrmrd(
    path: str | Path,
    group: str = "dataset",
    encoding: int = 0,
    trajectory_unit: str | None = None,
) -> RawScan:
    """Load raw data with the package ``ismrmrd``, which ``wellposed[ismrmrd]`` installs.

    Noise and calibration acquisitions are kept separate; navigators, phase corrections and other
    `SKIPPED` acquisitions are left out. Reversed readouts are reversed again (discarded samples
    and the centre are counted in the stored order). Segments and averages belong to one frame;
    every other counter defines frames.

    Inati et al., "ISMRM Raw data format: A proposed standard for MRI raw datasets", Magnetic
    Resonance in Medicine 77, 2017, https://doi.org/10.1002/mrm.26089.

    Args:
        path: an HDF5 file.
        group: the data set inside the file.
        encoding: number of the encoding in the header.
        trajectory_unit: in which (x, y) or (x, y, z) are stored, see `UNITS`: "cycles/pixel",
            from -1/2 to 1/2, "radians/pixel", "cycles/fov", "1/m" or "1/mm"; by default the one
            in which they reach the edge of the image's band.

    Raises:
        ImportError: the package is not installed.
        FileError: the file is missing or unreadable, or has another layout, no measurement, NaN or
            infinite values, calibration for other slices only, acquisitions inconsistent with
            the header or each other, or a trajectory in no known unit; names the file.

    Example:
        >>> from wellposed import datasets
        >>> scan = datasets.load_ismrmrd("scan.h5")  # scanner # doctest: +SKIP
        >>> slices = [frame.slice for frame in scan.frames]  # doctest: +SKIP
    """
    path = located("path", path)
    space, every = _read(path, group, encoding)
    noise = [a for a in every if _has(a, "ACQ_IS_NOISE_MEASUREMENT")]
    image, calibration = _split([a for a in every if a.encoding_space_ref == encoding])
    if not image:
        raise FileError(f"path: {path.name} has no image acquisition of encoding {encoding}")
    _check_readouts(path, [*image, *calibration, *noise])
    first = {frame_of(a): a for a in reversed(image)}
    frames = tuple(sorted(first))
    geometry = torch.tensor([_geometry(first[frame]) for frame in frames])
    mask = trajectory = reference = None
    if space.trajectory in CARTESIAN:
        kspace, mask = grid(path, image, frames, space)
        reference = grid_calibration(path, calibration, frames, space) if calibration else None
    else:
        kspace, places = stack(path, image, frames)
        trajectory = in_cycles(path, places, space, trajectory_unit)
    return RawScan(
        kspace=kspace,
        mask=mask,
        trajectory=trajectory,
        calibration=reference,
        noise=_noise(noise, image[0]),
        frames=frames,
        positions=geometry[:, 0],
        directions=geometry[:, 1:],
        encoding=space,
    )


def _read(path: Path, group: str, encoding: int) -> tuple[Encoding, list[Acquisition]]:
    """Return the header and all acquisitions of a file."""
    package = _package()
    with reading(path, "ISMRMRD"), h5py.File(path, "r") as file:
        # All at once: the package's reader takes milliseconds per record.
        records = stored_array(path, file, f"{group}/data", (1,))[()]
        header = parse_header(path, stored_array(path, file, f"{group}/xml", (1,))[0], encoding)
        return header, [_acquisition(package, record) for record in records]


def _acquisition(package: ModuleType, record: np.void) -> Acquisition:
    made: Acquisition = package.Acquisition(record["head"])
    made.data[:] = record["data"].view(np.complex64).reshape(made.data.shape)
    made.traj[:] = record["traj"].reshape(made.traj.shape)
    return made


def _package() -> ModuleType:
    try:
        return import_module("ismrmrd")
    except ImportError as error:
        raise ImportError(
            "load_ismrmrd needs the package ismrmrd: pip install 'wellposed[ismrmrd]'"
        ) from error


def _has(acquisition: Acquisition, *flags: str) -> bool:
    package = _package()
    return any(acquisition.is_flag_set(getattr(package, flag)) for flag in flags)


def _split(acquisitions: Iterable[Acquisition]) -> tuple[list[Acquisition], list[Acquisition]]:
    """Return the acquisitions of the image and those of the calibration; some are both."""
    used = [a for a in acquisitions if not _has(a, "ACQ_IS_NOISE_MEASUREMENT", *SKIPPED)]
    both = "ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING"
    alone = [_has(a, "ACQ_IS_PARALLEL_CALIBRATION") and not _has(a, both) for a in used]
    image = [a for a, only in zip(used, alone, strict=True) if not only]
    return image, [a for a, only in zip(used, alone, strict=True) if only or _has(a, both)]


def _check_readouts(path: Path, acquisitions: list[Acquisition]) -> None:
    coils = acquisitions[0].active_channels
    for acquisition in acquisitions:
        if acquisition.active_channels != coils:
            raise FileError(
                f"path: {path.name} has acquisitions with {coils} and with "
                f"{acquisition.active_channels} coils, accepted: one number of coils"
            )
        finite(path, "data", acquisition.data)


def _geometry(acquisition: Acquisition) -> list[list[float]]:
    a = acquisition
    return [list(vector) for vector in (a.position, a.read_dir, a.phase_dir, a.slice_dir)]


def _noise(noise: list[Acquisition], image: Acquisition) -> Tensor | None:
    if not noise:
        return None
    # The variance of noise is proportional to the bandwidth, and thus to 1 / dwell time.
    scales = [
        (a.sample_time_us / image.sample_time_us) ** 0.5
        if a.sample_time_us > 0 < image.sample_time_us
        else 1.0
        for a in noise
    ]
    samples = [scale * a.data for scale, a in zip(scales, noise, strict=True)]
    return torch.from_numpy(np.concatenate(samples, 1).astype(np.complex64))
