"""Conditions that a calibration of uncertainty was made under, and whether others are the same."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from wellposed.errors import ArgumentError, ShapeError

Conditions = Mapping[str, object]
"""What a calibration was made with, by name; all values can be stored as JSON."""

SOLVER = "solver."
"""Beginning of the names of a solver's settings."""

PRIOR, OPERATOR = "prior", "operator"
"""Conditions that are texts: fingerprint of the prior, and class of the operator."""

MEASURED, NOISE, MISSED = "measured", "noise", "missed"
"""Conditions that are numbers: measured numbers per number of the image, noise level in units, and
the parts of an image and of its fine detail that the data do not determine."""


class Tolerance(NamedTuple):
    """The largest difference of numbers that count as the same."""

    relative: float
    absolute: float


SCANS = {
    MEASURED: Tolerance(0.25, 0.0),
    NOISE: Tolerance(0.25, 0.0),
    MISSED: Tolerance(0.0, 0.1),
}
"""Numbers that differ a little between scans of one kind."""

TASKS = {MEASURED: Tolerance(0.5, 0.0), NOISE: Tolerance(0.5, 0.0)}
"""Numbers that differ by a factor of two at most between tasks of one kind."""


def solver_conditions(
    solver: str, settings: Conditions, num_samples: int, size: Sequence[int]
) -> dict[str, object]:
    """Return the conditions of a solver's run on images of a size.

    Args:
        solver: name of its class.
        settings: its hyper-parameters.
        num_samples: number of samples.
        size: shape of an image.
    """
    # The size of batches does not affect the samples.
    own = {f"{SOLVER}{name}": v for name, v in settings.items() if name != "batch_size"}
    return {"solver": solver, **own, "size": list(size), "samples": num_samples}


def require_same(argument: str, expected: Conditions, found: Conditions) -> None:
    """Raise if conditions that both have differ; numbers of scans may differ by a tolerance.

    Args:
        argument: name in errors of what has the conditions ``found``.
        expected: the conditions of the calibration.
        found: those of another problem or result.

    Raises:
        ShapeError: another size.
        ArgumentError: another condition differs; the message names it and both values.
    """
    for name, got, accepted in differences(expected, found):
        error = ShapeError if name == "size" else ArgumentError
        raise error(
            f"{argument}: got {name} {_short(got)}, accepted: {_short(accepted)} as in the "
            "calibration; calibrate again for another"
        )


def differences(
    expected: Conditions, found: Conditions, tolerances: Mapping[str, Tolerance] = SCANS
) -> Iterator[tuple[str, object, object]]:
    """Yield the name, the found and the expected value of conditions of both that differ.

    Args:
        expected: some conditions.
        found: others.
        tolerances: how much numbers may differ, by name.
    """
    for name in (name for name in expected if name in found):
        # Stored values have lists in place of tuples.
        got, wanted = (json.loads(json.dumps(of[name])) for of in (found, expected))
        if got != wanted and not (name in tolerances and _near(tolerances[name], got, wanted)):
            yield name, got, wanted


def in_words(name: str, got: object, expected: object) -> str:
    """Return a difference in words."""
    return f"{name} {_short(got)} instead of {_short(expected)}"


def require_all(argument: str, stored: Conditions, needed: Iterable[str]) -> None:
    """Raise if a calibration does not hold conditions that must be compared.

    Raises:
        ArgumentError: names those that are missing.
    """
    missing = [name for name in needed if name not in stored]
    if missing:
        raise ArgumentError(
            f"{argument}: got a file without {', '.join(missing)}, accepted: a file of `wellposed "
            "calibrate`, or Conformal.fit(..., conditions=problem_conditions(problem))"
        )


def _near(tolerance: Tolerance, got: object, accepted: object) -> bool:
    a, b = (value if isinstance(value, list) else [value] for value in (got, accepted))
    if len(a) != len(b) or not all(isinstance(value, int | float) for value in a + b):
        return False
    relative, absolute = tolerance
    pairs = zip(a, b, strict=True)
    return all(math.isclose(x, y, rel_tol=relative, abs_tol=absolute) for x, y in pairs)


def _short(value: object) -> str:
    """Return a value with numbers of three digits."""
    if isinstance(value, list):
        return f"[{', '.join(_short(part) for part in value)}]"
    return f"{value:.3g}" if isinstance(value, float) else repr(value)
