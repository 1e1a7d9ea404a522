"""All solvers on real images: PSNR, SSIM, network evaluations and seconds; ours and deepinv's.

    python benchmarks/images.py --data FOLDER [--samples 2] [--tasks sr4 mri4] [--long-dps]

Writes `docs/images.md` and the figures behind it, `benchmarks/images.json`; what is there already
is not run again. Hyper-parameters are those of `benchmarks/tuned.json`, made by `tune.py`; methods
that were not tuned for a family of tasks are left out there. Seconds are the processor's, of one
thread. LPIPS is left out: its networks are downloads, and not part of this package.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from image_methods import METHODS, Method, Settings
from image_problems import TASKS, Case, build_case
from PIL import Image, ImageDraw
from torch import Tensor
from tune import TUNED, add, read

from wellposed.errors import FileError, SamplingError
from wellposed.figures import displayable, format_table
from wellposed.metrics import psnr, ssim
from wellposed.reconstruction import Reconstruction

DOCS = Path(__file__).parent.parent / "docs"
LONG_DPS, LONG_STEPS = "DPS, 1000 steps", 1000
"""A row of its own: the published budget, with the published settings."""
SUMMARY = """# Solvers on real images

Made by `benchmarks/images.py`: all solvers, and deepinv's with the same prior, at {nfe} network
evaluations per sample. The papers use 20 to several thousand (DPS and PiGDM 1000 and 100, DAPS
1000, PnP-DM 3000). PiGDM, DPS and MMPS additionally need vector-Jacobian products, each about as
expensive as another evaluation. The tables have means over {images} images that no prior was
trained on, with {samples} samples each, of {size} x {size} pixels: photographs (Kodak, at half
resolution) with noise .025 in [0, 1], multi-coil MRI (studyforrest, 8 coils, noise .01) and CT
(andrei_abdomen, 30 views, noise of 1 %).

Hyper-parameters were tuned by `benchmarks/tune.py` on two other images of the same sources, with
{trials} trials for every method: the published settings and {drawn} drawn from the ranges in
`benchmarks/image_methods.py`. The objective was the PSNR of one sample. Motion deblurring has the
settings of Gaussian deblurring, box inpainting those of random inpainting and 8 x MRI those of
4 x. With so few trials and images, differences of a few tenths of a decibel are not significant.
PSNR favours methods that return about the posterior mean: an exact sample is 3 dB below it.

PSNR in dB of one sample / of the mean of {samples}:
"""


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--long-dps", action="store_true", help="add the published DPS")
    parser.add_argument("--tuned", type=Path, default=TUNED)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", type=Path, default=DOCS / "images.md")
    parser.add_argument("--pictures", type=Path, help="folder for the first image of each row")
    args = parser.parse_args()
    tuned = json.loads(args.tuned.read_text())
    protocol = {**tuned["protocol"], "samples": args.samples}
    for name in args.tasks:
        try:
            case = build_case(name, args.data, "test", protocol["size"])
        except FileError as error:
            print(f"{name} left out: {error}")
            continue
        run_task(name, case, tuned["results"].get(TASKS[name].family, {}), protocol, args)
    record = read(args.out, protocol)
    args.table.write_text(document(record))
    if args.pictures is not None:
        mosaic(record["results"], args.pictures, protocol["size"]).save(
            args.table.with_suffix(".png")
        )


def run_task(
    name: str,
    case: Case,
    tuned: dict[str, dict[str, Any] | None],
    protocol: dict[str, int],
    args: argparse.Namespace,
) -> None:
    """Add the figures of every tuned method on one task to a file."""
    rows = {
        method: (METHODS[method], found["settings"], protocol["nfe"])
        for method, found in tuned.items()
        if found is not None
    }
    if args.long_dps:
        rows[LONG_DPS] = (METHODS["DPS"], {}, LONG_STEPS)
    save(case.truth, args.pictures, f"{name}-truth")
    for label, row in rows.items():
        if label in read(args.out, protocol)["results"].get(name, {}):
            continue
        found, image = figures(case, *row, protocol["samples"])
        add(args.out, protocol, (name, label), found)
        save(image, args.pictures, f"{name}-{label}")
        print(name, label, found, flush=True)


def figures(
    case: Case,
    method: Method,
    settings: Settings,
    nfe: int,
    samples: int,
    more: Callable[[Reconstruction, Tensor], dict[str, Tensor]] = lambda result, truth: {},
) -> tuple[dict[str, Any], Tensor]:
    """Return the figures of a method on a case, none if it diverged, and its first sample.

    ``more`` returns others of a result and the truth.
    """
    started = time.process_time()
    try:
        result = method.run(case, settings, nfe, samples, seed=1)
    except SamplingError as error:
        return {"settings": settings, "error": str(error)}, torch.zeros_like(case.truth)
    seconds = (time.process_time() - started) / (samples * len(case.truth))
    one, mean = result.samples[0], result.mean
    quality = {
        "psnr_one": psnr(one, case.truth),
        "psnr_mean": psnr(mean, case.truth),
        "ssim_one": ssim(one, case.truth),
        "ssim_mean": ssim(mean, case.truth),
        "residual": result.residual,
        **more(result, case.truth),
    }
    numbers = {key: round(float(value.mean()), 4) for key, value in quality.items()}
    cost = {"nfe": result.nfe, "seconds": round(seconds, 3), "images": len(case.truth)}
    return {"settings": settings, **numbers, **cost}, one


def save(images: Tensor, folder: Path | None, name: str) -> None:
    """Write the first of the images as a picture, if a folder is given."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (displayable(images[0]).clip(0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")


