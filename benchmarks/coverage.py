"""Coverage of 90 % intervals on held-out images, with and without calibration, and its failures.

    python benchmarks/coverage.py --data FOLDER [--size 48] [--known 60] [--held-out 20]

Data as in `image_problems`: crops of photographs at half resolution (Kodak 1 to 16 known, 17 to 24
held out) and of slices of one head and of one abdomen (known and held-out slices lie in different
parts of the volume). Tasks: MRI 4 x, CT with 30 views, super-resolution 4 x and 70 % missing
pixels. The solver is that of `solvers.recommend`. Scores ``|truth - mean| / std`` of every image
are kept in ``--keep``; what is there is not run again, and results of another setting are refused.
Writes ``coverage.md``, ``.json`` and ``.png``.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from coverage_report import LEVEL, NAMES, figures, kept, page, picture
from image_problems import TASKS, measured
from torch import Tensor

from wellposed import __version__, priors, solvers
from wellposed.datasets import load_nifti, read_array
from wellposed.datasets.images.crops import random_phase
from wellposed.errors import FileError
from wellposed.figures import write_figure
from wellposed.integrity import file_sha256
from wellposed.noise import MEASUREMENT, item_generator
from wellposed.runs.fingerprint import fingerprint
from wellposed.runs.progress import track
from wellposed.uncertainty import require_images, scores_of
from wellposed.writing import write_array, write_text

PARTS = {"mri4": (range(200, 250), range(256, 300)), "ct30": (range(60, 160), range(170, 235))}
"""Known and held-out slices of volumes."""

FILES = {"mri4": "mri/studyforrest_t1.nii.gz", "ct30": "ct/andrei_abdomen_256.nii.gz"}
"""The volumes; other tasks take photographs."""


@dataclass(frozen=True)
class Setting:
    """How images are measured and reconstructed."""

    data: Path
    size: int
    evaluations: int
    samples: int

    def solver(self, task: str) -> solvers.Solver:
        """Return the solver of a task."""
        operator, prior = TASKS[task].measure(self.size), priors.load(TASKS[task].prior)
        return solvers.recommend(operator, prior, "samples", self.evaluations)

    def facts(self, task: str) -> dict[str, str]:
        """Return all that the scores of a task depend on."""
        place = FILES.get(task)
        folder = self.data / "natural" / "kodak24"
        files = sorted(folder.glob("*.png")) if place is None else [self.data / place]
        return {
            **{name: str(value) for name, value in asdict(self).items() if name != "data"},
            "data": " ".join(file_sha256(file)[:8] for file in files),
            "solver": str(self.solver(task)),
            "prior": fingerprint(priors.load(TASKS[task].prior)),
            "version": __version__,
        }


def main() -> None:
    """Reconstruct what is missing, one image of all tasks after the other, and write the page."""
    args = parsed()
    setting = Setting(args.data, args.size, args.evaluations, args.samples)
    counts = {"known": args.known, "held": args.held_out}
    for task in args.tasks:
        require_setting(args.keep / f"{task}.json", setting.facts(task))
    run(setting, args.tasks, counts, args.keep)
    rows = {task: figures(args.keep, task, counts) for task in args.tasks}
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / "coverage.json", json.dumps(rows, indent=1) + "\n")
    text = page(rows, setting.size, setting.samples, str(setting.solver(args.tasks[0])))
    write_text(args.out / "coverage.md", text)
    write_figure(picture(args.keep, rows), args.out / "coverage.png")


def parsed() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--known", type=int, default=60)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tasks", nargs="*", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--keep", type=Path, default=Path("out") / "coverage")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    require_images("--known", args.known, LEVEL)
    return args


def require_setting(path: Path, facts: Mapping[str, str]) -> None:
    """Keep what the scores of a task depend on, beside them.

    Raises:
        FileError: the folder holds scores of another setting.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept_facts = json.loads(path.read_text()) if path.exists() else facts
    other = [name for name in facts if kept_facts.get(name) != facts[name]]
    if other:
        raise FileError(
            f"--keep: {str(path)!r} is of another {', '.join(other)}, accepted: an empty folder, "
            "or scores of the same setting"
        )
    write_text(path, json.dumps(facts, indent=1) + "\n")


def run(setting: Setting, tasks: list[str], counts: Mapping[str, int], keep: Path) -> None:
    """Reconstruct the images whose scores are not kept yet."""
    for index in track(range(max(counts.values())), "images"):
        for task in tasks:
            for part in (part for part, count in counts.items() if index < count):
                file = kept(keep, task, part, index)
                if not file.exists():
                    write_array(file, solved(setting, task, part, index))


def solved(setting: Setting, task: str, part: str, index: int) -> np.ndarray:
    """Return truth, deviation and score of an image."""
    number = 2 * index + (part == "held")  # no seed is used twice
    image = crop(setting, task, part, number)
    case = measured(TASKS[task], image, seed=number)
    options = {"num_samples": setting.samples, "seed": number}
    result = setting.solver(task)(case.y, case.operator, case.prior, **options)
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


if __name__ == "__main__":
    main()
