"""Errors a user can act on: each names the argument, its value and what is accepted.

Every error of the package derives from `WellposedError`, and argument errors also from
`ValueError`, so that both ``except wellposed.errors.WellposedError`` and the usual Python
idioms work.
"""

import math
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class WellposedError(Exception):
    """Base of all errors that wellposed raises deliberately.

    Example:
        >>> from wellposed import errors, solvers
        >>> try:
        ...     solvers.DDS(steps=0)
        ... except errors.WellposedError as error:
        ...     print(error)
        steps: got 0, accepted: an integer of at least 1
    """


class ArgumentError(WellposedError, ValueError):
    """An argument has an invalid value.

    Example:
        >>> from wellposed import solvers
        >>> solvers.DDS(eta=2.0)
        Traceback (most recent call last):
            ...
        wellposed.errors.ArgumentError: eta: got 2.0, accepted: a number from 0 to 1
    """


class ShapeError(ArgumentError):
    """A tensor has the wrong shape or number of channels.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operators.Denoising((1, 8, 8)).A(torch.rand(1, 3, 8, 8))
        Traceback (most recent call last):
            ...
        wellposed.errors.ShapeError: x: got shape (1, 3, 8, 8), accepted: (B >= 1, 1, 8, 8)
    """


class DtypeError(ArgumentError, TypeError):
    """A tensor has the wrong dtype, or real and complex data are mixed.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operators.Denoising((1, 8, 8)).A(torch.rand(1, 1, 8, 8, dtype=torch.complex64))
        Traceback (most recent call last):
            ...
        wellposed.errors.DtypeError: x: got dtype torch.complex64, accepted: a real ...
    """


class DeviceError(ArgumentError):
    """Tensors that are used together are on different devices.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operators.Denoising((1, 8, 8)).A(torch.rand(1, 1, 8, 8, device="meta"))
        Traceback (most recent call last):
            ...
        wellposed.errors.DeviceError: x: is on meta but the Denoising on cpu; move one ...
    """


class NonFiniteError(ArgumentError):
    """Data contain NaN or infinite values.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> y = torch.full((1, 1, 8, 8), torch.nan)
        >>> operator, prior = operators.Denoising((1, 8, 8)), priors.GaussianPrior(0.5, 0.1)
        >>> solvers.DDS()(y, operator, prior)
        Traceback (most recent call last):
            ...
        wellposed.errors.NonFiniteError: y: 64 of 64 values are NaN or infinite
    """


class UnknownNameError(ArgumentError, KeyError):
    """A name is unknown; the message suggests the nearest known name.

    Example:
        >>> from wellposed import priors
        >>> priors.load("brain")
        Traceback (most recent call last):
            ...
        wellposed.errors.UnknownNameError: prior: unknown name 'brain'. Did you mean 'brain-mri'...
    """

    def __str__(self) -> str:
        return str(self.args[0])


class FileError(WellposedError, OSError):
    """A file is missing, truncated or not of the expected format.

    Example:
        >>> from wellposed import datasets
        >>> datasets.read_photograph("missing.png")
        Traceback (most recent call last):
            ...
        wellposed.errors.FileError: path: no such file 'missing.png'
    """


class MissingPackageError(WellposedError, ImportError):
    """An optional package is not installed; names the extra that has it.

    Example:
        >>> from wellposed import datasets
        >>> datasets.load_nifti("brain.nii.gz")  # without nibabel # doctest: +SKIP
        Traceback (most recent call last):
            ...
        wellposed.errors.MissingPackageError: ...
    """


class CheckpointError(WellposedError):
    """A checkpoint does not fit: family, keys, shapes or values.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> torch.save({"layer.weight": torch.zeros(3)}, "model.pt")
        >>> priors.load("model.pt")
        Traceback (most recent call last):
            ...
        wellposed.errors.CheckpointError: path: the weights in 'model.pt' belong to no ...
    """


class SamplingError(WellposedError, RuntimeError):
    """A run failed; names the step at which a non-finite value appeared.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Denoising((1, 8, 8), noise_sigma=0.1)
        >>> y, prior = torch.rand(1, 1, 8, 8), priors.GaussianPrior(0.5, 0.1)
        >>> solvers.FlowChef(step_size=1e9)(y, operator, prior, seed=0)
        Traceback (most recent call last):
            ...
        wellposed.errors.SamplingError: FlowChef: non-finite values at step 6 of 100 (t = 950); ...
    """


class ProcessLostError(SamplingError):
    """One of the processes that share a run has died or does not respond.

    Example:
        >>> from wellposed.parallel.sharding import spread
        >>> result = spread(solver, y, operator, prior)  # torchrun # doctest: +SKIP
        Traceback (most recent call last):
            ...
        wellposed.errors.ProcessLostError: ...
    """


def warn(message: str) -> None:
    """Warn of the line outside the package that has led here, however many calls lie between."""
    frame, level = sys._getframe(1).f_back, 3
    found = level
    while frame is not None:  # frames of PyTorch's decorators may lie between ours
        found = level + 1 if _is_ours(frame) else found
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=found)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).split(".")[0] == "wellposed"


def require(condition: bool, argument: str, got: object, accepted: str) -> None:
    """Raise `ArgumentError` naming ``argument`` unless ``condition`` holds."""
    if not condition:
        raise ArgumentError(f"{argument}: got {got!r}, accepted: {accepted}")


def require_package(package: str, extra: str, what: str) -> None:
    """Raise `MissingPackageError` unless an optional package is installed.

    Args:
        package: the name by which it is imported.
        extra: the extra of wellposed that has it.
        what: what needs it.
    """
    if find_spec(package) is None:
        raise MissingPackageError(f"{what}: needs {package}; pip install 'wellposed[{extra}]'")


def require_choice(argument: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is known; otherwise raise and suggest the nearest known name."""
    choices = list(known)
    if name in choices:
        return name
    raise UnknownNameError(unknown_name(argument, name, choices))


def unknown_name(argument: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name: the nearest known name, and all of them."""
    choices = list(known)
    near = get_close_matches(str(name), choices, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{argument}: unknown name {name!r}.{hint} Known: {', '.join(choices)}"


def is_positive(value: object) -> bool:
    """Return whether a value is a positive and finite number."""
    return isinstance(value, (int, float)) and 0 < value < math.inf


def require_device(argument: str, device: str) -> None:
    """Raise `DeviceError` unless ``device`` is cpu, or cuda with a device that torch finds."""
    import torch

    found = torch.cuda.is_available()
    if device not in ("cpu", "cuda") or (device == "cuda" and not found):
        accepted = "cpu, cuda" if found else "cpu; torch finds no CUDA device"
        raise DeviceError(f"{argument}: got {device!r}, accepted: {accepted}")


def check_finite(name: str, value: "Tensor") -> "Tensor":
    """Return ``value`` if it is finite; otherwise raise `NonFiniteError` with the count."""
    bad = ~value.isfinite()
    if bool(bad.any()):
        raise NonFiniteError(
            f"{name}: {int(bad.sum())} of {value.numel()} values are NaN or infinite"
        )
    return value
