"""Dataclasses as commands: every field is an option.

A field gives its option the type, the default and the help text (``metadata["help"]``). The help
has a section for each base class. Fields that a class names in ``without`` are not options and
keep their defaults.
"""

from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, field, fields
from functools import partial
from importlib import import_module
from inspect import Parameter, Signature, get_annotations
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from wellposed.cli.ending import refuse, told
from wellposed.errors import ArgumentError, require

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OLD_SPELLINGS = {"--samples": "--num-samples", "--model": "--prior", "--sampler": "--solver"}


def needed(help_: str) -> Any:
    """Return a field whose option has no default."""
    return field(metadata={"help": help_})


def argument(help_: str, metavar: str, default: object = MISSING) -> Any:
    """Return a field that is a positional argument of the command line."""
    return field(default=default, metadata={"help": help_, "argument": metavar})


class _Command(TyperCommand):
    """A command that also accepts old spellings of options, which help does not show."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _refuse_empty(args)
        words = (word.partition("=") for word in args)
        new = ["".join((OLD_SPELLINGS.get(name, name), *rest)) for name, *rest in words]
        return super().parse_args(ctx, new)


def _refuse_empty(args: list[str]) -> None:
    """End the command if an option or argument is an empty text, e.g. of an unset variable."""
    for before, word in zip(["INPUT", *args], args, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            refuse(f"{word[:-1] or before}: got '', accepted: a value")


def add_command(
    app: typer.Typer, name: str, cls: "type[DataclassInstance]", function: str
) -> None:
    """Add a command with the options and the help of a dataclass.

    Errors of the package, and of the system, become one line on stderr and exit code 2.

    Args:
        app: the application that gets the command.
        name: name of the command.
        cls: the dataclass.
        function: function of the dataclass, as MODULE:NAME; imported when the command is called,
            as it may load torch.
    """
    kinds, chosen = get_type_hints(cls), options_of(cls)

    def run(**values: object) -> None:
        module, _, attribute = function.partition(":")
        with told(SimpleNamespace(**values)):
            command: Callable[[object], None] = getattr(import_module(module), attribute)
            command(cls(**{f.name: _value(f, kinds[f.name], values[f.name]) for f in chosen}))

    parameters = [_parameter(f, kinds[f.name], _section(cls, f.name)) for f in chosen]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    paragraphs = (" ".join(part.split()) for part in (cls.__doc__ or "").split("\n\n"))
    app.command(name, cls=_Command, help="\n\n".join(paragraphs))(run)


def options_of(cls: "type[DataclassInstance]") -> "list[Field[object]]":
    """Return the fields of a command that are options."""
    return [f for f in fields(cls) if f.name not in getattr(cls, "without", ())]


def require_unused(chosen: "DataclassInstance", names: Iterable[str], accepted: str) -> None:
    """Raise if one of these options of a command is given, that is, has not its default.

    Args:
        chosen: the options.
        names: fields that the command would ignore.
        accepted: when they are accepted.
    """
    for each in options_of(type(chosen)):
        value = getattr(chosen, each.name)
        unused = each.name not in names or value == each.default
        require(unused, _spelled(each), str(value), accepted)


def _section(cls: type, name: str) -> str | None:
    """Return the help section of a field: "Run" if its class is RunOptions."""
    home = next(base for base in cls.__mro__ if name in get_annotations(base))
    return None if home is cls else home.__name__.removesuffix("Options").removesuffix("Settings")


def _parameter(each: "Field[object]", kind: object, section: str | None) -> Parameter:
    """Return the parameter from which Typer makes an option."""
    default: Any = Parameter.empty if each.default is MISSING else each.default
    shown: Any = kind
    if _parser(each, kind) is not None:
        shown, default = str | None, ",".join(map(str, default or ())) or None
    elif _is_repeatable(kind):
        shown = list[get_args(kind)[0]]  # type: ignore[misc]
    name, metavar, help_ = _spelled(each), each.metadata.get("argument"), each.metadata["help"]
    names = f"{name}/--no-{name[2:]}" if shown is bool else name
    option = typer.Option(names, help=help_, rich_help_panel=section)
    about = typer.Argument(metavar=metavar, help=help_) if metavar else option
    annotation = Annotated[shown, about]
    return Parameter(each.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _value(each: "Field[object]", kind: object, value: object) -> object:
    parser = _parser(each, kind)
    if parser is not None:
        return parser(_spelled(each), value) if isinstance(value, str) else each.default
    if _is_repeatable(kind):
        return tuple(value) if isinstance(value, Iterable) else ()
    return value


def _parser(each: "Field[object]", kind: object) -> Callable[[str, str], object] | None:
    """Return the function of name and text that parses an option, or ``None`` if Typer does."""
    return LISTS.get(kind) or each.metadata.get("parse")


def _spelled(each: "Field[object]") -> str:
    return f"--{each.name.rstrip('_').replace('_', '-')}"


def _is_repeatable(kind: object) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _listed(kind: type, accepted: str, option: str, text: str) -> tuple[float, ...]:
    """Return numbers of a kind spelled ``1,2,3``."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"{option}: got {text!r}, accepted: {accepted}") from None


LISTS: dict[object, Callable[[str, str], object]] = {
    tuple[int, ...]: partial(_listed, int, "integers, e.g. 64,128"),
    tuple[float, ...]: partial(_listed, float, "numbers, e.g. 0,1,-1000,1000"),
}
"""Parsers of options that are lists, by their type."""
