"""``wellposed reconstruct``: images and volumes from measured or simulated data."""

import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import typer

from wellposed.cli.batch import RECORD, Job, identity, report, write_table
from wellposed.cli.calibration import Calibration, as_calibrated, read_calibration
from wellposed.cli.groups import Groups, run_all
from wellposed.cli.names import (
    distinct_names,
    find_class,
    make_solver,
    use_device,
)
from wellposed.cli.priors import load_prior, prior_name
from wellposed.cli.recipes import as_tuned
from wellposed.cli.settings import Reconstruct
from wellposed.cli.shares import Share, own_share
from wellposed.cli.slabs import check_slab, run_slabs
from wellposed.cli.solving import Setup
from wellposed.cli.tasks import check_options_of
from wellposed.datasets.patterns import matched
from wellposed.datasets.reading import inputs_of
from wellposed.errors import ArgumentError, require
from wellposed.priors import Flat, Prior
from wellposed.priors.spatio_spectral.prior import NAME as SPATIO_SPECTRAL
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers import Solver
from wellposed.solvers.catalogue import named_solvers


def reconstruct(o: Reconstruct) -> None:
    """Reconstruct all inputs, or this process's share of them."""
    check_options_of(o.operator, o)
    used = o.checkpoint is not None or o.checkpoint_every == Reconstruct.checkpoint_every
    require(used, "--checkpoint-every", o.checkpoint_every, "only with --checkpoint FOLDER")
    o, recipe = as_tuned(o)
    conformal = None if o.calibration is None else read_calibration(o.calibration)
    o = o if conformal is None else as_calibrated(o, conformal)
    device, cls = use_device(o.device), _solver_class(o)
    if o.slab is not None:
        check_slab(o, cls)
    o = replace(o, volume=_takes_volume(o, cls), bands=o.bands or o.prior == SPATIO_SPECTRAL)
    fits = not (o.bands and (o.volume or o.slice is not None))
    require(fits, "--bands", "an image of many bands", "none with --slice, --slices or --volume")
    jobs, share = _jobs(o), _share(o)
    mine = share.of(jobs)
    if share.count > 1:
        text = f"part {share.index + 1} of {share.count}: {len(mine)} of {len(jobs)} inputs"
        typer.echo(text, err=True)
    if not mine:
        return
    prior = _prior(o, cls).to(device)
    show_log()
    weights = fingerprint(prior)
    calibration = None if conformal is None else Calibration(conformal, weights)
    failures = _run_all(Setup(o, cls, prior, weights, calibration, recipe), mine)
    table = write_table(o.out, jobs)
    if len(jobs) > 1 and table is not None:
        typer.echo(f"all results: {table}")
    report(failures, len(mine))


def _run_all(setup: Setup, jobs: list[Job]) -> list[str]:
    """Run all jobs; return one line per failure."""
    o = setup.o

    def mark(job: Job) -> str:
        return identity(o, setup.weights, files=job.files)

    if o.slab is not None:
        return run_all(jobs, partial(run_slabs, setup), mark)
    alone = o.volume or o.bands or o.checkpoint is not None
    size = 1 if alone else o.batch_size or 1
    return Groups(setup.prepare, setup.solve, mark, lambda made: made.key, size).run_all(jobs)


def _solver_class(o: Reconstruct) -> type[Solver] | None:
    """Return the class of --solver, whose settings must be valid; None if none is asked for."""
    if o.solver is None:
        require(not o.set, "--set", " ".join(o.set), "hyper-parameters of a --solver")
        return None
    cls = find_class("--solver", o.solver, named_solvers(), Solver)
    solver = make_solver(cls, o, o.batch_size)
    uses_data = getattr(solver, "data_steps", 1) > 0  # a sampler of restorers may not
    accepted = "a solver that uses INPUT; add --set data_steps=5"
    require(uses_data, "--solver", o.solver, accepted)
    return cls


def _prior(o: Reconstruct, cls: type[Solver] | None) -> Prior:
    """Return the prior, by default that of the operator."""
    if cls is None or cls.uses_prior:
        return load_prior(prior_name(o.operator, o), o)
    accepted = f"none with --solver {cls.name}, which uses no prior"
    require(o.prior is None, "--prior", o.prior, accepted)
    return Flat()


def _takes_volume(o: Reconstruct, cls: type[Solver] | None) -> bool:
    """Return whether the whole volume is reconstructed, not one slice."""
    asked = o.volume or o.slices is not None or o.slab is not None
    if asked and o.slice is not None:
        raise ArgumentError(
            "--slice: got a slice together with --volume or --slices, accepted: one of them"
        )
    return asked or (cls is not None and cls.volumes_only and o.slice is None)


def _jobs(o: Reconstruct) -> list[Job]:
    """Return one job per input; each of several has its own folders."""
    named = matched("INPUT", o.inputs)
    files = [f for f in inputs_of(o.inputs) if f in named or not _is_result(f, o.out)]
    accepted = "files that lie outside --out and are no results of earlier runs"
    require(len(files) > 0, "INPUT", "nothing but results", accepted)
    if len(files) == 1:
        return [Job(files[0], o.out, o.checkpoint, record=o.out / RECORD)]
    kept = o.checkpoint
    return [
        Job(
            *(file, o.out / name, None if kept is None else kept / name),
            record=o.out / name / RECORD,
        )
        for file, name in zip(files, distinct_names(files), strict=True)
    ]


def _is_result(file: Path, out: Path) -> bool:
    """Tell whether a file found in a folder is what an earlier run has written."""
    above = list(file.resolve().parents)
    return out.resolve() in above or any((folder / RECORD).is_file() for folder in above[:2])


def _share(o: Reconstruct) -> Share:
    """Return the share of this process; those of torchrun share the slices of volumes instead."""
    together = o.volume and o.slab is None and o.shard is None and "RANK" in os.environ
    return Share() if together else own_share(o.shard)


def show_log() -> None:
    """Write the package's log messages, such as memory plans and progress, to stderr."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("wellposed").setLevel(logging.INFO)
