"""``--recipe``: a file of ``wellposed tune`` that gives the solver and its settings."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from wellposed.benchmark.recipe import Recipe
from wellposed.cli.file_task import FileTask
from wellposed.cli.names import same_name
from wellposed.cli.settings import SolverOptions
from wellposed.conditions import OPERATOR
from wellposed.errors import WellposedError, require
from wellposed.operators import Stacked
from wellposed.priors import Prior, Slicewise
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers import Problem
from wellposed.validation.conditions import task_conditions

OPTION = "--recipe"

S = TypeVar("S", bound=SolverOptions)


def read_recipe(path: Path, option: str = OPTION) -> Recipe:
    """Return a recipe; errors name the option.

    Raises:
        FileError, ArgumentError: it is no recipe, or names what is unknown.
    """
    try:
        return Recipe.load(path)
    except WellposedError as error:
        raise type(error)(f"{option}: {str(error).removeprefix('path: ')}") from error


def as_tuned(o: S) -> tuple[S, Recipe | None]:
    """Return the options with solver and settings of their recipe, and the recipe, if any.

    Settings of --steps and --set remain.

    Raises:
        ArgumentError: --solver is another one.
    """
    if o.recipe is None:
        return o, None
    recipe = read_recipe(o.recipe)
    named = recipe.method if o.solver is None else o.solver
    same = same_name("--solver", named, [recipe.method, named]) == recipe.method
    require(same, "--solver", o.solver, f"{recipe.method}, the solver of {o.recipe.name}")
    own = {k: v for k, v in recipe.settings.items() if k != "steps" or o.steps is None}
    given = tuple(f"{name}={value!r}" for name, value in own.items())
    return replace(o, solver=recipe.method, set=(*given, *o.set)), recipe


def warn_of_other(recipe: Recipe, task: FileTask, prior: Prior) -> None:
    """Warn if a task is far from that of a recipe; a volume is a stack of its slices."""
    fitted, operator = task.fitted(prior), task.operator
    volume = isinstance(operator, Stacked)
    problem = Problem.create(task.y, operator, Slicewise(fitted) if volume else fitted)
    found = dict(task_conditions(problem, fingerprint(prior)))
    recipe.warn_of(found | ({OPERATOR: type(operator.operator).__name__} if volume else {}))
