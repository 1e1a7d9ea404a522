"""``wellposed reconstruct``: measurements, or images and volumes measured first."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wellposed.errors import (
    ArgumentError,
    ProcessLostError,
    WellposedError,
    require,
    require_choice,
)

if TYPE_CHECKING:
    from wellposed.cli.inputs import TaskOptions
    from wellposed.priors.prior import Prior
    from wellposed.reconstruction import Reconstruction

PRIORS = {"mri": "brain-mri", "ct": "ct"}
"""Shipped priors of operators; that of the others is natural."""


def reconstruct(  # noqa: PLR0913 - the options of a command are its signature
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...", help="PNG, JPEG, NPY, HDF5 or NIfTI; of several, each by itself."
        ),
    ],
    operator: Annotated[str, typer.Option(help="Forward operator, see `wellposed list`.")],
    out: Annotated[Path, typer.Option(help="Folder for the result; of several, of theirs.")],
    prior: Annotated[
        str | None,
        typer.Option(
            help="Shipped prior, or folder of a trained or diffusers one; default: brain-mri for "
            "MRI, ct for CT, else natural."
        ),
    ] = None,
    solver: Annotated[str, typer.Option(help="Solver, see `wellposed list`.")] = "dds",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Hyper-parameter, e.g. gamma=5; repeatable.")
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(help="Posterior samples; default: 4, of volumes 1.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of masks, simulated noise and samples.")] = 0,
    simulate: Annotated[
        bool, typer.Option(help="INPUT is a clean image: measure it first, then compare.")
    ] = False,
    noise_sigma: Annotated[float, typer.Option(help="Noise level of the measurement.")] = 0.0,
    factor: Annotated[int, typer.Option(help="Super-resolution factor.")] = 4,
    kernel: Annotated[str, typer.Option(help="Super-resolution kernel.")] = "bicubic",
    blur_sigma: Annotated[float, typer.Option(help="Gaussian blur, pixels.")] = 3.0,
    mask: Annotated[Path | None, typer.Option(help="Inpainting: image of known pixels.")] = None,
    keep: Annotated[float, typer.Option(help="Inpainting: fraction kept at random.")] = 0.5,
    acceleration: Annotated[float, typer.Option(help="MRI undersampling.")] = 4.0,
    coils: Annotated[int, typer.Option(help="Simulated MRI coils.")] = 8,
    views: Annotated[int, typer.Option(help="CT views, equally spaced over --arc.")] = 60,
    arc: Annotated[
        float, typer.Option(help="Degrees of the CT views; below 180 a limited angle.")
    ] = 180.0,
    window: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Values of a clean image taken for 0 and 1; default: -1000 1000 for CT in HU, "
            "else 0 and the 99.8 percentile."
        ),
    ] = None,
    axis: Annotated[
        int, typer.Option(help="Axis across which a volume is sliced; NIfTI as (D, H, W).")
    ] = 0,
    slice_: Annotated[int | None, typer.Option("--slice", help="Slice; default: middle.")] = None,
    volume: Annotated[
        bool,
        typer.Option(
            "--volume", help="Reconstruct the volume; implied by --slices and solvers of volumes."
        ),
    ] = False,
    slices: Annotated[
        str | None,
        typer.Option(metavar="A:B", help="Slices A to B - 1 of a volume; default: all."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder that keeps the run: after a kill, go on from it.")
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between two states kept.")] = 10,
) -> None:
    """Reconstruct measurements, or simulated ones of clean images or volumes (--simulate).

    Several processes share the slices of a volume, or deal out images: torchrun
    --nproc-per-node 4 -m wellposed reconstruct ...
    """
    from wellposed.cli.inputs import TaskOptions
    from wellposed.cli.options import parse_settings, solver_classes
    from wellposed.priors.stored.registry import load

    classes = solver_classes()
    cls = classes[require_choice("--solver", solver, classes)]
    method = cls(**parse_settings(cls, set_ or []))
    uses_data = getattr(method, "data_steps", 1) > 0
    require(uses_data, "--solver", solver, "with a prior: --set data_steps=5, or it ignores INPUT")
    whole = volume or slices is not None or (_is_of_volumes(cls) and slice_ is None)
    if whole and slice_ is not None:
        raise ArgumentError("--slice: got one with --volume or --slices, accepted: one of these")
    options = TaskOptions(
        simulate=simulate,
        noise_sigma=noise_sigma,
        seed=seed,
        factor=factor,
        kernel=kernel,
        blur_sigma=blur_sigma,
        mask=mask,
        keep=keep,
        acceleration=acceleration,
        coils=coils,
        views=views,
        arc=arc,
        window=window,
        axis=axis,
        slice=slice_,
        volume=whole,
        slices=None if slices is None else _range("--slices", slices),
    )
    jobs = _jobs(inputs, out, checkpoint)
    if not whole:
        jobs = _own_share(jobs)
    model = load(prior or PRIORS.get(operator, "natural"))
    _show_log()
    samples = num_samples if num_samples is not None else 1 if whole else 4
    run = partial(method, num_samples=samples, seed=seed, checkpoint_every=checkpoint_every)
    _run_all(jobs, lambda job: _run(job, operator, options, model, run))


@dataclass(frozen=True)
class _Job:
    """A file to read, and the folders of its result and of its checkpoint."""

    file: Path
    out: Path
    checkpoint: Path | None


def _jobs(inputs: list[Path], out: Path, checkpoint: Path | None) -> list[_Job]:
    """Return what to do; folders of their own where there are several files."""
    from wellposed.datasets.files import stem_of

    if len(inputs) == 1:
        return [_Job(inputs[0], out, checkpoint)]
    names = [stem_of(path) for path in inputs]
    double = next((name for name in names if names.count(name) > 1), None)
    require(double is None, "INPUT", f"several files called {double!r}", "one of each name")
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
    options: "TaskOptions",
    prior: "Prior",
    method: Callable[..., "Reconstruction"],
) -> None:
    """Reconstruct one file, and write what process 0 has."""
    from wellposed.cli.inputs import build_task
    from wellposed.cli.summary import summarize
    from wellposed.parallel import sharding
    from wellposed.priors import Slicewise

    task, whole = build_task(job.file, operator, options), options.volume
    y, held = sharding.shard(task.y, task.operator) if whole else (task.y, task.operator)
    part = method(y, held, Slicewise(prior) if whole else prior, checkpoint=job.checkpoint)
    result = sharding.gather(part, held)
    if result is None:  # process 0 has it
        return
    reference = task.operator.A_dagger(task.y)
    path = result.save(job.out, reference=reference, truth=task.truth)
    placed = task.source.write(result, job.out)
    typer.echo(summarize(result, reference, task.truth))
    typer.echo(f"wrote {' and '.join(map(str, [path, path.with_suffix('.png'), *placed]))}")


def _is_of_volumes(solver: type) -> bool:
    from wellposed.solvers.volumes.tv import VolumeSolver

    return issubclass(solver, VolumeSolver)


def _range(option: str, text: str) -> tuple[int, int]:
    try:
        first, end = map(int, text.split(":"))
    except ValueError:
        raise ArgumentError(f"{option}: got {text!r}, accepted: A:B, as 100:116") from None
    return first, end


def _show_log() -> None:
    """Write the package's messages, as plans and progress are, to stderr."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("wellposed").setLevel(logging.INFO)
