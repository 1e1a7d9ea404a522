"""Kinds of values that annotations declare for arguments, and errors for other values."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from wellposed.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
    unknown_name,
)

MOST_ITEMS = 10**7
"""Most values that are checked one by one."""

FAR = 10**6
"""Upper limits from here on are named only in the errors of larger values."""


class Kind:
    """A kind of accepted values; subclasses define `admits`.

    Args:
        accepted: description of the kind, a noun phrase for error messages.
    """

    def __init__(self, accepted: str) -> None:
        self.accepted = accepted

    def admits(self, value: object) -> bool:
        """Return whether a value is of this kind."""
        raise NotImplementedError

    def error(self, name: str, value: object) -> ArgumentError:
        """Return the error for an argument ``name`` that is not of this kind."""
        return ArgumentError(f"{name}: got {shown(value)}, accepted: {self.accepted}")

    def __repr__(self) -> str:
        return f"<{self.accepted}>"

    def concerns(self, value: object) -> bool:
        """Return whether a value is nearly of this kind, so that `error` says what differs."""
        return False


class Range(Kind):
    """Real numbers from ``low`` to ``high``, not NaN; a round bracket excludes an end."""

    def __init__(
        self, low: float = -math.inf, high: float = math.inf, ends: str = "[]", words: str = ""
    ) -> None:
        super().__init__(words or f"a number in {ends[0]}{low:g}, {high:g}{ends[1]}")
        self.low, self.high, self.ends = low, high, ends

    def admits(self, value: object) -> bool:
        if not isinstance(value, Real) or isinstance(value, bool):
            return False
        try:
            number = float(value)
        except OverflowError:  # of an integer
            return False
        above = self.low < number or (self.ends[0] == "[" and number == self.low)
        return above and (number < self.high or (self.ends[1] == "]" and number == self.high))


class Whole(Kind):
    """Python or NumPy integers, not bools, from ``least`` to ``most``."""

    def __init__(self, least: int | None = None, most: int | None = None) -> None:
        limits = "" if least is None else f" of at least {least}"
        self.range = limits if most is None else f" from {least} to {most}"
        near = most is not None and most < FAR
        super().__init__(f"an integer{self.range if near else limits}")
        self.least, self.most = least, most

    def admits(self, value: object) -> bool:
        if not isinstance(value, Integral) or isinstance(value, bool):
            return False
        enough = self.least is None or int(value) >= self.least
        return enough and (self.most is None or int(value) <= self.most)

    def concerns(self, value: object) -> bool:
        if not isinstance(value, Integral) or isinstance(value, bool) or self.most is None:
            return False
        return int(value) > self.most

    def error(self, name: str, value: object) -> ArgumentError:
        if not self.concerns(value):
            return super().error(name, value)
        return ArgumentError(f"{name}: got {shown(value)}, accepted: an integer{self.range}")


class Choice(Kind):
    """One of several names; for other names the error suggests the nearest one."""

    def __init__(self, *names: str) -> None:
        super().__init__(" or ".join(map(repr, names)))
        self.names = names

    def admits(self, value: object) -> bool:
        return isinstance(value, str) and value in self.names

    def error(self, name: str, value: object) -> ArgumentError:
        return UnknownNameError(unknown_name(name, str(value), self.names))


class Instance(Kind):
    """Objects of a class."""

    def __init__(self, cls: type, words: str = "") -> None:
        super().__init__(words or f"an instance of {cls.__name__}")
        self.cls = cls

    def admits(self, value: object) -> bool:
        return isinstance(value, self.cls)


class Either(Kind):
    """Values of any of several kinds."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        super().__init__(" or ".join(kind.accepted for kind in kinds))
        self.kinds = kinds

    def admits(self, value: object) -> bool:
        return any(kind.admits(value) for kind in self.kinds)

    def error(self, name: str, value: object) -> ArgumentError:
        near = [kind for kind in self.kinds if kind.concerns(value)]
        return near[0].error(name, value) if near else super().error(name, value)


class Items(Kind):
    """Sequences of ``count`` values of one kind, by default of one or more; vectors as well.

    Vectors of torch only with ``tensors``, as their items are tensors, not numbers.
    """

    def __init__(self, kind: Kind, count: int | None = None, tensors: bool = False) -> None:
        super().__init__(f"{count or 'one or more'} values, each {kind.accepted}")
        self.kind, self.count, self.tensors = kind, count, tensors

    def admits(self, value: object) -> bool:
        if self.tensors and is_vector(value):
            return self.admits(value.tolist())  # type: ignore[attr-defined]
        listed = isinstance(value, Sequence) or is_vector(value)
        if isinstance(value, str | bytes) or not listed:
            return False
        count = len(value)  # type: ignore[arg-type]
        fits = 0 < count <= MOST_ITEMS if self.count is None else count == self.count
        return fits and all(map(self.kind.admits, value))  # type: ignore[call-overload]

    def concerns(self, value: object) -> bool:
        return isinstance(value, list | tuple) and 0 < len(value) <= MOST_ITEMS

    def error(self, name: str, value: object) -> ArgumentError:
        items = value if isinstance(value, list | tuple) and self.concerns(value) else ()
        bad = next((item for item in items if not self.kind.admits(item)), None)
        if bad is None:
            return super().error(name, value)
        got = f"{name}: got {shown(bad)} in {shown(value)}"
        return ArgumentError(f"{got}, accepted: {self.accepted}")


