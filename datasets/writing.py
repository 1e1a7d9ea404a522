"""Results written in the kind of file that they came from."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from wellposed.datasets.files import suffix_of
from wellposed.datasets.images.photograph import Photograph, write_photograph
from wellposed.datasets.reading import Source
from wellposed.datasets.volumes.dicom import DicomSeries
from wellposed.datasets.volumes.results import write_result
from wellposed.errors import FileError
from wellposed.reconstruction import Reconstruction
from wellposed.writing import replacing

_log = logging.getLogger(__name__)


def write_like(
    result: Reconstruction, folder: str | Path, source: Source, axis: int = 0
) -> tuple[Path, ...]:
    """Write a result as a file, or series, of the kind that it was made from.

    A PNG ``mean.png`` for photographs, of the same depth and channels; ``mean.npy`` for arrays;
    ``mean.nii.gz`` and ``std.nii.gz`` or two DICOM series where the volume lies. Values are those
    of the file, by the result's `Units`. A standard deviation takes two or more samples.

    Args:
        result: of one image (N, 1, C, H, W) or volume (N, 1, 1, D, H, W).
        folder: created if missing.
        source: the ``source`` of `wellposed.datasets.read`, of a volume cut to the slices taken.
        axis: axis of the source's (D, H, W) that is the volume's first.

    Returns:
        The files or folders written; none, and a line in the log, where the result has another
        size than the source's voxels.

    Raises:
        FileError: the folder cannot be written.
    """
    folder = Path(folder)
    if isinstance(source, Photograph):
        return _write_photograph(result, folder, source)
    if isinstance(source, Path):
        return _write_array(result, folder, source)
    volume = _as_volume(result, axis)
    wanted = source.values.shape if isinstance(source, DicomSeries) else source.volume.shape[2:]
    if tuple(volume.mean.shape[2:]) != tuple(wanted):
        got = tuple(volume.mean.shape[2:])
        _log.info("no volume is written: the result has %s voxels, the input %s", got, wanted)
        return ()
    return write_result(volume, folder, source)


def require_free(folder: Path, source: Source) -> None:
    """Raise before hours are spent where `write_like` could not write.

    Raises:
        FileError: the folder holds the DICOM series of an earlier result.
    """
    there = folder / "mean"
    if isinstance(source, DicomSeries) and there.is_dir() and any(there.iterdir()):
        raise FileError(
            f"--out: {str(there)!r} holds the series of another result, accepted: a new folder"
        )


def _as_volume(result: Reconstruction, axis: int) -> Reconstruction:
    """Return a result (N, 1, C, D, H, W) whose axes are those of the file."""
    samples = result.samples
    samples = samples[:, :, :, None] if samples.ndim == 5 else samples
    return replace(result, samples=samples.movedim(3, 3 + axis))


def _write_photograph(
    result: Reconstruction, folder: Path, source: Photograph
) -> tuple[Path, ...]:
    path, mean = folder / "mean.png", result.units.stored(result.mean)[0]
    write_photograph(source.like(mean.movedim(0, -1).numpy()), path)
    return (path,)


def _write_array(result: Reconstruction, folder: Path, file: Path) -> tuple[Path, ...]:
    """Write (H, W), (H, W, C) or (D, H, W); of files that hold several arrays, none."""
    if suffix_of(file) != ".npy":
        return ()
    path, mean = folder / "mean.npy", result.units.stored(result.mean)[0]
    with replacing(path) as part:
        np.save(part, mean.numpy()[0] if len(mean) == 1 else mean.movedim(0, -1).numpy())
    return (path,)
