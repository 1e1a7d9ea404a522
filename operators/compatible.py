"""Checks that operators can be combined; errors name the combination, e.g. ``@``."""

import cmath
from collections.abc import Iterable
from numbers import Complex

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, DeviceError, DtypeError, ShapeError, require
from wellposed.operators.linear_map import LinearMap
from wellposed.parallel.part import part_of


def require_items(name: str, *operators: LinearMap) -> int:
    """Return the batch size for which the operators have parameters, 1 for any batch size.

    Raises:
        ArgumentError: the batch sizes differ, or an operator acts on a part of a shared volume.
        DeviceError: the operators are on different devices.
    """
    items = sorted({operator.items for operator in operators} - {1})
    if len(items) > 1:
        raise ArgumentError(
            f"{name}: got operators with parameters for {' and '.join(map(str, items))} items, "
            "accepted: operators for the same number of items"
        )
    devices = sorted({str(operator.device) for operator in operators})
    if len(devices) > 1:
        raise DeviceError(
            f"{name}: got operators on {' and '.join(devices)}, accepted: one device; move one of "
            "them with .to()"
        )
    whole = all(part_of(operator).processes == 1 for operator in operators)
    require(whole, name, "a part of a volume that processes share", "operators on whole volumes")
    return items[0] if items else 1


def require_kind(name: str, got: bool, accepted: bool) -> None:
    """Raise `DtypeError` unless both are complex or both real."""
    kinds = {True: "complex", False: "real"}
    if got != accepted:
        raise DtypeError(
            f"{name}: got {kinds[got]} tensors for an operator on {kinds[accepted]} tensors, "
            "accepted: operators on the same kind of tensors"
        )


def require_same_image(name: str, first: LinearMap, second: LinearMap) -> None:
    """Raise unless two operators have the same images and the same kind of data."""
    if first.img_size != second.img_size:
        raise ShapeError(
            f"{name}: got operators on images {first.img_size} and {second.img_size}, accepted: "
            "images of one size"
        )
    require_kind(name, second.complex_image, first.complex_image)
    require_kind(name, second.complex_measurement, first.complex_measurement)


def summed_level(name: str, first: LinearMap, second: LinearMap) -> Tensor:
    """Return the noise level of the sum of two measurements.

    Raises:
        ShapeError: they have levels for different numbers of items.
    """
    levels = first.noise_model.sigma, second.noise_model.sigma
    counts = {level.numel() for level in levels} - {1}
    if len(counts) > 1:
        raise ShapeError(
            f"{name}: got noise levels for {levels[0].numel()} and {levels[1].numel()} items, "
            "accepted: for one number of items"
        )
    return torch.hypot(*levels)


def added(images: Iterable[Tensor]) -> Tensor:
    """Return the sum of one or more images or measurements."""
    first, *others = images
    return sum(others, first)


def as_factor(name: str, factor: complex, complex_data: bool) -> float | complex:
    """Return a finite number other than 0, which may be complex for complex data.

    Raises:
        ArgumentError: another value.
        DtypeError: a complex number for real data.
    """
    number = isinstance(factor, Complex) and not isinstance(factor, bool)
    usable = number and cmath.isfinite(factor) and factor != 0
    require(usable, name, factor, "a finite number other than 0; to compose operators, A @ B")
    value = complex(factor)
    if value.imag and not complex_data:
        raise DtypeError(f"{name}: got {factor!r} for real measurements, accepted: a real number")
    return value if value.imag else value.real
