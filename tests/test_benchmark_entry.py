"""The entry point of the benchmarks."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def call(*arguments):
    code = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(code, cwd=ROOT, capture_output=True, text=True, check=False)


def commands():
    return [
        path
        for path in sorted((ROOT / "benchmarks").glob("[!_]*.py"))
        if '__name__ == "__main__"' in path.read_text()
    ]


def test_all_scripts_are_listed():
    listed = call().stdout.splitlines()
    names = {line.split()[0] for line in listed if line}
    assert {path.stem for path in commands()} <= names


@pytest.mark.parametrize("path", commands(), ids=lambda path: path.stem)
def test_a_script_says_how_it_is_called(path):
    docstring = path.read_text().split('"""')[1]
    assert f"python benchmarks/{path.name}" in docstring
    assert docstring.splitlines()[0].endswith((".", ":"))


def test_unknown_names_are_refused():
    found = call("nonsense")
    assert found.returncode != 0
    assert "NAME: got 'nonsense', accepted: " in found.stderr
