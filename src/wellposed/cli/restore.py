"""``wellposed restore``: restores photographs of any size with a trained restorer."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import typer
from torch import Tensor

from wellposed.cli.names import (
    find_class,
    make_solver,
    parse_assignments,
    require_distinct,
    same_name,
    use_device,
)
from wellposed.cli.settings import RESTORED_OPERATORS, InputOptions, Restore
from wellposed.cli.summary import quality
from wellposed.cli.tasks import image_of, task_of
from wellposed.datasets.files import IMAGE_SUFFIXES, image_shape, read_array, suffix_of
from wellposed.errors import ArgumentError, FileError, ShapeError, require
from wellposed.figures import format_table, write_png
from wellposed.priors import Prior
from wellposed.priors.stored.registry import load
from wellposed.reconstruction import Reconstruction
from wellposed.solvers.catalogue import named_solvers
from wellposed.solvers.restoration import restore as restoring
from wellposed.solvers.restoration.base import Restoration

if TYPE_CHECKING:
    from deepinv.physics import Physics

DATA_STEPS = 5
"""Conjugate-gradient steps per evaluation if the operator is known."""

Files = list[tuple[Path, Path | None]]
"""Degraded images, each with its clean image or ``None``."""


def restore(o: Restore) -> None:
    """Restore all images and report their quality."""
    operator = _operator(o)
    pairs = _paired(_images_of(o.inputs), o.truth)
    _check_folder(o.out, [path for pair in pairs for path in pair if path is not None])
    device, more = use_device(o.device), parse_assignments("--load", o.load)
    restorer = load(o.prior, **more).to(device)
    require(restorer.anchor is not None, "--prior", o.prior, "a restorer; see wellposed list")
    shrinks = operator != "super-resolution" or restorer.upsample > 1
    accepted = f"an operator that keeps the size, as the restorer {o.prior!r} does"
    require(shrinks, "--operator", operator, accepted)
    solver = _solver(o, restorer)
    _check_shapes(pairs, restorer)
    problem = replace(o, factor=restorer.upsample)
    rows = list[list[str]]()
    samples = 1 if o.num_samples is None else o.num_samples
    tile = restoring.TILE if o.tile is None else o.tile
    for file, clean in pairs:
        image, exact = _read(file, restorer), None if clean is None else _read(clean, restorer)
        y, physics = _measured(image, operator, problem)
        physics = None if physics is None else physics.to(device)
        found = restoring.restore(
            y.to(device), restorer, solver, physics, samples, o.seed, tile
        ).cpu()
        pictures = {"degraded": restoring.enlarged(image, restorer)}
        pictures |= {"one sample": found.samples[0]}
        pictures |= {"mean": found.mean} if samples > 1 else {}
        pictures |= {} if exact is None else {"clean": exact}
        _write(pictures, found.samples, o.out, file.stem)
        rows += _rows(file.stem, pictures, exact, found)
    _report(rows, o.out)


def _operator(o: Restore) -> str | None:
    if o.operator is None or ":" in o.operator:
        return o.operator
    return same_name("--operator", o.operator, RESTORED_OPERATORS)


def _images_of(inputs: tuple[Path, ...]) -> list[Path]:
    """Return the image files, and all image files in the folders and their subfolders."""
    files = []
    for path in inputs:
        found = [path]
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.is_file())
            found = [p for p in below if suffix_of(p) in IMAGE_SUFFIXES]
        if not found:
            raise FileError(f"INPUT: no {', '.join(IMAGE_SUFFIXES)} files in {str(path)!r}")
        files += found
    require_distinct([file.stem for file in files])
    return files


def _paired(files: list[Path], truth: Path | None) -> Files:
    """Return every file with its clean image, which has the same name in a folder."""
    if truth is None:
        return [(file, None) for file in files]
    if not truth.is_dir():
        require(len(files) == 1, "--truth", str(truth), "a folder for several images")
        return [(files[0], truth)]
    clean = {p.stem: p for p in sorted(truth.iterdir()) if suffix_of(p) in IMAGE_SUFFIXES}
    lacking = next((file.stem for file in files if file.stem not in clean), None)
    if lacking is not None:
        raise FileError(f"--truth: no image named {lacking!r} in {str(truth)!r}")
    return [(file, clean[file.stem]) for file in files]


def _check_folder(out: Path, files: list[Path]) -> None:
    """Raise if an output file could overwrite an input file."""
    there = next((file for file in files if file.resolve().parent == out.resolve()), None)
    if there is not None:
        raise ArgumentError(f"--out: got the folder of {str(there)!r}, accepted: another folder")


def _check_shapes(files: Files, restorer: Prior) -> None:
    """Raise before the first evaluation if a file is not an image of the right size and kind."""
    upsample = restorer.upsample
    for file, clean in files:
        height, width, _ = image_shape(file)
        for path in filter(None, (file, clean)):
            if restorer.channels == 1 < image_shape(path)[2]:
                raise ShapeError(f"INPUT: {path.name} is a colour image, accepted: grey images")
        wanted = (upsample * height, upsample * width)
        if clean is not None and image_shape(clean)[:2] != wanted:
            raise ShapeError(
                f"--truth: {clean.name} has {image_shape(clean)[:2]} pixels, accepted: {wanted}, "
                f"{upsample} times the sides of {file.name}"
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


def _read(file: Path, restorer: Prior) -> Tensor:
    """Return an image file as (1, C, H, W) in [0, 1]; grey images are repeated for 3 channels."""
    image = image_of(read_array(file))
    grey = image.shape[1] == 1 and restorer.channels == 3
    return image.expand(-1, 3, -1, -1) if grey else image


def _measured(
    image: Tensor, operator: str | None, problem: InputOptions
) -> "tuple[Tensor, Physics | None]":
    """Return a degraded image as the operator's measurement, and the operator if it is known."""
    if operator is None:
        return image, None
    task = task_of(image[0].permute(1, 2, 0).numpy(), operator, problem)
    return task.y, task.operator


def _write(pictures: dict[str, Tensor], samples: Tensor, out: Path, name: str) -> None:
    """Write the samples (N, 1, C, H, W), their mean if several, and a row of all pictures."""
    several = len(samples) > 1
    files = {f"{name}-{n}": sample for n, sample in enumerate(samples, 1)} if several else {}
    files[f"{name}-mean" if several else name] = samples.mean(0)
    files[f"{name}-panel"] = torch.cat(list(pictures.values()), -1)
    for stem, picture in files.items():
        write_png(picture[0], out / f"{stem}.png")


def _rows(
    name: str, pictures: dict[str, Tensor], truth: Tensor | None, result: Reconstruction
) -> list[list[str]]:
    """Return the rows of one image in the table."""
    height, width = result.samples.shape[-2:]
    cost = [f"{width} x {height}", str(result.nfe), f"{result.seconds:.1f}"]
    if truth is None:
        return [[name, *cost]]
    return [
        [name, *cost, kind, *quality(image, truth)]
        for kind, image in pictures.items()
        if kind != "clean"
    ]


def _report(rows: list[list[str]], out: Path) -> None:
    """Print the table, and write it as ``metrics.csv``."""
    header = ["image", "pixels", "NFE", "seconds", "picture", "PSNR", "SSIM"][: len(rows[0])]
    with (out / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    typer.echo(format_table(header, rows))
    typer.echo(f"wrote the images to {out}")
