"""Names and values of options, as the command line spells them."""

import ast
import dataclasses
import math
from typing import TYPE_CHECKING, Any

from wellposed.errors import ArgumentError, require_choice

if TYPE_CHECKING:
    from wellposed.solvers import Solver


def solver_classes() -> "dict[str, type[Solver]]":
    """Return all solvers by the names that papers give them."""
    from wellposed.solvers.catalogue import named_solvers

    return named_solvers()


def parse_settings(cls: type, assignments: list[str]) -> dict[str, Any]:
    """Return ``name=value`` strings as keyword arguments of a solver.

    Raises:
        ArgumentError: not of the form name=value.
        UnknownNameError: the solver has no such hyper-parameter.
    """
    settings = parse_assignments("--set", assignments)
    for name in settings:
        require_choice("--set", name, [field.name for field in dataclasses.fields(cls)])
    return settings


def parse_assignments(option: str, assignments: list[str]) -> dict[str, Any]:
    """Return the ``name=value`` strings of an option by name; `ArgumentError` where one is not."""
    words = {"inf": math.inf, "true": True, "false": False, "none": None}
    settings = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ArgumentError(f"{option}: got {assignment!r}, accepted: name=value")
        try:
            word = text.lower()
            settings[name] = words[word] if word in words else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name] = text
    return settings
