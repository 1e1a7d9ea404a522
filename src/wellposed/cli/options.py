"""Names and values of options, as the command line spells them."""

import ast
import dataclasses
import math
import re
from typing import Any

from wellposed.errors import ArgumentError, require_choice


def kebab(name: str) -> str:
    """Return a class name as the command line spells it: REDDiff -> red-diff."""
    # Names whose parts capitals do not tell.
    spelled = {"PiGDM": "pigdm", "PnPDM": "pnp-dm", "ResShift": "resshift", "IRSDE": "ir-sde"}
    words = r"(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])"
    return spelled.get(name) or re.sub(words, "-", name).lower()


def solver_classes() -> dict[str, type]:
    """Return all solvers by their command-line names."""
    from wellposed import solvers

    members = [getattr(solvers, name) for name in solvers.__all__]
    found = [m for m in members if isinstance(m, type) and issubclass(m, solvers.Solver)]
    return {kebab(cls.__name__): cls for cls in found if cls is not solvers.Solver}


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
