"""``wellposed reconstruct``: measurements, or images and volumes measured first."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wellposed.checks import setting
from wellposed.cli.settings import InputOptions, PriorOptions, RunOptions, SolverOptions
from wellposed.errors import ArgumentError, ProcessLostError, WellposedError, require

if TYPE_CHECKING:
    from wellposed.priors.prior import Prior
    from wellposed.reconstruction import Reconstruction
    from wellposed.solvers import Solver

PRIORS = {"mri": "brain-mri", "ct": "ct"}
"""Shipped priors of operators; that of the others is natural."""


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Where the state of a run is kept."""

    checkpoint: Path | None = setting(
        None, "Folder that keeps the run: after a kill, go on from it."
    )
    checkpoint_every: int = setting(10, "Steps between two states kept.")


def reconstruct(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...", help="PNG, JPEG, NPY, HDF5 or NIfTI; of several, each by itself."
        ),
    ],
    operator: Annotated[
        str, typer.Option(help="Forward operator, see `wellposed list`, or MODULE:CLASS.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the result; of several, of theirs.")],
    problem: InputOptions,
    known: PriorOptions,
    method: SolverOptions,
    run: RunOptions,
    kept: CheckpointOptions,
) -> None:
    """Reconstruct measurements, or simulated ones of clean images or volumes (--simulate).

    Several processes share the slices of a volume, or deal out images: torchrun
    --nproc-per-node 4 -m wellposed reconstruct ...
    """
    from wellposed.cli.names import parse_assignments
    from wellposed.priors.stored.registry import load

    device, solver = run.place(), _solver(method, run.batch_size)
    problem = replace(problem, volume=_takes_volume(problem, solver))
    jobs = _jobs(inputs, out, kept.checkpoint)
    source, more = known.prior or PRIORS.get(operator, "natural"), known.load
    prior = load(source, **parse_assignments("--load", more)).to(device)
    _show_log()
    samples = run.num_samples if run.num_samples is not None else 1 if problem.volume else 4
    every = kept.checkpoint_every
    solve = partial(solver, num_samples=samples, seed=run.seed, checkpoint_every=every)
    share = jobs if problem.volume else _own_share(jobs)
    _run_all(share, lambda job: _run(job, operator, problem, prior, solve, device))


def _solver(chosen: SolverOptions, batch_size: int | None) -> "Solver":
    """Return the solver; of restorers' samplers one that looks at the measurement."""
    from wellposed.cli.names import find_class, make_solver, solver_classes
    from wellposed.solvers import Solver

    name = chosen.solver or "dds"
    cls = find_class("--solver", name, solver_classes(), Solver)
    solver = make_solver(cls, chosen, batch_size)
    uses_data = getattr(solver, "data_steps", 1) > 0
    require(uses_data, "--solver", name, "with a prior: --set data_steps=5, or it ignores INPUT")
    return solver


def _takes_volume(problem: InputOptions, solver: "Solver") -> bool:
    """Tell whether the whole volume is reconstructed, not a slice."""
    from wellposed.solvers.volumes.tv import VolumeSolver

    asked = problem.volume or problem.slices is not None
    if asked and problem.slice is not None:
        raise ArgumentError("--slice: got one with --volume or --slices, accepted: one of these")
    return asked or (isinstance(solver, VolumeSolver) and problem.slice is None)


@dataclass(frozen=True)
class _Job:
    """A file to read, and the folders of its result and of its checkpoint."""

    file: Path
    out: Path
    checkpoint: Path | None


def _jobs(inputs: list[Path], out: Path, checkpoint: Path | None) -> list[_Job]:
    """Return what to do; folders of their own where there are several files."""
    from wellposed.cli.names import require_distinct
    from wellposed.datasets.files import stem_of

    if len(inputs) == 1:
        return [_Job(inputs[0], out, checkpoint)]
    names = [stem_of(path) for path in inputs]
    require_distinct(names)
    return [
        _Job(path, out / name, None if checkpoint is None else checkpoint / name)
        for path, name in zip(inputs, names, strict=True)
    ]


def _own_share(jobs: list[_Job]) -> list[_Job]:
    """Return the images that this one of several processes reconstructs."""
    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    accepted = "a volume, --volume, or at least as many images as processes"
    shared = len(jobs) >= processes
    require(shared, "INPUT", f"{len(jobs)} images for {processes} processes", accepted)
    return jobs[rank::processes]


def _run_all(jobs: list[_Job], run: Callable[[_Job], None]) -> None:
    """Run all jobs; those that fail do not keep the others from being done."""
    failures = []
    for job in jobs:
        try:
            run(job)
        except WellposedError as error:
            if len(jobs) == 1 or isinstance(error, ProcessLostError):
                raise
            failures.append(f"{job.file.name}: {error}")
    if failures:
        raise ArgumentError(f"INPUT: {len(failures)} of {len(jobs)} failed: {'; '.join(failures)}")


def _run(
    job: _Job,
    operator: str,
    problem: InputOptions,
    prior: "Prior",
    solve: Callable[..., "Reconstruction"],
    device: str,
) -> None:
    """Reconstruct one file, and write what process 0 has."""
    from wellposed.cli.summary import summarize
    from wellposed.cli.tasks import build_task
    from wellposed.parallel import sharding
    from wellposed.priors import Slicewise

    task, whole = build_task(job.file, operator, problem), problem.volume
    y, physics = task.y.to(device), task.operator.to(device)
    part, held = sharding.shard(y, physics) if whole else (y, physics)
    found = solve(part, held, Slicewise(prior) if whole else prior, checkpoint=job.checkpoint)
    result = sharding.gather(found, held)
    if result is None:  # process 0 has it
        return
    result, reference = result.cpu(), physics.A_dagger(y).cpu()
    path = result.save(job.out, reference=reference, truth=task.truth)
    placed = task.source.write(result, job.out)
    typer.echo(summarize(result, reference, task.truth))
    typer.echo(f"wrote {' and '.join(map(str, [path, path.with_suffix('.png'), *placed]))}")


def _show_log() -> None:
    """Write the package's messages, as plans and progress are, to stderr."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("wellposed").setLevel(logging.INFO)
