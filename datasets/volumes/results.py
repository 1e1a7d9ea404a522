"""Results written where the measured volume lies."""

from pathlib import Path

from wellposed.datasets.volumes.dicom import DicomSeries
from wellposed.datasets.volumes.dicom_writer import write_dicom_series
from wellposed.datasets.volumes.nifti import NiftiVolume, write_nifti
from wellposed.errors import ArgumentError, FileError
from wellposed.reconstruction import Reconstruction


def write_result(
    result: Reconstruction, folder: str | Path, reference: DicomSeries | NiftiVolume
) -> tuple[Path, ...]:
    """Write mean and standard deviation with the geometry of what was loaded.

    As two DICOM series, in the folders ``mean`` and ``std``, or as ``mean.nii.gz`` and
    ``std.nii.gz``, by the kind of the reference. Values are those of the result's `Units`;
    attenuation becomes Hounsfield units by
    ``dataclasses.replace(result, samples=to_hounsfield(result.samples))`` before.

    Args:
        result: of one volume, (N, 1, 1, D, H, W), or of its slices as a batch, (N, D, 1, H, W).
            Of complex images the magnitude of the mean is written.
        folder: created if missing.
        reference: what `read_dicom_series` or `load_nifti` returned.

    Returns:
        The two folders or files; of a single sample, which has no standard deviation, the first.

    Raises:
        ArgumentError: the reference is of another kind.
        ShapeError, NonFiniteError: the result is not of the shape of the reference, or holds NaN
            or infinite values.
        FileError: the folder cannot be written, or holds DICOM files where a series is to go.
    """
    folder = Path(folder)
    volumes = {"mean": result.units.stored(result.mean)}
    if len(result.samples) > 1:
        volumes["std"] = abs(result.units.scale) * result.std
    if isinstance(reference, DicomSeries):
        for name, volume in volumes.items():
            window = (0.0, float(volume.max()) or 1.0) if name == "std" else None
            title = f"{result.solver} {name}"
            write_dicom_series(folder / name, volume, reference, title, window=window)
        return tuple(folder / name for name in volumes)
    if not isinstance(reference, NiftiVolume):
        got = type(reference).__name__
        raise ArgumentError(f"reference: got {got}, accepted: a DicomSeries or a NiftiVolume")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"folder: cannot write {str(folder)!r}: {error}") from error
    files = tuple(folder / f"{name}.nii.gz" for name in volumes)
    for file, volume in zip(files, volumes.values(), strict=True):
        write_nifti(file, volume, reference)
    return files
