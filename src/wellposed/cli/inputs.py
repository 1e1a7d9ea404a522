"""Images of `wellposed reconstruct`: the slices that are taken, their units and their place."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from wellposed.cli.settings import InputOptions
from wellposed.datasets.files import suffix_of
from wellposed.datasets.images.hyperspectral import load_hyperspectral
from wellposed.datasets.reading import Image, Source, read
from wellposed.datasets.volumes.dicom import DicomSeries
from wellposed.datasets.volumes.dicom_writer import without_window
from wellposed.datasets.volumes.nifti import NiftiVolume
from wellposed.datasets.volumes.parametric_map import UCUM
from wellposed.datasets.volumes.zarr_stores import ZarrVolume
from wellposed.datasets.writing import write_like
from wellposed.errors import NonFiniteError, ShapeError, require, require_package
from wellposed.units import HOUNSFIELD, Units

if TYPE_CHECKING:
    from wellposed.reconstruction import Reconstruction

AIR_TO_BONE = (-1000.0, 1000.0)
"""Hounsfield units that become 0 and 1: air, and twice the attenuation of water."""

LOW_HOUNSFIELD = -200.0
"""CT images with values below this are assumed to be in Hounsfield units: only air has them."""


@dataclass(frozen=True, eq=False)
class TaskInput:
    """The content of a file, ready for an operator.

    Attributes:
        array: an image (H, W) or (H, W, 3), a volume with the slice axis first, or k-space
            (coils, H, W); clean images have values in about [0, 1].
        units: what these values are in the file.
        source: what the result is written like, cut to the slices used; ``None`` for nothing.
        axis: axis of the file's (D, H, W) that became the first axis of a volume.
    """

    array: np.ndarray
    units: Units
    source: Source | None = None
    axis: int = 0

    def write(self, result: "Reconstruction", folder: Path) -> tuple[Path, ...]:
        """Write a result in the input's own kind, see `write_like`; return the files."""
        if self.source is None:
            return ()
        if self.array.ndim == 2 and result.samples.shape[2] == 3:  # grey, for a prior of colours
            result = replace(result, samples=result.samples.mean(2, keepdim=True))
        return write_like(result, folder, self.source, self.axis)


def placed_like(place: TaskInput, like: Path) -> TaskInput:
    """Return where a result is written as another file lies: NIfTI, DICOM or a photograph.

    The window of a DICOM series is kept for results in its unit.

    Raises:
        FileError: it cannot be read.
        ArgumentError: it is a measurement.
    """
    found = read(like)
    require(isinstance(found, Image), "--like", str(like), "an image or a volume")
    assert isinstance(found, Image)
    source, same = found.source, found.unit and found.unit == place.units.name
    if isinstance(source, DicomSeries) and not same:
        source = without_window(source)
    return replace(place, source=source)


def check_std_map(place: TaskInput, samples: int) -> None:
    """Raise, before the run, unless a result will have a Parametric Map of its deviation.

    Raises:
        ArgumentError: the result is no DICOM series, has one sample, or a unit without a code.
        MissingPackageError: highdicom is not installed.
    """
    option = "--std-map"
    dicom, unit = isinstance(place.source, DicomSeries), place.units.name
    require(dicom, option, "a result of another kind", "a DICOM input, or --like DICOM")
    require(samples > 1, option, f"{samples} sample", "--num-samples of 2 or more")
    known = ", ".join(repr(name) for name in UCUM)
    require(unit in UCUM, option, f"values in {unit!r}", f"values in {known}")
    require_package("highdicom", "dicom-maps", option)


def task_input(image: Image, operator: str, options: InputOptions) -> TaskInput:
    """Take the slices of the options from an image, and scale clean images to [0, 1].

    Axes of NIfTI and DICOM volumes are counted as (D, H, W).

    Raises:
        ArgumentError and subclasses: the content, a slice or the window cannot be used.
    """
    first, end = _slices(image, operator, options)
    source: Source | None = image.source
    spacing = image.spacing
    if end is None:
        array = image.values
    else:
        array = np.moveaxis(image.rows(options.axis, first, end), options.axis, 0)
        source = _cut(image.source, options.axis, first, end)
        spacing = _turned(spacing, options.axis)
        array = array if options.volume else array[0]
    _check_finite(array, image.path)
    name, (low, high) = _window(array, image, operator, options)
    scaled = (low, high) != (0.0, 1.0)
    array = (array.astype(np.float32) - low) / (high - low) if scaled else array
    units = Units(offset=low, scale=high - low, name=name, spacing=spacing, window=image.window)
    return TaskInput(array, units, source, options.axis)


