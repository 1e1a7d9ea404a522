"""Coverage of 90 % intervals on held-out images, with and without calibration, and its failures.

    python benchmarks/coverage.py --data FOLDER [--size 48] [--known 60] [--held-out 20]

Data as in `image_problems`: crops of photographs at half resolution (Kodak 1 to 16 known, 17 to 24
held out) and of slices of a head and an abdomen (known and held-out slices lie in different parts
of the volume). Tasks: MRI 4 x, CT with 30 views, super-resolution 4 x and 70 % missing pixels.
The solver is that of `solvers.recommend`. Scores ``|truth - mean| / std`` of every image are kept
in ``--keep``; what is there is not run again. Writes ``coverage.md``, ``.json`` and one picture of
a task: held-out truths, calibrated deviations and the pixels outside their interval.

With n known images the factor is for ``.9 (n + 1) / n`` of their pixels: .915 for 60 images.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from image_problems import TASKS, measured
from torch import Tensor

from wellposed import solvers
from wellposed.datasets import load_nifti, read_array
from wellposed.datasets.images.crops import random_phase
from wellposed.figures import format_table, write_figure
from wellposed.noise import MEASUREMENT, item_generator
from wellposed.panel import draw_panel
from wellposed.runs.progress import track
from wellposed.uncertainty import require_images, scores_of, smallest_factor
from wellposed.writing import write_array, write_text

LEVEL, GAUSSIAN, SHOWN = 0.9, 1.6449, 3
"""Of intervals, the deviations that hold it for Gaussians, and the images of a picture."""

PARTS = {"mri4": (range(200, 250), range(256, 300)), "ct30": (range(60, 160), range(170, 235))}
"""Known and held-out slices of volumes."""


@dataclass(frozen=True)
class Setting:
    """How images are measured and reconstructed."""

    data: Path
    size: int
    evaluations: int
    samples: int


def main() -> None:
    """Reconstruct what is missing, one image of all tasks after the other, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--known", type=int, default=60)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    names = ["mri4", "ct30", "sr4", "inpaint-random"]
    parser.add_argument("--tasks", nargs="*", default=names, choices=names)
    parser.add_argument("--keep", type=Path, default=Path("out") / "coverage")
    parser.add_argument("--out", type=Path, default=Path("out") / "coverage")
    args = parser.parse_args()
    require_images("--known", args.known, LEVEL)
    setting = Setting(args.data, args.size, args.evaluations, args.samples)
    args.keep.mkdir(parents=True, exist_ok=True)
    counts = {"known": args.known, "held": args.held_out}
    for index in track(range(max(counts.values())), "images"):
        for task in args.tasks:
            for part in (part for part, count in counts.items() if index < count):
                file = kept(args.keep, task, part, index)
                if not file.exists():
                    write_array(file, solved(setting, task, part, index))
    args.out.mkdir(parents=True, exist_ok=True)
    rows = {task: figures(args.keep, task, counts) for task in args.tasks}
    write_text(args.out / "coverage.json", json.dumps(rows, indent=1) + "\n")
    write_text(args.out / "coverage.md", table(rows))
    for task in args.tasks:
        draw(args.keep, task, rows[task]["factor"], args.out / f"coverage-{task}.png")


def kept(folder: Path, task: str, part: str, index: int) -> Path:
    """Return the file of an image: truth, deviation and score of its pixels, (3, C, H, W)."""
    return folder / f"{task}-{part}-{index}.npy"


def solved(setting: Setting, task: str, part: str, index: int) -> np.ndarray:
    """Return truth, deviation and score of an image."""
    number = 2 * index + (part == "held")  # no seed is used twice
    image = crop(setting, task, part, number)
    case = measured(TASKS[task], image, seed=number)
    solver = solvers.recommend(case.operator, case.prior, "samples", setting.evaluations)
    options = {"num_samples": setting.samples, "seed": number}
    result = solver(case.y, case.operator, case.prior, **options)
    value = case.truth.abs() if case.truth.is_complex() else case.truth
    samples = result.samples.abs() if case.truth.is_complex() else result.samples
    parts = value[0], samples.std(0)[0], scores_of(result, case.truth)[0]
    return torch.stack([v.float() for v in parts]).numpy()


