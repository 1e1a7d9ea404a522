"""The files of ``wellposed restore``: what is read, checked and written, and by which sampler."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import typer
from torch import Tensor

from wellposed.datasets.files import IMAGE_SUFFIXES, image_shape, read_array, suffix_of
from wellposed.errors import ArgumentError, FileError, ShapeError, require, require_choice
from wellposed.figures import format_table, write_png
from wellposed.metrics import psnr, ssim
from wellposed.solvers.restoration.restore import default_sampler, default_steps

if TYPE_CHECKING:
    from wellposed.operators import LinearOperator
    from wellposed.operators.presets import TaskOptions
    from wellposed.priors import Prior
    from wellposed.reconstruction import Reconstruction
    from wellposed.solvers.restoration.base import Restoration

DATA_STEPS = 5
"""Conjugate-gradient steps for each evaluation where the operator is named."""

Files = list[tuple[Path, Path | None]]
"""Degraded images, and their clean ones if there are."""


def images_of(inputs: list[Path]) -> list[Path]:
    """Return the image files named, and those in the folders named and below."""
    files = []
    for path in inputs:
        found = [path]
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.is_file())
            found = [p for p in below if suffix_of(p) in IMAGE_SUFFIXES]
        if not found:
            raise FileError(f"INPUT: no {', '.join(IMAGE_SUFFIXES)} files in {str(path)!r}")
        files += found
    stems = [file.stem for file in files]
    double = next((stem for stem in stems if stems.count(stem) > 1), None)
    if double is not None:
        raise ArgumentError(f"INPUT: several files are called {double!r}, accepted: one of a name")
    return files


def paired(files: list[Path], truth: Path | None) -> Files:
    """Return every file with its clean image, that of the same name in a folder."""
    if truth is None:
        return [(file, None) for file in files]
    if not truth.is_dir():
        require(len(files) == 1, "--truth", str(truth), "a folder, for several images")
        return [(files[0], truth)]
    clean = {p.stem: p for p in sorted(truth.iterdir()) if suffix_of(p) in IMAGE_SUFFIXES}
    lacking = next((file.stem for file in files if file.stem not in clean), None)
    if lacking is not None:
        raise FileError(f"--truth: no image {lacking!r} in {str(truth)!r}")
    return [(file, clean[file.stem]) for file in files]


def check_folder(out: Path, files: list[Path]) -> None:
    """Raise where what is written could take the place of a file that is read."""
    there = next((file for file in files if file.resolve().parent == out.resolve()), None)
    if there is not None:
        raise ArgumentError(f"--out: got the folder of {str(there)!r}, accepted: another one")


def check_shapes(files: Files, restorer: "Prior") -> None:
    """Raise before the first evaluation where a file is no image, or of another size or kind."""
    upsample = restorer.upsample
    for file, clean in files:
        height, width, _ = image_shape(file)
        for path in filter(None, (file, clean)):
            if restorer.channels == 1 < image_shape(path)[2]:
                raise ShapeError(f"INPUT: {path.name} is in colours, accepted: grey images")
        wanted = (upsample * height, upsample * width)
        if clean is not None and image_shape(clean)[:2] != wanted:
            raise ShapeError(
                f"--truth: {clean.name} has {image_shape(clean)[:2]} pixels, accepted: {wanted}, "
                f"{upsample} times those of {file.name}"
            )


def sampler_of(
    name: str | None, steps: int | None, assignments: list[str], known: bool, restorer: "Prior"
) -> "Restoration":
    """Return the sampler of the options, or the one that suits the restorer."""
    from wellposed.cli.options import kebab, parse_settings, solver_classes

    found: dict[str, Any] = solver_classes()
    classes = {n: cls for n, cls in found.items() if cls.restores}
    name = name or kebab(default_sampler(restorer).__name__)
    cls = classes[require_choice("--sampler", name, classes)]
    settings = {"data_steps": DATA_STEPS} if known else {}
    settings["steps"] = default_steps(restorer, cls) if steps is None else steps
    return cls(**{**settings, **parse_settings(cls, assignments)})


def read(file: Path, restorer: "Prior") -> Tensor:
    """Return an image file as (1, C, H, W) in [0, 1]; grey ones as colours if they have to be."""
    pixels = torch.from_numpy(np.atleast_3d(read_array(file)).astype(np.float32))
    image = pixels.permute(2, 0, 1)[None].contiguous()
    grey = image.shape[1] == 1 and restorer.channels == 3
    return image.expand(-1, 3, -1, -1) if grey else image


def measured(
    operator: str | None, image: Tensor, options: "TaskOptions"
) -> "tuple[Tensor, LinearOperator | None]":
    """Return a degraded image as what the operator measured, and the operator if one is named."""
    from wellposed.operators.presets import OPERATORS as TASKS

    if operator is None:
        return image, None
    task = TASKS[operator][1](image[0].permute(1, 2, 0).numpy(), options)
    return task.y, task.operator


def write(pictures: dict[str, Tensor], samples: Tensor, out: Path, name: str) -> None:
    """Write the samples (N, 1, C, H, W), their mean if several, and a row of all pictures."""
    several = len(samples) > 1
    files = {f"{name}-{n}": sample for n, sample in enumerate(samples, 1)} if several else {}
    files[f"{name}-mean" if several else name] = samples.mean(0)
    files[f"{name}-panel"] = torch.cat(list(pictures.values()), -1)
    for stem, picture in files.items():
        write_png(picture[0], out / f"{stem}.png")


def rows_of(
    name: str, pictures: dict[str, Tensor], truth: Tensor | None, result: "Reconstruction"
) -> list[list[str]]:
    """Return the rows of the table about one image."""
    height, width = result.samples.shape[-2:]
    cost = [f"{width} x {height}", str(result.nfe), f"{result.seconds:.1f}"]
    if truth is None:
        return [[name, *cost]]
    restored = {k: v for k, v in pictures.items() if k != "clean"}
    return [
        [name, *cost, kind, f"{float(psnr(image, truth)):.2f}", f"{float(ssim(image, truth)):.4f}"]
        for kind, image in restored.items()
    ]


def report(rows: list[list[str]], out: Path) -> None:
    """Print the table, and write it as ``metrics.csv``."""
    header = ["image", "pixels", "NFE", "seconds", "picture", "PSNR", "SSIM"][: len(rows[0])]
    with (out / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    typer.echo(format_table(header, rows))
    typer.echo(f"wrote the images to {out}")
