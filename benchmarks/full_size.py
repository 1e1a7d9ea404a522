"""Estimates and samplers without tuning, on images of 256 pixels; with and without calibration.

    python benchmarks/full_size.py --data FOLDER [--images 8] [--methods HQS MMPS]

Settings are those of `solvers.recommend` or as published; nothing is chosen by looking at images.
Problems are those of `image_problems`, of full size. Writes `docs/full_size.md` and the figures
behind it, `benchmarks/full_size.json`; what is there already is not run again, so the run may be
interrupted at any time. Seconds are the processor's, of one thread, with networks in bfloat16.
``--lpips`` adds LPIPS with torchvision's file of AlexNet, ``--st-lpips`` the shift tolerant one.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from image_problems import TASKS, Case, build_case
from supervised import STEPS, UNROLLED, restore
from torch import Tensor

from wellposed import solvers
from wellposed.errors import ArgumentError, SamplingError
from wellposed.figures import format_table
from wellposed.metrics import psnr, ssim
from wellposed.operators import LinearOperator
from wellposed.operators.plain import filtered_back_projection
from wellposed.perceptual import LPIPS, STLPIPS
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.solvers import Problem
from wellposed.solvers.residual import misfit, noisy_numbers
from wellposed.uncertainty import gaussian_factor, scores_of
from wellposed.writing import write_text

DOCS = Path(__file__).parent.parent / "docs"
LEVEL = 0.9
"""Of intervals."""

GAUSSIAN = gaussian_factor(LEVEL)

FACTORS = np.geomspace(0.5, 50, 60)
"""Half-widths of intervals in standard deviations, for which coverage is kept."""

EVALUATIONS = 30
"""Of an estimate or a sample; DPS and RED-diff, which fail with so few, have 100."""

SUMMARY = f"""# Solvers on images of 256 pixels

Made by `benchmarks/full_size.py`, without any tuning: `HQS` and `MMPS` as `solvers.recommend`
gives them, others as published but for the number of evaluations, {EVALUATIONS} (DPS and RED-diff:
100). Means over {{images}} images that no prior was trained on: photographs (Kodak, at half
resolution) with noise .025 in [0, 1], multi-coil MRI (studyforrest, 8 coils, noise .01) and CT
(andrei_abdomen, 30 views, noise of 1 %). Intervals of 90 % are mean +- {GAUSSIAN:.3f} standard
deviations of 8 samples; "calibrated" intervals have the width that covers 90 % of the pixels of
the other images of the task. "supervised" is HQS of {UNROLLED.steps} steps, trained end to end for
this operator in {STEPS} training steps. Networks run in bfloat16.

