"""Checks of arguments: integers, sizes, and the kinds of values that dataclass fields declare.

Settings declare in their annotations what they accept, and check all fields at once::

    @dataclass(frozen=True)
    class Settings:
        steps: Count = 50
        eta: Fraction = 0.85
        rule: Annotated[str, Choice("markov", "fresh")] = "fresh"
        chunk: Count | None = None

        def __post_init__(self) -> None:
            check_fields(self)
"""

import math
from collections.abc import Sequence
from dataclasses import field, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, TypeVar, Union, get_args, get_origin, get_type_hints

from wellposed.errors import (
    ArgumentError,
    DtypeError,
    ShapeError,
    UnknownNameError,
    unknown_name,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import Tensor

T = TypeVar("T")


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
        return ArgumentError(f"{name}: got {value!r}, accepted: {self.accepted}")


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
        number = float(value)
        above = self.low < number or (self.ends[0] == "[" and number == self.low)
        return above and (number < self.high or (self.ends[1] == "]" and number == self.high))


class Whole(Kind):
    """Python or NumPy integers, not bools, from ``least`` to ``most``."""

    def __init__(self, least: int | None = None, most: int | None = None) -> None:
        limits = "" if least is None else f" of at least {least}"
        super().__init__(f"an integer{limits if most is None else f' from {least} to {most}'}")
        self.least, self.most = least, most

    def admits(self, value: object) -> bool:
        if not isinstance(value, Integral) or isinstance(value, bool):
            return False
        enough = self.least is None or int(value) >= self.least
        return enough and (self.most is None or int(value) <= self.most)


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


class Optional(Kind):
    """``None``, or a value of another kind."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(f"None or {kind.accepted}")
        self.kind = kind

    def admits(self, value: object) -> bool:
        return value is None or self.kind.admits(value)


class Items(Kind):
    """Sequences of ``count`` values of one kind, by default of one or more."""

    def __init__(self, kind: Kind, count: int | None = None) -> None:
        super().__init__(f"{count or 'one or more'} values, each {kind.accepted}")
        self.kind, self.count = kind, count

    def admits(self, value: object) -> bool:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        fits = len(value) > 0 if self.count is None else len(value) == self.count
        return fits and all(map(self.kind.admits, value))


Count = Annotated[int, Whole(1)]
Positive = Annotated[float, Range(0, math.inf, "()", "a positive number")]
PositiveOrInfinite = Annotated[float, Range(0, math.inf, "(]", "a positive number or math.inf")]
NonNegative = Annotated[float, Range(0, math.inf, "[)", "a finite number of at least 0")]
Fraction = Annotated[float, Range(0, 1, "[]", "a number from 0 to 1")]

_PLAIN: dict[object, Kind] = {
    int: Whole(),
    float: Range(words="a number"),
    bool: Instance(bool, "True or False"),
    str: Instance(str, "a string"),
}


def check_fields(settings: "DataclassInstance") -> None:
    """Raise unless the value of every field of a dataclass fits its annotation.

    NumPy numbers become Python numbers. Fields with other annotations are not checked.

    Raises:
        ArgumentError: names the first field that does not fit, its value and what is accepted.
    """
    for name, kind in _kinds(type(settings)).items():
        value = getattr(settings, name)
        if not kind.admits(value):
            raise kind.error(name, value)
        if isinstance(value, Real) and not isinstance(value, int | float):
            plain = int(value) if isinstance(value, Integral) else float(value)
            object.__setattr__(settings, name, plain)


_DECLARED: dict[type, dict[str, Kind]] = {}


def _kinds(cls: "type[DataclassInstance]") -> dict[str, Kind]:
    """Return the kinds that the fields of a dataclass declare, by name."""
    if cls not in _DECLARED:
        hints = get_type_hints(cls, include_extras=True)
        found = {f.name: _kind(hints[f.name]) for f in fields(cls)}
        _DECLARED[cls] = {name: kind for name, kind in found.items() if kind is not None}
    return _DECLARED[cls]


def _kind(hint: object) -> Kind | None:
    """Return the kind that an annotation declares, or ``None`` if it declares none."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return next((extra for extra in inside[1:] if isinstance(extra, Kind)), _kind(inside[0]))
    if origin in (Union, UnionType) and len(inside) == 2 and NoneType in inside:
        kind = _kind(next(part for part in inside if part is not NoneType))
        return None if kind is None else Optional(kind)
    if origin is tuple:
        kind = _kind(inside[0])
        return None if kind is None else Items(kind, None if ... in inside else len(inside))
    plain = _PLAIN.get(hint)
    return Instance(hint) if plain is None and isinstance(hint, type) else plain


def setting(default: T, help_: str) -> T:
    """Return a dataclass field with a default and the help text of its command-line option."""
    return field(default=default, metadata={"help": help_})


def require_integer(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """Return a Python or NumPy integer, not a bool, from ``least`` to ``most``.

    Raises:
        ArgumentError: another value; names ``name``.
    """
    kind = Whole(least, most)
    if not kind.admits(value):
        raise kind.error(name, value)
    plain: int = int(value)  # type: ignore[call-overload]
    return plain


def require_batch(name: str, y: "Tensor") -> None:
    """Raise unless ``y`` is a batch (B, ...) of real or complex numbers.

    Raises:
        DtypeError, ShapeError: another value; names ``name``.
    """
    from torch import Tensor

    if not isinstance(y, Tensor):
        raise DtypeError(f"{name}: got {type(y).__name__}, accepted: a torch.Tensor")
    if not (y.is_floating_point() or y.is_complex()):
        raise DtypeError(
            f"{name}: got {y.dtype}, accepted: floating-point or complex numbers; scale to [0, 1]"
        )
    if y.ndim < 2 or y.numel() == 0:
        raise ShapeError(f"{name}: got shape {tuple(y.shape)}, accepted: (B, ...), batch first")


def image_sides(image_size: Sequence[int]) -> tuple[int, int, int]:
    """Return ``image_size`` as (C, H, W).

    Raises:
        ShapeError: it does not hold three sides.
        ArgumentError: a side is not an integer of at least 1.
    """
    size = tuple(image_size)
    if len(size) != 3:
        raise ShapeError(f"image_size: got {size}, accepted: (C, H, W)")
    channels, height, width = (require_integer("image_size", side) for side in size)
    return channels, height, width


def divisible_sides(image_size: Sequence[int], unit: int, what: str) -> tuple[int, int, int]:
    """Return ``image_size`` as (C, H, W) with H and W divisible by ``unit``.

    ``what`` is the name of the unit in errors.

    Raises:
        ShapeError: a side is not divisible; names the largest divisible size.
    """
    channels, height, width = image_sides(image_size)
    if height % unit or width % unit:
        raise ShapeError(
            f"image_size: got {height} x {width}, accepted: sides divisible by the {what} "
            f"{unit}; crop to {height - height % unit} x {width - width % unit}"
        )
    return channels, height, width
