"""From a file and a few options to an inverse problem: what `wellposed reconstruct` builds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wellposed.cli.inputs import TaskInput, read_input
from wellposed.datasets.files import read_array
from wellposed.errors import ArgumentError, ShapeError, require, require_choice

if TYPE_CHECKING:
    from wellposed.operators.base import LinearOperator

VOLUME_OPERATORS = ("inpainting", "deblurring", "mri", "ct")
"""Operators that keep the grid of a volume, on which its result is written."""


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
        views: CT views, equally spaced over the arc.
        arc: degrees that the CT views cover.
        window: values of a clean image that become 0 and 1. By default Hounsfield units -1000 to
            1000 for CT, otherwise 0 and the 99.8 percentile, unless all are in [0, 1] already.
        axis, slice: which slice of a volume is taken; the middle one by default.
        volume: take the volume, every slice across the axis measured likewise.
        slices: first and behind last slice of it; all by default.
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
    arc: float = 180.0
    window: tuple[float, float] | None = None
    axis: int = 0
    slice: int | None = None
    volume: bool = False
    slices: tuple[int, int] | None = None


@dataclass(frozen=True)
class Task:
    """An inverse problem ready to be solved.

    Attributes:
        y: measurement (1, ...).
        operator: the operator that made it.
        truth: the clean image (1, C, H, W) or volume (1, 1, D, H, W) of simulated problems.
        source: what was read.
    """

    y: Tensor
    operator: "LinearOperator"
    truth: Tensor | None
    source: TaskInput | None = None


def build_task(path: Path, operator: str, options: TaskOptions) -> Task:
    """Read a file and set up the problem named by ``operator``.

    Raises:
        UnknownNameError: no such operator; the nearest is suggested.
        FileError: the file cannot be read.
        ArgumentError and subclasses: the file's content does not fit the operator.
    """
    require_choice("operator", operator, OPERATORS)
    _check_options(options)
    if options.volume:
        fits = operator in VOLUME_OPERATORS
        require(fits, "operator", operator, f"{', '.join(VOLUME_OPERATORS)} for volumes")
    source = read_input(path, operator, options)
    return replace(OPERATORS[operator][1](source.array, options), source=source)


def _check_options(o: TaskOptions) -> None:
    quiet, blurred = 0 <= o.noise_sigma < np.inf, 0 < o.blur_sigma < np.inf
    require(quiet, "noise_sigma", o.noise_sigma, "a finite number of at least 0")
    require(blurred, "blur_sigma", o.blur_sigma, "a positive number")
    require(o.seed >= 0, "seed", o.seed, "at least 0")
    require(o.factor >= 2, "factor", o.factor, "at least 2")
    require(0 < o.arc <= 360, "arc", o.arc, "degrees, above 0 and up to 360")


def _image(array: np.ndarray, o: TaskOptions) -> Tensor:
    """Return an image (1, C, H, W) or a volume (1, 1, D, H, W)."""
    if np.iscomplexobj(array):
        raise ArgumentError("input: holds complex values, accepted: a real image")
    image = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if o.volume:
        return image[None, None]
    return (image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)[None].contiguous()


def _size(image: Tensor) -> tuple[int, int, int]:
    """Return (C, H, W) of an image, or of a volume's slices."""
    return image.shape[1], image.shape[-2], image.shape[-1]


def _measured(image: Tensor, operator: "LinearOperator", o: TaskOptions) -> Task:
    return Task(operator.measure(image, o.seed), operator, image)


def _stacked(operator: "LinearOperator", image: Tensor) -> "LinearOperator":
    """Return an operator on images as one on all slices, where the image is a volume."""
    from wellposed.operators import Stacked

    return Stacked(operator, image.shape[2]) if image.ndim == 5 else operator


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
    operator = _stacked(Inpainting(mask, image.shape[1], o.noise_sigma), image)
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
    operator = _stacked(Blur(kernel, _size(image), o.noise_sigma), image)
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
    operator = _stacked(MultiCoilMRI(mask, maps, o.noise_sigma), image)
    return _measured(image.to(torch.complex64), operator, o)


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
    require(o.views >= 1, "views", o.views, "at least 1")
    angles = torch.arange(o.views, dtype=torch.float64) * (o.arc / o.views)
    operator = ParallelBeamCT(image.shape[-2:], angles, noise_sigma=o.noise_sigma)
    return _measured(image, _stacked(operator, image), o)


OPERATORS: dict[str, tuple[str, Callable[[np.ndarray, TaskOptions], Task]]] = {
    "inpainting": ("missing pixels, from --mask or random (--keep)", _inpainting),
    "super-resolution": (
        "downsampling by --factor, --kernel bicubic or average",
        _super_resolution,
    ),
    "deblurring": ("Gaussian blur of --blur-sigma pixels", _deblurring),
    "mri": ("multi-coil MRI: measured k-space, or an image undersampled --acceleration x", _mri),
    "ct": ("parallel-beam CT with --views over --arc degrees", _ct),
}
"""Operators of the command line: one line about each and how its problem is built."""
