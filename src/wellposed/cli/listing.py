"""``wellposed list``: what there is by name, and what its options are."""

from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated

import typer


def list_names(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOLVER]...", help="Solvers, or MODULE:CLASS; all if none."),
    ] = None,
) -> None:
    """List operators, solvers, priors and restorers, or the hyper-parameters of solvers."""
    from wellposed.cli.names import find_class, solver_classes
    from wellposed.solvers import Solver

    for name in names or []:
        _show(find_class("SOLVER", name, solver_classes(), Solver))
    if not names:
        _list_all()


def _list_all() -> None:
    from wellposed.cli.names import solver_classes
    from wellposed.operators.presets import OPERATORS
    from wellposed.priors.stored.registry import available
    from wellposed.priors.stored.restorers import available_restorers

    train = {"(none shipped)": "train one with wellposed train"}
    sections = {
        "operators": {name: line for name, (line, _) in OPERATORS.items()},
        "solvers": {name: _about(cls) for name, cls in solver_classes().items()},
        "priors": available() or train,
        "restorers": available_restorers() or train,
    }
    for title, lines in sections.items():
        typer.echo(title)
        for name, line in lines.items():
            typer.echo(f"  {name:18s} {line}")


def _about(cls: type) -> str:
    return next(iter((cls.__doc__ or "").strip().splitlines()), "")


def _show(cls: type) -> None:
    """Print a solver's documentation, and its hyper-parameters with their defaults."""
    from inspect import cleandoc

    from wellposed.cli.names import command_name

    typer.echo(f"{command_name(cls)}: {cleandoc(cls.__doc__ or '')}\n")
    for field in fields(cls) if is_dataclass(cls) else ():
        needed = field.default is MISSING and field.default_factory is MISSING
        value = "(needed)" if needed else field.default
        typer.echo(f"  --set {field.name}={value}")
