"""From a file and a few options to an inverse problem: what `wellposed reconstruct` reads."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wellposed import operators
from wellposed.datasets.files import IMAGE_SUFFIXES, read_array, suffix_of
from wellposed.datasets.volumes.nifti import NIFTI_SUFFIXES, NiftiVolume, load_nifti
from wellposed.errors import (
    ArgumentError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    require,
    require_choice,
)
from wellposed.operators import presets
from wellposed.operators.presets import OperatorOptions, Task

if TYPE_CHECKING:
    from wellposed.reconstruction import Reconstruction

HOUNSFIELD = (-1000.0, 1000.0)
"""Hounsfield units that count as 0 and 1: air, and twice the attenuation of water."""

LOW_HOUNSFIELD = -200.0
"""CT images with values below, as only air has, are taken for Hounsfield units."""


UNMEASURED = {
    "inpainting": "mask: got None, accepted: an image of known pixels, or --simulate",
    "mri": "input: a real image is no k-space, accepted: complex (coils, H, W), or --simulate to "
    "undersample a magnitude image",
    "ct": "input: measured sinograms are read by the library, use --simulate",
}
"""What is wrong with an image that is no measurement of an operator."""


@dataclass(frozen=True, kw_only=True)
class TaskOptions(OperatorOptions):
    """Options of the command line: those of the operators, and of what is read.

    Args:
        simulate: the input is a clean image: measure it, then reconstruct and compare.
        mask: image file of known pixels (white) for inpainting.
        window: values of a clean image that become 0 and 1. By default Hounsfield units -1000 to
            1000 for CT, otherwise 0 and the 99.8 percentile, unless all are in [0, 1] already.
        axis, slice: which slice of a volume is taken; the middle one by default.
        volume: take the volume, every slice across the axis measured likewise.
        slices: first and behind last slice of it; all by default.
    """

    simulate: bool = False
    mask: Path | None = None
    window: tuple[float, float] | None = None
    axis: int = 0
    slice: int | None = None
    volume: bool = False
    slices: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class TaskInput:
    """What was read, ready for an operator.

    Attributes:
        array: an image (H, W) or (H, W, 3), a volume with its slices first, or k-space
            (coils, H, W); clean ones in values about [0, 1].
        window: values of the file that became 0 and 1.
        axis: axis of the file's (D, H, W) that has become a volume's first.
        reference: what a volume was taken from, cut to the slices taken; NIfTI only.
    """

    array: np.ndarray
    window: tuple[float, float]
    axis: int
    reference: NiftiVolume | None

    def write(self, result: "Reconstruction", folder: Path) -> tuple[Path, ...]:
        """Write mean and std of a volume as NIfTI, in the units of the file and where it lies.

        Returns:
            The two files, or none where the input has no place in space.
        """
        if self.reference is None:
            return ()
        from wellposed.datasets.volumes.results import write_result

        low, high = self.window
        samples = (low + (high - low) * result.samples).movedim(3, 3 + self.axis)
        return write_result(replace(result, samples=samples), folder, self.reference)


@dataclass(frozen=True)
class FileTask(Task):
    """A `Task` with what was read of its file, ``source``."""

    source: TaskInput


def build_task(path: Path, operator: str, options: TaskOptions) -> FileTask:
    """Read a file and set up the problem named by ``operator``.

    Raises:
        UnknownNameError: no such operator; the nearest is suggested.
        FileError: the file cannot be read.
        ArgumentError and subclasses: the file's content does not fit the operator.
    """
    require_choice("operator", operator, presets.OPERATORS)
    if options.volume:
        fits, known = operator in presets.VOLUME_OPERATORS, ", ".join(presets.VOLUME_OPERATORS)
        require(fits, "operator", operator, f"{known} for volumes")
    source = read_input(path, operator, options)
    task = task_of(source.array, operator, options)
    return FileTask(task.y, task.operator, task.truth, source)


def task_of(array: np.ndarray, operator: str, o: TaskOptions) -> Task:
    """Return the problem of a clean image, if the options say so, or of a measurement.

    Args:
        array: as `TaskInput` has it.
        operator: its name.
        o: the options.
    """
    if operator == "mri" and np.iscomplexobj(array):
        require(not o.simulate, "simulate", True, "False for k-space, which is measured already")
        kspace = torch.from_numpy(array.astype(np.complex64))[None]
        return presets.measured_mri(kspace, o.noise_sigma)
    image = _image(array, o)
    if operator == "inpainting" and o.mask is not None:
        return _masked(image, o.mask, o)
    if o.simulate:
        return presets.simulate(operator, image, o)
    if operator in UNMEASURED:
        raise ArgumentError(UNMEASURED[operator])
    enlarged = o.factor if operator == "super-resolution" else 1
    size = (*image.shape[1:-2], *(side * enlarged for side in image.shape[-2:]))
    return Task(image, presets.build(operator, size, o), None)


def _masked(image: Tensor, mask: Path, o: TaskOptions) -> Task:
    """Return the problem of an image of which a file says what pixels are known."""
    known, (channels, *depth, height, width) = read_array(mask), image.shape[1:]
    known = known.mean(-1) if known.ndim == 3 else known
    if known.shape != (height, width):
        raise ShapeError(f"mask: got {known.shape}, accepted: {(height, width)}")
    pixels = torch.from_numpy((known > 0.5).astype(np.float32))
    operator: operators.LinearOperator = operators.Inpainting(pixels, channels, o.noise_sigma)
    operator = operators.Stacked(operator, depth[0]) if depth else operator
    if not o.simulate:
        return Task(operator.A(image), operator, None)
    return Task(operator.measure(image, o.seed), operator, image)


def _image(array: np.ndarray, o: TaskOptions) -> Tensor:
    """Return an image (1, C, H, W) or a volume (1, 1, D, H, W)."""
    if np.iscomplexobj(array):
        raise ArgumentError("input: holds complex values, accepted: a real image")
    image = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if o.volume:
        return image[None, None]
    return (image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)[None].contiguous()


def read_input(path: Path, operator: str, options: TaskOptions) -> TaskInput:
    """Read a file, take what the options ask for, and scale clean images to [0, 1].

    Axes of NIfTI files are counted as (D, H, W), see `load_nifti`.

    Raises:
        FileError: the file cannot be read.
        ArgumentError and subclasses: what it holds, or a slice or window, cannot be used.
    """
    array, reference = _read(path)
    if options.volume:
        array, reference = _take_slab(array, reference, path, options)
    else:
        array, reference = _take_slice(array, path, operator, options), None
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise NonFiniteError(f"input: {bad} of {array.size} values in {path.name} are not finite")
    low, high = _window(array, operator, options)
    if (low, high) != (0.0, 1.0):
        array = (array.astype(np.float32) - low) / (high - low)
    return TaskInput(array, (low, high), options.axis, reference)


def _read(path: Path) -> tuple[np.ndarray, NiftiVolume | None]:
    if suffix_of(path) in NIFTI_SUFFIXES:
        reference = load_nifti(path)
        array = reference.volume[0].numpy()
        while array.ndim > 2 and len(array) == 1:
            array = array[0]
        return array, reference
    array = read_array(path)
    if array.dtype.kind not in "biufc":
        raise DtypeError(f"input: {path.name} holds {array.dtype}, accepted: numbers")
    return array, None


def _take_slice(array: np.ndarray, path: Path, operator: str, o: TaskOptions) -> np.ndarray:
    """Take one slice of a volume; photographs and single slices stay as they are."""
    wanted = 3 if operator == "mri" and np.iscomplexobj(array) else 2
    colour = array.ndim == 3 and array.shape[-1] == 3 and o.slice is None
    if suffix_of(path) in IMAGE_SUFFIXES or array.ndim == wanted or colour:
        return array
    if array.ndim != wanted + 1:
        raise ShapeError(
            f"input: {path.name} holds an array of shape {array.shape}, accepted for {operator}: "
            f"{wanted} axes, or {wanted + 1} with --slice"
        )
    require(0 <= o.axis < array.ndim, "axis", o.axis, f"0 to {array.ndim - 1}")
    depth = array.shape[o.axis]
    index = depth // 2 if o.slice is None else o.slice
    require(0 <= index < depth, "slice", index, f"0 to {depth - 1}")
    return np.take(array, index, axis=o.axis)


def _take_slab(
    array: np.ndarray, reference: NiftiVolume | None, path: Path, o: TaskOptions
) -> tuple[np.ndarray, NiftiVolume | None]:
    """Take all slices of a volume, or some, and put them first."""
    if suffix_of(path) in IMAGE_SUFFIXES or array.ndim != 3 or np.iscomplexobj(array):
        raise ShapeError(
            f"input: {path.name} holds {array.dtype} of shape {array.shape}, accepted as a "
            "volume: real values (D, H, W); for one slice give --slice and a solver of images"
        )
    require(0 <= o.axis < 3, "axis", o.axis, "0 to 2")
    depth = array.shape[o.axis]
    first, end = (0, depth) if o.slices is None else o.slices
    require(0 <= first < end <= depth, "slices", f"{first}:{end}", f"A:B, 0 <= A < B <= {depth}")
    taken = np.take(array, range(first, end), axis=o.axis)
    if reference is not None:
        reference = reference.cut(o.axis, first, end)
    return np.moveaxis(taken, o.axis, 0), reference


def _window(array: np.ndarray, operator: str, o: TaskOptions) -> tuple[float, float]:
    """Return the values that become 0 and 1."""
    if o.window is not None:
        low, high = o.window
        require(-np.inf < low < high < np.inf, "window", o.window, "LOW HIGH, LOW < HIGH")
        require(o.simulate, "window", o.window, "clean images, with --simulate")
        return o.window
    if not o.simulate or np.iscomplexobj(array) or (array.min() >= 0 and array.max() <= 1):
        return 0.0, 1.0
    if operator == "ct" and array.min() < LOW_HOUNSFIELD:
        return HOUNSFIELD
    positive = torch.from_numpy(array[array > 0].astype(np.float32))
    require(len(positive) > 0, "input", "no positive value", "an image")
    return 0.0, float(torch.quantile(positive[:: max(1, len(positive) // 1_000_000)], 0.998))
