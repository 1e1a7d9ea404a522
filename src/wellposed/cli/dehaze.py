"""``wellposed dehaze``: RF frames in, RF without haze, pictures and metrics out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wellposed.errors import FileError, require_device

if TYPE_CHECKING:
    from torch import Tensor

    from wellposed.datasets.ultrasound.recordings import Recording
    from wellposed.datasets.ultrasound.sector import Sector
    from wellposed.solvers.separation.dehazing import Dehazed


def dehaze(  # noqa: PLR0913 - the options of a command are its signature
    input_: Annotated[
        Path, typer.Argument(metavar="INPUT", help="RF frames: HDF5 with 'rf', or MetaImage.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the result.")],
    tissue: Annotated[str, typer.Option(help="Prior of tissue: shipped, or a folder.")] = (
        "tissue-rf"
    ),
    haze: Annotated[str, typer.Option(help="Prior of haze: shipped, or a folder.")] = "haze-rf",
    steps: Annotated[int, typer.Option(help="Steps of the whole schedule.")] = 50,
    start: Annotated[float, typer.Option(help="Noise over signal to start from.")] = 1.4,
    gamma: Annotated[float, typer.Option(help="Strength: more takes out more.")] = 1.0,
    tile: Annotated[
        int | None, typer.Option(help="Side of overlapping tiles; default: whole frames.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Frames worked on at once.")] = 8,
    samples: Annotated[int, typer.Option(help="Posterior samples, to take the mean of.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Decides every draw.")] = 0,
    frame_ms: Annotated[int, typer.Option(help="Duration of a frame of the GIF.")] = 60,
) -> None:
    """Take haze out of ultrasound RF frames with a prior of tissue and one of haze.

    Writes dehazed.h5 (RF of tissue and haze, of several samples the mean and the tissue's spread),
    b_mode.png and, of sequences, b_mode.gif: hazy, dehazed, haze and, where the file holds it,
    clean; and metrics.json.
    """
    from wellposed.datasets.ultrasound.recordings import load_recording
    from wellposed.priors.stored.registry import load
    from wellposed.solvers.separation.dehazing import Dehazing
    from wellposed.solvers.separation.dehazing import dehaze as run

    require_device("--device", device)
    how = Dehazing(steps=steps, start=start, gamma=gamma, tile=tile, batch_size=batch_size)
    recording = load_recording(input_)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"--out: cannot write {str(out)!r}: {error}") from error
    x, h, rf = load(tissue).to(device), load(haze).to(device), recording.rf.to(device)
    found = run(rf, x, h, how, num_samples=samples, seed=seed).cpu()
    _write_rf(found, recording, out / "dehazed.h5")
    _write_pictures(found, recording, out, frame_ms)
    table = measured(found, recording)
    (out / "metrics.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    for name, value in table.items():
        typer.echo(f"{name:22s} {value:.4g}")
    typer.echo(f"wrote {out}")


def measured(found: "Dehazed", recording: "Recording") -> dict[str, float]:
    """Return metrics: means over the frames, ``hazy_`` ones of the measurement."""
    from wellposed.datasets.ultrasound.scores import dehazing_scores

    y = recording.rf
    gap = y - found.tissue - found.haze
    table = {
        "residual": float(gap.norm() / y.norm()),
        "haze_db": 20 * float((found.haze.norm() / y.norm()).clamp(min=1e-9).log10()),
        "nfe": float(found.nfe),
        "frames_per_second": found.frames_per_second,
    }
    if "tissue" in recording.known:
        for prefix, rf in (("hazy_", y), ("", found.tissue)):
            scores = dehazing_scores(rf, **recording.known)
            table |= {prefix + name: float(value.mean()) for name, value in scores.items()}
    return table


def _write_rf(found: "Dehazed", recording: "Recording", path: Path) -> None:
    """Write tissue and haze, (frames, depths, beams) in the values of the input."""
    from dataclasses import asdict

    import h5py

    with h5py.File(path, "w") as file:
        file["rf"] = (recording.scale * found.tissue[:, 0]).numpy()
        file["haze"] = (recording.scale * found.haze[:, 0]).numpy()
        if found.spread is not None:
            file["spread"] = (recording.scale * found.spread[:, 0]).numpy()
        if recording.sector is not None:
            file.attrs.update(asdict(recording.sector))


def _write_pictures(found: "Dehazed", recording: "Recording", out: Path, frame_ms: int) -> None:
    from PIL import Image

    panels = side_by_side(found, recording)
    pictures = [Image.fromarray((255 * panel).round().byte().numpy()) for panel in panels]
    pictures[len(pictures) // 2].save(out / "b_mode.png")
    if len(pictures) > 1:
        first, *others = pictures
        first.save(
            out / "b_mode.gif", save_all=True, append_images=others, duration=frame_ms, loop=0
        )


def side_by_side(found: "Dehazed", recording: "Recording") -> "Tensor":
    """Return grey images (B, H, W) in [0, 1]: hazy, dehazed, haze, and clean if it is known.

    All of one reference, the largest envelope of the measurement.
    """
    import torch

    from wellposed.datasets.ultrasound.processing import b_mode, envelope

    parts = [recording.rf, found.tissue, found.haze]
    parts += [recording.known["tissue"]] if "tissue" in recording.known else []
    peak = envelope(recording.rf).amax()
    reference = peak.expand(len(recording.rf))
    images = [_on_screen(b_mode(p, 60.0, reference), recording.sector) for p in parts]
    return torch.cat(images, -1)[:, 0]


def _on_screen(grey: "Tensor", sector: "Sector | None") -> "Tensor":
    """Return an image with square pixels if the grid is known, else at most 512 pixels high."""
    import torch.nn.functional as F

    from wellposed.datasets.ultrasound.processing import scan_convert

    if sector is not None:
        return scan_convert(grey, sector, 400)
    height = min(512, grey.shape[-2])
    size = (height, max(grey.shape[-1], height // 2))
    return F.interpolate(grey, size, mode="bilinear", antialias=True).clamp(0, 1)
