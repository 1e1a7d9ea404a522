"""Data weights that follow the noise against published constants, and means of 1 to 32 samples.

    python benchmarks/data_weights.py --data FOLDER [--tasks mri4] [--size 128]

Problems are those of `image_problems`, networks run in bfloat16. Writes `docs/data_weights.md`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from image_problems import TASKS, Case, build_case

from wellposed.figures import format_table
from wellposed.metrics import psnr, ssim
from wellposed.reconstruction import Reconstruction
from wellposed.solvers import DDS, HQS, DiffPIR, REDDiff, Solver, recommend
from wellposed.uncertainty import gaussian_factor, scores_of

DOCS = Path(__file__).parent.parent / "docs"
COUNTS = (1, 2, 8, 32)
LEVEL = 0.9
"""Of intervals."""

KARRAS = {"steps": 30, "spacing": "karras"}

SUMMARY = f"""# Data weights and numbers of samples

Made by `benchmarks/data_weights.py`: {{images}} images of {{size}} pixels of each task, nothing
tuned. PSNR in dB and SSIM of one sample and of means of 2, 8 and 32; the data misfit of a sample
over that of the noise (1 for a posterior sample); the share of pixels within mean +-
{gaussian_factor(LEVEL):.3f} standard deviations of 8 and of 32 samples, {LEVEL:.0%} if these were
right. DDS, DiffPIR and MMPS have 30 levels of Karras, RED-diff has 100 steps. HQS and RED-diff are
estimates: their samples are alike, and one is shown.
"""


def methods(case: Case) -> dict[str, Solver]:
    """Return the solvers of the table, by name."""
    red = REDDiff(steps=100, start=case.red_start)
    return {
        "HQS": HQS(),
        "RED-diff, weight .25": red,
        "RED-diff, follows the noise": replace(red, regularization=None),
        "DDS, gamma 1": DDS(eta=1.0, gamma=1.0, **KARRAS),
        "DDS, follows the noise": DDS(eta=1.0, **KARRAS),
        "DiffPIR": DiffPIR(**KARRAS),
        "MMPS": recommend(case.operator, case.prior, "samples"),
    }


def main() -> None:
    """Run all methods on all tasks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=["mri4", "ct30", "sr4"], choices=TASKS)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--table", type=Path, default=DOCS / "data_weights.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = [SUMMARY.format(**vars(args))]
    for task in args.tasks:
        case = build_case(task, args.data, "full", args.size).in_bfloat16()
        rows = []
        for name, solver in methods(case).items():
            rows.append([name, *row(solver, case, args.images)])
            print(task, rows[-1], flush=True)
        means = [f"mean of {count}" for count in COUNTS[1:]]
        intervals = [f"within, of {count}" for count in COUNTS[2:]]
        header = ["method", "one", *means, "misfit", *intervals]
        parts.append(f"## {task}\n\n{format_table(header, rows)}\n")
    args.table.write_text("\n".join(parts))


def row(solver: Solver, case: Case, images: int) -> list[str]:
    """Return the cells of a method, means over the first images of a task."""
    counts = COUNTS[:1] if isinstance(solver, (HQS, REDDiff)) else COUNTS
    found = []
    for index in range(images):
        one = case.only(index)
        options = {} if solver.deterministic else {"num_samples": counts[-1], "seed": index}
        found.append(figures(solver(one.y, one.operator, one.prior, **options), one, counts))
    mean = np.mean(found, axis=0).tolist()
    quality, (misfit, *within) = mean[: 2 * len(counts)], mean[2 * len(counts) :]
    cells = [f"{p:.2f}, {s:.3f}" for p, s in zip(quality[::2], quality[1::2], strict=True)]
    cells += ["-"] * (len(COUNTS) - len(counts))
    shares = [f"{share:.1%}" for share in within] or ["-", "-"]
    return [*cells, f"{misfit:.2f}", *shares]


def figures(result: Reconstruction, case: Case, counts: Sequence[int]) -> list[float]:
    """Return PSNR and SSIM of each mean, the misfit, and coverage of the largest two counts."""
    found = []
    for count in counts:
        image = result.samples[:count].mean(0)
        found += [float(measure(image, case.truth).mean()) for measure in (psnr, ssim)]
    found.append(float(result.residual.mean()))
    for count in counts[2:]:
        some = replace(result, samples=result.samples[:count], residual=result.residual[:count])
        scores = scores_of(some, case.truth)
        found.append(float((scores <= gaussian_factor(LEVEL)).double().mean()))
    return found


if __name__ == "__main__":
    main()
