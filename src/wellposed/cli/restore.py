"""The command ``wellposed restore``."""

from pathlib import Path
from typing import Annotated

import typer

from wellposed.errors import require, require_choice

OPERATORS = ("inpainting", "super-resolution", "deblurring")


def restore_files(  # noqa: PLR0913 - the options of a command are its signature
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT", help="PNG, JPEG, TIFF, or folders of them.")
    ],
    model: Annotated[
        str, typer.Option(help="Shipped restorer, folder of a trained one, or checkpoint file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the restored images.")],
    load: Annotated[
        list[str] | None,
        typer.Option(help="What a checkpoint file lacks, e.g. autoencoder=vq.pth; repeatable."),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="resshift, ir-sde, rddm or mr-sampler; default: the model's own."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Network evaluations; default: the sampler's.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples; from 2 on also their mean.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    truth: Annotated[
        Path | None, typer.Option(help="The clean image, or a folder of them of the same names.")
    ] = None,
    operator: Annotated[
        str | None,
        typer.Option(help=f"What degraded them, if known: {', '.join(OPERATORS)}."),
    ] = None,
    kernel: Annotated[str, typer.Option(help="Super-resolution kernel.")] = "bicubic",
    blur_sigma: Annotated[float, typer.Option(help="Gaussian blur, pixels.")] = 3.0,
    mask: Annotated[Path | None, typer.Option(help="Inpainting: image of known pixels.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Hyper-parameter, e.g. gamma=5; repeatable."),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(help="Side of the tiles of larger images; default: 512."),
    ] = None,
) -> None:
    """Restore photographs of any size with a trained restorer."""
    from wellposed.cli import restored_files as work
    from wellposed.cli.options import parse_assignments
    from wellposed.operators.presets import TaskOptions
    from wellposed.priors.stored.registry import load as load_prior
    from wellposed.solvers.restoration import restore as restoring

    if operator is not None:
        require_choice("--operator", operator, OPERATORS)
    pairs = work.paired(work.images_of(inputs), truth)
    work.check_folder(out, [path for pair in pairs for path in pair if path is not None])
    restorer = load_prior(model, **parse_assignments("--load", load or []))
    require(restorer.anchor is not None, "--model", model, "a restorer; see wellposed list")
    shrinks = operator != "super-resolution" or restorer.upsample > 1
    require(shrinks, "--operator", operator, f"other ones by {model!r}, which enlarges nothing")
    method = work.sampler_of(sampler, steps, set_ or [], operator is not None, restorer)
    work.check_shapes(pairs, restorer)
    options = TaskOptions(
        factor=restorer.upsample, kernel=kernel, blur_sigma=blur_sigma, mask=mask
    )
    rows = []
    for file, clean in pairs:
        image = work.read(file, restorer)
        y, known = work.measured(operator, image, options)
        result = restoring.restore(
            y, restorer, method, known, samples, seed, restoring.TILE if tile is None else tile
        )
        exact = None if clean is None else work.read(clean, restorer)
        pictures = {
            "degraded": restoring.enlarged(image, restorer),
            "one sample": result.samples[0],
        }
        pictures |= {"mean": result.mean} if samples > 1 else {}
        pictures |= {} if exact is None else {"clean": exact}
        work.write(pictures, result.samples, out, file.stem)
        rows += work.rows_of(file.stem, pictures, exact, result)
    work.report(rows, out)
