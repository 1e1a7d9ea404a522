"""``wellposed reconstruct --slab``: volumes of which one slab is in memory at a time."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import typer
from torch import Tensor

from wellposed.cli.batch import Job, Row
from wellposed.cli.file_task import FileTask
from wellposed.cli.inputs import slices_of
from wellposed.cli.options import require_unused
from wellposed.cli.recipes import warn_of_other
from wellposed.cli.settings import Reconstruct
from wellposed.cli.solving import Setup
from wellposed.cli.tasks import check_name, task_from
from wellposed.datasets.checks import located
from wellposed.datasets.reading import Image, Measured, count_parts, read, read_part
from wellposed.datasets.volumes.slab_folder import SlabFolder
from wellposed.datasets.volumes.zarr_stores import ZarrVolume
from wellposed.errors import ShapeError, require
from wellposed.figures import format_table
from wellposed.operators import LinearOperator, Stacked
from wellposed.parallel.slabs import Slabs
from wellposed.priors import Itemwise, Prior, fit_range_by_slabs
from wellposed.solvers import Solver
from wellposed.solvers.volumes.slabs import require_images

OPTION = "--slab"
UNUSED = ("simulate", "slice", "bands", "checkpoint", "calibration", "report", "std_map")
"""Options of whole volumes and of single images."""


def check_slab(o: Reconstruct, cls: type[Solver] | None) -> None:
    """Raise unless the options allow to solve slices slab by slab."""
    require_unused(o, UNUSED, f"none with {OPTION}")
    if cls is not None:
        require_images(cls, "--solver")


@dataclass(frozen=True, eq=False)
class Source:
    """A volume that is read in parts.

    Attributes:
        depth: number of slices that are taken.
        part: returns the problem of the slices ``first`` to ``end`` of these.
        like: OME-NGFF volume of these slices, or None.
    """

    depth: int
    part: Callable[[int, int], FileTask]
    like: ZarrVolume | None = None

    def problem(self, first: int, end: int) -> tuple[Tensor, LinearOperator]:
        """Return measurement and operator of slices, as a batch of images."""
        return as_images(self.part(first, end))


def as_images(task: FileTask) -> tuple[Tensor, LinearOperator]:
    """Return the slices of a volume as a batch of images, with their operator."""
    stacked = task.operator
    assert isinstance(stacked, Stacked)
    return task.y[0].transpose(0, 1).contiguous(), stacked.operator


def opened(path: Path, o: Reconstruct, channels: int | None) -> Source:
    """Return the slices of a file, of which none is read yet where the format allows it.

    Raises:
        ArgumentError, ShapeError: a format whose geometry zarr does not keep, or no volume.
    """
    if ":" not in o.operator:
        check_name(o.operator, o)
    path = located("INPUT", path)
    count = count_parts(path)
    if count is not None:
        first, end = slices_of(count, o)

        def scan(start: int, stop: int) -> FileTask:
            found = read_part(path, first + start, first + stop)
            return task_from(found, o.operator, replace(o, slices=None), channels)

        return Source(end - first, scan)
    found = read(path)
    first, end = slices_of(_depth(found, o), o)

    def part(start: int, stop: int) -> FileTask:
        own = replace(o, slices=(first + start, first + stop))
        return task_from(found, o.operator, own, channels)

    whole = found.source if isinstance(found, Image) else None
    like = whole.cut(o.axis, first, end) if isinstance(whole, ZarrVolume) else None
    return Source(end - first, part, like)


def _depth(found: Image | Measured, o: Reconstruct) -> int:
    """Return the number of slices of a volume along the axis of the options."""
    if isinstance(found, Measured):
        return len(found.values)
    known = isinstance(found.source, Path | ZarrVolume)
    accepted = "OME-NGFF, zarr, HDF5 or NPY, which are read and written in parts"
    require(known, OPTION, f"{found.path.name}, a file of kind {found.kind}", accepted)
    shape = found.stored.shape
    if len(shape) not in (3, 4):
        raise ShapeError(f"input: {found.path.name} has shape {shape}, accepted: a volume")
    require(0 <= o.axis < 3, "axis", o.axis, "0 to 2")
    return int(shape[o.axis])


def run_slabs(setup: Setup, job: Job) -> list[Row]:
    """Solve a volume slab by slab, go on where a killed run ended; return its row of the table."""
    o = setup.o
    assert o.slab is not None
    source = opened(job.file, o, setup.prior.channels)
    like = source.like if o.like is None else _placed(o, source)
    folder = SlabFolder(job.out, {"mark": job.mark}, source.depth, o.slab, like, o.axis)
    slabs = Slabs(source.depth, o.slab, source.problem)
    prior, solver = _chosen(setup, source, slabs, folder)
    samples = setup.samples(solver)
    for first, end in slabs.ranges(folder.done):
        task = source.part(first, end).on(o.device)
        found = solver(
            *as_images(task),
            Itemwise(prior) if prior.anchor is None else prior,
            num_samples=samples,
            seed=o.seed,
            items=range(first, end),
        )
        folder.add(task.finished(found.cpu()))
        del task, found  # before the next slab is read
    return _told(setup, solver, folder, samples)


def _chosen(
    setup: Setup, source: Source, slabs: Slabs, folder: SlabFolder
) -> tuple[Prior, Solver]:
    """Return the prior in the units of the volume, and the solver, from the first slab."""
    task, prior = source.part(*next(slabs.ranges())), setup.prior
    if setup.recipe is not None:
        warn_of_other(setup.recipe, task, prior)
    if task.in_scanner_units and prior.has_range:
        known = folder.facts.get("range") or fit_range_by_slabs(prior, slabs).data_range
        folder.remember(range=known)
        prior = prior.with_range(*known)
    y, operator = as_images(task)
    return prior, setup.solver(replace(task, y=y, operator=operator), prior)


def _placed(o: Reconstruct, source: Source) -> ZarrVolume:
    """Return the volume of --like, which must have as many slices."""
    found = read(o.like) if o.like is not None else None
    like = found.source if isinstance(found, Image) else None
    accepted = f"an OME-NGFF volume of {source.depth} slices"
    fits = isinstance(like, ZarrVolume) and like.shape[o.axis] == source.depth
    require(fits, "--like", str(o.like), accepted)
    assert isinstance(like, ZarrVolume)
    return like


def _told(setup: Setup, solver: Solver, folder: SlabFolder, samples: int) -> list[Row]:
    """Tell what a run has made, and return its row of the table."""
    facts, paths = folder.facts, folder.finish()
    row = {
        "image": f"mean of {samples}" if samples > 1 else "mean",
        "slices": str(folder.depth),
        "residual": f"{median(facts['residual']):.3f}",
        "NFE": str(facts["nfe"]),
        "seconds": f"{facts['seconds']:.1f}",
    }
    if setup.cls is None:
        typer.echo(f"{solver.name}, {solver.steps} steps; --solver takes another")
    typer.echo(format_table(list(row), [list(row.values())]))
    typer.echo(f"wrote {' and '.join(map(str, paths))}")
    return [row | {"solver": solver.name, "seed": str(setup.o.seed)}]
