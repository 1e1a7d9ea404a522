"""``wellposed reconstruct``: images and volumes from measured or simulated data."""

import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import typer

from wellposed.benchmark import Recipe
from wellposed.cli.batch import RECORD, Job, Row, identity, report, run_all, write_table
from wellposed.cli.calibration import Calibration, as_calibrated, read_calibration
from wellposed.cli.file_task import FileTask
from wellposed.cli.inputs import placed_like
from wellposed.cli.names import (
    adapted_solver,
    distinct_names,
    find_class,
    make_solver,
    use_device,
)
from wellposed.cli.priors import load_prior, prior_name
from wellposed.cli.recipes import as_tuned, warn_of_other
from wellposed.cli.reports import report_reconstruction
from wellposed.cli.settings import Reconstruct
from wellposed.cli.shares import Share, own_share
from wellposed.cli.summary import summarize
from wellposed.cli.tasks import build_task, check_options_of
from wellposed.datasets.reading import inputs_of, matched
from wellposed.datasets.writing import require_free
from wellposed.errors import ArgumentError, require
from wellposed.figures import format_table
from wellposed.parallel import sharding
from wellposed.priors import Flat, Prior, Slicewise
from wellposed.priors.spatio_spectral.prior import NAME as SPATIO_SPECTRAL
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers import Solver, recommend
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
    run = partial(_run, o, prior, cls, weights, calibration, recipe)
    failures = run_all(mine, run, lambda job: identity(o, weights, files=job.files))
    table = write_table(o.out, jobs)
    if len(jobs) > 1 and table is not None:
        typer.echo(f"all results: {table}")
    report(failures, len(mine))


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


def _solver(o: Reconstruct, cls: type[Solver] | None, task: FileTask, prior: Prior) -> Solver:
    """Return the solver of --solver, or the one that suits the problem."""
    if cls is not None:
        return make_solver(cls, o, o.batch_size)
    goal = "mean" if o.num_samples is None else "samples"
    return adapted_solver(recommend(task.operator, prior, goal), o, o.batch_size)


def _takes_volume(o: Reconstruct, cls: type[Solver] | None) -> bool:
    """Return whether the whole volume is reconstructed, not one slice."""
    asked = o.volume or o.slices is not None
    if asked and o.slice is not None:
        raise ArgumentError(
            "--slice: got a slice together with --volume or --slices, accepted: one of them"
        )
    return asked or (cls is not None and cls.volumes_only and o.slice is None)


def _jobs(o: Reconstruct) -> list[Job]:
    """Return one job per input; each of several has its own folders."""
    named = matched(o.inputs)
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
    together = o.volume and o.shard is None and "RANK" in os.environ
    return Share() if together else own_share(o.shard)


def _run(
    o: Reconstruct,
    prior: Prior,
    cls: type[Solver] | None,
    weights: str,
    calibration: Calibration | None,
    recipe: Recipe | None,
    job: Job,
) -> list[Row] | None:
    """Reconstruct one input, write the result on process 0, and return its row of the table."""
    task = build_task(job.file, o.operator, o, prior.channels).on(o.device)
    place = task.source if o.like is None else placed_like(task.source, o.like)
    if place.source is not None:
        require_free(job.out, place.source)
    if recipe is not None:
        warn_of_other(recipe, task, prior)
    prior, y, physics = task.fitted(prior), task.y, task.operator
    prior = Slicewise(prior) if o.volume else prior
    part, held = sharding.shard(y, physics) if o.volume else (y, physics)
    solver = _solver(o, cls, task, prior)
    usual = 1 if o.volume or solver.deterministic else 4
    samples = usual if o.num_samples is None else o.num_samples
    if calibration is not None:
        calibration.check(task, prior, solver, samples)
    found = solver(
        *(part, held, prior),
        num_samples=samples,
        seed=o.seed,
        checkpoint=job.checkpoint,
        checkpoint_every=o.checkpoint_every,
    )
    gathered = sharding.gather(found, held)
    if gathered is None:  # process 0 has the whole result
        return None
    result = task.finished(gathered.cpu())
    result = result if calibration is None else calibration.applied(result)
    others = {name: image.cpu() for name, image in task.plain().items()}
    path = result.save(job.out, others=others, truth=task.truth)
    written = [path, path.with_suffix(".png"), *place.write(result, job.out)]
    summary = summarize(result, others, task.truth, task.peak)
    if o.report:
        facts = {"fingerprint of the prior": weights}
        images = (others, task.truth)
        written.append(report_reconstruction(o, job, result, images, summary, facts))
    if cls is None:
        typer.echo(f"{solver.name}, {solver.steps} steps; --solver takes another")
    typer.echo(format_table(summary.header, summary.rows))
    typer.echo(f"wrote {' and '.join(map(str, written))}")
    return [summary.row]


def show_log() -> None:
    """Write the package's log messages, such as memory plans and progress, to stderr."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("wellposed").setLevel(logging.INFO)
