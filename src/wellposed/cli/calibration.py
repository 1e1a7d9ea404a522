"""``wellposed reconstruct --calibration``: what the file says, and its use on a result."""

from dataclasses import dataclass, replace
from pathlib import Path

from wellposed.cli.file_task import FileTask
from wellposed.cli.settings import Reconstruct
from wellposed.conditions import SOLVER, require_all, solver_conditions
from wellposed.errors import ArgumentError, FileError
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.solvers import Problem, Solver
from wellposed.solvers.catalogue import named_solvers
from wellposed.uncertainty import Conformal
from wellposed.validation.conditions import problem_conditions

OPTION = "--calibration"


@dataclass(frozen=True, eq=False)
class Calibration:
    """A calibration file.

    Attributes:
        conformal: its content.
        weights: fingerprint of the prior that is used.
    """

    conformal: Conformal
    weights: str

    def check(self, task: FileTask, prior: Prior, solver: Solver, samples: int) -> None:
        """Raise, before the run, if a condition differs from that of the file, or is missing."""
        problem = Problem.create(task.y, task.operator, prior)
        size = task.cut(problem.zeros()).shape[1:]
        run = solver_conditions(type(solver).__name__, solver.settings, samples, size)
        # First what is known without a calculation.
        self.conformal.require_fit(run, OPTION)
        conditions = problem_conditions(problem, self.weights)
        require_all(OPTION, self.conformal.conditions, [*run, *conditions])
        self.conformal.require_fit(conditions, OPTION)

    def applied(self, result: Reconstruction) -> Reconstruction:
        """Return a result with its calibrated maps."""
        return replace(result, calibrated=self.conformal.maps(result))


def read_calibration(path: Path) -> Conformal:
    """Read a file; errors name the option.

    Raises:
        FileError: it is no calibration file.
    """
    try:
        return Conformal.load(path)
    except FileError as error:
        raise FileError(f"{OPTION}: {str(error).removeprefix('path: ')}") from error


def as_calibrated(o: Reconstruct, conformal: Conformal) -> Reconstruct:
    """Return the options with the solver, its settings and the samples of a file, unless given.

    Raises:
        ArgumentError: the solver of the file is not one of the package.
    """
    stored = conformal.conditions
    samples = stored.get("samples") if o.num_samples is None else o.num_samples
    o = replace(o, num_samples=samples if isinstance(samples, int) else None)
    if o.solver is not None or o.set:
        return o
    name = str(stored.get("solver"))
    found = [cls.name for cls in named_solvers().values() if cls.__name__ == name]
    if not found:
        raise ArgumentError(f"{OPTION}: made with {name!r}, accepted: with --solver MODULE:{name}")
    settings = {k.removeprefix(SOLVER): v for k, v in stored.items() if k.startswith(SOLVER)}
    given = tuple(
        f"{k}={v!r}" for k, v in settings.items() if not (k == "steps" and o.steps is not None)
    )
    return replace(o, solver=found[0], set=given)
