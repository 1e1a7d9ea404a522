"""What the comparing examples share: methods are run on a case, put in a table and drawn."""

import argparse
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import deepinv
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from wellposed import Reconstruction
from wellposed.figures import displayable, format_table
from wellposed.linalg import norm
from wellposed.metrics import psnr, ssim
from wellposed.operators import LinearOperator
from wellposed.priors import Prior
from wellposed.solvers import DDS, HQS, Solver, recommend


@dataclass(frozen=True, eq=False)
class Case:
    """An inverse problem and what its solutions are compared with.

    Attributes:
        name: what the table and the pictures call it.
        y: measurement (1, ...).
        operator: what made it, acting on images of values about [0, 1].
        reference: image (1, 1 or 3, H, W) in such values.
        window: values shown black and white.
        region: 1 where images are compared and shown, 0 elsewhere, as in the reference.
    """

    name: str
    y: Tensor
    operator: LinearOperator
    reference: Tensor
    window: tuple[float, float] = (0.0, 1.0)
    region: Tensor | float = 1.0


@dataclass(frozen=True, eq=False)
class Result:
    """An image that a method made, the seconds it took, and the spread of samples behind it."""

    name: str
    image: Tensor
    seconds: float
    std: Tensor | None = None


Method = Callable[[Case], Tensor | Reconstruction]
Settings = Mapping[str, Mapping[str, Sequence[float]]]
"""By method and setting, the values to run it with."""


def arguments(description: str | None, out: str, iterations: int) -> argparse.Namespace:
    """Return the command line that all comparing examples have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="see above")
    parser.add_argument("--out", type=Path, default=Path("out") / out)
    parser.add_argument("--steps", type=int, default=30, help="evaluations of the prior")
    parser.add_argument("--samples", type=int, default=4, help="samples of MMPS and DDS")
    parser.add_argument(
        "--iterations", type=int, default=iterations, help="iterations of ADMM for TV"
    )
    parser.add_argument(
        "--tune", action="store_true", help="compare settings on the tuning data instead"
    )
    return parser.parse_args()


def total_variation(case: Case, weight: float, iterations: int) -> Tensor:
    """Return ``argmin_x 1/2 ||A x - y||^2 + weight TV(x)`` by deepinv's ADMM.

    Its step gives the proximal map of TV a threshold of .2, for images of values about [0, 1].
    """
    model = deepinv.optim.ADMM(
        data_fidelity=deepinv.optim.L2(),
        prior=_TotalVariation(n_it_max=20),  # warm-started: a few inner steps are enough
        lambda_reg=weight,
        stepsize=0.2 / weight,
        max_iter=iterations,
    )
    start = torch.zeros_like(case.reference)
    with torch.no_grad():
        return model(case.y, case.operator, init=(start, start))


class _TotalVariation(deepinv.optim.TVPrior):
    """Isotropic total variation, of complex images that of both parts."""

    def prox(self, x: Tensor, *args: object, gamma: float = 1.0, **kwargs: object) -> Tensor:
        if not x.is_complex():
            return super().prox(x, gamma=gamma)
        parts = super().prox(torch.cat([x.real, x.imag], 1), gamma=gamma)
        return torch.complex(*parts.chunk(2, 1))


def with_prior(prior: Prior, options: argparse.Namespace) -> dict[str, Method]:
    """Return HQS, MMPS and DDS with a prior; the noise level of the data sets their weights."""
    steps = options.steps
    chosen: dict[str, Callable[[Case], Solver]] = {
        "HQS": lambda case: HQS(steps=steps),
        "MMPS": lambda case: recommend(case.operator, prior, "samples", steps),
        "DDS": lambda case: DDS(steps=steps, eta=1.0, spacing="karras"),
    }
    return {name: _method(make, prior, options.samples) for name, make in chosen.items()}


def _method(make: Callable[[Case], Solver], prior: Prior, samples: int) -> Method:
    def solve(case: Case) -> Reconstruction:
        solver = make(case)
        count, seed = (1, None) if solver.deterministic else (samples, 0)
        return solver(case.y, case.operator, prior, num_samples=count, seed=seed)

    return solve


def variants(methods: Mapping[str, Callable[..., Any]], settings: Settings) -> dict[str, Method]:
    """Return each method at all combinations of its settings; those of several tell them apart."""
    found: dict[str, Method] = {}
    for name, method in methods.items():
        grid = settings.get(name, {})
        combinations = list(itertools.product(*grid.values()))
        for values in combinations:
            chosen = dict(zip(grid, values, strict=True))
            told = [f"{key} {value:g}" for key, value in chosen.items() if len(grid[key]) > 1]
            found[", ".join([name, *told])] = partial(method, **chosen)
    return found


def run(cases: Iterable[Case], methods: Mapping[str, Method], out: Path) -> None:
    """Run all methods on all cases; print a table and write it and the panels to ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    header, rows = ["case", "method", "PSNR", "SSIM", "residual", "seconds"], []
    for case in cases:
        results = list(_results(case, methods))
        for result in results:
            quality = [f"{_psnr(result, case):.2f}", f"{_ssim(result, case):.4f}"]
            misfit = f"{residual(case, result.image):.3g}"
            rows.append([case.name, result.name, *quality, misfit, f"{result.seconds:.1f}"])
        write_panel(out / f"{case.name.replace(' ', '-')}.png", case, results)
    table = format_table(header, rows)
    (out / "table.md").write_text(table + "\n")
    print(table)


