"""``wellposed inspect``: identifies a checkpoint and tests whether it denoises."""

from pathlib import Path

import torch
import typer
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.cli.names import use_device
from wellposed.cli.priors import load_checkpoint, of_class
from wellposed.cli.settings import Inspect
from wellposed.datasets.images.crops import central_crop, random_phase
from wellposed.datasets.images.image_files import Collection
from wellposed.errors import require
from wellposed.figures import format_table
from wellposed.priors import Latent, Prior, Prompted
from wellposed.validation.doctor import describe, diagnose, latent_gains, usual_range
from wellposed.validation.geometry import geometry_section
from wellposed.writing import require_writable


def inspect(o: Inspect) -> None:
    """Identify a checkpoint, test whether it denoises, and warn if it seems to be misread."""
    device = use_device(o.device)
    require_integer("--size", o.size, 8, 4096)
    used = len(o.image) > 0 or o.size == Inspect.size
    require(used, "--size", o.size, "only with --image")
    checkpoint = load_checkpoint(o.path, o)
    facts = [("family", checkpoint.family), *describe(checkpoint.prior).items()]
    typer.echo(format_table(["", o.path], [list(fact) for fact in facts]) + "\n")
    prior = checkpoint.prior.to(device)
    if isinstance(prior, Prompted):
        return _inspect_prompted(prior, o)
    if prior.anchor is None and isinstance(prior, Latent):  # tested in its own space
        prior = prior.prior
    prior = of_class(prior, o)
    images = _test_images(prior, o.image, o.size)
    if o.geometry is not None:
        require(prior.anchor is None, "--geometry", o.geometry, "none of a restorer")
        require_writable(o.geometry, "--geometry")
    diagnosis = diagnose(prior, images)
    typer.echo(_gains_table(diagnosis.axis, diagnosis.gains) + "\n")
    if o.geometry is not None:
        typer.echo(geometry_section(prior, images, o.geometry) + "\n")
    low, high = diagnosis.sample_range
    typer.echo(f"its samples have values in {low:.2f}..{high:.2f}, {usual_range(prior)}")
    for warning in diagnosis.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if diagnosis.warnings:
        raise typer.Exit(1)
    typer.echo("nothing looks wrong")


def _gains_table(axis: str, gains: dict[float, float]) -> str:
    found = [f"{gain:+.1f}" for gain in gains.values()]
    return format_table([axis, *map(str, gains)], [["gain in dB", *found]])


def _inspect_prompted(prior: Prompted, o: Inspect) -> None:
    """Test whether a text-conditioned prior denoises the latents of the images, if there are any.

    Its network is large, and made for latents of photographs, of which simulated ones are none.
    """
    require(o.geometry is None, "--geometry", o.geometry, "none of a model with text")
    images = _test_images(prior, o.image, o.size)
    if images is None:
        return typer.echo("not tested: give photographs with --image, and their prompt")
    typer.echo(_gains_table("sigma / alpha", latent_gains(prior, images)))


def _test_images(prior: Prior, paths: tuple[Path, ...], size: int) -> Tensor | None:
    """Return central crops of image files, equal in size, or ``None`` for the default images."""
    if not paths:
        return None
    stacks = Collection(paths).whole()
    side = min(size, *(n for stack in stacks for n in stack.shape[1:3]))
    crops = []
    for stack in stacks:
        image = torch.from_numpy(stack.array()[stack.shape[0] // 2]).movedim(-1, 0)
        crops.append(central_crop(image, side))
    images = torch.stack(crops)
    return random_phase(images, seed=0) if prior.is_complex else images
