"""Accuracy against time of MMPS by its settings, beside HQS, DDS and DPS.

    python benchmarks/moment_matching.py --data FOLDER [--images 2] [--size 128]

Problems are those of `image_problems`, networks run in bfloat16. Writes `docs/moment_matching.md`.
Seconds are the processor's, of one thread.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from image_problems import TASKS, Case, build_case

from wellposed.figures import format_table
from wellposed.metrics import psnr, ssim
from wellposed.solvers import DDS, DPS, HQS, MMPS, Solver, recommend

DOCS = Path(__file__).parent.parent / "docs"
KARRAS = {"steps": 30, "spacing": "karras"}
REFERENCE = "DDS"
"""Times are shown as multiples of the time of this method."""

SUMMARY = """# MMPS by its settings

Made by `benchmarks/moment_matching.py`: {images} images of {size} pixels of each task, 30 levels
of Karras (DPS: 100 steps), networks in bfloat16, one thread. PSNR in dB and SSIM of the mean of
{samples} samples, and the time of a sample over that of DDS. "MMPS, recommended" is what
`solvers.recommend` gives: two preconditioned steps of conjugate gradients, and no gradients at
noise levels above .8. "as published" has three steps without a preconditioner, at all levels.
"""


class Found(NamedTuple):
    """Figures of a method on one image."""

    psnr: float
    ssim: float
    seconds: float


def methods(case: Case) -> dict[str, Solver]:
    """Return the solvers of the table, by name."""
    chosen = recommend(case.operator, case.prior, "samples")
    assert isinstance(chosen, MMPS)
    return {
        "HQS": HQS(),
        "DPS": DPS(steps=100),
        REFERENCE: DDS(eta=1.0, **KARRAS),
        "MMPS, as published": MMPS(**KARRAS),
        "MMPS, three steps below 1": replace(chosen, cg_steps=3, isotropic_above=1.0),
        "MMPS, recommended": chosen,
    }


def main() -> None:
    """Run all methods on all tasks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--table", type=Path, default=DOCS / "moment_matching.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = {}
    for task in args.tasks:
        case = build_case(task, args.data, "full", args.size).in_bfloat16()
        columns[task] = {
            name: figures(solver, case, args.images, args.samples)
            for name, solver in methods(case).items()
        }
        print(task, columns[task], flush=True)
    args.table.write_text(SUMMARY.format(**vars(args)) + "\n" + table(columns) + "\n")


def figures(solver: Solver, case: Case, images: int, samples: int) -> Found:
    """Return the means over the first images of a task."""
    rows = [_figures(solver, case.only(index), index, samples) for index in range(images)]
    return Found(*np.mean(rows, axis=0).tolist())


def _figures(solver: Solver, case: Case, seed: int, samples: int) -> Found:
    drawn = {} if solver.deterministic else {"num_samples": samples, "seed": seed}
    started = time.process_time()
    result = solver(case.y, case.operator, case.prior, **drawn)
    seconds = (time.process_time() - started) / len(result.samples)
    quality = (float(measure(result.mean, case.truth).mean()) for measure in (psnr, ssim))
    return Found(*quality, seconds)


def table(columns: dict[str, dict[str, Found]]) -> str:
    """Return the figures in Markdown, a column for each task."""
    names = next(iter(columns.values()))
    rows = []
    for name in names:
        row = [name]
        for column in columns.values():
            found = column[name]
            ratio = found.seconds / column[REFERENCE].seconds
            row.append(f"{found.psnr:.2f}, {found.ssim:.3f}, {ratio:.1f} x")
        rows.append(row)
    return format_table(["method", *columns], rows)


if __name__ == "__main__":
    main()
