"""``wellposed reconstruct``: images and volumes from measured or simulated data."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import typer

from wellposed.cli.names import (
    find_class,
    make_solver,
    parse_assignments,
    require_distinct,
    use_device,
)
from wellposed.cli.settings import Reconstruct
from wellposed.cli.summary import summarize
from wellposed.cli.tasks import build_task
from wellposed.datasets.files import stem_of
from wellposed.errors import ArgumentError, ProcessLostError, WellposedError, require
from wellposed.parallel import sharding
from wellposed.priors import Prior, Slicewise
from wellposed.priors.stored.registry import load
from wellposed.reconstruction import Reconstruction
from wellposed.solvers import Solver
from wellposed.solvers.catalogue import named_solvers

PRIORS = {"mri": "brain-mri", "ct": "ct"}
"""Default priors of operators; the default of the others is natural."""


def reconstruct(o: Reconstruct) -> None:
    """Reconstruct all files, or this process's share of them."""
    device, solver = use_device(o.device), _solver(o)
    o = replace(o, volume=_takes_volume(o, solver))
    jobs = _jobs(o.inputs, o.out, o.checkpoint)
    name = o.prior or PRIORS.get(o.operator, "natural")
    prior = load(name, **parse_assignments("--load", o.load)).to(device)
    _show_log()
    samples = o.num_samples if o.num_samples is not None else 1 if o.volume else 4
    every = o.checkpoint_every
    solve = partial(solver, num_samples=samples, seed=o.seed, checkpoint_every=every)
    _run_all(jobs if o.volume else _own_share(jobs), partial(_run, o, prior, solve))


def _solver(o: Reconstruct) -> Solver:
    """Return the solver; a sampler of restorers must use the measurement."""
    name = o.solver or "dds"
    cls = find_class("--solver", name, named_solvers(), Solver)
    solver = make_solver(cls, o, o.batch_size)
    uses_data = getattr(solver, "data_steps", 1) > 0
    accepted = "a solver that uses INPUT; add --set data_steps=5"
    require(uses_data, "--solver", name, accepted)
    return solver


def _takes_volume(o: Reconstruct, solver: Solver) -> bool:
    """Return whether the whole volume is reconstructed, not one slice."""
    asked = o.volume or o.slices is not None
    if asked and o.slice is not None:
        raise ArgumentError(
            "--slice: got a slice together with --volume or --slices, accepted: one of them"
        )
    return asked or (solver.volumes_only and o.slice is None)


@dataclass(frozen=True)
class _Job:
    """An input file, and the folders of its result and its checkpoint."""

    file: Path
    out: Path
    checkpoint: Path | None


def _jobs(inputs: tuple[Path, ...], out: Path, checkpoint: Path | None) -> list[_Job]:
    """Return one job per file; each of several files has its own folders."""
    if len(inputs) == 1:
        return [_Job(inputs[0], out, checkpoint)]
    names = [stem_of(path) for path in inputs]
    require_distinct(names)
    return [
        _Job(path, out / name, None if checkpoint is None else checkpoint / name)
        for path, name in zip(inputs, names, strict=True)
    ]


def _own_share(jobs: list[_Job]) -> list[_Job]:
    """Return the images that this process reconstructs."""
    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    accepted = "a volume with --volume, or at least as many images as processes"
    shared = len(jobs) >= processes
    require(shared, "INPUT", f"{len(jobs)} images for {processes} processes", accepted)
    return jobs[rank::processes]


def _run_all(jobs: list[_Job], run: Callable[[_Job], None]) -> None:
    """Run all jobs; the others still run if one fails."""
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


def _run(o: Reconstruct, prior: Prior, solve: Callable[..., Reconstruction], job: _Job) -> None:
    """Reconstruct one file, and write the result on process 0."""
    task = build_task(job.file, o.operator, o)
    y, physics = task.y.to(o.device), task.operator.to(o.device)
    part, held = sharding.shard(y, physics) if o.volume else (y, physics)
    found = solve(part, held, Slicewise(prior) if o.volume else prior, checkpoint=job.checkpoint)
    result = sharding.gather(found, held)
    if result is None:  # process 0 has the result
        return
    result, reference = result.cpu(), physics.A_dagger(y).cpu()
    path = result.save(job.out, reference=reference, truth=task.truth)
    placed = task.source.write(result, job.out)
    typer.echo(summarize(result, reference, task.truth))
    typer.echo(f"wrote {' and '.join(map(str, [path, path.with_suffix('.png'), *placed]))}")


def _show_log() -> None:
    """Write the package's log messages, such as memory plans and progress, to stderr."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("wellposed").setLevel(logging.INFO)
