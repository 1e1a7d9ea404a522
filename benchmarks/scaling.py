"""Cost of a measurement and of its data step against pixels, coils, views, samples and slices.

    python benchmarks/scaling.py [--repeats 3] [--out docs]

Each curve varies one size of one problem. It shows the processor's seconds of ``A``, of ``A^H A``
and of the data step ``argmin ||A x - y||^2 / sigma^2 + ||x - z||^2 / s^2``, which `HQS` and
`DiffPIR` take between two network evaluations, beside one evaluation of the shipped prior on the
same images: the least of some repeats. What is made once for an operator is measured apart. Writes
`scaling.json`, `scaling.png` and `scaling.md`; what is in the first is not measured again.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from wellposed import operators, priors
from wellposed.figures import format_table, write_figure
from wellposed.operators.base import LinearOperator
from wellposed.priors import Prior
from wellposed.solvers import Problem
from wellposed.solvers.data import proximal
from wellposed.writing import write_text

DOCS = Path(__file__).parent.parent / "docs"
NOISE, SPREAD = 0.01, 0.1
"""Noise of the data, and s of the data step."""

SUMMARY = """# Scaling

Made by `python -m benchmarks scaling`: milliseconds of one thread for a measurement, for the
normal operator and for the data step that `HQS` and `DiffPIR` take between two network
evaluations, beside one evaluation of the shipped prior on the same images. "once" is what an
operator makes at its first data step: for MRI along lines the eigenvectors of each row, which take
`8 H W^2` bytes. The last row is the power of the size with which the cost grows between the two
largest sizes."""

COLUMNS = {
    "set-up": "once",
    "A": "A",
    "normal": "A^H A",
    "step": "data step",
    "network": "network",
}


@dataclass(frozen=True)
class Curve:
    """A problem of which one size varies.

    Attributes:
        title: what varies.
        sizes: its values.
        make: the operator of a size.
        prior: name of the shipped prior.
        samples: images in a batch, of a size; one by default.
    """

    title: str
    sizes: tuple[int, ...]
    make: Callable[[int], LinearOperator]
    prior: str
    samples: Callable[[int], int] = lambda size: 1


def mri(side: int, coils: int) -> LinearOperator:
    """Return 4 x undersampled k-space of lines."""
    mask = operators.uniform_random_lines(side, 4, seed=0)
    maps = operators.simulate_sensitivity_maps(coils, side, side, seed=0)
    return operators.MultiCoilMRI(mask, maps, noise_sigma=NOISE)


def ct(side: int, views: int) -> LinearOperator:
    """Return a sinogram of parallel beams."""
    return operators.ParallelBeamCT(side, views, noise_sigma=NOISE * side)


def blur(side: int) -> LinearOperator:
    """Return a circular blur of a colour photograph."""
    return operators.Blur(operators.gaussian_kernel(2.0), (3, side, side), NOISE)


def volume(slices: int) -> LinearOperator:
    """Return sinograms of the slices of a volume."""
    return operators.Stacked(ct(128, 30), slices)


CURVES = {
    "pixels, MRI of 8 coils": Curve(
        "side", (64, 128, 192, 256, 320), lambda n: mri(n, 8), "brain-mri"
    ),
    "pixels, CT of 60 views": Curve("side", (64, 128, 192, 256), lambda n: ct(n, 60), "ct"),
    "pixels, blur": Curve("side", (64, 128, 256, 512), blur, "natural"),
    "coils, MRI of 128 x 128": Curve(
        "coils", (2, 4, 8, 16, 32), lambda n: mri(128, n), "brain-mri"
    ),
    "views, CT of 128 x 128": Curve("views", (15, 30, 60, 120, 240), lambda n: ct(128, n), "ct"),
    "samples, MRI of 128 x 128": Curve(
        "samples", (1, 2, 4, 8), lambda n: mri(128, 8), "brain-mri", lambda n: n
    ),
    "slices, CT of 128 x 128": Curve("slices", (2, 4, 8, 16), volume, "ct"),
}


def main() -> None:
    """Measure what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--curves", nargs="*", default=list(CURVES), choices=CURVES)
    parser.add_argument("--out", type=Path, default=DOCS)
    args = parser.parse_args()
    record = args.out / "scaling.json"
    found = json.loads(record.read_text()) if record.exists() else {}
    for name, size, point in missing(args.curves, found):
        found.setdefault(name, {})[str(size)] = point(args.repeats)
        print(name, size, found[name][str(size)], flush=True)
        write_text(record, json.dumps(found, indent=1) + "\n")
    write_text(args.out / "scaling.md", document(found))
    draw(found, args.out / "scaling.png")


