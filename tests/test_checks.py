"""What arguments may be: one check of integers, and kinds that fields declare."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pytest

from wellposed import errors, solvers
from wellposed.checks import (
    Choice,
    Count,
    Fraction,
    NonNegative,
    Positive,
    PositiveOrInfinite,
    Range,
    Whole,
    check_fields,
    require_integer,
)
from wellposed.solvers.catalogue import named_solvers


@dataclass(frozen=True)
class Settings:
    steps: Count = 3
    start: Annotated[int, Whole(0, 4)] = 0
    eta: Fraction = 0.5
    size: Positive = 1.0
    gamma: PositiveOrInfinite = math.inf
    weight: NonNegative = 0.0
    decay: Annotated[float, Range(0, 1, "(]")] = 1.0
    rule: Annotated[str, Choice("markov", "fresh")] = "fresh"
    chunk: Count | None = None
    rms: tuple[Positive, ...] = (1.0,)
    pair: tuple[Fraction, Fraction] = (0.0, 1.0)
    clip: bool = False
    label: str = ""
    solver: solvers.Solver | None = None
    anything: dict[str, int] | None = None

    def __post_init__(self):
        check_fields(self)


def test_fields_are_what_they_declare():
    for change, accepted in (
        ({"steps": 0}, "an integer of at least 1"),
        ({"steps": True}, "an integer of at least 1"),
        ({"steps": 2.0}, "an integer of at least 1"),
        ({"steps": "3"}, "an integer of at least 1"),
        ({"start": 5}, "an integer from 0 to 4"),
        ({"eta": 1.1}, "a number from 0 to 1"),
        ({"eta": math.nan}, "a number from 0 to 1"),
        ({"eta": "1"}, "a number from 0 to 1"),
        ({"eta": True}, "a number from 0 to 1"),
        ({"size": 0}, "a positive number"),
        ({"size": math.inf}, "a positive number"),
        ({"gamma": 0}, "a positive number or math.inf"),
        ({"weight": -1}, "a finite number of at least 0"),
        ({"weight": math.inf}, "a finite number of at least 0"),
        ({"decay": 0.0}, "a number in (0, 1]"),
        ({"chunk": 0}, "None or an integer of at least 1"),
        ({"rms": ()}, "one or more values, each a positive number"),
        ({"rms": (1.0, 0.0)}, "one or more values, each a positive number"),
        ({"rms": 1.0}, "one or more values, each a positive number"),
        ({"pair": (0.5,)}, "2 values, each a number from 0 to 1"),
        ({"clip": 1}, "True or False"),
        ({"label": 3}, "a string"),
        ({"solver": "dds"}, "None or an instance of Solver"),
    ):
        (name, value), *_ = change.items()
        with pytest.raises(errors.ArgumentError) as found:
            Settings(**change)
        assert str(found.value) == f"{name}: got {value!r}, accepted: {accepted}"


def test_of_unknown_names_the_nearest_is_suggested():
    with pytest.raises(errors.UnknownNameError, match=r"rule: unknown name 'makov'.*'markov'"):
        Settings(rule="makov")


def test_numbers_of_numpy_become_pythons():
    found = Settings(
        steps=np.int64(4), eta=np.float32(0.25), size=np.float64(2), chunk=np.uint8(2)
    )
    assert found == Settings(steps=4, eta=0.25, size=2.0, chunk=2)
    assert [type(v) for v in (found.steps, found.eta, found.chunk)] == [int, float, int]


def test_ends_count_as_declared():
    assert Settings(eta=0, weight=0, decay=1, gamma=math.inf, pair=[1, 0]).eta == 0


def test_integers_are_pythons_or_numpys():
    assert require_integer("n", np.int32(3)) == 3
    assert require_integer("n", 0, least=0, most=2) == 0
    for wrong, accepted in (
        (True, "of at least 1"),
        (1.5, "of at least 1"),
        (None, "of at least 1"),
    ):
        with pytest.raises(
            errors.ArgumentError, match=f"n: got .*, accepted: an integer {accepted}"
        ):
            require_integer("n", wrong)
    with pytest.raises(errors.ArgumentError, match="n: got 3, accepted: an integer from 0 to 2"):
        require_integer("n", 3, 0, 2)


@pytest.mark.parametrize("name", named_solvers())
def test_every_solver_checks_its_numbers(name):
    """None of them is left without a declaration that refuses NaN and other types."""
    solver = named_solvers()[name]()
    for field, value in vars(solver).items():
        if isinstance(value, bool | int | float):
            for wrong in (math.nan, "one"):
                with pytest.raises(errors.ArgumentError, match=f"^{field}: got"):
                    replace(solver, **{field: wrong})
