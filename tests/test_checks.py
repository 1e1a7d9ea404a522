"""What arguments may be: one check of integers, and kinds that fields declare."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pytest
import torch

from wellposed import errors, operators, priors, solvers
from wellposed.checks import (
    Choice,
    Count,
    Fraction,
    NonNegative,
    Positive,
    PositiveOrInfinite,
    Range,
    RealTensor,
    Whole,
    check_fields,
    checked,
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


@checked
def called(size: Count, x: RealTensor, sides: Sequence[Count] = (1,), rate: float = math.inf):
    return size, x, sides, rate


X = torch.ones(2)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"size": 10**12}, errors.ArgumentError, "size: got 1000000000000, accepted: an integer"),
        ({"size": 10**400}, errors.ArgumentError, "size: got 1000"),
        ({"x": X / 0}, errors.NonFiniteError, "x: 2 of 2 values are NaN or infinite"),
        ({"x": X[:0]}, errors.ShapeError, r"x: is empty, got shape \(0,\)"),
        ({"x": X + 0j}, errors.DtypeError, "accepted: a torch.Tensor of finite real numbers"),
        ({"x": X.to("meta")}, errors.DeviceError, "with values"),
        ({"x": X.to_sparse()}, errors.DtypeError, "dense"),
        ({"x": [1.0]}, errors.DtypeError, "x: got list, accepted: a torch"),
        ({"sides": range(10**12)}, errors.ArgumentError, "sides: got range"),
        ({"sides": b"ab"}, errors.ArgumentError, "sides: got b'ab'"),
        ({"rate": math.nan}, errors.ArgumentError, "rate: got nan, accepted: a finite number"),
        ({"rate": "a" * 5000}, errors.ArgumentError, r"rate: got 'a+\.\.\., accepted"),
    ],
)
def test_calls_are_checked_by_their_annotations(change, error, words):
    with pytest.raises(error, match=words) as caught:
        called(**{"size": 1, "x": X, **change})
    assert len(str(caught.value)) < 250


def test_good_calls_and_defaults_go_through():
    assert called(np.int64(2), X, np.array([1, 2]))[3] == math.inf
    assert called(1, X.int(), torch.Size([3]), rate=np.float32(2.0))[2] == (3,)
    with pytest.raises(TypeError, match="positional argument"):
        called(1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: priors.Full(torch.tensor([[1.0, 0.9], [0.0, 1.0]])), "matrix: .* Hermitian"),
        (lambda: priors.GaussianPrior(math.nan, 0.1), "mean: got nan"),
        (lambda: priors.Diagonal(torch.tensor([1.0, math.inf])), "variance: 1 of 2"),
        (lambda: priors.VE(math.inf), "sigma_max: got inf"),
        (lambda: priors.GaussianPrior(0.0, 0.1).schedule(-1.0), "t: got -1.0"),
        (lambda: priors.GaussianPrior(0.0, 0.1).schedule(1e9), "t: got 1000000000.0"),
        (lambda: priors.Flow()(math.nan), "t: got nan"),
        (
            lambda: priors.GaussianPrior(0.0, 0.1)(torch.zeros(1, 1, 4, 4), [0.1, 0.1, 0.1]),
            "sigma: got '3 levels'",
        ),
        (
            lambda: priors.GaussianPrior(0.0, 0.1).denoise(torch.zeros(2, 1, 4), torch.ones(3)),
            "t: got 3 values",
        ),
        (
            lambda: priors.NetworkPrior(
                torch.nn.Identity(), priors.VE(), channels="three", data_range=(0.0, 1.0)
            ),
            "channels: got 'three'",
        ),
        (
            lambda: priors.NetworkPrior(
                torch.nn.Identity(), priors.VE(), channels=1, data_range=(0.0, math.inf)
            ),
            "data_range: got",
        ),
        (lambda: priors.Patchwise(priors.GaussianPrior(0.0, 0.1), size=64.5), "size: got 64.5"),
        (lambda: priors.MeanReverting(shifted="false"), "shifted: got 'false'"),
        (lambda: operators.JPEG((3, 16, 16), subsampling="false"), "subsampling: got 'false'"),
        (lambda: operators.Detector(curved="false"), "curved: got 'false'"),
        (lambda: operators.CompressedSensing((1, 8, 8), 0.5, permuted="no"), "permuted: got"),
        (lambda: operators.random_mask(8, 8, 0.5, seed=None), "seed: got None"),
        (lambda: operators.simulate_sensitivity_maps(2, 8, 8, None), "seed: got None"),
        (lambda: operators.motion_kernel(seed=None), "seed: got None"),
        (lambda: operators.WalshHadamard((1, 8, 8), 0.5, seed=None), "seed: got None"),
    ],
)
def test_constructors_take_nothing_of_a_wrong_kind(make, words):
    with pytest.raises(errors.WellposedError, match=words):
        make()
