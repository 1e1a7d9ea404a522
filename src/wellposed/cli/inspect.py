"""``wellposed inspect``: what a checkpoint is, and whether it denoises."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wellposed.cli.options import Only
from wellposed.cli.settings import PriorOptions, RunOptions

if TYPE_CHECKING:
    from torch import Tensor

    from wellposed.priors import Prior


def inspect(
    path: Annotated[str, typer.Argument(help="Shipped prior, folder, checkpoint file or hub id.")],
    known: Annotated[PriorOptions, Only(("load",))],
    run: Annotated[RunOptions, Only(("device",))],
    image: Annotated[
        list[Path] | None, typer.Option(help="Clean image to test on; repeatable.")
    ] = None,
    size: Annotated[int, typer.Option(help="Images are cropped to this side at most.")] = 128,
) -> None:
    """Tell what a checkpoint is, test whether it denoises, and warn if it was misread."""
    from wellposed.cli.names import parse_assignments
    from wellposed.figures import format_table
    from wellposed.priors.stored.registry import read_checkpoint
    from wellposed.validation.doctor import LEVELS, describe, diagnose, usual_range

    device = run.place()
    checkpoint = read_checkpoint(path, **parse_assignments("--load", known.load))
    facts = [("family", checkpoint.family), *describe(checkpoint.prior).items()]
    typer.echo(format_table(["", path], [list(fact) for fact in facts]) + "\n")
    prior = getattr(checkpoint.prior, "prior", checkpoint.prior).to(device)
    diagnosis = diagnose(prior, _test_images(prior, image or [], size))
    gains = [f"{diagnosis.gains[level]:+.1f}" for level in LEVELS]
    typer.echo(format_table(["sigma / alpha", *map(str, LEVELS)], [["gain in dB", *gains]]) + "\n")
    low, high = diagnosis.sample_range
    typer.echo(f"its own samples lie in {low:.2f}..{high:.2f}, {usual_range(prior)}")
    for warning in diagnosis.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if diagnosis.warnings:
        raise typer.Exit(1)
    typer.echo("nothing looks wrong")


def _test_images(prior: "Prior", paths: list[Path], size: int) -> "Tensor | None":
    """Return central crops of image files, equal in size, or None for the default ones."""
    if not paths:
        return None
    import torch

    from wellposed.datasets.images.crops import central_crop, random_phase
    from wellposed.datasets.images.image_files import Collection

    stacks = Collection(paths).whole()
    side = min(size, *(n for stack in stacks for n in stack.shape[1:3]))
    crops = []
    for stack in stacks:
        image = torch.from_numpy(stack.array()[stack.shape[0] // 2]).movedim(-1, 0)
        crops.append(central_crop(image, side))
    images = torch.stack(crops)
    return random_phase(images, seed=0) if prior.is_complex else images
