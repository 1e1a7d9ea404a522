"""``wellposed restore``: photographs of any size by a trained restorer."""

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wellposed.checks import setting
from wellposed.cli.options import Only
from wellposed.cli.settings import InputOptions, PriorOptions, RunOptions, SolverOptions
from wellposed.errors import ArgumentError, FileError, ShapeError, require

if TYPE_CHECKING:
    from deepinv.physics import Physics
    from torch import Tensor

    from wellposed.priors import Restorer
    from wellposed.reconstruction import Reconstruction
    from wellposed.solvers.restoration.base import Restoration

OPERATORS = ("inpainting", "super-resolution", "deblurring")

DATA_STEPS = 5
"""Conjugate-gradient steps for each evaluation where the operator is named."""

Files = list[tuple[Path, Path | None]]
"""Degraded images, and their clean ones if there are."""


@dataclass(frozen=True, kw_only=True)
class RestorerOptions(PriorOptions):
    """The restorer, and the images that it takes at once."""

    prior: str = field(
        metadata={"help": "Shipped restorer, folder of a trained one, or checkpoint file."}
    )
    tile: int | None = setting(None, "Side of the tiles of larger images; default: 512.")


def restore(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="PNG, JPEG, TIFF, or folders of them.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the restored images.")],
    known: RestorerOptions,
    method: SolverOptions,
    run: RunOptions,
    problem: Annotated[InputOptions, Only(("kernel", "blur_sigma", "mask", "operator_set"))],
    operator: Annotated[
        str | None,
        typer.Option(help=f"What degraded them, if known: {', '.join(OPERATORS)}, MODULE:CLASS."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="The clean image, or a folder of them of the same names.")
    ] = None,
) -> None:
    """Restore photographs of any size with a trained restorer."""
    from wellposed.cli.names import parse_assignments, same_name
    from wellposed.priors.stored.restorers import load_restorer
    from wellposed.solvers.restoration import restore as restoring

    if operator is not None and ":" not in operator:
        operator = same_name("--operator", operator, OPERATORS)
    pairs = _paired(_images_of(inputs), truth)
    _check_folder(out, [path for pair in pairs for path in pair if path is not None])
    device, more = run.place(), parse_assignments("--load", known.load)
    restorer = load_restorer(known.prior, **more).to(device)
    shrinks = operator != "super-resolution" or restorer.upsample > 1
    accepted = f"other ones by {known.prior!r}, which enlarges nothing"
    require(shrinks, "--operator", operator, accepted)
    solver = _solver(method, run.batch_size, operator is not None, restorer)
    _check_shapes(pairs, restorer)
    problem, rows = replace(problem, factor=restorer.upsample), list[list[str]]()
    samples = 1 if run.num_samples is None else run.num_samples
    tile = restoring.TILE if known.tile is None else known.tile
    for file, clean in pairs:
        image, exact = _read(file, restorer), None if clean is None else _read(clean, restorer)
        y, physics = _measured(image, operator, problem)
        physics = None if physics is None else physics.to(device)
        result = restoring.restore(
            y.to(device), restorer, solver, physics, samples, run.seed, tile
        ).cpu()
        pictures = {"degraded": restoring.enlarged(image, restorer)}
        pictures |= {"one sample": result.samples[0]}
        pictures |= {"mean": result.mean} if samples > 1 else {}
        pictures |= {} if exact is None else {"clean": exact}
        _write(pictures, result.samples, out, file.stem)
        rows += _rows(file.stem, pictures, exact, result)
    _report(rows, out)


def _images_of(inputs: list[Path]) -> list[Path]:
    """Return the image files named, and those in the folders named and below."""
    from wellposed.cli.names import require_distinct
    from wellposed.datasets.files import IMAGE_SUFFIXES, suffix_of

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
    """Return every file with its clean image, that of the same name in a folder."""
    from wellposed.datasets.files import IMAGE_SUFFIXES, suffix_of

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


def _check_folder(out: Path, files: list[Path]) -> None:
    """Raise where what is written could take the place of a file that is read."""
    there = next((file for file in files if file.resolve().parent == out.resolve()), None)
    if there is not None:
        raise ArgumentError(f"--out: got the folder of {str(there)!r}, accepted: another one")


def _check_shapes(files: Files, restorer: "Restorer") -> None:
    """Raise before the first evaluation where a file is no image, or of another size or kind."""
    from wellposed.datasets.files import image_shape

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


def _solver(
    chosen: SolverOptions, batch_size: int | None, known: bool, restorer: "Restorer"
) -> "Restoration":
    """Return the sampler of the options, or the one that suits the restorer."""
    from wellposed.cli.names import find_class, make_solver, solver_classes
    from wellposed.solvers.restoration.base import Restoration
    from wellposed.solvers.restoration.restore import default_sampler, default_steps

    classes = {n: cls for n, cls in solver_classes().items() if issubclass(cls, Restoration)}
    cls = default_sampler(restorer)
    if chosen.solver is not None:
        cls = find_class("--solver", chosen.solver, classes, Restoration)
    steps, pulled = default_steps(restorer, cls), {"data_steps": DATA_STEPS} if known else {}
    return make_solver(cls, chosen, batch_size, steps=steps, **pulled)


def _read(file: Path, restorer: "Restorer") -> "Tensor":
    """Return an image file as (1, C, H, W) in [0, 1]; grey ones as colours if they have to be."""
    from wellposed.cli.tasks import image_of
    from wellposed.datasets.files import read_array

    image = image_of(read_array(file))
    grey = image.shape[1] == 1 and restorer.channels == 3
    return image.expand(-1, 3, -1, -1) if grey else image


def _measured(
    image: "Tensor", operator: str | None, problem: InputOptions
) -> "tuple[Tensor, Physics | None]":
    """Return a degraded image as what the operator measured, and the operator if one is named."""
    from wellposed.cli.tasks import task_of

    if operator is None:
        return image, None
    task = task_of(image[0].permute(1, 2, 0).numpy(), operator, problem)
    return task.y, task.operator


def _write(pictures: "dict[str, Tensor]", samples: "Tensor", out: Path, name: str) -> None:
    """Write the samples (N, 1, C, H, W), their mean if several, and a row of all pictures."""
    import torch

    from wellposed.figures import write_png

    several = len(samples) > 1
    files = {f"{name}-{n}": sample for n, sample in enumerate(samples, 1)} if several else {}
    files[f"{name}-mean" if several else name] = samples.mean(0)
    files[f"{name}-panel"] = torch.cat(list(pictures.values()), -1)
    for stem, picture in files.items():
        write_png(picture[0], out / f"{stem}.png")


def _rows(
    name: str, pictures: "dict[str, Tensor]", truth: "Tensor | None", result: "Reconstruction"
) -> list[list[str]]:
    """Return the rows of the table about one image."""
    from wellposed.cli.summary import quality

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
    from wellposed.figures import format_table

    header = ["image", "pixels", "NFE", "seconds", "picture", "PSNR", "SSIM"][: len(rows[0])]
    with (out / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    typer.echo(format_table(header, rows))
    typer.echo(f"wrote the images to {out}")
