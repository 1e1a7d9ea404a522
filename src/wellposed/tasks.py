"""From a file and a few options to an inverse problem: what `wellposed reconstruct` builds."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wellposed.datasets.files import IMAGE_SUFFIXES, read_array, suffix_of
from wellposed.errors import (
    ArgumentError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    require,
    require_choice,
)

if TYPE_CHECKING:
    from wellposed.operators.base import LinearOperator


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options of the operators on the command line; each operator reads its own.

    Args:
        simulate: the input is a clean image: measure it, then reconstruct and compare.
        noise_sigma: noise level of the measurement, in its own units.
        seed: of random masks and simulated noise.
        factor: super-resolution factor.
        kernel: super-resolution kernel, bicubic or average.
        blur_sigma: width of the Gaussian blur in pixels.
        mask: image file of known pixels (white) for inpainting.
        keep: fraction of pixels that random inpainting keeps.
        acceleration: MRI undersampling.
        coils: simulated MRI coils.
        views: CT views over 180 degrees.
        axis, slice: which slice of a volume is taken; the middle one by default.
    """

    simulate: bool = False
    noise_sigma: float = 0.0
    seed: int = 0
    factor: int = 4
    kernel: str = "bicubic"
    blur_sigma: float = 3.0
    mask: Path | None = None
    keep: float = 0.5
    acceleration: float = 4.0
    coils: int = 8
    views: int = 60
    axis: int = 0
    slice: int | None = None


@dataclass(frozen=True)
class Task:
    """An inverse problem ready to be solved.

    Attributes:
        y: measurement (1, ...).
        operator: the operator that made it.
        truth: the clean image (1, C, H, W) of simulated problems.
    """

    y: Tensor
    operator: "LinearOperator"
    truth: Tensor | None


def build_task(path: Path, operator: str, options: TaskOptions) -> Task:
    """Read a file and set up the problem named by ``operator``.

    Raises:
        UnknownNameError: no such operator; the nearest is suggested.
        FileError: the file cannot be read.
        ArgumentError and subclasses: the file's content does not fit the operator.
    """
    require_choice("operator", operator, OPERATORS)
    _check_options(options)
    array = read_array(path)
    if array.dtype.kind not in "biufc":
        raise DtypeError(f"input: {path.name} holds {array.dtype}, accepted: numbers")
    array = _select_slice(array, path, operator, options)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise NonFiniteError(f"input: {bad} of {array.size} values in {path.name} are not finite")
    return OPERATORS[operator][1](array, options)


def _check_options(o: TaskOptions) -> None:
    quiet, blurred = 0 <= o.noise_sigma < np.inf, 0 < o.blur_sigma < np.inf
    require(quiet, "noise_sigma", o.noise_sigma, "a finite number of at least 0")
    require(blurred, "blur_sigma", o.blur_sigma, "a positive number")
    require(o.seed >= 0, "seed", o.seed, "at least 0")
    require(o.factor >= 2, "factor", o.factor, "at least 2")


def _select_slice(array: np.ndarray, path: Path, operator: str, o: TaskOptions) -> np.ndarray:
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


