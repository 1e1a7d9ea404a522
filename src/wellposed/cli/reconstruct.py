"""``wellposed reconstruct``: measurements, or images and volumes measured first."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import typer

from wellposed.cli.failures import run_all
from wellposed.cli.names import (
    find_class,
    make_solver,
    require_distinct,
    use_device,
)
from wellposed.cli.priors import load_prior
from wellposed.cli.settings import Reconstruct
from wellposed.cli.summary import summarize
from wellposed.cli.tasks import build_task
from wellposed.datasets.files import stem_of
from wellposed.errors import ArgumentError, require
from wellposed.parallel import sharding
from wellposed.priors import Prior, Slicewise
from wellposed.reconstruction import Reconstruction
from wellposed.solvers import Solver
from wellposed.solvers.catalogue import named_solvers

PRIORS = {"mri": "brain-mri", "ct": "ct"}
"""Shipped priors of operators; that of the others is natural."""


def reconstruct(o: Reconstruct) -> None:
    """Reconstruct every file, of several processes this one's share."""
    device, solver = use_device(o.device), _solver(o)
    o = replace(o, volume=_takes_volume(o, solver))
    jobs = _jobs(o.inputs, o.out, o.checkpoint)
    name = o.prior or PRIORS.get(o.operator, "natural")
    prior = load_prior(name, o).to(device)
    _show_log()
    samples = o.num_samples if o.num_samples is not None else 1 if o.volume else 4
    every = o.checkpoint_every
    solve = partial(solver, num_samples=samples, seed=o.seed, checkpoint_every=every)
    mine = jobs if o.volume else _own_share(jobs)
    run_all(mine, partial(_run, o, prior, solve), lambda job: job.file.name)


def _solver(o: Reconstruct) -> Solver:
    """Return the solver; of restorers' samplers one that looks at the measurement."""
    name = o.solver or "dds"
    cls = find_class("--solver", name, named_solvers(), Solver)
    solver = make_solver(cls, o, o.batch_size)
    uses_data = getattr(solver, "data_steps", 1) > 0
    require(uses_data, "--solver", name, "with a prior: --set data_steps=5, or it ignores INPUT")
    return solver


def _takes_volume(o: Reconstruct, solver: Solver) -> bool:
    """Tell whether the whole volume is reconstructed, not a slice."""
    asked = o.volume or o.slices is not None
    if asked and o.slice is not None:
        raise ArgumentError("--slice: got one with --volume or --slices, accepted: one of these")
    return asked or (solver.volumes_only and o.slice is None)


@dataclass(frozen=True)
class _Job:
    """A file to read, and the folders of its result and of its checkpoint."""

    file: Path
    out: Path
    checkpoint: Path | None


def _jobs(inputs: tuple[Path, ...], out: Path, checkpoint: Path | None) -> list[_Job]:
    """Return what to do; folders of their own where there are several files."""
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


def _run(o: Reconstruct, prior: Prior, solve: Callable[..., Reconstruction], job: _Job) -> None:
    """Reconstruct one file, and write what process 0 has."""
    task = build_task(job.file, o.operator, o)
    y, physics = task.y.to(o.device), task.operator.to(o.device)
    part, held = sharding.shard(y, physics) if o.volume else (y, physics)
    found = solve(part, held, Slicewise(prior) if o.volume else prior, checkpoint=job.checkpoint)
    result = sharding.gather(found, held)
    if result is None:  # process 0 has it
        return
    result, reference = result.cpu(), task.inside(physics.A_dagger(y).cpu())
    result = replace(result, samples=task.inside(result.samples))
    path = result.save(job.out, reference=reference, truth=task.truth)
    placed = task.source.write(result, job.out)
    typer.echo(summarize(result, reference, task.truth))
    typer.echo(f"wrote {' and '.join(map(str, [path, path.with_suffix('.png'), *placed]))}")


def _show_log() -> None:
    """Write the package's messages, as plans and progress are, to stderr."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("wellposed").setLevel(logging.INFO)
