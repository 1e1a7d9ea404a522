"""``wellposed dehaze``: removes haze from RF frames; writes RF, pictures and metrics."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch import Tensor

from wellposed.cli.names import find_class, make, parse_assignments, use_device
from wellposed.cli.priors import load_prior
from wellposed.cli.settings import Dehaze
from wellposed.datasets.ultrasound.processing import b_mode, envelope, scan_convert
from wellposed.datasets.ultrasound.recordings import Recording, load_recording
from wellposed.datasets.ultrasound.scores import dehazing_scores
from wellposed.datasets.ultrasound.sector import Sector
from wellposed.errors import require
from wellposed.figures import write_picture
from wellposed.solvers import Dehazed, Dehazing, Solver, dehaze_sequence
from wellposed.solvers import dehaze as separate
from wellposed.solvers.catalogue import named_solvers
from wellposed.writing import make_folder, replacing, write_text

OF_ANY_SOLVER = ("gamma", "mu", "tile", "batch_size")
"""Settings of dehazing that apply to every solver."""


def dehaze(o: Dehaze) -> None:
    """Separate all frames, and write the result."""
    device, how, recording = use_device(o.device), _settings(o), load_recording(o.input)
    tissue, haze = (load_prior(name, o).to(device) for name in (o.tissue, o.haze))
    make_folder(o.out, "--out")
    usual = 1 if how.method().deterministic else 4
    samples = usual if o.num_samples is None else o.num_samples
    rf = recording.rf.to(device)
    if o.sequence:
        found = dehaze_sequence(rf, tissue, haze, how).cpu()
    else:
        found = separate(rf, tissue, haze, how, num_samples=samples, seed=o.seed).cpu()
    _write_rf(found, recording, o.out / "dehazed.h5")
    _write_pictures(found, recording, o.out, o.frame_ms)
    table = measured(found, recording)
    write_text(o.out / "metrics.json", json.dumps(table, indent=1) + "\n", "--out")
    for name, value in table.items():
        typer.echo(f"{name:22s} {value:.4g}")
    typer.echo(f"wrote {o.out}")


def _settings(o: Dehaze) -> Dehazing:
    """Return the settings; if a solver is named, the hyper-parameters are for that solver."""
    if o.sequence:
        require(o.solver is None, "--solver", o.solver, "none with --sequence")
        require(o.num_samples in (None, 1), "--num-samples", o.num_samples, "1 with --sequence")
    asked = {"steps": o.steps, "tile": o.tile, "batch_size": o.batch_size}
    settings: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    settings |= parse_assignments("--set", o.set)
    if o.solver is not None:
        cls = find_class("--solver", o.solver, named_solvers(), Solver)
        own = {name: settings.pop(name) for name in OF_ANY_SOLVER if name in settings}
        settings = own | {"solver": make("--solver", cls, settings, "--set")}
    return make("--set", Dehazing, settings, "--set")


def measured(found: Dehazed, recording: Recording) -> dict[str, float]:
    """Return metrics averaged over the frames; those of the measurement start with ``hazy_``."""
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


def _write_rf(found: Dehazed, recording: Recording, path: Path) -> None:
    """Write tissue and haze, (frames, depths, beams), in the units of the input."""
    with replacing(path, "--out") as part, h5py.File(part, "w") as file:
        file["rf"] = (recording.scale * found.tissue[:, 0]).numpy()
        file["haze"] = (recording.scale * found.haze[:, 0]).numpy()
        if found.spread is not None:
            file["spread"] = (recording.scale * found.spread[:, 0]).numpy()
        if recording.sector is not None:
            file.attrs.update(asdict(recording.sector))


def _write_pictures(found: Dehazed, recording: Recording, out: Path, frame_ms: int) -> None:
    panels = side_by_side(found, recording)
    pictures = [Image.fromarray((255 * panel).round().byte().numpy()) for panel in panels]
    write_picture(pictures[len(pictures) // 2], out / "b_mode.png")
    if len(pictures) > 1:
        first, *others = pictures
        with replacing(out / "b_mode.gif", "--out") as part:
            first.save(part, save_all=True, append_images=others, duration=frame_ms, loop=0)


def side_by_side(found: Dehazed, recording: Recording) -> Tensor:
    """Return grey images (B, H, W) in [0, 1]: hazy, dehazed, haze, and clean if it is known.

    All share one reference level, the largest envelope of the measurement.
    """
    parts = [recording.rf, found.tissue, found.haze]
    parts += [recording.known["tissue"]] if "tissue" in recording.known else []
    peak = envelope(recording.rf).amax()
    reference = peak.expand(len(recording.rf))
    images = [_on_screen(b_mode(p, 60.0, reference), recording.sector) for p in parts]
    return torch.cat(images, -1)[:, 0]


def _on_screen(grey: Tensor, sector: Sector | None) -> Tensor:
    """Return an image with square pixels if the grid is known, or of at most 512 rows."""
    if sector is not None:
        return scan_convert(grey, sector, 400)
    height = min(512, grey.shape[-2])
    size = (height, max(grey.shape[-1], height // 2))
    return F.interpolate(grey, size, mode="bilinear", antialias=True).clamp(0, 1)
