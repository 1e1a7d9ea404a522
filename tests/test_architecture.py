"""Imports run in one direction, without circles; lazy ones and those for types count too."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = ("solvers", "operators", "priors", "datasets")

ORDER = (
    (
        *("errors", "kinds", "checks", "remote", "integrity", "writing"),
        *("linalg", "fixed_points", "autograd", "reversible", "noise", "presentation"),
    ),
    (
        "metrics",
        "perceptual",
        "conditions",
        "uncertainty",
        "reconstruction",
        "figures",
        "panel",
        "report",
        "results",
        "units",
    ),
    ("parallel",),
    ("operators",),
    ("datasets",),
    ("priors",),
    ("inversion",),
    ("runs",),
    ("solvers",),
    ("monai",),
    ("learning",),
    ("validation",),
    ("benchmark",),
    ("cli",),
)
"""Modules and wings of ``wellposed``, each importing from its own row and the rows above it."""

ROOTS = ("wellposed", "wellposed.__main__")
"""What offers or starts the package, and so may import all of it."""


def sources() -> dict[str, Path]:
    """Return the files of the package by module name; the four top folders lie inside it."""
    folders = {f"wellposed.{name}": ROOT / name for name in MAPPED}
    folders["wellposed"] = ROOT / "src" / "wellposed"
    found = {}
    for package, folder in folders.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


def imported(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """Yield the modules of the package that a source imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner == "wellposed.__version__":
                    continue
                if inner in modules:
                    yield inner
                elif node.module in modules:
                    yield node.module


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    files = sources()
    modules = set(files)
    return {
        name: set(imported(ast.parse(path.read_text(encoding="utf-8")), modules)) - {name}
        for name, path in files.items()
    }


def floor(module: str) -> int:
    part = module.split(".")[1]
    return next(level for level, names in enumerate(ORDER) if part in names)


def test_no_import_runs_up(arrows):
    upward = [
        f"{module} -> {other}"
        for module, others in arrows.items()
        for other in others
        if module not in ROOTS and (other in ROOTS or floor(other) > floor(module))
    ]
    assert not upward


def test_no_imports_run_in_a_circle(arrows):
    sorter = TopologicalSorter({m: others for m, others in arrows.items() if m not in ROOTS})
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_the_order_is_documented():
    """CONTRIBUTING shows the rows of `ORDER`, in order."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `wellposed.")]
    shown = [tuple(re.findall(r"`wellposed\.(\w+)`", row)) for row in rows]
    assert tuple(shown) == ORDER


def test_the_rule_finds_what_breaks_it(tmp_path):
    tree = ast.parse("def f():\n    from wellposed.cli import app\n")
    assert list(imported(tree, {"wellposed.cli", "wellposed.cli.app"})) == ["wellposed.cli.app"]
