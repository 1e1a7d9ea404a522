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
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, fields
from functools import wraps
from inspect import Parameter, get_annotations, signature
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar, get_type_hints

from wellposed.errors import (
    ArgumentError,
    DtypeError,
    FileError,
    ShapeError,
)
from wellposed.kinds import Choice as Choice
from wellposed.kinds import Instance as Instance
from wellposed.kinds import Items as Items
from wellposed.kinds import Kind as Kind
from wellposed.kinds import Range as Range
from wellposed.kinds import Tensors as Tensors
from wellposed.kinds import Whole as Whole
from wellposed.kinds import kind_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Count = Annotated[int, Whole(1, 10**9)]
Steps = Annotated[int, Whole(1, 10**6)]
Seed = Annotated[int, Whole(0)]
RealTensor = Annotated["Tensor", Tensors(real=True)]
Positive = Annotated[float, Range(0, math.inf, "()", "a positive number")]
PositiveOrInfinite = Annotated[float, Range(0, math.inf, "(]", "a positive number or math.inf")]
NonNegative = Annotated[float, Range(0, math.inf, "[)", "a finite number of at least 0")]
Fraction = Annotated[float, Range(0, 1, "[]", "a number from 0 to 1")]


def check_fields(settings: "DataclassInstance") -> None:
    """Raise unless the value of every field of a dataclass fits its annotation.

    NumPy numbers become Python numbers. Fields with other annotations are not checked.

    Raises:
        ArgumentError: names the first field that does not fit, its value and what is accepted.
    """
    for name, kind in declared_kinds(type(settings)).items():
        value = getattr(settings, name)
        if not kind.admits(value):
            raise kind.error(name, value)
        if isinstance(value, Real) and not isinstance(value, int | float):
            plain = int(value) if isinstance(value, Integral) else float(value)
            object.__setattr__(settings, name, plain)


_DECLARED: dict[type, dict[str, Kind]] = {}


def declared_kinds(cls: "type[DataclassInstance]") -> dict[str, Kind]:
    """Return the kinds that the fields of a dataclass declare, by name."""
    if cls not in _DECLARED:
        hints = get_type_hints(cls, include_extras=True)
        found = {f.name: kind_of(hints[f.name]) for f in fields(cls)}
        _DECLARED[cls] = {name: kind for name, kind in found.items() if kind is not None}
    return _DECLARED[cls]


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that first checks its arguments by what their annotations declare.

    Numbers must be finite unless an annotation says otherwise, tensors finite and not empty.
    A default is always accepted. Arguments with other annotations are not checked.
    """
    parameters = signature(function).parameters
    kinds: dict[str, Kind] = {}

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if not kinds:  # at the first call, as annotations may name what is defined later
            kinds.update(_kinds_of(function))
        for name, value in _given(parameters, args, options):
            kind = kinds.get(name)
            if kind is not None and value is not parameters[name].default:
                if not kind.admits(value):
                    raise kind.error(name, value)
        return function(*args, **options)

    return call


class Checked:
    """Base of classes whose constructors check their arguments as `checked` does."""

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            setattr(cls, "__init__", checked(vars(cls)["__init__"]))  # noqa: B010 - for mypy


def _given(
    parameters: Mapping[str, Parameter], args: tuple[object, ...], options: Mapping[str, object]
) -> Iterator[tuple[str, object]]:
    """Yield the arguments of a call by name, without those of ``*args`` and ``**kwargs``."""
    fixed = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    yield from zip((n for n, p in parameters.items() if p.kind in fixed), args, strict=False)
    yield from ((name, value) for name, value in options.items() if name in parameters)


def _kinds_of(function: Callable[..., object]) -> dict[str, Kind]:
    """Return the kinds that the annotations of a function declare, by name."""
    scope = getattr(function, "__globals__", {})
    found = {}
    for name, hint in get_annotations(function).items():
        try:
            found[name] = kind_of(eval(hint, scope) if isinstance(hint, str) else hint)
        except (NameError, TypeError):  # known to type checkers alone
            continue
    return {name: kind for name, kind in found.items() if kind is not None and name != "return"}


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


def require_samples(value: object) -> int:
    """Return a number of samples, from 1 to a million.

    Raises:
        ArgumentError: another value; names ``num_samples``.
    """
    return require_integer("num_samples", value, 1, 10**6)


def require_path(name: str, value: object) -> Path:
    """Return a path.

    Raises:
        ArgumentError: the value is not a path, or empty; names ``name``.
        FileError: no file can be there: the path is too long or not accessible.
    """
    spelled = os.fspath(value) if isinstance(value, str | PathLike) else None
    if not isinstance(spelled, str) or not spelled:
        raise ArgumentError(f"{name}: got {value!r}, accepted: a path")
    try:
        os.stat(spelled)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{name}: no file can be at {shortened(spelled)}: {reason}") from error
    return Path(spelled)


def shortened(text: str, most: int = 80) -> str:
    """Return a text as quoted in an error."""
    return repr(text if len(text) <= most else text[:most] + "...")


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
