"""Inverse problems from files, with an operator by name or from another module."""

from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from deepinv.physics import GaussianNoise, Physics
from torch import Tensor

from wellposed import operators
from wellposed.cli.inputs import TaskInput, read_input
from wellposed.cli.names import import_class, make, parse_assignments
from wellposed.cli.settings import InputOptions
from wellposed.datasets.files import read_array
from wellposed.errors import ArgumentError, ShapeError, require, require_choice
from wellposed.operators import presets
from wellposed.operators.presets import Task

UNMEASURED = {
    "inpainting": "mask: got None, accepted: a mask image; or use --simulate",
    "mri": "input: got a real image, accepted: complex k-space (coils, H, W); or use --simulate "
    "to undersample a magnitude image",
    "ct": "input: got a measured sinogram, accepted: an image with --simulate; the library reads "
    "sinograms",
}
"""Errors for inputs that are not measurements of an operator."""


@dataclass(frozen=True)
class FileTask(Task):
    """A `Task` with the content of its file, ``source``."""

    source: TaskInput


def build_task(path: Path, operator: str, options: InputOptions) -> FileTask:
    """Read a file and set up the problem of an operator, given by name or as MODULE:CLASS.

    Raises:
        UnknownNameError: no such operator; the nearest is suggested.
        FileError: the file cannot be read.
        ArgumentError and subclasses: the content of the file does not fit the operator.
    """
    if ":" not in operator:
        _check_name(operator, options)
    source = read_input(path, operator, options)
    task = task_of(source.array, operator, options)
    return FileTask(task.y, task.operator, task.truth, source)


def _check_name(operator: str, o: InputOptions) -> None:
    require_choice("operator", operator, presets.OPERATORS)
    accepted = f"options of {operator}, see --help; this option is for an operator MODULE:CLASS"
    require(not o.operator_set, "--operator-set", " ".join(o.operator_set), accepted)
    fits, known = operator in presets.VOLUME_OPERATORS, ", ".join(presets.VOLUME_OPERATORS)
    require(fits or not o.volume, "operator", operator, f"{known} for volumes")


def task_of(array: np.ndarray, operator: str, o: InputOptions) -> Task:
    """Return the problem of a clean image (``simulate``) or of a measurement.

    Args:
        array: see `TaskInput`.
        operator: name of the operator, or MODULE:CLASS.
        o: the options.
    """
    if ":" in operator:
        return _outside(array, operator, o)
    if operator == "mri" and np.iscomplexobj(array):
        require(not o.simulate, "simulate", True, "False for k-space, which is a measurement")
        kspace = torch.from_numpy(array.astype(np.complex64))[None]
        return presets.measured_mri(kspace, o.noise_sigma)
    image = image_of(array, o.volume)
    if operator == "inpainting" and o.mask is not None:
        return _masked(image, o.mask, o)
    if o.simulate:
        return presets.simulate(operator, image, o)
    if operator in UNMEASURED:
        raise ArgumentError(UNMEASURED[operator])
    enlarged = o.factor if operator == "super-resolution" else 1
    size = (*image.shape[1:-2], *(side * enlarged for side in image.shape[-2:]))
    return Task(image, presets.build(operator, size, o), None)


def _masked(image: Tensor, mask: Path, o: InputOptions) -> Task:
    """Return the problem of an image whose known pixels are given by a mask file."""
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
    is_image = o.simulate or (array.ndim in (2, 3) and not np.iscomplexobj(array))
    image = image_of(array, o.volume) if is_image else None
    operator = _built(name, None if image is None else tuple(image.shape[1:]), o)
    if o.simulate and image is not None:
        image = image.to(torch.complex64) if getattr(operator, "complex_image", False) else image
        return Task(_measured(operator, image, o.seed), operator, image)
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