def _results(case: Case, methods: Mapping[str, Method]) -> Iterator[Result]:
    for name, method in methods.items():
        started = time.perf_counter()
        found = method(case)
        seconds = time.perf_counter() - started
        if isinstance(found, Reconstruction):
            count = len(found.samples)
            if count == 1:
                yield Result(name, found.mean, seconds)
                continue
            yield Result(f"{name}, {found.kind}", found.samples[0], seconds / count)
            yield Result(f"{name}, mean of {count}", found.mean, seconds, found.std)
        else:
            yield Result(name, found, seconds)


def _psnr(result: Result, case: Case) -> float:
    return float(psnr(case.region * result.image, case.reference))


def _ssim(result: Result, case: Case) -> float:
    return float(ssim(case.region * result.image, case.reference))


def residual(case: Case, image: Tensor) -> float:
    """Return ``||A x - y||`` over the expected norm of the noise, or ``||y||`` where unknown."""
    operator, y = case.operator, case.y
    unit = torch.full_like(y, 1 + 1j if y.is_complex() else 1)
    expected = norm(operator.restrict(operator.noise_std(y) * unit))
    distance = norm(operator.A(image) - operator.restrict(y))
    return float(distance / torch.where(expected > 0, expected, norm(y)))


def write_panel(path: Path, case: Case, results: Sequence[Result]) -> None:
    """Write the reference and all images, and below the spread of samples and all errors."""
    truth = displayable(case.reference[0])
    height, width = truth.shape[:2]
    columns = 1 + len(results)
    figure = Figure(figsize=(1.8 * columns, 3.6 * height / width + 0.5), dpi=96)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(2, columns, squeeze=False)
    low, high = case.window
    grey = {"cmap": "gray", "vmin": low, "vmax": high}
    widest = (high - low) / 3
    heat = {"cmap": "magma", "vmin": 0, "vmax": widest}
    _draw(axes[0, 0], truth, f"reference\n{case.name}", **grey)
    axes[1, 0].set_axis_off()
    for (above, below), result in zip(axes.T[1:], results, strict=True):
        image = displayable((case.region * result.image)[0])
        image = image.clip(0, 1) if image.ndim == 3 else image
        quality = f"{_psnr(result, case):.2f} dB, {_ssim(result, case):.3f}"
        _draw(above, image, f"{result.name}\n{quality}", **grey)
        _draw(below, _grey(abs(image - truth)), f"|error|, 0 to {widest:.2g}", **heat)
        if result.std is not None:
            spread = displayable((case.region * result.std)[0])
            _draw(axes[1, 0], _grey(spread), f"std of samples, 0 to {widest:.2g}", **heat)
    top = 1 - 0.34 / figure.get_figheight()
    figure.subplots_adjust(0.003, 0.003, 0.997, top, 0.015, 0.32 / figure.get_figheight())
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(64).save(path, optimize=True)  # a third of the bytes of full colour


def _grey(image: np.ndarray) -> np.ndarray:
    """Return the mean over the colours, where there are any."""
    return image.mean(-1) if image.ndim == 3 else image


def _draw(axis: Axes, image: object, title: str, **style: object) -> None:
    axis.imshow(image, interpolation="none", **style)
    axis.set_title(title, fontsize=7, pad=2)
    axis.set_axis_off()
