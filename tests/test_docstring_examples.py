"""Docstrings: every public name has an example, and all examples run as they are shown."""

import doctest
import inspect
from functools import cache
from importlib import import_module

import pytest
import torch
from tests.test_docs import listed

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("error::UserWarning"),  # readers would see it
]

EXEMPT = {
    "wellposed.operators.MU_WATER": "a number, in the examples of CT",
    "wellposed.validation.FULL": "a constant, in the example of Effort",
    "wellposed.validation.PROCESSES": "names, see the example of process",
    "wellposed.validation.QUICK": "a constant, in the example of Effort",
}
"""Names that have no example, and why."""

LONGEST = 12
"""Most lines of code of an example; six are usual."""


@cache
def examples() -> dict[str, doctest.DocTest]:
    """Return the examples of the API pages by full name."""
    found = {}
    for name in sorted(listed() - set(EXEMPT)):
        module, _, last = name.rpartition(".")
        doc = inspect.cleandoc(getattr(import_module(module), last).__doc__ or "")
        found[name] = doctest.DocTestParser().get_doctest(doc, {}, name, name, 0)
    return found


def failures(test: doctest.DocTest) -> str:
    """Run an example and return what it shows otherwise than its docstring does."""
    told: list[str] = []
    torch.manual_seed(0)
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    return "".join(told)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the examples of some parts, each in an empty folder and without names of others."""

    def each(parts):
        found = {name: test for name, test in examples().items() if name.split(".")[1] in parts}
        assert found
        for name, test in found.items():
            (tmp_path / name).mkdir()
            monkeypatch.chdir(tmp_path / name)
            assert failures(test) == ""

    return each


def test_every_public_name_has_an_example():
    assert {name for name, test in examples().items() if not test.examples} == set()
    assert set(EXEMPT) <= listed()


def test_examples_are_short():
    def lines(test):
        return sum(example.source.count("\n") for example in test.examples)

    assert {name for name, test in examples().items() if lines(test) > LONGEST} == set()


def test_examples_that_do_not_run_say_why():
    """By a word before the directive: ``load("a/b")  # hub # doctest: +SKIP``."""
    for name, test in examples().items():
        skipped = [e.source for e in test.examples if doctest.SKIP in e.options]
        assert not skipped or any(source.count("#") > 1 for source in skipped), name


# A test for each part: of a test with many parameters the default run takes a quarter.


def test_examples_of_solvers_run(run):
    run({"solvers"})


def test_examples_of_operators_run(run):
    run({"operators"})


def test_examples_of_priors_run(run):
    run({"priors"})


def test_examples_of_datasets_run(run):
    run({"datasets"})


def test_other_examples_run(run):
    run(
        {name.split(".")[1] for name in examples()}
        - {"solvers", "operators", "priors", "datasets"}
    )


def test_an_example_that_shows_another_result_is_found():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "sum", "sum", 0)
    assert "Expected:\n    3\nGot:\n    2" in failures(wrong)
