"""Dehazing of held-out simulated beats at four levels of haze, against other methods.

    python benchmarks/dehazing.py --tissue tissue-rf --haze haze-rf --unet unet.pt --out out/

Writes dehazing.json after each row, which a later call keeps and goes on from, dehazing.md and
pictures of each level's first frame. Settings of BM3D and of the nuclear norm are chosen by PSNR
of RF on hearts of the validation split, for each level; the priors' methods have one setting for
all levels. Real recordings (--real, MetaImage, HDF5 or PyMUST) have no truth: of them the
Kolmogorov-Smirnov distance of grey values to the input's is shown, how much was taken out, and a
picture of both.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from dehazing_methods import Beats, methods
from PIL import Image
from torch import Tensor

from wellposed import priors
from wellposed.datasets.ultrasound import (
    Sector,
    b_mode,
    delay_and_sum,
    envelope,
    ks_statistic,
    load_pymust,
    load_recording,
    scan_convert,
)
from wellposed.figures import format_table
from wellposed.solvers import Dehazing, VarianceSharing, dehaze

LEVELS = (-40.0, -34.0, -28.0, -22.0)
STEPS = (200, 50, 20, 10)
SPEED_LEVEL = -28.0
SCORES = {"psnr_rf": "PSNR RF", "psnr_b_mode": "PSNR B-mode", "gcnr": "gCNR", "ks": "KS"}


def speed(options: argparse.Namespace, steps: int, test: Beats) -> dict[str, float]:
    """Return scores and frames per second of a sample."""
    how = Dehazing(solver=VarianceSharing(steps=steps), batch_size=options.batch_size)
    blocks = [priors.load(p).to(options.device) for p in (options.tissue, options.haze)]
    y = test.hazy(SPEED_LEVEL).to(options.device)
    dehaze(y[:1], *blocks, how)  # warm
    found = dehaze(y, *blocks, how)
    facts = {"nfe": float(found.nfe), "frames_per_second": found.frames_per_second}
    return test.scores(found.tissue.cpu()) | facts


def real(options: argparse.Namespace, path: Path) -> dict[str, float]:
    """Return how much a recording changed; its depth is resampled to the priors' pulse first."""
    rf = to_pulse(recorded(path)[: options.real_frames], Sector())
    rf = rf / rf.abs().max()
    blocks = [priors.load(p) for p in (options.tissue, options.haze)]
    found = dehaze(rf, *blocks, Dehazing(batch_size=options.batch_size))
    peak = envelope(rf).flatten(1).amax(1)
    grey = [b_mode(v, 60.0, peak) for v in (rf, found.tissue)]
    both = F.interpolate(torch.cat(grey, -1)[:1], (480, 640), mode="bilinear", antialias=True)
    as_image(both[0, 0].clamp(0, 1)).save(options.out / f"dehazing-{path.stem}.png")
    seen = grey[0] > 0.4  # tissue, not what is dark
    distance = ks_statistic(grey[1], grey[0], seen)
    share = 20 * (found.haze.norm() / rf.norm()).log10()
    return {"ks": float(distance.mean()), "haze_db": float(share)}


def recorded(path: Path) -> Tensor:
    """Return RF frames of a file; the channels of a plane wave in .mat are beamformed."""
    if path.suffix != ".mat":
        return load_recording(path).rf
    data = load_pymust(path)
    step = data.speed / (8 * data.centre_mhz)  # four samples a cycle, there and back
    reach = (data.start_us + data.rf.shape[1] / data.sampling_mhz) * data.speed / 2
    return delay_and_sum(data, torch.arange(2.0, 0.9 * reach, step))


