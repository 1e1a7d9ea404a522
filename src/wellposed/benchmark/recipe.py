"""Recipes: the settings of a solver that were found for a kind of task, in a file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from wellposed import __version__
from wellposed.benchmark.ranges import settings_of
from wellposed.checks import Count, Seed, check_fields, require_path
from wellposed.conditions import TASKS, Conditions, differences, in_words
from wellposed.errors import ArgumentError, FileError, require, require_choice, warn
from wellposed.integrity import read_json
from wellposed.solvers.base import Solver
from wellposed.solvers.catalogue import named_solvers
from wellposed.writing import write_text


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A solver with its settings, and what they were tuned on.

    Args:
        method: name of the solver, as in ``wellposed list``.
        settings: its hyper-parameters.
        objective: the score that was tuned.
        value: its mean over the validation images, with these settings.
        images: names of the validation images.
        image_size: shape (C, H, W) of the first.
        default: the objective with the settings before tuning; None if they failed.
        num_samples: samples whose mean was scored.
        conditions: kind of operator, prior, amount and noise of the data.
        evaluations: network evaluations that were spent.
        trials, failed: settings that were tried, and those that failed.
        seed: of the search and the solver.
        version: of the package.

    Raises:
        UnknownNameError: no such solver or setting; the nearest is suggested.
        ArgumentError: a value that is not accepted; names it.

    Example:
        >>> from wellposed.benchmark import Recipe
        >>> recipe = Recipe(
        ...     method="hqs", settings={"lambda_": 0.5}, objective="PSNR", value=30.1,
        ...     images=("a.png",), image_size=(3, 64, 64)
        ... )
        >>> path = recipe.save("hqs.json")  # for wellposed reconstruct --recipe
        >>> Recipe.load(path).solver(steps=20).lambda_
        0.5
    """

    method: str
    settings: Mapping[str, Any]
    objective: str
    value: float
    images: tuple[str, ...]
    image_size: tuple[int, ...]
    default: float | None = None
    num_samples: Count = 1
    conditions: Conditions = field(default_factory=dict)
    evaluations: Seed = 0
    trials: Count = 1
    failed: Seed = 0
    seed: Seed = 0
    version: str = __version__

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("images", "image_size"):  # lists in files
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self.solver()

    def solver(self, **changes: object) -> Solver:
        """Return the solver, with some settings changed.

        Raises:
            UnknownNameError, ArgumentError: no such setting, or a value it does not accept.
        """
        known = named_solvers()
        cls = known[require_choice("method", self.method, known)]
        for name in {**self.settings, **changes}:
            require_choice(f"settings of {self.method}", name, [*settings_of(cls), "batch_size"])
        try:
            return cls(**{**self.settings, **changes})
        except TypeError as error:
            raise ArgumentError(f"settings of {self.method}: {error}") from error

    def warn_of(self, conditions: Conditions) -> None:
        """Warn if a task is far from that of the recipe: another operator or prior, other noise.

        Args:
            conditions: of the task, see `validation.conditions.task_conditions`.
        """
        found = differences(self.conditions, conditions, TASKS)
        text = ", ".join(in_words(*each) for each in found)
        if text:
            warn(f"recipe: the task has {text}, which {self.method} was tuned for; tune it anew")

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, atomically, and return its path.

        Raises:
            ArgumentError: the name does not end in .json.
            FileError: the file cannot be written.
        """
        path = require_path("path", path)
        require(path.suffix == ".json", "path", str(path), "a file that ends in .json")
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the file that `save` wrote.

        Raises:
            FileError: it is missing or no recipe.
            UnknownNameError, ArgumentError: see above; the file was changed, or is of another
                version.
        """
        path = require_path("path", path)
        try:
            content = read_json(path)
        except FileNotFoundError:
            raise FileError(f"path: no such file {str(path)!r}") from None
        except (OSError, ValueError) as error:
            raise FileError(f"path: {str(path)!r} is not a recipe: {error}") from error
        keys = {f.name for f in fields(cls)}
        if not isinstance(content, dict) or set(content) != keys:
            given = set(content) if isinstance(content, dict) else set()
            odd = ", ".join(sorted(keys ^ given))
            raise FileError(f"path: {str(path)!r} is not a recipe; lacking or unknown: {odd}")
        try:
            return cls(**content)
        except ArgumentError as error:
            raise type(error)(f"{path.name}: {error}") from error


def recipe_settings(solver: Solver) -> dict[str, object]:
    """Return the settings of a solver, as a recipe has them.

    Raises:
        ArgumentError: a recipe cannot name the solver, or a setting is another object.
    """
    name, cls = solver.name, type(solver)
    require(named_solvers().get(name) is cls, "solver", cls.__name__, "a solver of the package")
    values = {n: v for n, v in solver.settings.items() if n in settings_of(cls)}
    plain = {n: getattr(solver, n) for n in values}
    odd = next((n for n in values if values[n] is not plain[n]), None)
    require(odd is None, f"solver: {odd}", plain.get(odd or ""), "numbers and texts")
    return values
