"""``wellposed restore``: restores photographs of any size with a trained restorer."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from torch import Tensor

from wellposed.cli.batch import Job, Row, identity, report, write_table
from wellposed.cli.groups import run_all
from wellposed.cli.names import (
    find_class,
    make_solver,
    require_distinct,
    same_name,
    use_device,
)
from wellposed.cli.priors import load_prior
from wellposed.cli.recipes import as_tuned
from wellposed.cli.settings import RESTORED_OPERATORS, InputOptions, Restore
from wellposed.cli.shares import own_share
from wellposed.cli.summary import quality
from wellposed.cli.tasks import blur_kernel, check_options_of, image_of, task_of
from wellposed.conditions import PRIOR
from wellposed.datasets.files import files_below, suffix_of
from wellposed.datasets.images.photograph import (
    PHOTOGRAPH_SUFFIXES,
    Photograph,
    read_photograph,
    write_photograph,
)
from wellposed.datasets.patterns import matched
from wellposed.errors import ArgumentError, FileError, ShapeError, require
from wellposed.figures import format_table, write_figure
from wellposed.operators.presets import reflected_blur
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers.catalogue import named_solvers
from wellposed.solvers.restoration import restore as restoring
from wellposed.solvers.restoration.base import Restoration

if TYPE_CHECKING:
    from deepinv.physics import Physics

DATA_STEPS = 5
"""Conjugate-gradient steps per evaluation if the operator is known."""

RECORDS = ".records"
"""Folder of what is known of finished or failed photographs."""

Pair = tuple[Path, Path | None]
"""A degraded image, and its clean one if there is."""


def restore(o: Restore) -> None:
    """Restore all images and report their quality."""
    o, recipe = as_tuned(o)
    operator = _operator(o)
    pairs = _paired(_images_of(o.inputs), o.truth)
    _check_folder(o.out, [path for pair in pairs for path in pair if path is not None])
    restorer = load_prior(o.prior, o).to(use_device(o.device))
    require(restorer.anchor is not None, "--prior", o.prior, "a restorer; see wellposed list")
    shrinks = operator != "super-resolution" or restorer.upsample > 1
    accepted = f"an operator that keeps the size, as the restorer {o.prior!r} does"
    require(shrinks, "--operator", operator, accepted)
    solver = _solver(o, restorer)
    jobs, clean = _jobs(pairs, o.out), dict(pairs)
    mine, weights = own_share(o.shard).of(jobs), fingerprint(restorer)
    if recipe is not None:
        recipe.warn_of({PRIOR: weights})

    def run(job: Job) -> list[Row]:
        return _restored((job.file, clean[job.file]), o, operator, restorer, solver)

    failures = run_all(mine, run, lambda job: identity(o, weights, str(solver), files=job.files))
    table = write_table(o.out, jobs)
    if table is not None:
        typer.echo(f"all results: {table}")
    report(failures, len(mine))


def _jobs(pairs: list[Pair], out: Path) -> list[Job]:
    """Return one job per photograph; results lie side by side."""
    jobs = []
    for file, clean in pairs:
        beside = () if clean is None else (clean,)
        jobs.append(Job(file, out, record=out / RECORDS / f"{file.stem}.json", beside=beside))
    return jobs


def _restored(
    pair: Pair, o: Restore, operator: str | None, restorer: Prior, solver: Restoration
) -> list[Row]:
    """Restore one image, write it, and return its rows of the table."""
    file, clean = pair
    photograph = _read(file, restorer)
    image = _image(photograph, restorer)
    exact = None if clean is None else _image(_opaque(clean, restorer), restorer)
    _check_truth(pair, image, exact, restorer)
    y, physics = _measured(image, operator, replace(o, factor=restorer.upsample))
    physics = None if physics is None else physics.to(o.device)
    samples = 1 if o.num_samples is None else o.num_samples
    tile = restoring.TILE if o.tile is None else o.tile
    found = restoring.restore(
        y.to(o.device), restorer, solver, physics, samples, o.seed, tile
    ).cpu()
    others = {"input": restoring.enlarged(image, restorer)}
    _write(found, photograph, o.out / file.stem)
    write_figure(found.plot(others=others, truth=exact), o.out / f"{file.stem}-panel.png")
    pictures = {**others, found.kind: found.samples[0]}
    pictures |= {f"mean of {samples}": found.mean} if samples > 1 else {}
    rows = _rows(pictures, exact, found)
    header = list(rows[0])
    typer.echo(format_table(["image", *header], [[file.name, *row.values()] for row in rows]))
    return rows


def _operator(o: Restore) -> str | None:
    operator = o.operator
    if operator is not None and ":" not in operator:
        operator = same_name("--operator", operator, RESTORED_OPERATORS)
    check_options_of(operator, o)
    return operator


def _images_of(inputs: tuple[Path, ...]) -> list[Path]:
    """Return the image files, and all image files in the folders and their subfolders."""
    files = []
    for path in matched("INPUT", inputs):
        found = files_below(path, PHOTOGRAPH_SUFFIXES) if path.is_dir() else [path]
        if not found:
            raise FileError(f"INPUT: no {', '.join(PHOTOGRAPH_SUFFIXES)} files in {str(path)!r}")
        files += found
    require_distinct([file.stem for file in files])
    return files


def _paired(files: list[Path], truth: Path | None) -> list[Pair]:
    """Return every file with its clean image, that of the same name in a folder."""
    if truth is None:
        return [(file, None) for file in files]
    if not truth.is_dir():
        require(len(files) == 1, "--truth", str(truth), "a folder for several images")
        return [(files[0], truth)]
    clean = {p.stem: p for p in sorted(truth.iterdir()) if suffix_of(p) in PHOTOGRAPH_SUFFIXES}
    lacking = next((file.stem for file in files if file.stem not in clean), None)
    if lacking is not None:
        raise FileError(f"--truth: no image named {lacking!r} in {str(truth)!r}")
    return [(file, clean[file.stem]) for file in files]


def _check_folder(out: Path, files: list[Path]) -> None:
    """Raise if an output file could overwrite an input file."""
    there = next((file for file in files if file.resolve().parent == out.resolve()), None)
    if there is not None:
        raise ArgumentError(f"--out: got the folder of {str(there)!r}, accepted: another folder")


def _check_truth(pair: Pair, image: Tensor, exact: Tensor | None, restorer: Prior) -> None:
    """Raise unless the clean image is of the restored one's size."""
    file, clean = pair
    upsample = restorer.upsample
    wanted = tuple(upsample * side for side in image.shape[-2:])
    if clean is not None and exact is not None and tuple(exact.shape[-2:]) != wanted:
        raise ShapeError(
            f"--truth: {clean.name} has {tuple(exact.shape[-2:])} pixels, accepted: {wanted}, "
            f"{upsample} times those of {file.name}"
        )