def to_pulse(rf: Tensor, sector: Sector) -> Tensor:
    """Resample the depth so that the pulse has as many samples a cycle as the priors'."""
    spectrum = torch.fft.rfft(rf, dim=-2).abs().square().mean((0, 1, 3))
    place = torch.arange(len(spectrum)) / rf.shape[-2]
    measured = float((spectrum * place).sum() / spectrum.sum())
    depths = round(rf.shape[-2] * measured / (sector.centre_mhz / sector.sampling_mhz))
    kept = min(depths, rf.shape[-2]) // 2 + 1
    padded = rf.new_zeros(*rf.shape[:-2], depths // 2 + 1, rf.shape[-1], dtype=torch.complex64)
    padded[..., :kept, :] = torch.fft.rfft(rf, dim=-2)[..., :kept, :]
    return torch.fft.irfft(padded, depths, dim=-2) * depths / rf.shape[-2]


def document(record: dict[str, Any]) -> str:
    """Return the tables as markdown."""
    p = record["protocol"]
    parts = [
        "# Dehazing of simulated RF\n\n"
        f"Made by `python benchmarks/dehazing.py`: {p['hearts']} held-out hearts, {p['frames']} "
        "frames of a beat each. PSNR in dB for a peak of 1; KS between the wall's grey values and "
        "the clean ones. A high gCNR alone can result from erasing the cavity: compare KS. "
        "Pictures, of 60 dB, follow the order of the rows, row by row; the last is the truth. "
        "Times are for one thread. Two priors: a posterior sample, unless the row says otherwise; "
        "the estimate and the sequence are those of `dehaze` and `dehaze_sequence`. The simulated "
        "haze stands still, which sequences take for granted. zea's samplers have our "
        "priors of companded RF, as its weights are for B-mode images: DDS has both, and Nuclear "
        "Diffusion that of tissue, in the last 100 of 1000 steps (published: 500 of 5000).\n"
    ]
    heads = ["method", *SCORES.values(), "s / frame", "on", "setting"]
    for level, rows in record["levels"].items():
        table = [
            [
                name,
                *(f"{row[s]:.3f}" for s in SCORES),
                f"{row['seconds']:.2f}",
                row["device"],
                row["setting"],
            ]
            for name, row in rows.items()
        ]
        seen = f"![{', '.join([*rows, 'clean'])}](dehazing{level}.png)"
        parts.append(f"## Haze of {float(level):g} dB\n\n{format_table(heads, table)}\n\n{seen}\n")
    for title, key, columns in (
        (
            f"Samples at {SPEED_LEVEL:g} dB, by steps",
            "speed",
            (*SCORES, "nfe", "frames_per_second"),
        ),
        ("Real recordings", "real", ("ks", "haze_db")),
    ):
        if record[key]:
            table = [[n, *(f"{row[c]:.3f}" for c in columns)] for n, row in record[key].items()]
            parts.append(f"## {title}\n\n{format_table(['', *columns], table)}\n")
    for name in record["real"]:
        parts.append(f"![{name}, original and dehazed](dehazing-{Path(name).stem}.png)\n")
    return "\n".join(parts)


def picture(rf: Tensor, test: Beats, sector: Sector) -> Image.Image:
    """Return the B-mode picture of a first frame, in decibels below the clean one's loudest."""
    grey = b_mode(rf[:1], 60.0, envelope(test.tissue[:1]).amax())
    return as_image(scan_convert(grey, sector, 320)[0, 0])


def as_image(grey: Tensor) -> Image.Image:
    """Return values in [0, 1] as a picture."""
    return Image.fromarray((255 * grey).round().byte().numpy())


def panel(paths: list[Path], columns: int = 3) -> Image.Image:
    """Return pictures in rows."""
    pictures = [np.asarray(Image.open(path)) for path in paths]
    pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
    rows = [pictures[n : n + columns] for n in range(0, len(pictures), columns)]
    return Image.fromarray(np.vstack([np.hstack(row) for row in rows]))


class Record:
    """What was found, kept in a file after each row.

    Raises:
        SystemExit: the folder holds results of another protocol.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        keys = ("hearts", "frames", "steps")
        protocol = {key: getattr(options, key) for key in keys}
        self.out, self.path = options.out, options.out / "dehazing.json"
        self.values: dict[str, Any] = {"protocol": protocol, "levels": {}, "speed": {}, "real": {}}
        if self.path.exists():
            kept = json.loads(self.path.read_text())
            if kept["protocol"] != protocol:
                raise SystemExit(f"--out: {self.path} is of {kept['protocol']}; take another one")
            self.values = kept

    def save(self) -> None:
        """Write the record and its tables."""
        self.path.write_text(json.dumps(self.values, indent=1) + "\n")
        (self.out / "dehazing.md").write_text(document(self.values))


def compare(options: argparse.Namespace, record: Record, sector: Sector, test: Beats) -> None:
    """Fill in the rows of all levels that the record lacks, and draw the panels."""
    tuning = Beats.simulate(options.tuning, "validation", options.frames, sector)
    for level in options.levels:
        y, folder = test.hazy(level).to(options.device), options.out / f"frames{level:g}"
        folder.mkdir(exist_ok=True)
        rows = record.values["levels"].setdefault(f"{level:g}", {})
        for name, prepare in methods(options, level, test, tuning).items():
            if name in rows or (options.rows and name not in options.rows):
                continue
            method, setting = prepare()
            if options.device != "cpu":
                method(y[: test.frames])  # warm
            started = time.perf_counter()
            found = method(y).cpu()
            seconds = (time.perf_counter() - started) / len(y)
            facts = {"seconds": seconds, "setting": setting, "device": options.device}
            rows[name] = test.scores(found) | facts
            picture(found, test, sector).save(folder / f"{name}.png")
            record.save()
        picture(test.tissue, test, sector).save(folder / "clean.png")
        paths = [folder / f"{name}.png" for name in (*rows, "clean")]
        panel(paths).save(options.out / f"dehazing{level:g}.png")


def run(options: argparse.Namespace, sector: Sector) -> dict[str, Any]:
    """Fill in all that the record lacks, and return it."""
    record = Record(options)
    test = Beats.simulate(options.hearts, "test", options.frames, sector)
    compare(options, record, sector, test)
    for steps in options.speed:
        name = f"{steps} steps, {options.device}"
        if name not in record.values["speed"]:
            record.values["speed"][name] = speed(options, steps, test)
            record.save()
    for file in options.real:
        if file.name not in record.values["real"]:
            record.values["real"][file.name] = real(options, file)
            record.save()
    return record.values


def main(arguments: list[str] | None = None, sector: Sector | None = None) -> None:
    """Read the options, run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tissue", default="tissue-rf", help="prior: shipped, or a folder")
    parser.add_argument("--haze", default="haze-rf")
    parser.add_argument("--unet", type=Path, help="of dehazing_unet.py; left out if not given")
    parser.add_argument("--out", type=Path, default=Path("out/dehazing"))
    parser.add_argument("--hearts", type=int, default=6)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--tuning", type=int, default=2, help="hearts to tune on")
    parser.add_argument("--levels", type=float, nargs="*", default=list(LEVELS))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--speed", type=int, nargs="*", default=list(STEPS))
    parser.add_argument("--real", type=Path, nargs="*", default=[])
    parser.add_argument("--real-frames", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rows", nargs="*", help="methods to run; default: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    print(document(run(options, sector or Sector())))


if __name__ == "__main__":
    main()
