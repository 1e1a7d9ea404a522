"""Inputs of ``wellposed reconstruct``: what is solved, alone or in a batch, and written."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import typer

from wellposed.benchmark import Recipe
from wellposed.cli.batch import Job, Row
from wellposed.cli.calibration import Calibration
from wellposed.cli.file_task import FileTask
from wellposed.cli.inputs import TaskInput, check_std_map, placed_like
from wellposed.cli.names import adapted_solver, make_solver
from wellposed.cli.recipes import warn_of_other
from wellposed.cli.reports import report_reconstruction
from wellposed.cli.settings import Reconstruct
from wellposed.cli.summary import summarize
from wellposed.cli.tasks import build_task
from wellposed.cli.together import solved_together, together_key
from wellposed.datasets.writing import require_free, write_map_like
from wellposed.figures import format_table
from wellposed.parallel import sharding
from wellposed.priors import Prior, Slicewise
from wellposed.reconstruction import Reconstruction
from wellposed.solvers import Solver, recommend


@dataclass(frozen=True, eq=False)
class Prepared:
    """An input that is read.

    Attributes:
        job: the input.
        task: its problem.
        place: where the result is written.
        prior: the prior in its units.
        solver: the solver.
        samples: number of samples.
    """

    job: Job
    task: FileTask
    place: TaskInput
    prior: Prior
    solver: Solver
    samples: int

    @property
    def key(self) -> Hashable:
        """Equal for inputs that may be solved in one batch."""
        return repr(self.solver), self.samples, together_key(self.task)


@dataclass(frozen=True, eq=False)
class Setup:
    """What all inputs share.

    Attributes:
        o: the options.
        cls: class of --solver, or None.
        prior: the prior.
        weights: its fingerprint.
        calibration: that of --calibration, or None.
        recipe: that of --recipe, or None.
    """

    o: Reconstruct
    cls: type[Solver] | None
    prior: Prior
    weights: str
    calibration: Calibration | None = None
    recipe: Recipe | None = None

    def solver(self, task: FileTask, prior: Prior) -> Solver:
        """Return the solver of --solver, or the one that suits the problem."""
        o = self.o
        if self.cls is not None:
            return make_solver(self.cls, o, o.batch_size)
        goal = "mean" if o.num_samples is None else "samples"
        return adapted_solver(recommend(task.operator, prior, goal), o, o.batch_size)

    def samples(self, solver: Solver) -> int:
        """Return the number of samples, by default of a solver."""
        usual = 1 if self.o.volume or solver.deterministic else 4
        return usual if self.o.num_samples is None else self.o.num_samples

    def prepare(self, job: Job) -> Prepared:
        """Read an input, and check what can be checked before it is solved."""
        o = self.o
        task = build_task(job.file, o.operator, o, self.prior.channels).on(o.device)
        place = task.source if o.like is None else placed_like(task.source, o.like)
        if place.source is not None:
            require_free(job.out, place.source)
        if self.recipe is not None:
            warn_of_other(self.recipe, task, self.prior)
        prior = task.fitted(self.prior)
        prior = Slicewise(prior) if o.volume else prior
        solver = self.solver(task, prior)
        samples = self.samples(solver)
        if o.std_map:
            check_std_map(place, samples)
        if self.calibration is not None:
            self.calibration.check(task, prior, solver, samples)
        return Prepared(job, task, place, prior, solver, samples)

    def solve(self, group: Sequence[Prepared]) -> list[list[Row] | None]:
        """Solve one input, or several in a batch; write the results, return rows of the table."""
        if len(group) == 1:
            return [self._alone(group[0])]
        first = group[0]
        tasks, priors = [each.task for each in group], [each.prior for each in group]
        results = solved_together(
            tasks, priors, self.prior, first.solver, first.samples, self.o.seed
        )
        return [self._written(p, found) for p, found in zip(group, results, strict=True)]

    def _alone(self, p: Prepared) -> list[Row] | None:
        """Solve one input; a volume with the other processes of torchrun."""
        o, y, physics = self.o, p.task.y, p.task.operator
        part, held = sharding.shard(y, physics) if o.volume else (y, physics)
        found = p.solver(
            *(part, held, p.prior),
            num_samples=p.samples,
            seed=o.seed,
            checkpoint=p.job.checkpoint,
            checkpoint_every=o.checkpoint_every,
        )
        gathered = sharding.gather(found, held)
        return None if gathered is None else self._written(p, gathered)  # process 0 has it

    def _written(self, p: Prepared, found: Reconstruction) -> list[Row]:
        """Write a result, tell what it is, and return its row of the table."""
        task, job = p.task, p.job
        result = task.finished(found.cpu())
        result = result if self.calibration is None else self.calibration.applied(result)
        others = {name: image.cpu() for name, image in task.plain().items()}
        path = result.save(job.out, others=others, truth=task.truth)
        series = p.place.write(result, job.out)
        written = [path, path.with_suffix(".png"), *series]
        if self.o.std_map and series:
            written.append(write_map_like(result, job.out, p.place.axis))
        summary = summarize(result, others, task.truth, task.peak)
        if self.o.report:
            facts = {"fingerprint of the prior": self.weights}
            images = (others, task.truth)
            written.append(report_reconstruction(self.o, job, result, images, summary, facts))
        if self.cls is None:
            typer.echo(f"{p.solver.name}, {p.solver.steps} steps; --solver takes another")
        typer.echo(format_table(summary.header, summary.rows))
        typer.echo(f"wrote {' and '.join(map(str, written))}")
        return [summary.row]
