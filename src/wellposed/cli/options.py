"""Dataclasses as options: parameters of commands that are dataclasses become an option per field.

A field's type, default and help (``metadata["help"]``) are those of its option; options of one
name are one option. Help has a section for each dataclass, named after it.
"""

import functools
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from inspect import Parameter, Signature, get_annotations, signature
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from wellposed.errors import ArgumentError, WellposedError

OLD_SPELLINGS = {"--samples": "--num-samples", "--model": "--prior", "--sampler": "--solver"}


@dataclass(frozen=True)
class Only:
    """Says in an annotation which fields of a dataclass are options; the others keep defaults."""

    names: tuple[str, ...]


class Group(NamedTuple):
    """A dataclass whose fields are options."""

    cls: type
    fields: "list[Field[Any]]"


class _Command(TyperCommand):
    """A command that takes old spellings of options too, which help does not show."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = (word.partition("=") for word in args)
        new = ["".join((OLD_SPELLINGS.get(name, name), *rest)) for name, *rest in words]
        return super().parse_args(ctx, new)


def add_command(app: typer.Typer, name: str, command: Callable[..., None]) -> None:
    """Add a command; errors of the package become one line on stderr and exit code 2."""
    taken = signature(command).parameters
    groups = {key: group for key, value in taken.items() if (group := _group(value))}

    @functools.wraps(command)
    def run(**values: Any) -> None:
        try:
            given = {key: _filled(group, values) for key, group in groups.items()}
            command(**given, **{key: values[key] for key in taken if key not in groups})
        except WellposedError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None

    parameters = _parameters(command, groups)
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    app.command(name, cls=_Command)(run)


def _group(parameter: Parameter) -> Group | None:
    """Return the dataclass and the fields that a parameter stands for, if it is one."""
    hint = parameter.annotation
    cls, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if not is_dataclass(cls):
        return None
    only = next((extra.names for extra in extras if isinstance(extra, Only)), None)
    return Group(cls, [f for f in fields(cls) if only is None or f.name in only])


def _parameters(command: Callable[..., None], groups: dict[str, Group]) -> list[Parameter]:
    """Return a command's own parameters, and one for each field of its dataclasses."""
    own = [p for p in signature(command).parameters.values() if p.name not in groups]
    found = {p.name: p.replace(kind=Parameter.KEYWORD_ONLY) for p in own}
    for cls, chosen in groups.values():
        hints = get_type_hints(cls)
        for field in chosen:
            found.pop(field.name, None)  # the last of one name counts, also for its place
            found[field.name] = _parameter(cls, field, hints[field.name])
    return list(found.values())


def _parameter(cls: type, field: "Field[Any]", kind: Any) -> Parameter:
    default = Parameter.empty if field.default is MISSING else field.default
    if kind == tuple[int, ...]:
        kind, default = str, ",".join(map(str, field.default))
    elif "parse" in field.metadata:
        kind = str | None
    elif get_args(kind)[1:] == (...,):
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    option = typer.Option(
        f"--{field.name.replace('_', '-')}" + _negation(field, kind),
        help=field.metadata["help"],
        metavar=field.metadata.get("metavar"),
        rich_help_panel=_section(cls, field.name),
    )
    return Parameter(
        field.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _negation(field: "Field[Any]", kind: Any) -> str:
    return f"/--no-{field.name.replace('_', '-')}" if kind is bool else ""


def _section(cls: type, field: str) -> str:
    """Return the section of help: RunSettings, the class that declares a field, is "Run"."""
    home = next(base for base in cls.__mro__ if field in get_annotations(base))
    return home.__name__.removesuffix("Options").removesuffix("Settings")


def _filled(group: Group, values: dict[str, Any]) -> Any:
    """Return a dataclass filled with the values of its options."""
    hints = get_type_hints(group.cls)
    return group.cls(**{f.name: _value(f, hints[f.name], values[f.name]) for f in group.fields})


def _value(field: "Field[Any]", kind: Any, value: Any) -> Any:
    option = f"--{field.name.replace('_', '-')}"
    if kind == tuple[int, ...]:
        return integers(option, value)
    if "parse" in field.metadata:
        return None if value is None else field.metadata["parse"](option, value)
    return tuple(value or ()) if get_args(kind)[1:] == (...,) else value


def integers(option: str, text: str) -> tuple[int, ...]:
    """Return integers spelled ``1,2,3``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"{option}: got {text!r}, accepted: integers like 64,128") from None
