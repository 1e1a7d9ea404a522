"""Inverse problems from files, with an operator by name or from another module."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from deepinv.physics import GaussianNoise, Physics
from torch import Tensor

from wellposed import operators
from wellposed.cli.file_task import FileTask
from wellposed.cli.inputs import TaskInput, read_bands, task_input
from wellposed.cli.measured import ScanTask
from wellposed.cli.names import import_class, make, parse_assignments
from wellposed.cli.scans import kspace_task, scan_task
from wellposed.cli.settings import OPTIONS_OF, RESTORED_OPERATORS, InputOptions
from wellposed.cli.sinograms import array_task
from wellposed.datasets.files import read_array
from wellposed.datasets.images.mask import read_mask
from wellposed.datasets.mri.encoding import center_crop
from wellposed.datasets.reading import Image, Measured, read
from wellposed.errors import ArgumentError, ShapeError, require, require_choice
from wellposed.operators import presets
from wellposed.operators.presets import Task
from wellposed.units import Units

UNMEASURED = {
    "inpainting": "mask: got None, accepted: a mask image; or use --simulate",
    "mri": "input: got a real image, accepted: complex k-space (coils, H, W); or use --simulate "
    "to undersample a magnitude image",
}
"""Errors for inputs that are not measurements of an operator."""


def build_task(
    path: Path, operator: str, options: InputOptions, channels: int | None = None
) -> FileTask:
    """Read a file and set up the problem of an operator, given by name or as MODULE:CLASS.

    Args:
        path: a file, or the folder of a DICOM series.
        operator: its name, or MODULE:CLASS.
        options: the options.
        channels: those of the prior; grey photographs become three equal ones where it has 3.

    Raises:
        UnknownNameError: no such operator; the nearest is suggested.
        FileError: the file cannot be read.
        ArgumentError and subclasses: the content of the file does not fit the operator.
    """
    if ":" not in operator:
        check_name(operator, options)
    found = read_bands(path) if options.bands else read(path)
    return task_from(found, operator, options, channels)


def task_from(
    found: Image | Measured, operator: str, options: InputOptions, channels: int | None = None
) -> FileTask:
    """Set up the problem of what was read from a file, see `build_task`."""
    if isinstance(found, Measured):
        return _of_scan(scan_task(found, operator, options), TaskInput(np.empty(0), Units()))
    source = task_input(found, operator, options)
    array, o = source.array, options
    scan = _array_scan(array, operator, o)
    if scan is not None:
        return _of_scan(scan, source)
    if not o.simulate and source.units.scale != 1:
        o = replace(o, noise_sigma=o.noise_sigma / source.units.scale)
    if channels == 3 and array.ndim == 2 and operator in RESTORED_OPERATORS:
        array = np.repeat(array[..., None], 3, -1)
    task = task_of(array, operator, o)
    return FileTask(task.y, task.operator, task.truth, task.margins, source=source)


def _of_scan(task: ScanTask, source: TaskInput) -> FileTask:
    spacing = task.units.spacing or source.units.spacing
    source = replace(source, units=replace(task.units, spacing=spacing))
    cut = task.truth is not None and task.crop is not None
    truth = center_crop(task.truth, task.crop) if cut else task.truth  # type: ignore[arg-type]
    return FileTask(
        task.y, task.operator, truth, in_scanner_units=True, source=source, crop=task.crop
    )


def _array_scan(array: np.ndarray, operator: str, o: InputOptions) -> ScanTask | None:
    """Return the problem of an array of k-space or of a sinogram, None of an image."""
    if operator == "mri" and np.iscomplexobj(array):
        kspace = torch.from_numpy(array.astype(np.complex64))
        kspace = kspace[None] if kspace.ndim == 2 else kspace
        return kspace_task(kspace if kspace.ndim == 4 else kspace[None], o)
    if operator == "ct" and not o.simulate:
        image = image_of(array, o.volume)
        require(image.shape[1] == 1, "input", f"{image.shape[1]} channels", "one of a sinogram")
        return array_task(image[0].transpose(0, 1) if o.volume else image, o)
    return None


def check_name(operator: str, o: InputOptions) -> None:
    """Raise unless the options fit an operator that is given by name."""
    require_choice("operator", operator, presets.OPERATORS)
    accepted = f"options of {operator}, see --help; this option is for an operator MODULE:CLASS"
    require(not o.operator_set, "--operator-set", " ".join(o.operator_set), accepted)
    fits, known = operator in presets.VOLUME_OPERATORS, ", ".join(presets.VOLUME_OPERATORS)
    require(fits or not o.volume, "operator", operator, f"{known} for volumes")


def check_options_of(operator: str | None, o: InputOptions) -> None:
    """Raise if options are given that another operator uses."""
    defaults = {f.name: f.default for f in fields(InputOptions)}
    for owner, names in OPTIONS_OF.items():
        for name in names if owner != operator else ():
            value, option = getattr(o, name), f"--{name.replace('_', '-')}"
            given = str(value) if isinstance(value, Path) else value
            require(value == defaults[name], option, given, f"only with --operator {owner}")


def task_of(array: np.ndarray, operator: str, o: InputOptions) -> Task:
    """Return the problem of a clean image (``simulate``) or of a measured one.

    Args:
        array: see `TaskInput`.
        operator: name of the operator, or MODULE:CLASS.
        o: the options.
    """
    if ":" in operator:
        return _outside(array, operator, o)
    image = image_of(array, o.volume)
    if o.simulate:
        return simulated(image, operator, o)
    if operator == "inpainting" and o.mask is not None:
        return _masked(image, o.mask, o)
    if operator == "deblurring":
        return presets.measured_deblurring(image, blur_kernel(image.shape, o), o.noise_sigma)
    if operator in UNMEASURED:
        raise ArgumentError(UNMEASURED[operator])
    enlarged = o.factor if operator == "super-resolution" else 1
    size = (*image.shape[1:-2], *(side * enlarged for side in image.shape[-2:]))
    return Task(image, presets.build(operator, size, o), None)


def simulated(image: Tensor, operator: str, o: InputOptions) -> Task:
    """Return the problem of measuring a clean image (1, C, H, W), real or complex."""
    if ":" in operator:
        physics = _built(operator, tuple(image.shape[1:]), o)
        image = image.to(torch.complex64) if getattr(physics, "complex_image", False) else image
        return Task(_measured(physics, image, o.seed), physics, image)
    if operator == "inpainting" and o.mask is not None:
        return _masked(image, o.mask, o)
    if operator == "deblurring":
        kernel = blur_kernel(image.shape, o)
        scene = presets.mirrored(image, kernel)
        return presets.simulated_deblurring(scene, kernel, o.noise_sigma, o.seed)
    return presets.simulate(operator, image, o)


def _masked(image: Tensor, mask: Path, o: InputOptions) -> Task:
    """Return the problem of an image of which a file says what pixels are known."""
    known, (channels, *depth, height, width) = read_mask(mask), image.shape[1:]
    if known.shape != (height, width):
        raise ShapeError(f"mask: got {known.shape}, accepted: {(height, width)}")
    pixels = torch.from_numpy(known.astype(np.float32))
    operator: operators.LinearOperator = operators.Inpainting(pixels, channels, o.noise_sigma)
    operator = operators.Stacked(operator, depth[0]) if depth else operator
    if not o.simulate:
        return Task(operator.A(image), operator, None)
    return Task(operator.measure(image, o.seed), operator, image)


def blur_kernel(size: Sequence[int], o: InputOptions) -> Tensor:
    """Return the kernel (h, w) of the options, that of a file or a Gaussian.

    Raises:
        ShapeError, ArgumentError: the file holds none.
    """
    if o.kernel_file is None:
        return presets.gaussian_blur(size, o.blur_sigma)
    kernel = read_array(o.kernel_file)
    kernel = kernel.mean(-1) if kernel.ndim == 3 else kernel
    if kernel.ndim != 2 or kernel.dtype.kind not in "biuf":
        raise ShapeError(f"kernel_file: got {kernel.dtype} {kernel.shape}, accepted: real (h, w)")
    weight = float(kernel.sum(dtype=np.float64))
    require(0 < weight < np.inf, "kernel_file", f"a kernel of sum {weight:g}", "a positive sum")
    return torch.from_numpy(kernel.astype(np.float64) / weight)


def simulated_draw(
    draw: Callable[[tuple[int, int]], Tensor], size: tuple[int, int], o: InputOptions, name: str
) -> tuple[Task, Tensor]:
    """Return the problem of measuring a draw of a prior, and the draw.

    Args:
        draw: returns a draw (1, C, h, w) of a size (h, w).
        size: (H, W) of the truth; the draw is larger if its measurement reaches beyond the frame.
        o: the options.
        name: name of the operator, or MODULE:CLASS.
    """
    if name != "deblurring":
        image = draw(size)
        return simulated(image, name, o), image
    kernel = blur_kernel(size, o)
    height, width = (n + k - 1 for n, k in zip(size, kernel.shape, strict=True))
    scene = draw((height, width))
    return presets.simulated_deblurring(scene, kernel, o.noise_sigma, o.seed), scene


def image_of(array: np.ndarray, volume: bool = False) -> Tensor:
    """Return an image (H, W) or (H, W, C) as (1, C, H, W), or a volume as (1, 1, D, H, W)."""
    if np.iscomplexobj(array):
        raise ArgumentError("input: got complex values, accepted: a real image")
    image = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if volume:
        return image[None, None]
    return (image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)[None].contiguous()


def _outside(array: np.ndarray, name: str, o: InputOptions) -> Task:
    """Return the problem of the operator MODULE:CLASS.

    An array of the operator's measurement shape is the measurement; others are images.
    """
    if o.simulate:
        return simulated(image_of(array, o.volume), name, o)
    is_image = array.ndim in (2, 3) and not np.iscomplexobj(array)
    image = image_of(array, o.volume) if is_image else None
    operator = _built(name, None if image is None else tuple(image.shape[1:]), o)
    if image is None or array.shape == getattr(operator, "measurement_size", None):
        kind = np.complex64 if np.iscomplexobj(array) else np.float32
        return Task(torch.from_numpy(array.astype(kind))[None], operator, None)
    return Task(image, operator, None)


def _built(name: str, size: tuple[int, ...] | None, o: InputOptions) -> Physics:
    """Return the operator MODULE:CLASS, on images of ``size`` unless --operator-set has one."""
    cls = import_class("--operator", name, Physics)
    depth = size[1:-2] if size is not None else ()
    image_size = size if size is None else (size[0], *size[-2:])
    offered = {"image_size": image_size, "img_size": image_size, "noise_sigma": o.noise_sigma}
    takes = signature(cls).parameters
    known = {key: value for key, value in offered.items() if key in takes and value is not None}
    settings = known | parse_assignments("--operator-set", o.operator_set)
    operator: Physics = make("--operator", cls, settings, "--operator-set")
    if "noise_sigma" not in takes and o.noise_sigma > 0:
        operator.noise_model = GaussianNoise(o.noise_sigma)
    return operators.Stacked(operator, depth[0]) if depth else operator


def _measured(operator: Physics, image: Tensor, seed: int) -> Tensor:
    """Return a noisy measurement, determined by the seed."""
    with torch.random.fork_rng(devices=[]):  # deepinv's operators draw from the global generator
        torch.manual_seed(seed)
        own = hasattr(operator, "measure")
        y: Tensor = operator.measure(image, seed) if own else operator(image)
    return y
