"""DDS against DPS on 4 x undersampled MRI: PSNR against seconds, on the same prior.

    python benchmarks/speed.py --data FOLDER [--trials 4]

Each number of steps of each method has settings of its own, the best of as many trials on another
slice. Seconds are the processor's, of one thread, for one sample. Writes `docs/speed.md` and
`docs/speed.png` from `benchmarks/speed.json`; what is there already is not run again.
"""

import argparse
from pathlib import Path
from typing import Any

from image_methods import METHODS
from image_problems import build_case
from images import DOCS, figures
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tune import add, read, search

from wellposed.figures import format_table

TASK = "mri4"
STEPS = {"DDS": (5, 10, 20, 50, 100), "DPS": (20, 50, 100, 250, 1000)}
SUMMARY = """# DDS against DPS

Made by `benchmarks/speed.py`: multi-coil MRI, 4 x undersampled, on {size} x {size} crops of two
slices that the prior was not trained on, with the same prior for both methods. Each row has the
best settings of {trials} trials on another slice: the published settings and others from a wide
range, so neither method is tuned to its optimum. Times are for one processor thread. The paper on
DDS (arXiv 2303.05754) claims to be more than 80 times faster than earlier methods.
"""
HEADER = ["method", "steps", "PSNR of one sample", "s / sample", "settings"]


def main() -> None:
    """Run what is missing, write the table and draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", type=Path, default=DOCS / "speed.md")
    args = parser.parse_args()
    tuning = build_case(TASK, args.data, "tuning", args.size).first(1)
    test = build_case(TASK, args.data, "test", args.size).first(2)
    protocol = {"trials": args.trials, "size": args.size}
    for method, counts in STEPS.items():
        for steps in counts:
            if str(steps) in read(args.out, protocol)["results"].get(method, {}):
                continue
            best = search(METHODS[method], tuning, steps, args.trials)
            assert best is not None
            row, _ = figures(test, METHODS[method], best["settings"], steps, 1)
            add(args.out, protocol, (method, str(steps)), row)
            print(method, steps, row, flush=True)
    results = read(args.out, protocol)["results"]
    args.table.write_text(document(results, **protocol))
    draw(results, args.table.with_suffix(".png"))


def points(results: dict[str, Any], method: str) -> list[tuple[int, float, float]]:
    """Return (steps, PSNR, seconds) of the runs of a method that did not diverge."""
    rows = results[method].items()
    return [(int(n), r["psnr_one"], r["seconds"]) for n, r in rows if "error" not in r]


def headline(results: dict[str, Any]) -> list[str]:
    """Return, for each run of DPS, how much faster DDS is at no less PSNR."""
    lines = []
    for steps, quality, seconds in points(results, "DPS"):
        equal = [p for p in points(results, "DDS") if p[1] >= quality]
        if not equal:
            lines.append(f"- DPS with {steps} steps: no run of DDS is as good.")
            continue
        n, better, least = min(equal, key=lambda p: p[2])
        lines.append(
            f"- DPS with {steps} steps, {quality:.2f} dB: DDS with {n} steps has {better:.2f} dB "
            f"{seconds / least:.0f} times faster."
        )
    return lines


def document(results: dict[str, Any], trials: int, size: int) -> str:
    """Return the table, in Markdown."""
    rows = []
    for method, found in results.items():
        for steps, row in found.items():
            chosen = ", ".join(f"{k} {v}" for k, v in row["settings"].items()) or "published"
            good = "error" not in row
            numbers = [f"{row['psnr_one']:.2f}", f"{row['seconds']:.2f}"] if good else ["-", "-"]
            rows.append([method, steps, *numbers, chosen])
    lines = "\n".join(headline(results))
    table = format_table(HEADER, rows)
    summary = SUMMARY.format(trials=trials, size=size)
    return f"{summary}\n{lines}\n\n{table}\n\n![PSNR against seconds](speed.png)\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw PSNR against seconds."""
    figure = Figure(figsize=(5, 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for method, marker in (("DDS", "o"), ("DPS", "s")):
        steps, quality, seconds = zip(*points(results, method), strict=True)
        axis.semilogx(seconds, quality, marker=marker, label=method)
        for n, p, s in zip(steps, quality, seconds, strict=True):
            axis.annotate(str(n), (s, p), xytext=(3, 5), textcoords="offset points", fontsize=7)
    axis.set_xlabel("seconds per sample, one thread")
    axis.set_ylabel("PSNR of one sample, dB")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
