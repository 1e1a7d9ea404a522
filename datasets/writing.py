"""Writing of results in the format of the input."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from wellposed.datasets.files import suffix_of
from wellposed.datasets.images.photograph import Photograph, write_photograph
from wellposed.datasets.mri.bart import write_cfl
from wellposed.datasets.reading import Source
from wellposed.datasets.volumes.dicom import DicomSeries, read_dicom_series
from wellposed.datasets.volumes.nifti import NiftiVolume
from wellposed.datasets.volumes.parametric_map import write_std_map
from wellposed.datasets.volumes.results import write_result
from wellposed.datasets.volumes.zarr_stores import ZarrVolume, is_zarr, write_zarr
from wellposed.errors import FileError
from wellposed.reconstruction import CALIBRATED, Reconstruction
from wellposed.remote import is_folder, url_of
from wellposed.results import Calibrated
from wellposed.writing import make_folder, write_array

_log = logging.getLogger(__name__)


def write_like(
    result: Reconstruction, folder: str | Path, source: Source, axis: int = 0
) -> tuple[Path, ...]:
    """Write a result in the format of its source.

    The files are ``mean.png`` for photographs, of the same depth and channels; ``mean.npy``,
    ``mean.cfl`` or ``mean.zarr`` for arrays; ``mean.nii.gz`` and ``std.nii.gz``, two DICOM series,
    or ``mean.zarr`` and ``std.zarr`` for volumes, and the calibrated maps if the result has them.
    Values are in the unit of the file, see `Units`. A standard deviation is written for two or
    more samples.

    Args:
        result: result for one image (N, 1, C, H, W) or volume (N, 1, 1, D, H, W).
        folder: created if missing.
        source: the ``source`` of `wellposed.datasets.read`, cut to the reconstructed slices.
        axis: axis of the source (D, H, W) that is the first of the result.

    Returns:
        The written files or folders; none, and a line in the log, if the result and the source
        differ in size.

    Raises:
        FileError: the folder cannot be written.

    Example:
        >>> import numpy as np, torch
        >>> from wellposed import datasets, operators, priors, solvers
        >>> np.save("slice.npy", np.random.rand(16, 16).astype("float32"))
        >>> image = datasets.read("slice.npy")
        >>> operator, prior = operators.Denoising((1, 16, 16), 0.1), priors.GaussianPrior(0.5, 0.1)
        >>> y = torch.from_numpy(image.values)[None, None]
        >>> result = solvers.HQS(steps=5)(y, operator, prior)
        >>> [path.name for path in datasets.write_like(result, "out", image.source)]
        ['mean.npy']
    """
    folder = Path(folder)
    if isinstance(source, Photograph):
        return _write_photograph(result, folder, source)
    if isinstance(source, Path):
        return _write_array(result, folder, source)
    volume = _as_volume(result, axis)
    got, wanted = tuple(volume.mean.shape[2:]), _size(source)
    if got != wanted:
        _log.info("no volume is written: %s voxels, but the input has %s", got, wanted)
        return ()
    return write_result(volume, folder, source)


def write_map_like(result: Reconstruction, folder: str | Path, axis: int = 0) -> Path:
    """Write a standard deviation as a Parametric Map that refers to the series of the mean.

    Args:
        result: as it was given to `write_like`.
        folder: where `write_like` wrote the DICOM series ``mean``; the map is ``std.dcm``.
        axis: as it was given to `write_like`.

    Raises:
        ArgumentError, FileError: see `write_std_map`.
    """
    path, units = Path(folder) / "std.dcm", result.units
    mean, std = read_dicom_series(Path(folder) / "mean"), _as_volume(result, axis).std
    name = f"{result.solver} std"
    write_std_map(path, abs(units.scale) * std, mean, name, unit=units.name)
    return path


def _size(source: NiftiVolume | DicomSeries | ZarrVolume) -> tuple[int, ...]:
    """Return (D, H, W) of a source."""
    if isinstance(source, NiftiVolume):
        return tuple(source.volume.shape[2:])
    shape = source.values.shape if isinstance(source, DicomSeries) else source.shape
    return (1,) * (3 - len(shape)) + tuple(shape)


def require_free(folder: Path, source: Source) -> None:
    """Raise, before the computation, if `write_like` could not write.

    Raises:
        FileError: the folder has the DICOM series of an earlier result.
    """
    there = folder / "mean"
    if not isinstance(source, DicomSeries) or not is_folder("--out", there):
        return
    if url_of(there) is not None or any(there.iterdir()):
        raise FileError(
            f"--out: {str(there)!r} has the series of another result, accepted: a new folder"
        )


def _as_volume(result: Reconstruction, axis: int) -> Reconstruction:
    """Return a result (N, 1, C, D, H, W) whose axes are those of the file."""
    flat = result.samples.ndim == 5

    def turned(images: Tensor) -> Tensor:
        return (images.unsqueeze(-3) if flat else images).movedim(-3, axis - 3)

    found = result.calibrated
    if found is not None:
        maps = (turned(getattr(found, name)) for name in CALIBRATED)
        result = replace(result, calibrated=Calibrated(found.level, *maps))
    return replace(result, samples=turned(result.samples))


def _write_photograph(
    result: Reconstruction, folder: Path, source: Photograph
) -> tuple[Path, ...]:
    path, mean = folder / "mean.png", result.units.stored(result.mean)[0]
    write_photograph(source.like(mean.movedim(0, -1).numpy()), path)
    return (path,)


def _write_array(result: Reconstruction, folder: Path, file: Path) -> tuple[Path, ...]:
    """Write (H, W), (H, W, C) or (D, H, W); nothing for files of several arrays."""
    writers: dict[str, Callable[[Path, np.ndarray], None]]
    writers = {".npy": write_array, ".cfl": write_cfl, ".zarr": write_zarr}
    suffix = ".zarr" if is_zarr(file) else suffix_of(file)
    mean = result.units.stored(result.mean)[0]
    if suffix not in writers:
        return ()
    make_folder(folder)
    path = folder / f"mean{suffix}"
    writers[suffix](path, mean.numpy()[0] if len(mean) == 1 else mean.movedim(0, -1).numpy())
    return (path,)