def read_bands(path: Path) -> Image:
    """Read an image of many bands (H, W, bands); a MAT file may hold a matrix (bands, pixels).

    Raises:
        FileError, ShapeError: see `load_hyperspectral`; another kind of file.
    """
    if suffix_of(path) != ".mat":
        found = read(path)
        is_cube = isinstance(found, Image) and found.values.ndim == 3
        kind = f"of shape {found.values.shape}" if isinstance(found, Image) else found.kind
        if not is_cube:
            raise ShapeError(
                f"input: {path.name} holds data {kind}, accepted for --bands: one array "
                "(H, W, bands)"
            )
        assert isinstance(found, Image)
        return found
    cube = load_hyperspectral(path)
    stored = cube.image[0].movedim(0, -1).double().numpy() * cube.scale + cube.offset
    return Image(path, "array", stored, path)


def _slices(image: Image, operator: str, o: InputOptions) -> tuple[int, int | None]:
    """Return the slices A to B that are taken; B is None for an array taken as it is."""
    array, photograph = image.stored, image.kind == "photograph"
    kspace = operator == "mri" and array.dtype.kind == "c"
    if o.volume:
        _check_volume(image, kspace)
        require(0 <= o.axis < 3, "axis", o.axis, "0 to 2")
        return slices_of(array.shape[o.axis], o)
    axes = len(array.shape)
    colour = axes == 3 and array.shape[-1] == 3 and o.slice is None
    # A measurement of an operator from outside may have any shape.
    own = ":" in operator and not o.simulate and o.slice is None
    whole = axes == 2 or ((kspace or o.bands) and axes == 3)
    if photograph or colour or own or whole:
        accepted = f"none, as {image.path.name} is one image"
        require(o.slice is None, "--slice", o.slice, accepted)
        require(o.axis == 0, "--axis", o.axis, accepted)
        return 0, None
    if axes != 3 + kspace:
        raise ShapeError(
            f"input: {image.path.name} holds an array of shape {array.shape}, accepted for "
            f"{operator}: {2 + kspace} axes, or {3 + kspace} with --slice"
        )
    require(0 <= o.axis < axes, "axis", o.axis, f"0 to {axes - 1}")
    depth = array.shape[o.axis]
    index = depth // 2 if o.slice is None else o.slice
    require(0 <= index < depth, "slice", index, f"0 to {depth - 1}")
    return index, index + 1


def slices_of(depth: int, o: InputOptions) -> tuple[int, int]:
    """Return the slices A to B, B not included, that are taken of a volume."""
    first, end = (0, depth) if o.slices is None else o.slices
    accepted = f"A:B with 0 <= A < B <= {depth}"
    require(0 <= first < end <= depth, "slices", f"{first}:{end}", accepted)
    return first, end


def _check_volume(image: Image, kspace: bool) -> None:
    array, photograph = image.stored, image.kind == "photograph"
    axes, real = len(array.shape), array.dtype.kind != "c"
    if photograph or not ((axes == 3 and real) or (kspace and axes == 4)):
        raise ShapeError(
            f"input: {image.path.name} holds {array.dtype} of shape {array.shape}, accepted as a "
            "volume: real values (D, H, W), or k-space (D, coils, H, W); for one slice give "
            "--slice and a solver for images"
        )


def _cut(source: Source, axis: int, first: int, end: int) -> Source | None:
    """Return the slices of what a result is written like, or None where these are no volume."""
    if isinstance(source, NiftiVolume | ZarrVolume):
        return source.cut(axis, first, end)
    if isinstance(source, DicomSeries) and axis == 0:
        headers = source.headers[first:end]
        return replace(source, values=source.values[first:end], headers=headers)
    whole = isinstance(source, DicomSeries) and end - first == source.values.shape[axis]
    return source if whole or isinstance(source, Path) else None


def _turned(spacing: tuple[float, ...], axis: int) -> tuple[float, ...]:
    """Return the sizes of a voxel with that along ``axis`` first."""
    if not spacing:
        return ()
    return (spacing[axis], *spacing[:axis], *spacing[axis + 1 :])


def _check_finite(array: np.ndarray, path: Path) -> None:
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise NonFiniteError(f"input: {bad} of {array.size} values in {path.name} are not finite")


def _window(
    array: np.ndarray, image: Image, operator: str, o: InputOptions
) -> tuple[str, tuple[float, float]]:
    """Return the unit, and the values that become 0 and 1."""
    if o.window is not None:
        low, high = o.window
        require(-np.inf < low < high < np.inf, "window", o.window, "LOW HIGH with LOW < HIGH")
        require(not np.iscomplexobj(array), "window", o.window, "none for k-space")
        return image.unit, o.window
    if np.iscomplexobj(array):
        return "", (0.0, 1.0)
    if image.unit == HOUNSFIELD:
        return HOUNSFIELD, AIR_TO_BONE
    if not o.simulate or (array.min() >= 0 and array.max() <= 1):
        return image.unit, (0.0, 1.0)
    if operator == "ct" and array.min() < LOW_HOUNSFIELD:
        return HOUNSFIELD, AIR_TO_BONE
    positive = torch.from_numpy(array[array > 0].astype(np.float32))
    require(len(positive) > 0, "input", "no positive value", "an image")
    bright = torch.quantile(positive[:: max(1, len(positive) // 1_000_000)], 0.998)
    return image.unit, (0.0, float(bright))
