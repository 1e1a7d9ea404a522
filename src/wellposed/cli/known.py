"""Images whose truth is known, measured and reconstructed: of files, or drawn from the prior."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from wellposed.cli.file_task import FileTask
from wellposed.cli.names import find_class, make_solver
from wellposed.cli.tasks import build_task, simulated
from wellposed.cli.trial_settings import Calibrate, Validate
from wellposed.datasets.reading import inputs_of
from wellposed.errors import require
from wellposed.operators.presets import Task
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers import Solver, recommend
from wellposed.solvers.catalogue import named_solvers
from wellposed.uncertainty import Conditions
from wellposed.validation.conditions import problem_conditions
from wellposed.validation.ranks import draw_prior


@dataclass(frozen=True, eq=False)
class Known:
    """An image whose truth is known.

    Attributes:
        task: its measurement; the truth is cut as results are.
        prior: the prior in its units.
        about: the conditions of its calibration.
    """

    task: Task
    prior: Prior
    about: Conditions

    @property
    def truth(self) -> Tensor:
        """The truth, (1, C, H, W)."""
        assert self.task.truth is not None
        return self.task.truth

    def solved(self, solver: Solver, num_samples: int, seed: int) -> Reconstruction:
        """Return the result, as `wellposed reconstruct` does."""
        problem = (self.task.y, self.task.operator, self.prior)
        found = solver(*problem, num_samples=num_samples, seed=seed).cpu()
        return self.task.finished(found) if isinstance(self.task, FileTask) else found


def of_draw(prior: Prior, o: Calibrate | Validate, index: int) -> tuple[Known, Tensor]:
    """Return an image drawn from the prior and measured, and another one, not measured."""
    o, size = replace(o, seed=o.seed + index), (o.image_size, o.image_size)
    assert o.operator is not None
    truth, other = draw_prior(prior, 2, size, o.seed, o.device).cpu().split(1)
    task = simulated(truth, o.operator, o)
    task = replace(task, y=task.y.to(o.device), operator=task.operator.to(o.device))
    about = problem_conditions(task.y, task.operator, prior)
    return Known(task, prior, about), other


def of_files(prior: Prior, o: Calibrate) -> Iterator[Known]:
    """Yield the images of all files, measured with noise of different seeds."""
    weights = fingerprint(prior)
    for index, (file, number) in enumerate(places(o)):
        own = replace(o, slice=number, slices=None, seed=o.seed + index)
        task = build_task(file, o.operator, own, prior.channels).on(o.device)
        accepted = "a clean image, or complete measured data"
        require(task.truth is not None, "INPUT", f"{file.name} without a truth", accepted)
        fitted = task.fitted(prior)
        about = problem_conditions(task.y, task.operator, fitted, weights)
        yield Known(task, fitted, about)


def places(o: Calibrate) -> list[tuple[Path, int | None]]:
    """Return the files, each with every slice of the options."""
    numbers = [o.slice] if o.slices is None else list(range(*o.slices))
    require(len(numbers) > 0, "--slices", o.slices, "A:B with A < B")
    return [(file, number) for file in inputs_of(o.inputs) for number in numbers]


def sampler(o: Calibrate | Validate, name: str | None, known: Known) -> Solver:
    """Return the solver of a name, or the one that suits samples of the problem."""
    if name is None:
        found = recommend(known.task.operator, known.prior, "samples")
        settings = {k: v for k, v in found.settings.items() if k != "batch_size"}
        return make_solver(type(found), o, o.batch_size, **settings)
    cls = find_class("--solver", name, named_solvers(), Solver)
    plain = not (cls.deterministic or cls.restores or cls.volumes_only)
    require(plain, "--solver", name, "a solver that samples images")
    return make_solver(cls, o, o.batch_size)
