"""Ranges in which hyper-parameters are searched.

Ranges of scales are log-uniform, as those of InverseBench (Zheng et al., "InverseBench:
Benchmarking Plug-and-Play Diffusion Priors for Inverse Problems in Physical Sciences", 2025,
arXiv 2503.11043), about two decades wide, around the published value. Step sizes and weights are
relative to ``||A||`` and the noise level, so that one range serves all operators.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from wellposed.checks import declared_kinds
from wellposed.errors import ArgumentError, require, require_choice
from wellposed.kinds import FINITE
from wellposed.solvers.base import Solver
from wellposed.solvers.data import squared_norm
from wellposed.solvers.problem import Problem

SPELLED = "LOW:HIGH, LOW:HIGH:log or A,B,..."

LEAST_NOISE = 1e-3
"""Noise level in the prior's units that ranges of noise-free problems are made for."""


@dataclass(frozen=True)
class Span:
    """Numbers from ``low`` to ``high``, uniform or, with ``log``, log-uniform.

    Args:
        low, high: ends of the range.
        log: whether the logarithm is uniform.

    Raises:
        ArgumentError: no finite numbers with ``low < high``, or ``log`` with ``low <= 0``.

    Example:
        >>> from wellposed.benchmark import Span
        >>> Span(0.01, 1.0, log=True)
        Span(low=0.01, high=1.0, log=True)
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        ends = (self.low, self.high)
        require(
            all(map(FINITE.admits, ends)) and self.low < self.high, "range", ends, "low < high"
        )
        require(not self.log or self.low > 0, "low", self.low, "a positive number with log")

    def __str__(self) -> str:
        return f"{self.low:.4g}:{self.high:.4g}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Values:
    """Some values, of which one is taken.

    Args:
        values: two or more numbers, texts, True, False or None.

    Raises:
        ArgumentError: fewer than two, or not numbers, texts, True, False and None.

    Example:
        >>> from wellposed.benchmark import Values
        >>> Values(("mean", "sample"))
        Values(values=('mean', 'sample'))
    """

    values: tuple[float | str | bool | None, ...]

    def __post_init__(self) -> None:
        plain = all(isinstance(v, int | float | str | None) for v in self.values)
        require(len(self.values) > 1 and plain, "range", self.values, "two values or more")

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


Searched = Span | Values
Ranges = Mapping[str, Searched]
"""The range of each hyper-parameter, by name."""

SHARE = Span(0.0, 1.0)


def range_of(name: str, spelled: object) -> Searched:
    """Return a range that a card spells "0.1:100:log", "10:50", or as a list of values.

    Raises:
        ArgumentError: it is spelled otherwise; names ``name``.
    """
    try:
        if isinstance(spelled, list | tuple):
            return Values(tuple(spelled))
        low, high, *scale = str(spelled).split(":")
        if scale in ([], ["log"]):
            return Span(float(low), float(high), bool(scale))
    except ValueError:  # also errors of the ranges
        pass
    raise ArgumentError(f"{name}: got {spelled!r}, accepted: {SPELLED} with LOW < HIGH")


def require_ranges(cls: type[Solver], ranges: Ranges, place: str = "ranges") -> None:
    """Raise unless a solver has the hyper-parameters and accepts the ends of their ranges.

    Raises:
        UnknownNameError: no such hyper-parameter; the nearest is suggested.
        ArgumentError: a value that it does not accept.
    """
    kinds = declared_kinds(cls)
    accepted = "ranges of one hyper-parameter or more of the solver"
    require(len(ranges) > 0, place, f"none for {cls.name}", accepted)
    for name, searched in ranges.items():
        require_choice(place, name, settings_of(cls))
        require(isinstance(searched, Searched), f"{place}: {name}", searched, "Span or Values")
        for value in _ends(searched, is_whole(cls, name)):
            if name in kinds and not kinds[name].admits(value):
                raise kinds[name].error(f"{place}: {name}", value)


def settings_of(cls: type[Solver]) -> list[str]:
    """Return the names of the hyper-parameters that decide what a solver returns."""
    return [f.name for f in fields(cls) if f.name != "batch_size"]


def is_whole(cls: type[Solver], name: str) -> bool:
    """Tell whether a hyper-parameter is an integer."""
    kind = declared_kinds(cls).get(name)
    return kind is not None and kind.admits(2) and not kind.admits(1.5)


def _ends(searched: Searched, whole: bool) -> Iterable[object]:
    if isinstance(searched, Values):
        return searched.values
    ends = (searched.low, searched.high)
    return [int(v) if whole and v == int(v) else v for v in ends]


def default_ranges(cls: type[Solver], problem: Problem) -> dict[str, Searched]:
    """Return the ranges of a solver's hyper-parameters for a problem; none of rarer solvers.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.benchmark.ranges import default_ranges
        >>> operator, prior = operators.Denoising((1, 8, 8), 0.1), priors.GaussianPrior(0.5, 0.1)
        >>> problem = solvers.Problem.create(torch.rand(1, 1, 8, 8), operator, prior)
        >>> default_ranges(solvers.DPS, problem)
        {'zeta': Span(low=0.1, high=10.0, log=True)}
    """
    norm2 = float(squared_norm(problem).mean())
    return _table(norm2, max(float(problem.noise_sigma.mean()), LEAST_NOISE)).get(cls.name, {})


def _table(norm2: float, sigma: float) -> dict[str, dict[str, Searched]]:
    """Return the ranges by solver, for ``||A||^2`` and a noise level in the prior's units."""
    norm, weight = math.sqrt(norm2), 1 / (norm2 * sigma**2)
    plugged: dict[str, Searched] = {
        "lambda_": Span(0.02, 2.0, log=True),
        "start": Span(0.1, 2.0, log=True),
        "steps": Span(10, 60, log=True),
    }
    return {
        "dds": {
            "gamma": Span(3e-4 * weight, 0.1 * weight, log=True),
            "eta": SHARE,
            "steps": Span(10, 100, log=True),
        },
        "dps": {"zeta": Span(0.1 / norm, 10 / norm, log=True)},
        "diffpir": {"lambda_": Span(1.0, 100.0, log=True), "zeta": SHARE},
        "red-diff": {
            "learning_rate": Span(0.01, 0.5, log=True),
            "regularization": Span(0.01, 1.0, log=True),
        },
        "mmps": {"eta": SHARE, "cg_steps": Values((1, 2, 3, 5)), "steps": Span(20, 200, log=True)},
        "hqs": plugged,
        "pnp-admm": plugged,
        "total-variation": {"weight": Span(0.01 * sigma / norm, 3 * sigma / norm, log=True)},
        "wavelet": {"weight": Span(0.01 * sigma / norm, 3 * sigma / norm, log=True)},
        "tikhonov": {"weight": Span(1e-5, 1.0, log=True)},
        "ddim-projection": {"eta": SHARE},
        "ddnm": {"eta": SHARE},
        "ddrm": {"eta": SHARE, "eta_b": SHARE},
        "pigdm": {"eta": SHARE, "guidance": Values(("published", "score"))},
        "flower": {"gamma": SHARE, "steps": Span(10, 100, log=True)},
        "pnp-flow": {
            "step_size": Span(0.1, 1.9, log=True),
            "alpha": Span(0.01, 2.0, log=True),
        },
        "flowchef": {"step_size": Span(0.01 / norm2, 0.9 / norm2, log=True)},
        "daps": {
            "tau": Span(0.1 * sigma, 3 * sigma, log=True),
            "learning_rate": Span(0.03, 1.0, log=True),
        },
        "pnp-dm": {
            "rho_min": Span(0.03, 1.0, log=True),
            "rho_decay_rate": Span(0.4, 0.9),
        },
    }
