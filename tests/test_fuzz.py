"""Every public name with each argument replaced in turn by hostile values.

What comes out is one of three: a clear error, which is the package's and names the argument; a
value that is accepted rightly, of the kinds in `RIGHTLY`; anything else fails. The sample takes
seconds; all values of all arguments, ``-m slow``, some minutes.
"""

import inspect
import math
import random
import warnings
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fuzz_calls import CALLS, LEFT_OUT, RIGHTLY, WINGS

from wellposed import errors
from wellposed.checks import _kinds_of, declared_kinds
from wellposed.kinds import Choice, Either, Instance, Range, Whole, kind_of

NAN, INF = math.nan, math.inf

HOSTILE = {
    "nan": NAN,
    "inf": INF,
    "-inf": -INF,
    "-1": -1,
    "-0.5": -0.5,
    "0": 0,
    "0.5": 0.5,
    "1.5": 1.5,
    "huge": 10**12,
    "beyond floats": 10**400,
    "True": True,
    "None": None,
    "empty text": "",
    "text": "false",
    "number as text": "1",
    "long text": "a" * 5000,
    "bytes": b"a",
    "empty list": [],
    "empty dict": {},
    "list of nan": [NAN, NAN],
    "list of text": ["a", "b"],
    "list of zeros": [0, 0, 0],
    "ragged list": [[1.0], [2.0, 3.0]],
    "object": object(),
    "function": len,
    "class": int,
    "path": Path("no/such/file"),
    "complex": 1 + 2j,
    "complex nan": complex(0, NAN),
    "numpy nan": np.float32(NAN),
    "numpy of nan": np.full((4, 4), NAN),
    "numpy of text": np.array(["a", "b"]),
    "tensor of nan": torch.full((4, 4), NAN),
    "tensor of inf": torch.full((1, 1, 4, 4), INF),
    "0-d tensor": torch.tensor(0.5),
    "0-d nan": torch.tensor(NAN),
    "empty tensor": torch.zeros(0),
    "meta": torch.zeros(1, 1, 8, 8, device="meta"),
    "one": torch.ones(1),
    "many axes": torch.ones(1, 1, 1, 1, 1, 1, 2),
    "negative": -torch.ones(8, 8),
    "zeros": torch.zeros(8, 8),
    "integers": torch.ones(8, 8, dtype=torch.int64),
    "complex tensor": torch.ones(8, 8, dtype=torch.complex64),
    "sparse": torch.eye(8).to_sparse(),
}
"""What no caller means, or hardly any."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Folders that a call makes, such as caches, are made there."""
    monkeypatch.chdir(tmp_path)


@cache
def kinds_of(function):
    """Return what the arguments of a call declare, by name."""
    if is_dataclass(function):
        return declared_kinds(function)
    classes = function.__mro__ if isinstance(function, type) else ()
    found = {}
    for cls in classes[::-1]:
        if "__init__" in vars(cls) and cls.__module__.startswith("wellposed"):
            found |= _kinds_of(cls.__init__)
    return found or _kinds_of(inspect.unwrap(function))


def outcome(function, call, argument, value):
    """Return what comes of a call with one argument replaced, as a word and its reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            function(**{**call, argument: value})
        except errors.WellposedError as error:
            # Where two arguments do not fit each other, either may be named.
            named = any(name in str(error) for name in call)
            return ("clear" if named else "unnamed"), f"{type(error).__name__}: {error}"
        except Exception as error:
            return "crash", f"{type(error).__name__}: {error}"
    return "accepted", ""


def listed(name, argument, label):
    """Tell whether a value is among the accepted ones, by name and argument, or by argument."""
    return any(label in RIGHTLY.get(key, ()) for key in (argument, (name, argument)))


def declared(function, argument, value):
    """Tell whether a number or a choice is in the range that the annotation declares.

    A bare ``float`` or ``int`` declares none.
    """
    kind = kinds_of(function).get(argument)
    parts = kind.kinds if isinstance(kind, Either) else [kind]
    ranges = [k for k in parts if isinstance(k, Range | Whole | Choice | Instance)]
    bare = [k for k in ranges if k is kind_of(float) or k is kind_of(int) or k is kind_of(str)]
    return any(k.admits(value) for k in ranges if k not in bare)


def faults(name, labels):
    """Return what is neither clear nor accepted rightly of a name, one line each."""
    make, arguments = CALLS[name]
    found = []
    for argument in arguments:
        for label in labels:
            word, reason = outcome(make, arguments, argument, HOSTILE[label])
            rightly = declared(make, argument, HOSTILE[label]) or listed(name, argument, label)
            if word != "clear" and not (word == "accepted" and rightly):
                found.append(
                    f"{name}({argument}={label}): {word} {' '.join(reason.split())[:150]}"
                )
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_sample_of_hostile_values_is_refused_or_rightly_accepted(name):
    labels = random.Random(name).sample(sorted(HOSTILE), 5)
    assert faults(name, ["nan", "text", "None", "tensor of nan", *labels]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_all_hostile_values_are_refused_or_rightly_accepted(name):
    assert faults(name, HOSTILE) == []


def test_the_calls_that_are_fuzzed_are_good_ones():
    for name, (function, arguments) in CALLS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function(**arguments)
        assert name


def test_every_public_constructor_and_function_is_fuzzed():
    for wing in WINGS:
        for name in dir(wing):
            value = getattr(wing, name)
            if callable(value) and not inspect.isabstract(value) and name[0] != "_":
                assert name in CALLS or name in LEFT_OUT, name
