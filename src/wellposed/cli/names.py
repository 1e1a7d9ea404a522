"""Objects named on the command line: solvers, classes of other modules, values, devices."""

import ast
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from inspect import Parameter, signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from wellposed.cli.settings import SolverOptions
from wellposed.datasets.files import stem_of
from wellposed.errors import (
    ArgumentError,
    FileError,
    UnknownNameError,
    WellposedError,
    require_choice,
    require_device,
    unknown_name,
)

if TYPE_CHECKING:
    from wellposed.solvers import Solver

T = TypeVar("T")
S = TypeVar("S", bound="Solver")


def make_solver(
    cls: type[S], chosen: SolverOptions, batch_size: int | None = None, **defaults: object
) -> S:
    """Return a solver with the options' hyper-parameters, then ``defaults``, then its own."""
    given = {"steps": chosen.steps, "batch_size": batch_size}
    settings = defaults | {name: value for name, value in given.items() if value is not None}
    return make("--solver", cls, settings | parse_assignments("--set", chosen.set), "--set")


def adapted_solver(found: S, chosen: SolverOptions, batch_size: int | None = None) -> S:
    """Return a solver with the options' hyper-parameters in place of its own."""
    settings = {name: v for name, v in found.settings.items() if name != "batch_size"}
    return make_solver(type(found), chosen, batch_size, **settings)


def find_class(option: str, name: str, known: Mapping[str, type[T]], base: type) -> type[T]:
    """Return a class by one of the known names, or by MODULE:CLASS or FILE.py:CLASS.

    Hyphens, underscores and capitals do not count: diffpir, diff-pir and DiffPIR are one name.

    Raises:
        UnknownNameError: no such name; the nearest is suggested.
        ArgumentError, FileError: see `import_class`.
    """
    if ":" in name:
        return import_class(option, name, base)
    return known[same_name(option, name, known)]


def same_name(option: str, name: str, known: Iterable[str]) -> str:
    """Return the known name that equals ``name`` up to hyphens, underscores and capitals."""
    spellings = {_plain(choice): choice for choice in known}
    return require_choice(option, spellings.get(_plain(name), name), spellings.values())


def _plain(name: str) -> str:
    return re.sub("[-_]", "", name).lower()


def require_distinct(names: list[str]) -> None:
    """Raise if files of INPUT have the same name, as their results would overwrite each other."""
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise ArgumentError(
            f"INPUT: several files are named {double!r}, accepted: files with different names"
        )


def distinct_names(files: Sequence[Path]) -> list[str]:
    """Return names of results: of files without suffix, with it or their folder if they are equal.

    Raises:
        ArgumentError: files cannot be told apart by their folder and name.
    """
    stems, names = Counter(map(stem_of, files)), Counter(file.name for file in files)
    chosen = []
    for file in files:
        longest = f"{file.resolve().parent.name}-{file.name}"
        short = stem_of(file) if stems[stem_of(file)] == 1 else file.name
        chosen.append(short if stems[stem_of(file)] == 1 or names[file.name] == 1 else longest)
    require_distinct(chosen)
    return chosen


def import_class(option: str, name: str, base: type) -> type:
    """Return the class named MODULE:CLASS or FILE.py:CLASS.

    Raises:
        ArgumentError, FileError, UnknownNameError: the module cannot be imported or has no such
            class, or the class is not a subclass of ``base``.
    """
    place, _, attribute = name.rpartition(":")
    module = _import(option, place)
    found = getattr(module, attribute, None)
    if found is None:
        classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, base)]
        own = [cls.__name__ for cls in classes if cls.__module__ == module.__name__]
        raise UnknownNameError(unknown_name(option, attribute, own))
    if not (isinstance(found, type) and issubclass(found, base)):
        accepted = f"a subclass of {base.__module__}.{base.__name__}"
        raise ArgumentError(f"{option}: got {name!r}, accepted: {accepted}")
    return found


def _import(option: str, place: str) -> ModuleType:
    """Import a module or a file; both may import modules from their own folder."""
    path = Path(place)
    beside = str(path.parent.resolve() if place.endswith(".py") else Path.cwd())
    if beside not in sys.path:
        sys.path.append(beside)
    if place.endswith(".py") and not path.is_file():
        raise FileError(f"{option}: no such file {place!r}")
    try:
        return _run_file(path) if place.endswith(".py") else import_module(place)
    except Exception as error:  # foreign code may raise anything
        what = f"{type(error).__name__}: {error}"
        raise ArgumentError(f"{option}: cannot import {place!r}: {what}") from error


def _run_file(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"outside_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)  # dataclasses look the module up
    spec.loader.exec_module(module)
    return module


def make(option: str, cls: type[T], settings: Mapping[str, object], source: str) -> T:
    """Return ``cls(**settings)``; errors name ``source``, the option that gave the settings.

    Raises:
        UnknownNameError: the class has no such setting.
        ArgumentError: a required setting is missing, or the class refuses a value.
    """
    parameters = signature(cls).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind == p.VAR_KEYWORD for p in parameters):
        for name in settings:
            require_choice(source, name, names)
    needed = [p.name for p in parameters if p.name in names and p.default is Parameter.empty]
    lacking = [name for name in needed if name not in settings]
    if lacking:
        accepted = " ".join(f"{source} {name}=..." for name in lacking)
        what = f"{cls.__name__} needs {', '.join(lacking)}"
        raise ArgumentError(f"{option}: {what}, accepted: {accepted}")
    try:
        return cls(**settings)
    except WellposedError:
        raise
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{option}: {cls.__name__}: {error}") from error


def use_device(device: str) -> str:
    """Return the device of --device; each process on a machine uses its own GPU."""
    require_device("--device", device)
    if device == "cuda":
        import torch

        number = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        # SLURM may show each task its own device alone.
        torch.cuda.set_device(int(number) % torch.cuda.device_count())
    return device


def parse_assignments(option: str, assignments: Iterable[str]) -> dict[str, Any]:
    """Return the values of ``name=value`` strings by name; other strings raise `ArgumentError`."""
    return {name: parse_value(text) for name, text in split_assignments(option, assignments)}


def split_assignments(option: str, assignments: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the parts of ``name=value`` strings; other strings raise `ArgumentError`."""
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ArgumentError(f"{option}: got {assignment!r}, accepted: name=value")
        yield name, text


def parse_value(text: str) -> Any:
    """Return the number, list or word that a text spells, or the text."""
    words = {"inf": math.inf, "true": True, "false": False, "none": None}
    try:
        return words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