Point = Callable[[int], dict[str, float]]


def missing(names: list[str], found: dict[str, Any]) -> Iterator[tuple[str, int, Point]]:
    """Yield the points that were not measured yet."""
    for name in names:
        curve = CURVES[name]
        for size in curve.sizes:
            if str(size) not in found.get(name, {}):
                yield name, size, lambda repeats, c=curve, n=size: seconds(c, n, repeats)  # type: ignore[misc]


@torch.inference_mode()
def seconds(curve: Curve, size: int, repeats: int) -> dict[str, float]:
    """Return the seconds of all parts at a size, each the least of some repeats."""
    operator, prior = curve.make(size), priors.load(curve.prior)
    shape = (curve.samples(size), *operator.img_size)
    dtype = torch.complex64 if operator.complex_image else torch.float32
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    if len(operator.img_size) == 4:
        prior = priors.Slicewise(prior)
    problem = Problem.create(operator.A(x), operator, prior)
    weight = (problem.noise_sigma / SPREAD) ** 2
    first = clocked(lambda: proximal(problem, x, weight), 1)
    found = {
        "A": clocked(lambda: operator.A(x), repeats),
        "normal": clocked(lambda: operator.A_adjoint_A(x), repeats),
        "step": clocked(lambda: proximal(problem, x, weight), repeats),
        "network": clocked(lambda: evaluation(prior, x), repeats),
    }
    return {"set-up": round(max(0.0, first - found["step"]), 5)} | {
        name: round(value, 5) for name, value in found.items()
    }


def evaluation(prior: Prior, x: Tensor) -> Tensor:
    """Return an estimate at the noise level of the data step."""
    t = prior.schedule.time_at(SPREAD)
    return prior.denoise(prior.schedule(t)[0] * x, t)


def clocked(call: Callable[[], object], repeats: int) -> float:
    """Return the least processor seconds of some calls."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


def exponent(points: dict[str, dict[str, float]], part: str) -> float:
    """Return the power of the size with which the cost grows, between the two largest sizes."""
    (small, before), (large, after) = sorted((int(n), p[part]) for n, p in points.items())[-2:]
    return math.log(max(after, 1e-6) / max(before, 1e-6)) / math.log(large / small)


def document(found: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    parts = [SUMMARY, "![Seconds against sizes](scaling.png)"]
    for name, points in found.items():
        header = [CURVES[name].title, *COLUMNS.values()]
        rows = [
            [size, *(f"{1000 * point[part]:.1f}" for part in COLUMNS)]
            for size, point in points.items()
        ]
        powers = [f"{exponent(points, part):.1f}" for part in list(COLUMNS)[1:]]
        rows.append(["power", "", *powers])
        parts.append(f"## {name[0].upper()}{name[1:]}\n\n{format_table(header, rows)}")
    return "\n\n".join(parts) + "\n"


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw seconds against sizes, a panel for each curve."""
    figure = Figure(figsize=(11, 5.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, math.ceil(len(found) / 2), squeeze=False).flatten()
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    for axis, (name, points) in zip(axes, found.items(), strict=False):
        sizes = [int(size) for size in points]
        for part, marker in (("A", "o"), ("normal", "s"), ("step", "^"), ("network", "")):
            values = [point[part] for point in points.values()]
            axis.loglog(sizes, values, marker=marker, label=COLUMNS[part], linewidth=1.2)
        axis.set_title(name, fontsize=9)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    axes[0].set_ylabel("seconds")
    write_figure(figure, path)


if __name__ == "__main__":
    main()