def crop(setting: Setting, task: str, part: str, number: int) -> Tensor:
    """Return a random crop (1, C, size, size) of the part's images."""
    rng, size = item_generator(number, (6,), MEASUREMENT), setting.size
    if task not in PARTS:
        first, end = (1, 16) if part == "known" else (17, 24)
        file = setting.data / "natural" / "kodak24" / f"{rng.integers(first, end + 1):02}.png"
        image = torch.from_numpy(read_array(file)).float().movedim(-1, 0)
        return cut(F.avg_pool2d(image, 2), size, rng)[None]
    place = int(rng.choice(PARTS[task][part == "held"]))
    if task == "ct30":
        volume = load_nifti(setting.data / "ct" / "andrei_abdomen_256.nii.gz").volume[0, 0]
        return cut(((volume[place][None] + 1000) / 2000).clamp(0, 1), size, rng)[None]
    volume = load_nifti(setting.data / "mri" / "studyforrest_t1.nii.gz").volume[0, 0]
    positive = volume[volume > 0]
    brightest = torch.quantile(positive[:: 1 + len(positive) // 1_000_000], 0.998)
    return random_phase(cut(volume[place][None] / brightest, size, rng)[None], seed=number)


def cut(image: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Return a random square in the middle half of an image (C, H, W)."""
    starts = [int(n / 4 + rng.integers(max(n // 2 - size, 0) + 1)) for n in image.shape[-2:]]
    top, left = (min(s, n - size) for s, n in zip(starts, image.shape[-2:], strict=True))
    return image[:, top : top + size, left : left + size]


def figures(folder: Path, task: str, counts: dict[str, int]) -> dict[str, float]:
    """Return the factor of the known images, and coverages of the held-out ones."""
    known, held = (
        torch.stack([torch.from_numpy(np.load(kept(folder, task, part, i))) for i in range(count)])
        for part, count in counts.items()
    )
    scores = known[:, 2].double().flatten()
    factor = float(smallest_factor(scores, counts["known"], LEVEL))
    inside = (held[:, 2] <= factor).double()
    per_image = inside.flatten(1).mean(1)
    bright = held[:, 1] >= held[:, 1].flatten().median()
    return {
        "factor": factor,
        "samples": float((held[:, 2] <= GAUSSIAN).double().mean()),
        "calibrated": float(per_image.mean()),
        "error": float(per_image.std()) / math.sqrt(len(per_image)),
        "least": float(per_image.min()),
        "most": float(per_image.max()),
        "small deviations": float(inside[~bright].mean()),
        "large deviations": float(inside[bright].mean()),
        "known": counts["known"],
        "held out": counts["held"],
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return the figures as a table in Markdown."""
    header = ["task", "factor / 1.645", "samples", "calibrated", "least and most of an image"]
    header += ["pixels of small / large deviation", "known / held out"]
    lines = [
        [
            *(task, f"{row['factor'] / GAUSSIAN:.2f}", f"{row['samples']:.1%}"),
            f"{row['calibrated']:.1%} ± {row['error']:.1%}",
            f"{row['least']:.1%}, {row['most']:.1%}",
            f"{row['small deviations']:.1%} / {row['large deviations']:.1%}",
            f"{row['known']} / {row['held out']}",
        ]
        for task, row in rows.items()
    ]
    text = "Pixels of held-out images inside their 90 % interval"
    return f"# Coverage\n\n{text}:\n\n{format_table(header, lines)}\n"


def draw(folder: Path, task: str, factor: float, path: Path) -> None:
    """Write truths, calibrated deviations, and errors of the pixels outside their interval."""
    images, maps = {}, {}
    for index in range(SHOWN):
        file = kept(folder, task, "held", index)
        if file.exists():
            truth, std, score = torch.from_numpy(np.load(file))
            images[f"held out {index + 1}"] = truth
            maps[f"calibrated std {index + 1}"] = factor / GAUSSIAN * std
            maps[f"errors outside {index + 1}"] = torch.where(score > factor, score * std, 0)
    write_figure(draw_panel(images, maps, title=task), path)


if __name__ == "__main__":
    main()
