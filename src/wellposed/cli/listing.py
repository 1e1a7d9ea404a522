"""``wellposed list``: operators, solvers and priors by name, and hyper-parameters of solvers."""

from dataclasses import MISSING, fields
from inspect import cleandoc

import typer

from wellposed.cli.names import find_class
from wellposed.cli.settings import List
from wellposed.operators.presets import OPERATORS
from wellposed.priors.stored.registry import available
from wellposed.solvers.base import Solver, describe
from wellposed.solvers.catalogue import named_solvers


def list_names(o: List) -> None:
    """List operators, solvers and priors, or the hyper-parameters of solvers."""
    for name in o.solvers:
        cls = find_class("SOLVER", name, named_solvers(), Solver)
        _show(name if ":" in name else cls.name, cls)
    if not o.solvers:
        _list_all()


def _list_all() -> None:
    sections = {
        "operators": {name: line for name, (line, _) in OPERATORS.items()},
        "solvers": {name: describe(cls) for name, cls in named_solvers().items()},
        "priors": available() or {"(none shipped)": "train one with wellposed train"},
    }
    for title, lines in sections.items():
        typer.echo(title)
        for name, line in lines.items():
            typer.echo(f"  {name:18s} {line}")


def _show(name: str, cls: type[Solver]) -> None:
    typer.echo(f"{name}: {cleandoc(cls.__doc__ or '')}\n")
    for hyper in fields(cls):
        value = "..." if hyper.default is MISSING else hyper.default
        typer.echo(f"  --set {hyper.name}={value}")