class Tensors(Kind):
    """Dense, non-empty tensors of finite numbers; of real numbers if ``real``."""

    def __init__(self, real: bool = False) -> None:
        super().__init__(f"a torch.Tensor of finite {'real ' if real else ''}numbers")
        self.real = real

    def admits(self, value: object) -> bool:
        return self.concerns(value) and self._fault("", value) is None

    def concerns(self, value: object) -> bool:
        from torch import Tensor

        return isinstance(value, Tensor)

    def error(self, name: str, value: object) -> ArgumentError:
        if not self.concerns(value):
            return DtypeError(f"{name}: got {type(value).__name__}, accepted: {self.accepted}")
        return self._fault(name, value) or super().error(name, value)

    def _fault(self, name: str, value: Any) -> ArgumentError | None:
        import torch

        got = f"{name}: got {shown(value)}, accepted: {self.accepted}"
        if value.layout != torch.strided or value.is_quantized:
            return DtypeError(f"{got}, dense")
        if self.real and value.is_complex():
            return DtypeError(got)
        if value.is_meta:
            return DeviceError(f"{got} with values")
        if value.numel() == 0:
            shape = tuple(value.shape)
            return ShapeError(f"{name}: is empty, got shape {shape}, accepted: {self.accepted}")
        if not (value.is_floating_point() or value.is_complex()) or bool(value.isfinite().all()):
            return None
        bad = int((~value.isfinite()).sum())
        return NonFiniteError(f"{name}: {bad} of {value.numel()} values are NaN or infinite")


class Path_(Kind):
    """Paths: strings and path-like objects."""

    def __init__(self) -> None:
        super().__init__("a path")

    def admits(self, value: object) -> bool:
        return isinstance(value, str | PathLike) and isinstance(os.fspath(value), str)


class Calls(Kind):
    """Callable objects."""

    def __init__(self) -> None:
        super().__init__("a function")

    def admits(self, value: object) -> bool:
        return callable(value)


FINITE = Range(-math.inf, math.inf, "()", "a finite number")

_PLAIN: dict[object, Kind] = {
    int: Whole(),
    float: FINITE,
    bool: Instance(bool, "True or False"),
    str: Instance(str, "a string"),
    Path: Path_(),
    NoneType: Instance(NoneType, "None"),
}


def kind_of(hint: object) -> Kind | None:
    """Return the kind that an annotation declares, or ``None`` if it declares none."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return next((extra for extra in inside[1:] if isinstance(extra, Kind)), kind_of(inside[0]))
    if origin is Literal:
        return Choice(*inside)
    if origin in (Union, UnionType):
        return _union(inside)
    if origin is tuple:
        kind = kind_of(inside[0])
        return None if kind is None else Items(kind, None if ... in inside else len(inside))
    if origin in (Sequence, Iterable, list):
        kind = kind_of(inside[0])
        return None if kind is None else Items(kind)
    if origin is Callable or hint is Callable:
        return Calls()
    if origin in (Mapping, dict):
        return Instance(Mapping, "a mapping")
    return _class(hint)


def _union(parts: Sequence[object]) -> Kind | None:
    if {str, Path} <= {*parts}:
        parts = [part for part in parts if part is not str]
    kinds = [kind_of(part) for part in sorted(parts, key=lambda part: part is not NoneType)]
    known = [kind for kind in kinds if kind is not None]
    return Either(known) if len(known) == len(kinds) else None


def _class(hint: object) -> Kind | None:
    if hint in _PLAIN:
        return _PLAIN[hint]
    if (
        not isinstance(hint, type)
        or hint in (object, complex, Any)
        or getattr(hint, "_is_protocol", False)
    ):
        return None
    if (hint.__module__, hint.__name__) == ("torch", "Tensor"):
        return Tensors()
    return Instance(hint)


def is_vector(value: object) -> bool:
    """Return whether a value is a NumPy array or a tensor of one axis."""
    return hasattr(value, "__array__") and getattr(value, "ndim", 0) == 1


def shown(value: object, most: int = 100) -> str:
    """Return a value as quoted in errors: arrays by their shape, others in a short line."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and getattr(value, "ndim", 0) > 0:
        return f"{type(value).__name__} {value.dtype} of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