def mosaic(results: dict[str, Any], folder: Path, size: int) -> Image.Image:
    """Return one picture of the first images: a row for each task, a column for each method."""
    methods = ["truth", *dict.fromkeys(method for task in results.values() for method in task)]
    margin, top = 90, 28
    whole = Image.new("RGB", (margin + len(methods) * (size + 2), top + len(results) * (size + 2)))
    pen = ImageDraw.Draw(whole)
    for column, method in enumerate(methods):
        pen.text((margin + column * (size + 2), 2), method.replace(" ", "\n", 1))
        for row, task in enumerate(results):
            pen.text((2, top + row * (size + 2) + size // 2), task)
            file = folder / f"{task}-{method}.png"
            if file.exists():
                place = (margin + column * (size + 2), top + row * (size + 2))
                whole.paste(Image.open(file).convert("RGB"), place)
    return whole


def document(record: dict[str, Any]) -> str:
    """Return the tables of a record, in Markdown."""
    protocol, results = record["protocol"], record["results"]
    images = max(row.get("images", 0) for task in results.values() for row in task.values())
    text = [SUMMARY.format(**protocol, images=images, drawn=protocol["trials"] - 1)]
    methods = list(dict.fromkeys(method for task in results.values() for method in task))
    rows = [[m, *(_pair(task.get(m), "psnr") for task in results.values())] for m in methods]
    text.append(format_table(["method", *results], rows))
    text.append("\n![the first image of each task, one sample](images.png)")
    text.append(
        "\n-: the method does not accept the problem (DDRM needs a singular value decomposition, "
        "deepinv's DDRM a mask, deepinv's samplers real images). SSIM, seconds of the processor "
        "for a sample and the data misfit over its expected norm, 1 for a posterior sample, "
        "task by task:"
    )
    for name, task in results.items():
        text.append(f"\n## {name}\n\n{task_table(task, protocol['samples'])}")
    return "\n".join(text) + "\n"


def task_table(task: dict[str, Any], samples: int) -> str:
    """Return the table of one task."""
    head = [
        f"{what} {which}" for what in ("PSNR", "SSIM") for which in ("one", f"mean of {samples}")
    ]
    header = ["method", *head, "residual", "NFE", "s / sample", "settings"]
    rows = []
    for method, row in task.items():
        chosen = ", ".join(f"{k} {v}" for k, v in row["settings"].items()) or "published"
        if "error" in row:
            rows.append([method, *["diverged"] * 5, "-", "-", chosen])
            continue
        quality = [f"{row[key]:.2f}" for key in ("psnr_one", "psnr_mean")]
        quality += [f"{row[key]:.3f}" for key in ("ssim_one", "ssim_mean")]
        cost = [f"{row['residual']:.2f}", str(row["nfe"]), f"{row['seconds']:.2f}"]
        rows.append([method, *quality, *cost, chosen])
    return format_table(header, rows)


def _pair(row: dict[str, Any] | None, key: str) -> str:
    if row is None:
        return "-"
    return "diverged" if "error" in row else f"{row[f'{key}_one']:.2f} / {row[f'{key}_mean']:.2f}"


if __name__ == "__main__":
    main()
