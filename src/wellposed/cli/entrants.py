"""Solvers of a comparison, as the command line names them."""

import re
from pathlib import Path

from wellposed.benchmark.record import Sampling
from wellposed.cli.names import find_class, make, parse_assignments
from wellposed.cli.recipes import read_recipe
from wellposed.errors import ArgumentError, require
from wellposed.solvers import Solver, from_deepinv, from_spandrel
from wellposed.solvers.catalogue import named_solvers

FOREIGN, TUNED, SUPERVISED = "deepinv:", "recipe:", "spandrel:"


def entrants(text: str) -> dict[str, Sampling]:
    """Return the solvers of a list ``hqs,dds steps=50,deepinv:DPS``, by their words.

    Raises:
        UnknownNameError, ArgumentError: no such solver, a wrong setting, or the same one twice.
    """
    words = [" ".join(part.split()) for part in _parts(text)]
    double = next((word for word in words if words.count(word) > 1), None)
    require(double is None, "--solvers", f"{double!r} twice", "different solvers or settings")
    return {word: entrant(word) for word in words}


def _parts(text: str) -> list[str]:
    """Return the parts between commas that are in no bracket."""
    parts = re.split(r",(?![^\[(]*[\])])", text)
    require(all(part.strip() for part in parts), "--solvers", text, "names separated by commas")
    return parts


def entrant(words: str) -> Sampling:
    """Return a solver named with its hyper-parameters, as in ``dds steps=50``."""
    name, *assignments = words.split(" ")
    settings = parse_assignments("--solvers", assignments)
    if name.startswith(SUPERVISED):
        require(not settings, "--solvers", words, "no settings of a trained network")
        return from_spandrel(name.removeprefix(SUPERVISED))
    if name.startswith(FOREIGN):
        found: Sampling = from_deepinv(name.removeprefix(FOREIGN), **settings)
        return found
    if name.startswith(TUNED):
        return read_recipe(Path(name.removeprefix(TUNED)), "--solvers").solver(**settings)
    cls = find_class("--solvers", name, named_solvers(), Solver)
    if cls.volumes_only:
        raise ArgumentError(f"--solvers: got {name}, accepted: solvers of images")
    solver: Solver = make("--solvers", cls, settings, "--solvers")
    return solver