def _solver(o: Restore, restorer: Prior) -> Restoration:
    """Return the sampler of the options, or the restorer's default sampler."""
    classes = {n: cls for n, cls in named_solvers().items() if issubclass(cls, Restoration)}
    cls = restoring.default_sampler(restorer)
    if o.solver is not None:
        cls = find_class("--solver", o.solver, classes, Restoration)
    steps = restoring.default_steps(restorer, cls)
    pulled = {} if o.operator is None else {"data_steps": DATA_STEPS}
    return make_solver(cls, o, o.batch_size, steps=steps, **pulled)


def _read(file: Path, restorer: Prior) -> Photograph:
    """Return a photograph that the restorer can take."""
    photograph = read_photograph(file)
    if restorer.channels == 1 < photograph.pixels.shape[-1]:
        raise ShapeError(f"INPUT: {file.name} is in colours, accepted: grey images")
    return photograph


def _opaque(file: Path, restorer: Prior) -> Photograph:
    """Return the photograph of a clean image, all of which must be seen to compare with it."""
    photograph = _read(file, restorer)
    require(photograph.opaque, "--truth", f"{file.name}, with transparent pixels", "opaque ones")
    return photograph


def _image(photograph: Photograph, restorer: Prior) -> Tensor:
    """Return an image (1, C, H, W) in [0, 1]; grey ones as colours if they have to be."""
    image = image_of(photograph.pixels)
    grey = image.shape[1] == 1 and restorer.channels == 3
    return image.expand(-1, 3, -1, -1) if grey else image


def _measured(
    image: Tensor, operator: str | None, problem: InputOptions
) -> "tuple[Tensor, Physics | None]":
    """Return a degraded image as the operator's measurement, and the operator if it is known."""
    if operator is None:
        return image, None
    if operator == "deblurring":
        kernel = blur_kernel(image.shape, problem)
        return image, reflected_blur(kernel, image.shape[1:], problem.noise_sigma)
    task = task_of(image[0].permute(1, 2, 0).numpy(), operator, problem)
    return task.y, task.operator


def _write(found: Reconstruction, photograph: Photograph, place: Path) -> None:
    """Write the samples, and their mean if several.

    Results have the depth, channels, alpha and ICC profile of what was restored.
    """
    name, several = place.name, len(found.samples) > 1
    files = {f"{name}-{n}": sample for n, sample in enumerate(found.samples, 1)} if several else {}
    files[f"{name}-mean" if several else name] = found.mean
    for stem, picture in files.items():
        result = photograph.like(picture[0].permute(1, 2, 0).numpy())
        write_photograph(result, place.with_name(f"{stem}.png"))


def _rows(pictures: dict[str, Tensor], truth: Tensor | None, result: Reconstruction) -> list[Row]:
    """Return the rows of one image in the table."""
    height, width = result.samples.shape[-2:]
    cost = {"pixels": f"{width} x {height}", "NFE": str(result.nfe)}
    cost |= {"seconds": f"{result.seconds:.1f}"}
    if truth is None:
        return [cost]
    kinds = [(kind, image) for kind, image in pictures.items() if kind != "truth"]
    return [
        {
            **cost,
            "picture": kind,
            **dict(zip(("PSNR", "SSIM"), quality(image, truth), strict=True)),
        }
        for kind, image in kinds
    ]
