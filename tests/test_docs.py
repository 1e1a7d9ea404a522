"""The documentation: every public name has a page, examples compile, papers are listed."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wellposed import datasets, inversion, operators, priors, solvers
from wellposed.datasets import ultrasound

ROOT = Path(__file__).parent.parent
DOCS, GALLERY = ROOT / "docs", ROOT / "examples" / "gallery"
SCRIPTS = sorted(GALLERY.glob("plot_*.py"))


def listed():
    """Return the full names that the API pages list."""
    names = set()
    for page in (DOCS / "api").glob("*.md"):
        module = ""
        for line in page.read_text().splitlines():
            if line.startswith(".. currentmodule:: "):
                module = line.split()[-1]
            elif re.fullmatch(r"   [A-Za-z_][\w.]*", line):
                names.add(f"{module}.{line.strip()}")
    return names


def test_every_public_name_has_a_page():
    packages = (solvers, operators, priors, datasets, inversion)
    public = {f"{package.__name__}.{name}" for package in packages for name in package.__all__}
    assert public <= listed()


def test_ultrasound_has_its_pages():
    names = {name.rpartition(".")[2] for name in listed()}
    assert set(ultrasound.__all__) <= names


def test_pages_differ_by_more_than_case():
    """Or the settings of Sphinx name the page of one of them."""
    settings = (DOCS / "conf.py").read_text()
    named = re.search(r"autosummary_filename_map = \{(.*?)\n\}", settings, re.DOTALL).group(1)
    plain = [name for name in listed() if f'"{name}":' not in named]
    assert len({name.lower() for name in plain}) == len(plain)


def test_what_is_listed_exists():
    from importlib import import_module

    for name in listed():
        module, _, last = name.rpartition(".")
        try:
            found = hasattr(import_module(module), last)
        except ModuleNotFoundError:
            found = False
        assert found, name


def test_examples_of_the_gallery_compile():
    assert len(SCRIPTS) >= 12
    for script in SCRIPTS:
        tree = ast.parse(script.read_text())
        title, underline, *_ = ast.get_docstring(tree).splitlines()
        assert underline == "=" * len(title), script.name
        compile(tree, str(script), "exec")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_of_the_gallery_runs(script):
    """`make docs` runs them as well, and fails where one fails."""
    environment = {**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    code = [sys.executable, script.name]
    ran = subprocess.run(
        code, cwd=script.parent, env=environment, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr.decode()[-2000:]


def test_all_papers_are_in_the_references():
    known = (DOCS / "references.md").read_text()
    code = (
        p
        for f in ("solvers", "priors", "operators", "datasets", "src")
        for p in (ROOT / f).rglob("*.py")
    )
    named = {n for p in code for n in re.findall(r"arXiv[:\s]*(\d{4}\.\d{4,5})\b", p.read_text())}
    assert {n for n in named if n not in known} == set()


def test_pages_link_to_files_that_exist():
    """In the repository; `make docs` checks those of the site."""
    for page in DOCS.rglob("*.md"):
        if "generated" in page.parts or "gallery" in page.parts:
            continue
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page}: {link}"
