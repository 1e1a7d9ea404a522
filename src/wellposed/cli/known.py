"""Images whose truth is known, measured and reconstructed: of files, or drawn from the prior."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
from torch import Tensor

from wellposed.cli.comparison_settings import Compare, Tune
from wellposed.cli.file_task import FileTask
from wellposed.cli.inputs import TaskInput
from wellposed.cli.names import adapted_solver, find_class, make_solver
from wellposed.cli.tasks import build_task, simulated_draw
from wellposed.cli.trial_settings import Calibrate, Validate
from wellposed.conditions import Conditions
from wellposed.datasets.reading import inputs_of
from wellposed.errors import require
from wellposed.noise import DRAWS, item_seed
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers import Problem, Solver, recommend
from wellposed.solvers.catalogue import named_solvers
from wellposed.units import Units
from wellposed.validation.conditions import problem_conditions
from wellposed.validation.ranks import draw_prior


@dataclass(frozen=True, eq=False)
class KnownImage:
    """A measured image whose truth is known.

    Attributes:
        name: what it is called in errors.
        task: its measurement and its truth, which is cut as results are written.
        prior: the prior in its units.
        weights: fingerprint of the prior before it was fitted to these units.
        seed: seed of its samples.
    """

    name: str
    task: FileTask
    prior: Prior
    weights: str
    seed: int

    @property
    def truth(self) -> Tensor:
        """The truth, (1, C, H, W)."""
        assert self.task.truth is not None
        return self.task.truth

    @cached_property
    def conditions(self) -> Conditions:
        """The conditions of its problem."""
        problem = Problem.create(self.task.y, self.task.operator, self.prior)
        return problem_conditions(problem, self.weights)

    def solved(self, solver: Solver, num_samples: int) -> Reconstruction:
        """Return samples of whole images; `FileTask.finished` cuts them."""
        problem = (self.task.y, self.task.operator, self.prior)
        return solver(*problem, num_samples=num_samples, seed=self.seed).cpu()


def known_images(prior: Prior, o: Calibrate) -> list[Callable[[], KnownImage]]:
    """Return functions that return the images, of files, which are read again, or drawn once."""
    if o.inputs:
        return file_images(prior, o)
    weights = fingerprint(prior)
    return [cache(partial(_drawn, prior, weights, o, index)) for index in range(o.images)]


def file_images(prior: Prior, o: Calibrate | Compare | Tune) -> list[Callable[[], KnownImage]]:
    """Return functions that read the images of files."""
    weights = fingerprint(prior)
    return [partial(of_file, prior, weights, o, *each) for each in enumerate(slices_of(o))]


def _drawn(prior: Prior, weights: str, o: Calibrate, index: int) -> KnownImage:
    return of_draw(prior, weights, o, index)[0]


def of_draw(
    prior: Prior, weights: str, o: Calibrate | Validate, index: int
) -> tuple[KnownImage, Tensor]:
    """Return an image drawn from the prior and measured, and the whole draw, (1, C, h, w).

    The whole draw is an image of the operator, which may go on beyond the frame.
    """
    assert o.operator is not None
    own, size = replace(o, seed=_seed(o, index)), (o.image_size, o.image_size)
    draw = partial(draw_image, prior, o, index)
    task, whole = simulated_draw(draw, size, own, o.operator)
    source = TaskInput(np.empty(0), Units())
    file_task = FileTask(task.y, task.operator, task.truth, task.margins, source=source)
    return KnownImage(f"{index}", file_task.on(o.device), prior, weights, own.seed), whole


def draw_image(
    prior: Prior, o: Calibrate | Validate, index: int, size: tuple[int, int], number: int = 0
) -> Tensor:
    """Return a draw of the prior for an image, (1, C, H, W); each number is another draw."""
    seed = item_seed(o.seed, (index, 1 + number), DRAWS)
    return draw_prior(prior, 1, size, seed, o.device, o.draw_steps).cpu()


def of_file(
    prior: Prior,
    weights: str,
    o: Calibrate | Compare | Tune,
    index: int,
    place: tuple[Path, int | None],
) -> KnownImage:
    """Return the image of a file, measured with noise of a seed of its own.

    Raises:
        ArgumentError: the file has no truth.
    """
    file, number = place
    own = replace(o, slice=number, slices=None, seed=_seed(o, index))
    assert o.operator is not None
    task = build_task(file, o.operator, own, prior.channels).on(o.device)
    accepted = "a clean image, or complete measured data"
    require(task.truth is not None, "INPUT", f"{file.name} without a truth", accepted)
    name = file.name if number is None else f"{file.name}, slice {number}"
    return KnownImage(name, task, task.fitted(prior), weights, own.seed)


def _seed(o: Calibrate | Validate | Compare | Tune, index: int) -> int:
    return item_seed(o.seed, (index, 0), DRAWS)


def slices_of(o: Calibrate | Compare | Tune) -> list[tuple[Path, int | None]]:
    """Return the files, each with every slice of the options."""
    numbers = [o.slice] if o.slices is None else list(range(*o.slices))
    require(len(numbers) > 0, "--slices", o.slices, "A:B with A < B")
    return [(file, number) for file in inputs_of(o.inputs) for number in numbers]


def sampler(o: Calibrate | Validate, name: str | None, known: KnownImage) -> Solver:
    """Return the solver of a name, or the one that suits samples of the problem."""
    if name is None:
        found = recommend(known.task.operator, known.prior, "samples")
        return adapted_solver(found, o, o.batch_size)
    cls = find_class("--solver", name, named_solvers(), Solver)
    plain = not (cls.deterministic or cls.restores or cls.volumes_only)
    require(plain, "--solver", name, "a solver that samples images")
    return make_solver(cls, o, o.batch_size)
