"""Tables and curves of `restoration.py`."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wellposed.figures import format_table

Runs = dict[str, dict[int, dict[str, Any]]]
"""Figures by method and evaluations."""

BASELINE, DATA, ZERO_SHOT = "IR-SDE posterior", "MR Sampler-2 ODE, data", "DDS, zero-shot"
MEASURES = {
    "psnr_one": "PSNR of one sample, dB",
    "psnr_mean": "PSNR of the mean, dB",
    "ssim_one": "SSIM of one sample",
    "ssim_mean": "SSIM of the mean",
    "lpips_one": "LPIPS (VGG) of one sample",
    "detail": "energy of the Laplacian over the truth's; 1 for exact samples",
    "spread": "|x - x'|^2 of two samples over |x - truth|^2; 1 for exact samples",
    "seconds": "seconds per sample",
}
SLACK = {"psnr_one": 0.5, "detail": 0.05, "spread": 0.05}
"""Largest differences below the baseline that count as equal quality."""
NOISY = 1.1
"""Detail above this value indicates remaining noise."""
SUMMARY = """# Trained restorers and their samplers

Made by `benchmarks/restoration.py`: {images} photographs (Kodak, central crops of {size} x {size}
pixels) that neither the restorers nor the prior `natural` were trained on, {samples} samples each.
Networks run in bfloat16.

{tasks}

IR-SDE's own sampler has correct strides: with fewer steps than in training, a step has the decay
between its two times. The published code keeps the decay of one time step, so most of the noise
remains; it is not a fair baseline. "data" adds five conjugate-gradient steps towards the
measurement to each evaluation. It knows the operator, as does zero-shot DDS; the other methods do
not. Their data weights are the best of {trials} on two other photographs.

PSNR favours estimates close to the posterior mean, which few steps give; an exact sample is 3 dB
below it. Single samples and means are therefore reported separately, and two numbers measure the
quality of samples: "detail" and "spread" are 1 for exact samples. {lpips}
"""


def write(record: dict[str, Any], lines: dict[str, str], table: Path) -> None:
    """Write the tables of a record and, beside them, the picture.

    Args:
        record: what was measured.
        lines: one line about each task.
        table: the Markdown file.
    """
    table.write_text(document(record, lines))
    draw(record["results"], list(lines), table.with_suffix(".png"))


def rows_of(results: dict[str, Any], name: str) -> Runs:
    """Return the runs of a task that did not diverge, by method and evaluations."""
    found = {}
    for place, runs in results.items():
        task, method = place.split(": ")
        if task == name:
            good = {n: row for n, row in runs.items() if n != "settings" and "error" not in row}
            found[method] = {int(n): good[n] for n in sorted(good, key=int)}
    return found


def document(record: dict[str, Any], lines: dict[str, str]) -> str:
    """Return the tables of a record, in Markdown."""
    tasks = {name: rows_of(record["results"], name) for name in lines}
    tasks = {name: found for name, found in tasks.items() if found}
    lpips = "LPIPS is left out: its weights are a download."
    if all("lpips_one" in row for found in tasks.values() for row in _all(found)):
        lpips = "LPIPS is that of VGG, as torchmetrics has it."
    listed = "\n".join(f"- **{name}**, {lines[name]}" for name in tasks)
    text = [SUMMARY.format(**record["protocol"], tasks=listed, lpips=lpips)]
    text.append("![quality against evaluations](restoration.png)\n")
    for name, found in tasks.items():
        text += [f"## {name}\n", *headline(found), ""]
        for measure, title in MEASURES.items():
            if all(measure in row for row in _all(found)):
                text += [f"{title}, by evaluations:\n", _table(found, measure), ""]
    return "\n".join(text)


def _all(found: Runs) -> list[dict[str, Any]]:
    return [row for runs in found.values() for row in runs.values()]


def _table(found: Runs, measure: str) -> str:
    budgets = sorted({n for runs in found.values() for n in runs})
    digits = 3 if measure.startswith(("ssim", "lpips")) else 2
    rows = [
        [method, *(f"{runs[n][measure]:.{digits}f}" if n in runs else "-" for n in budgets)]
        for method, runs in found.items()
    ]
    return format_table(["method", *map(str, budgets)], rows)


def headline(found: Runs) -> list[str]:
    """Return from how many evaluations on each method has the quality of the baseline's most."""
    if not found.get(BASELINE):
        return []
    most = max(found[BASELINE])
    goal = found[BASELINE][most]
    slack = ", ".join(f"{key.removesuffix('_one')} {gap:g}" for key, gap in SLACK.items())
    lines = [
        f"Smallest number of evaluations with the quality of {BASELINE} at {most} evaluations "
        f"(at most {slack} below, and detail up to {NOISY}):\n"
    ]
    for method, runs in found.items():
        if method in (DATA, ZERO_SHOT):  # they know the operator
            continue
        close = {
            n: all(r[k] >= goal[k] - g for k, g in SLACK.items()) and r["detail"] <= NOISY
            for n, r in runs.items()
        }
        enough = [n for n in close if all(close[m] for m in close if m >= n)]
        lines.append(f"- {method}: {min(enough) if enough else 'never'}")
    return lines


def draw(results: dict[str, Any], names: list[str], path: Path) -> None:
    """Draw PSNR of one sample and of the mean, and detail, against evaluations."""
    names = [name for name in names if rows_of(results, name)]
    figure = Figure(figsize=(11, 3.2 * len(names)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for name, axes in zip(names, figure.subplots(len(names), 3, squeeze=False), strict=True):
        for axis, measure in zip(axes, ("psnr_one", "psnr_mean", "detail"), strict=True):
            for method, runs in rows_of(results, name).items():
                values = [row[measure] for row in runs.values()]
                style = "--" if method == ZERO_SHOT else "-"
                axis.semilogx(list(runs), values, style, marker="o", markersize=3, label=method)
            axis.set_title(f"{name}: {MEASURES[measure].split(';')[0]}", fontsize=8)
            axis.set_xlabel("network evaluations", fontsize=8)
            axis.grid(alpha=0.3)
            # Euler's steps blow up where they are few.
            best = max(row[measure] for row in _all(rows_of(results, name)))
            axis.set_ylim(*((0, 2) if measure == "detail" else (best - 10, best + 1)))
        axes[0].legend(fontsize=6)
    figure.savefig(path)
