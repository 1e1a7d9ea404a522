"""All exact-posterior tests of one solver."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean
from time import process_time
from typing import TypedDict, TypeVar

from torch import Tensor

from wellposed.errors import ArgumentError, SamplingError
from wellposed.operators.base import LinearOperator
from wellposed.priors.prior import Prior
from wellposed.solvers.base import Solver
from wellposed.solvers.problem import Problem
from wellposed.validation.consistency import STEPS, mean_errors, order, process_gap
from wellposed.validation.gaussian import (
    PROBLEMS,
    floor_errors,
    gaussian_errors,
    gaussian_problem,
    process,
)
from wellposed.validation.levy import MATRICES, levy_errors, levy_problem
from wellposed.validation.mixtures import CELLS, half_width, mixture_distances, mixture_problem
from wellposed.validation.settings import BUDGET, capped

T = TypeVar("T")
Cell = dict[str, float] | str
"""Numbers by name, or `REFUSED` or `DIVERGED` where there are none."""


class Facts(TypedDict):
    """Evaluations, errors by steps, their order and the gap between processes."""

    nfe: float | str
    steps: dict[str, float | str]
    order: float | str
    process_gap: float | str


class Record(Facts):
    """What was measured of one solver: cells by problem."""

    gaussian: dict[str, Cell]
    mixture: dict[str, Cell]
    levy: dict[str, Cell]
    seconds: float


REFUSED, DIVERGED = "-", "diverged"


@dataclass(frozen=True)
class Effort:
    """The amount of testing; the problems are the same for every solver.

    Attributes:
        kinds: Gaussian problems, names in `validation.PROBLEMS`.
        problems, samples: problems of each kind, samples of each problem.
        cells: ``(d, d_y)`` of the mixture test.
        mixtures, mixture_samples, slices: problems of each cell, samples, projections.
        matrices: operators of the Levy test.
        signals: signals of the Levy test, 50 samples each.
        steps: numbers of steps from whose errors the order of convergence is estimated.
        budget: largest number of steps of a solver in all other tests, see `capped`.

    Example:
        >>> from wellposed.validation import FULL, QUICK
        >>> QUICK.samples, FULL.samples
        (200, 1000)
    """

    kinds: tuple[str, ...] = tuple(PROBLEMS)
    problems: int = 4
    samples: int = 1000
    cells: tuple[tuple[int, int], ...] = CELLS
    mixtures: int = 20
    mixture_samples: int = 500
    slices: int = 1000
    matrices: tuple[str, ...] = tuple(MATRICES)
    signals: int = 20
    steps: tuple[int, ...] = STEPS
    budget: int = BUDGET


FULL = Effort()
"""What `wellposed validate` takes, for the table in docs/posterior.md."""

QUICK = Effort(
    kinds=("random matrix", "field, half the pixels"),
    problems=1,
    samples=200,
    cells=((8, 2),),
    mixtures=2,
    mixture_samples=200,
    slices=200,
    matrices=("convolution",),
    signals=4,
    steps=(10, 20),
    budget=25,
)
"""What `wellposed validate --quick` takes, a matter of seconds for a solver."""


def measure(solver: Solver | None, effort: Effort) -> Record:
    """Return the results of all tests of a solver; ``None`` uses exact samples: the floor.

    Example:
        >>> from dataclasses import replace
        >>> from wellposed.validation import QUICK, measure
        >>> effort = replace(QUICK, samples=50, mixture_samples=50, signals=1)
        >>> floor = measure(None, effort)  # of exact samples; solvers take longer
        >>> list(floor["gaussian"])
        ['random matrix', 'field, half the pixels']
    """
    if solver is not None:
        solver = capped(solver, effort.budget)
    started = process_time()
    return {
        "gaussian": {kind: _gaussian(solver, kind, effort) for kind in effort.kinds},
        "mixture": {
            f"{cell[0]}, {cell[1]}": _mixture(solver, cell, effort) for cell in effort.cells
        },
        "levy": {name: _levy(solver, name, effort) for name in effort.matrices},
        **_run_facts(solver, effort),
        "seconds": process_time() - started,
    }


def _run_facts(solver: Solver | None, effort: Effort) -> Facts:
    names = [str(count) for count in effort.steps]
    if solver is None:
        steps: dict[str, float | str] = dict.fromkeys(names, REFUSED)
        return {"nfe": REFUSED, "order": REFUSED, "process_gap": REFUSED, "steps": steps}
    case = gaussian_problem(process("vp"))
    errors = _attempt(solver, case, lambda: mean_errors(solver, effort.steps, effort.problems))
    found = [errors] * len(names) if isinstance(errors, str) else errors
    return {
        # Weighted particles cost the same for any number of samples up to all of them.
        "nfe": _attempt(
            solver, case, lambda: solver(*case, num_samples=solver.most_samples or 1, seed=0).nfe
        ),
        "steps": dict(zip(names, found, strict=True)),
        "order": errors if isinstance(errors, str) else order(effort.steps, errors),
        "process_gap": _attempt(solver, case, lambda: process_gap(solver)),
    }


def _attempt(
    solver: Solver | None, case: tuple[Tensor, LinearOperator, Prior], run: Callable[[], T]
) -> T | str:
    """Return the result of ``run``, unless the solver refuses the problem or diverges."""
    if solver is not None:
        try:
            solver.check(Problem.create(*case))
        except ArgumentError:
            return REFUSED
    try:
        return run()
    except SamplingError:
        return DIVERGED


def _gaussian(solver: Solver | None, kind: str, effort: Effort) -> Cell:
    def run() -> dict[str, float]:
        if solver is None:
            return asdict(floor_errors(effort.problems, effort.samples, kind))
        return asdict(gaussian_errors(solver, "vp", effort.problems, effort.samples, kind))

    return _attempt(solver, PROBLEMS[kind](process("vp"), 0), run)


def _mixture(solver: Solver | None, cell: tuple[int, int], effort: Effort) -> Cell:
    def run() -> dict[str, float]:
        sizes = (effort.mixtures, effort.mixture_samples, effort.slices)
        found = mixture_distances(solver, cell, *sizes)
        return {"distance": fmean(found), "half_width": half_width(found)}

    problem = mixture_problem(*cell, 0)
    return _attempt(solver, (problem.y, problem.operator, problem.prior), run)


def _levy(solver: Solver | None, name: str, effort: Effort) -> Cell:
    def run() -> dict[str, float]:
        return asdict(levy_errors(solver, name, effort.signals))

    return _attempt(solver, levy_problem(name, effort.signals), run)