PSNR in dB of the estimate, or of one sample / the mean of all:
"""


@dataclass(frozen=True)
class Row:
    """A method and how many samples it draws."""

    make: Callable[[Case], Callable[..., Reconstruction]]
    samples: int = 1


def _direct(case: Case) -> solvers.Solver:
    return solvers.FBP() if filtered_back_projection(case.operator) else solvers.BackProjection()


def _reddiff(case: Case) -> solvers.Solver:
    return solvers.REDDiff(steps=100, regularization=None, start=case.red_start)


KARRAS = {"steps": EVALUATIONS, "spacing": "karras"}
METHODS = {
    "direct": Row(lambda case: _direct(case)),
    "TV": Row(lambda case: solvers.TotalVariation()),
    "Wavelet": Row(lambda case: solvers.Wavelet()),
    "HQS": Row(lambda case: solvers.HQS()),
    "PnPADMM": Row(lambda case: solvers.PnPADMM()),
    "REDDiff": Row(_reddiff),
    "DDS": Row(lambda case: solvers.DDS(eta=1.0, **KARRAS), 8),
    "MMPS": Row(lambda case: solvers.recommend(case.operator, case.prior, "samples"), 8),
    "DDRM": Row(lambda case: solvers.DDRM(**KARRAS), 8),
    "DiffPIR": Row(lambda case: solvers.DiffPIR(**KARRAS)),
    "PnPFlow": Row(lambda case: solvers.PnPFlow(steps=EVALUATIONS, averages=1)),
    "Flower": Row(lambda case: solvers.Flower(steps=EVALUATIONS)),
    "DPS": Row(lambda case: solvers.DPS(steps=100)),
    "deepinv DiffPIR": Row(lambda case: solvers.from_deepinv("DiffPIR", max_iter=EVALUATIONS)),
    "deepinv DPS": Row(lambda case: solvers.from_deepinv("DPS", num_steps=100)),
}
"""By the name in the tables."""

SUPERVISED = "supervised"
"""HQS of `supervised.py`, trained for the operator."""


def main() -> None:
    """Run what is missing, one image of all tasks after the other, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--supervised", type=Path, help="folder of networks of `supervised.py`")
    parser.add_argument("--lpips", type=Path, help="torchvision's file of AlexNet")
    parser.add_argument("--st-lpips", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", type=Path, default=DOCS / "full_size.md")
    args = parser.parse_args()
    perceptual = {"lpips": LPIPS(args.lpips)} if args.lpips else {}
    perceptual |= {"st_lpips": STLPIPS()} if args.st_lpips else {}
    cases = {
        name: build_case(name, args.data, "full", args.size).in_bfloat16() for name in args.tasks
    }
    chosen = {name: METHODS[name] for name in args.methods}
    for index in range(args.images):
        for task, case in cases.items():
            methods = chosen | supervised(args.supervised, task)
            for method in methods:
                if str(index) not in read(args.out).get(task, {}).get(method, {}):
                    found = figures(case.only(index), methods[method], index, perceptual)
                    add(args.out, (task, method, str(index)), found)
        args.table.write_text(document(read(args.out)))


def supervised(folder: Path | None, task: str) -> dict[str, Row]:
    """Return the row of the network that was trained for a task, if there is one."""
    path = None if folder is None else folder / f"{task}.pt"
    if path is None or not path.exists():
        return {}

    def solve(y: Tensor, operator: LinearOperator, prior: Prior, **kwargs: object) -> Any:
        started = time.perf_counter()
        image = restore(path, task, y, operator)
        problem = Problem.create(y, operator, prior)
        residual = misfit(problem, prior.to_units(image), noisy_numbers(problem))
        seconds = time.perf_counter() - started
        return Reconstruction(image[None], residual[None], 1, seconds, SUPERVISED)

    return {SUPERVISED: Row(lambda case: solve)}


def figures(case: Case, row: Row, index: int, perceptual: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a method on one image."""
    started = time.process_time()
    try:
        solver = row.make(case)
        drawn = getattr(solver, "deterministic", False)
        options = {"num_samples": row.samples, "seed": None if drawn else index}
        result = solver(case.y, case.operator, case.prior, **options)
    except (ArgumentError, SamplingError) as error:
        return {"refused": str(error)[:200]}
    seconds = (time.process_time() - started) / row.samples
    one, mean = result.samples[0], result.mean
    measures = {"psnr": psnr, "ssim": ssim, **perceptual}
    found = {
        f"{name}_{which}": float(measure(image, case.truth).mean())
        for which, image in (("one", one), ("mean", mean))
        for name, measure in measures.items()
    }
    found |= {"residual": float(result.residual.mean()), "nfe": result.nfe, "seconds": seconds}
    if row.samples > 2:
        scores = scores_of(result, case.truth)
        found["coverage"] = float((scores <= GAUSSIAN).double().mean())
    rounded = {key: round(value, 5) for key, value in found.items()}
    return rounded | ({"within": within(scores)} if row.samples > 2 else {})


def within(scores: Tensor) -> str:
    """Return the share of scores up to each factor, in words of one line."""
    ordered = np.sort(scores.flatten().numpy())
    shares = np.searchsorted(ordered, FACTORS, side="right") / len(ordered)
    return " ".join(f"{share:.4f}" for share in shares)


def read(path: Path) -> dict[str, Any]:
    """Return the figures by task, method and image."""
    return json.loads(path.read_text()) if path.exists() else {}


def add(path: Path, place: tuple[str, str, str], found: dict[str, Any]) -> None:
    """Add figures to the file, which is written as a whole."""
    record, (task, method, index) = read(path), place
    record.setdefault(task, {}).setdefault(method, {})[index] = found
    write_text(path, json.dumps(record, indent=1) + "\n")
    print(*place, found, flush=True)


def calibrated(rows: dict[str, dict[str, Any]]) -> float | None:
    """Return the mean coverage of each image with the factor that suits the others."""
    shares = [np.array(row["within"].split(), float) for row in rows.values() if "within" in row]
    if len(shares) < 2:
        return None
    found = []
    for index, own in enumerate(shares):
        others = np.mean(shares[:index] + shares[index + 1 :], axis=0)
        log_factor = np.interp(LEVEL, others, np.log(FACTORS))
        found.append(float(np.interp(log_factor, np.log(FACTORS), own)))
    return math.fsum(found) / len(found)


def document(record: dict[str, Any]) -> str:
    """Return the tables of a record, in Markdown."""
    counts = [len(rows) for task in record.values() for rows in task.values()]
    least, most = min(counts, default=0), max(counts, default=0)
    images = str(most) if least == most else f"{least} to {most}"
    text = [SUMMARY.format(images=images)]
    known = [*METHODS, SUPERVISED]
    methods = [name for name in known if any(name in task for task in record.values())]
    rows = [[name, *(_pair(task.get(name)) for task in record.values())] for name in methods]
    text.append(format_table(["method", *record], rows))
    text.append(
        "\n-: the method does not accept the problem. SSIM, the data misfit over its expected "
        "norm (1 for a posterior sample), coverage and seconds for a sample, task by task:"
    )
    for name, task in record.items():
        text.append(f"\n## {name}\n\n{task_table(task)}")
    return "\n".join(text) + "\n"


def _means(rows: dict[str, dict[str, Any]] | None) -> dict[str, float] | None:
    """Return the means over images, or None if the method refused one."""
    if not rows or any("refused" in row for row in rows.values()):
        return None
    keys = next(iter(rows.values())).keys() - {"within"}
    return {key: math.fsum(row[key] for row in rows.values()) / len(rows) for key in keys}


def _pair(rows: dict[str, dict[str, Any]] | None) -> str:
    found = _means(rows)
    if found is None:
        return "-"
    one, mean = found["psnr_one"], found["psnr_mean"]
    return f"{one:.2f}" if one == mean else f"{one:.2f} / {mean:.2f}"


def task_table(task: dict[str, Any]) -> str:
    """Return the table of one task."""
    measures = {"psnr": ("PSNR", ".2f"), "ssim": ("SSIM", ".3f")}
    measures |= {"lpips": ("LPIPS", ".3f"), "st_lpips": ("ST-LPIPS", ".4f")}
    some = next((m for rows in task.values() if (m := _means(rows))), {})
    shown = {key: value for key, value in measures.items() if f"{key}_one" in some}
    header = ["method", *(f"{title} one" for title, _ in shown.values())]
    header += [f"{title} mean" for title, _ in shown.values()]
    header += ["residual", "coverage", "calibrated", "NFE", "s / sample"]
    rows = []
    for method, found in ((method, _means(rows)) for method, rows in task.items()):
        if found is None:
            continue
        quality = [
            f"{found[f'{key}_{which}']:{form}}"
            for which in ("one", "mean")
            for key, (_, form) in shown.items()
        ]
        after = calibrated(task[method])
        held = [f"{found['coverage']:.2f}" if "coverage" in found else "-"]
        held.append("-" if after is None else f"{after:.2f}")
        cost = [f"{found['nfe']:.0f}", f"{found['seconds']:.1f}"]
        rows.append([method, *quality, f"{found['residual']:.2f}", *held, *cost])
    return format_table(header, rows)


if __name__ == "__main__":
    main()
