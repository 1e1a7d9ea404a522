"""Input of `wellposed reconstruct`: an image or a volume, its units and its position in space."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from wellposed.cli.settings import InputOptions
from wellposed.datasets.files import IMAGE_SUFFIXES, NIFTI_SUFFIXES, read_array, suffix_of
from wellposed.datasets.volumes.nifti import NiftiVolume, load_nifti
from wellposed.errors import DtypeError, NonFiniteError, ShapeError, require

if TYPE_CHECKING:
    from wellposed.reconstruction import Reconstruction

HOUNSFIELD = (-1000.0, 1000.0)
"""Hounsfield units that become 0 and 1: air, and twice the attenuation of water."""

LOW_HOUNSFIELD = -200.0
"""CT images with values below this are assumed to be in Hounsfield units: only air has them."""


@dataclass(frozen=True, eq=False)
class TaskInput:
    """The content of a file, ready for an operator.

    Attributes:
        array: an image (H, W) or (H, W, 3), a volume with the slice axis first, or k-space
            (coils, H, W); clean images have values in about [0, 1].
        window: values of the file that became 0 and 1.
        axis: axis of the file's (D, H, W) that became the first axis of a volume.
        reference: the NIfTI volume, cut to the slices used; ``None`` for other inputs.
    """

    array: np.ndarray
    window: tuple[float, float]
    axis: int
    reference: NiftiVolume | None

    def write(self, result: "Reconstruction", folder: Path) -> tuple[Path, ...]:
        """Write mean and std of a volume as NIfTI, with the units and the position of the input.

        Returns:
            The two files, or no files if the input has no position in space.
        """
        if self.reference is None:
            return ()
        from wellposed.datasets.volumes.results import write_result

        low, high = self.window
        samples = (low + (high - low) * result.samples).movedim(3, 3 + self.axis)
        return write_result(replace(result, samples=samples), folder, self.reference)


def read_input(path: Path, operator: str, options: InputOptions) -> TaskInput:
    """Read a file, select the slices of the options, and scale clean images to [0, 1].

    Axes of NIfTI files are counted as (D, H, W), see `load_nifti`.

    Raises:
        FileError: the file cannot be read.
        ArgumentError and subclasses: the content, a slice or the window cannot be used.
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
        raise DtypeError(f"input: {path.name} has dtype {array.dtype}, accepted: numbers")
    return array, None


def _take_slice(array: np.ndarray, path: Path, operator: str, o: InputOptions) -> np.ndarray:
    """Take one slice of a volume; photographs and single slices stay as they are."""
    wanted = 3 if operator == "mri" and np.iscomplexobj(array) else 2
    colour = array.ndim == 3 and array.shape[-1] == 3 and o.slice is None
    if suffix_of(path) in IMAGE_SUFFIXES or array.ndim == wanted or colour:
        return array
    if ":" in operator and not o.simulate and o.slice is None:  # its measurement has any shape
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
    taken: np.ndarray = np.take(array, index, axis=o.axis)
    return taken


def _take_slab(
    array: np.ndarray, reference: NiftiVolume | None, path: Path, o: InputOptions
) -> tuple[np.ndarray, NiftiVolume | None]:
    """Take all slices of a volume, or some, and put them first."""
    if suffix_of(path) in IMAGE_SUFFIXES or array.ndim != 3 or np.iscomplexobj(array):
        raise ShapeError(
            f"input: {path.name} has {array.dtype} values of shape {array.shape}, accepted as a "
            "volume: real values (D, H, W); for one slice use --slice and a solver for images"
        )
    require(0 <= o.axis < 3, "axis", o.axis, "0 to 2")
    depth = array.shape[o.axis]
    first, end = (0, depth) if o.slices is None else o.slices
    require(0 <= first < end <= depth, "slices", f"{first}:{end}", f"A:B, 0 <= A < B <= {depth}")
    taken = np.take(array, range(first, end), axis=o.axis)
    if reference is not None:
        reference = reference.cut(o.axis, first, end)
    return np.moveaxis(taken, o.axis, 0), reference


def _window(array: np.ndarray, operator: str, o: InputOptions) -> tuple[float, float]:
    """Return the values that become 0 and 1."""
    if o.window is not None:
        low, high = o.window
        require(-np.inf < low < high < np.inf, "window", o.window, "LOW HIGH, LOW < HIGH")
        require(o.simulate, "window", o.window, "None without --simulate")
        return o.window
    if not o.simulate or np.iscomplexobj(array) or (array.min() >= 0 and array.max() <= 1):
        return 0.0, 1.0
    if operator == "ct" and array.min() < LOW_HOUNSFIELD:
        return HOUNSFIELD
    positive = torch.from_numpy(array[array > 0].astype(np.float32))
    require(len(positive) > 0, "input", "no positive value", "an image with positive values")
    return 0.0, float(torch.quantile(positive[:: max(1, len(positive) // 1_000_000)], 0.998))