def _image(array: np.ndarray, o: TaskOptions) -> Tensor:
    """Return an image (1, C, H, W); clean ones in other units than [0, 1] are scaled to it."""
    if np.iscomplexobj(array):
        raise ArgumentError("input: holds complex values, accepted: a real image")
    image = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if o.simulate and (float(image.min()) < 0 or float(image.max()) > 1):
        positive = image[image > 0]
        require(len(positive) > 0, "input", "no positive value", "an image")
        image = image / torch.quantile(positive[:: max(1, len(positive) // 1_000_000)], 0.998)
    return (image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)[None].contiguous()


def _measured(image: Tensor, operator: "LinearOperator", o: TaskOptions) -> Task:
    return Task(operator.measure(image, o.seed), operator, image)


def _inpainting(array: np.ndarray, o: TaskOptions) -> Task:
    from wellposed.operators import Inpainting, random_mask

    image = _image(array, o)
    height, width = image.shape[-2:]
    if o.mask is not None:
        known = read_array(o.mask)
        known = known.mean(-1) if known.ndim == 3 else known
        mask = torch.from_numpy((known > 0.5).astype(np.float32))
        if tuple(mask.shape) != (height, width):
            raise ShapeError(f"mask: got {tuple(mask.shape)}, accepted: {(height, width)}")
    elif o.simulate:
        mask = random_mask(height, width, o.keep, o.seed)
    else:
        raise ArgumentError("mask: got None, accepted: an image of known pixels, or --simulate")
    operator = Inpainting(mask, image.shape[1], o.noise_sigma)
    return _measured(image, operator, o) if o.simulate else Task(operator.A(image), operator, None)


def _super_resolution(array: np.ndarray, o: TaskOptions) -> Task:
    from wellposed.operators import SuperResolution

    image = _image(array, o)
    channels, height, width = image.shape[1:]
    if o.simulate:
        image = image[..., : height - height % o.factor, : width - width % o.factor]
        operator = SuperResolution(image.shape[1:], o.factor, o.kernel, o.noise_sigma)
        return _measured(image, operator, o)
    size = (channels, height * o.factor, width * o.factor)
    return Task(image, SuperResolution(size, o.factor, o.kernel, o.noise_sigma), None)


def _deblurring(array: np.ndarray, o: TaskOptions) -> Task:
    from wellposed.operators import Blur, gaussian_kernel

    image = _image(array, o)
    radius = min(int(4 * o.blur_sigma) + 1, (min(image.shape[-2:]) - 1) // 2)
    kernel = gaussian_kernel(o.blur_sigma, 2 * radius + 1)
    operator = Blur(kernel, image.shape[1:], o.noise_sigma)
    return _measured(image, operator, o) if o.simulate else Task(image, operator, None)


def _mri(array: np.ndarray, o: TaskOptions) -> Task:
    if np.iscomplexobj(array):
        require(not o.simulate, "simulate", True, "False for k-space, which is measured already")
        return measured_mri(torch.from_numpy(array.astype(np.complex64))[None], o.noise_sigma)
    from wellposed.operators import (
        MultiCoilMRI,
        simulate_sensitivity_maps,
        uniform_random_lines,
    )

    if not o.simulate:
        raise ArgumentError(
            "input: a real image is no k-space, accepted: complex (coils, H, W), or --simulate "
            "to undersample a magnitude image"
        )
    image = _image(array, o)
    require(image.shape[1] == 1, "input", f"{image.shape[1]} channels", "a grey image for MRI")
    height, width = image.shape[-2:]
    maps = simulate_sensitivity_maps(o.coils, height, width, o.seed)
    mask = uniform_random_lines(width, o.acceleration, seed=o.seed)
    return _measured(image.to(torch.complex64), MultiCoilMRI(mask, maps, o.noise_sigma), o)


def measured_mri(kspace: Tensor, noise_sigma: float = 0.0) -> Task:
    """Set up measured multi-coil k-space (1, coils, H, W): mask, coil maps and scale.

    The mask is where k-space is not zero, the maps come from ESPIRiT, and the data are scaled so
    that the 99.8 percentile of the root-sum-of-squares image is 1, as priors expect.

    Args:
        kspace: complex, centred, zero where nothing was measured.
        noise_sigma: noise of the scaled k-space, per real and imaginary part.
    """
    from wellposed.operators import MultiCoilMRI, espirit

    mask = (kspace[0].abs().sum(0) > 0).float()
    # Maps in every pixel: where they were cut to zero, no datum would hold the image to anything.
    maps = espirit(kspace[0], calibration=None, crop=0.0)
    operator = MultiCoilMRI(mask, maps, noise_sigma)
    brightest = torch.quantile(operator.coil_combined_rss(kspace).flatten(), 0.998)
    return Task(kspace / brightest, operator, None)


def _ct(array: np.ndarray, o: TaskOptions) -> Task:
    from wellposed.operators import ParallelBeamCT

    image = _image(array, o)
    require(image.shape[1] == 1, "input", f"{image.shape[1]} channels", "a grey image for CT")
    if not o.simulate:
        raise ArgumentError("input: measured sinograms are read by the library, use --simulate")
    return _measured(
        image, ParallelBeamCT(image.shape[-2:], o.views, noise_sigma=o.noise_sigma), o
    )


OPERATORS: dict[str, tuple[str, Callable[[np.ndarray, TaskOptions], Task]]] = {
    "inpainting": ("missing pixels, from --mask or random (--keep)", _inpainting),
    "super-resolution": (
        "downsampling by --factor, --kernel bicubic or average",
        _super_resolution,
    ),
    "deblurring": ("Gaussian blur of --blur-sigma pixels", _deblurring),
    "mri": ("multi-coil MRI: measured k-space, or an image undersampled --acceleration x", _mri),
    "ct": ("parallel-beam CT with --views", _ct),
}
"""Operators of the command line: one line about each and how its problem is built."""
