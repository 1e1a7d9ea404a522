"""Results written with the geometry of the measured volume."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from wellposed.checks import checked, require_path
from wellposed.datasets.volumes.dicom import DicomSeries
from wellposed.datasets.volumes.dicom_writer import write_dicom_series
from wellposed.datasets.volumes.nifti import NiftiVolume, write_nifti
from wellposed.datasets.volumes.zarr_stores import SUFFIX, ZarrVolume, write_zarr
from wellposed.errors import ArgumentError
from wellposed.reconstruction import CALIBRATED, Reconstruction
from wellposed.writing import make_folder


@checked
def write_result(
    result: Reconstruction, folder: str | Path, reference: DicomSeries | NiftiVolume | ZarrVolume
) -> tuple[Path, ...]:
    """Write mean and standard deviation with the geometry of the reference.

    They are two DICOM series, in the folders ``mean`` and ``std``, or ``mean.nii.gz`` and
    ``std.nii.gz``, or ``mean.zarr`` and ``std.zarr``, depending on the reference. Values are in
    the unit of the `Units` of the result; for Hounsfield units instead of attenuation, convert:
    ``dataclasses.replace(result, samples=to_hounsfield(result.samples))``.

    Args:
        result: result for one volume, (N, 1, 1, D, H, W), or for its slices as a batch,
            (N, D, 1, H, W). For complex images the magnitude of the mean is written.
        folder: created if missing.
        reference: the result of `read_dicom_series`, `load_nifti` or `load_zarr`.

    Returns:
        The folders or files; none of the standard deviation of a single sample. Calibrated maps
        of the result are ``calibrated-std``, ``lower`` and ``upper``.

    Raises:
        ArgumentError: another kind of reference.
        ShapeError, NonFiniteError: the result does not have the shape of the reference, or
            contains NaN or infinite values.
        FileError: the folder cannot be written, or a series folder already has DICOM files.

    Example:
        >>> import torch
        >>> from pydicom.data import get_testdata_file
        >>> from wellposed import datasets, operators, solvers
        >>> series = datasets.read_dicom_series(get_testdata_file("CT_small.dcm"))
        >>> operator = operators.Denoising((1, 128, 128), noise_sigma=20.0)
        >>> y = torch.from_numpy(series.values)[None]  # one slice in HU
        >>> result = solvers.TotalVariation(steps=5)(y, operator)
        >>> [path.name for path in datasets.write_result(result, "out", series)]
        ['mean']
    """
    folder = require_path("folder", folder)
    volumes = {"mean": result.units.stored(result.mean)}
    if len(result.samples) > 1:
        volumes["std"] = abs(result.units.scale) * result.std
    volumes |= _calibrated(result)
    if isinstance(reference, DicomSeries):
        return _series(volumes, folder, reference, result.solver)
    if not isinstance(reference, NiftiVolume | ZarrVolume):
        got = type(reference).__name__
        accepted = "a DicomSeries, a NiftiVolume or a ZarrVolume"
        raise ArgumentError(f"reference: got {got}, accepted: {accepted}")
    make_folder(folder)
    suffix = SUFFIX if isinstance(reference, ZarrVolume) else ".nii.gz"
    files = tuple(folder / f"{name}{suffix}" for name in volumes)
    for file, volume in zip(files, volumes.values(), strict=True):
        if isinstance(reference, ZarrVolume):
            write_zarr(file, volume, reference)
        else:
            write_nifti(file, volume, reference)
    return files


def _series(
    volumes: Mapping[str, Tensor], folder: Path, reference: DicomSeries, solver: str
) -> tuple[Path, ...]:
    """Write each volume as a series in a folder of its own."""
    for name, volume in volumes.items():
        window = (0.0, float(volume.max()) or 1.0) if "std" in name else None
        write_dicom_series(folder / name, volume, reference, f"{solver} {name}", window=window)
    return tuple(folder / name for name in volumes)


def _calibrated(result: Reconstruction) -> dict[str, Tensor]:
    """Return the calibrated maps in the unit of the file, by the names of their files."""
    found, units = result.calibrated, result.units
    if found is None:
        return {}
    ends = (units.stored(found.lower), units.stored(found.upper))
    maps = (abs(units.scale) * found.std, *(ends if units.scale > 0 else ends[::-1]))
    return dict(zip(CALIBRATED.values(), maps, strict=True))
