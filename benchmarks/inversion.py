"""Figures of docs/inversion.md: orders, round trips, whiteness, memory, geometry and the rest.

python benchmarks/inversion.py FOLDER [NAME...]

Names: orders, trips, memory, geometry, skips, phase; all by default.
"""

import gc
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import avg_pool2d

from wellposed.datasets import read_photograph
from wellposed.figures import displayable, write_figure
from wellposed.inversion import (
    BDIA,
    DDIM,
    EDICT,
    EditFriendly,
    FixedPoint,
    Inversion,
    Midpoint,
    generate,
)
from wellposed.inversion.chain import Chain
from wellposed.metrics import psnr
from wellposed.operators import PhaseRetrieval
from wellposed.priors import GaussianPrior, LowRank, Prior, Skip, Tabulated, geometry, load
from wellposed.priors.sampling import sample
from wellposed.solvers import DPS, NoiseMAP, Solver

METHODS: dict[str, Inversion] = {
    "DDIM": DDIM(steps=25),
    "DDIM, target label": DDIM(steps=25, at="target"),
    "FixedPoint": FixedPoint(steps=25),
    "EDICT": EDICT(steps=25),
    "Midpoint": Midpoint(steps=25),
    "BDIA": BDIA(steps=25),
    "EditFriendly": EditFriendly(steps=25),
}
STEPS = (25, 50, 100, 200)
PHASE: dict[str, tuple[Solver, int]] = {
    "DPS, 200 steps": (DPS(steps=200, zeta=0.4), 4),
    "NoiseMAP": (NoiseMAP(), 1),
    "NoiseMAP, 3 levels": (NoiseMAP(levels=3), 1),
    "NoiseMAP, 3 levels, one start": (NoiseMAP(levels=3, starts=1), 1),
}
"""Solvers of phase retrieval, and the samples of which the one that fits best is taken."""
PHOTO = Path(__file__).parents[1] / "tests" / "data" / "held_out" / "kodak_08.png"


def figure(width: float, height: float) -> Figure:
    """Return an empty figure."""
    return Figure(figsize=(width, height), dpi=96, layout="constrained")


def correlated() -> GaussianPrior:
    """Return a Gaussian with deviations from 0.2 to 1.4 in 16 dimensions."""
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(16, 16, generator=generator, dtype=torch.float64)
    components = torch.linalg.qr(square).Q.reshape(16, 1, 4, 4)
    values = torch.logspace(-1.3, 0.3, 16, dtype=torch.float64)
    return GaussianPrior(0.1, LowRank(components, values), Tabulated.linear())


def orders(folder: Path) -> None:
    """Draw the error of x_T against the exact flow over the steps."""
    prior, canvas = correlated(), figure(4.2, 3)
    axes = canvas.subplots()
    x0 = prior.draw(torch.randn(4, 1, 4, 4, dtype=torch.float64))
    for name, method in METHODS.items():
        if isinstance(method, EditFriendly):  # whose x_T is a draw
            continue
        gaps = []
        for steps in STEPS:
            code = replace(method, steps=steps, spacing="geometric").encode(x0, prior)
            low, top = code.times[0], code.times[-1]
            exact = prior.flow(float(prior.schedule(low)[0]) * x0, low, top)
            gaps.append(float((code.x_T - exact).norm() / exact.norm()))
        print(f"order | {name} | {' | '.join(f'{gap:.1e}' for gap in gaps)}")
        axes.loglog(STEPS, gaps, marker="o", label=name)
    axes.set(xlabel="steps", title="error of x_T against the exact flow")
    axes.legend(fontsize=7)
    write_figure(canvas, folder / "inversion-orders.png")


def round_trips(prior: Prior, images: Tensor, folder: Path) -> None:
    """Tabulate round trips and whiteness on a network, and draw the codes."""
    canvas = figure(1.5 * (len(METHODS) + 1), 3.2)
    grid = canvas.subplots(2, len(METHODS) + 1)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(displayable(images[0]), cmap="gray", vmin=0, vmax=1)
    grid[0, 0].set_title("image", fontsize=8)
    for column, (name, method) in zip(grid.T[1:], METHODS.items(), strict=True):
        started = time.perf_counter()
        code = method.encode(images.double(), prior)
        seconds = time.perf_counter() - started
        back = code.decode(prior)
        gap = (back - images).flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
        white = [f"{float(v.mean()):.2f}" for v in code.whiteness]
        row = [name, f"{float(gap.max()):.0e}", str(code.calls), f"{seconds:.0f} s", *white]
        print("ct | " + " | ".join(row), flush=True)
        column[0].imshow(displayable(back[0]), cmap="gray", vmin=0, vmax=1)
        column[1].imshow(displayable(code.x_T[0] / code.std), cmap="gray", vmin=-2.5, vmax=2.5)
        column[0].set_title(name, fontsize=8)
    write_figure(canvas, folder / "inversion-ct.png")


class Held:
    """A tensor that is kept for a gradient; counts the bytes of all of them."""

    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        Held.now += tensor.nbytes
        Held.most = max(Held.most, Held.now)

    def __del__(self) -> None:
        Held.now -= self.tensor.nbytes


def plain(noise: Tensor, prior: Prior, steps: int) -> Tensor:
    """Differentiate DDIM steps as usual."""
    chain = Chain(prior, BDIA(steps=steps).times(prior))
    x = noise
    for level in range(chain.top, 0, -1):
        x = chain.place(chain.look(x, level), level - 1)
    return x / chain.alpha[0]


def memory(prior: Prior, folder: Path) -> None:
    """Draw what is kept for the gradient of a chain over its steps."""
    canvas = figure(4.2, 3)
    axes = canvas.subplots()
    for name, make in (("whole graph", plain), ("inversion.generate", generate)):
        held = []
        for steps in (2, 4, 8):
            Held.now = Held.most = 0
            noise = torch.randn(1, 1, 32, 32).requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(Held, lambda kept: kept.tensor):
                make(noise, prior, steps).sum().backward()
            gc.collect()
            held.append(Held.most / 2**20)
        print(f"memory | {name} | {' | '.join(f'{m:.0f}' for m in held)} MiB", flush=True)
        axes.plot((2, 4, 8), held, marker="o", label=name)
    axes.set(xlabel="steps", title="MiB kept for the gradient", ylim=(0, None))
    axes.legend(fontsize=7)
    write_figure(canvas, folder / "inversion-memory.png")


def curves(priors: dict[str, tuple[Prior, Tensor]], folder: Path) -> None:
    """Draw the geometry of priors."""
    canvas = figure(7, 2.8)
    left, right = canvas.subplots(1, 2)
    for name, (prior, images) in priors.items():
        found = geometry(prior, images[:1], probes=2)
        asymmetry, share = found.asymmetry.mean(1), found.dimension.mean(1) / found.size
        lowest = found.lowest.amin(1)
        for what, curve in (("asymmetry", asymmetry), ("dimension", share), ("lowest", lowest)):
            print(
                f"{what} | {name} | {' | '.join(f'{v:.3f}' for v in curve.tolist())}", flush=True
            )
        left.semilogx(found.ratios, asymmetry, marker="o", label=name)
        right.semilogx(found.ratios, share, marker="o", label=name)
    left.set(title="asymmetry |J - J^T| / |J|", xlabel="sigma / alpha", ylim=(0, None))
    right.set(title="dimension, share of all", xlabel="sigma / alpha", ylim=(0, None))
    left.legend(fontsize=7)
    write_figure(canvas, folder / "inversion-geometry.png")


def skips(priors: dict[str, tuple[Prior, Tensor]]) -> None:
    """Tabulate the error of samples of few steps, with and without a jump over the first."""
    for name, (prior, _) in priors.items():
        gaussian = GaussianPrior.fit(sample(prior, 32, (32, 32), steps=24, seed=9), prior=prior)
        exact = sample(prior, 6, (32, 32), steps=48, seed=4)
        for steps in (8, 12, 16, 24):
            for ratio in (math.inf, 40.0, 20.0, 8.0):
                skip = None if math.isinf(ratio) else Skip(gaussian, ratio)
                times = prior.schedule.times(steps, "karras").tolist()
                calls = len(times if skip is None else skip.times(prior.schedule, times)) - 1
                gap = sample(prior, 6, (32, 32), steps=steps, seed=4, skip=skip) - exact
                error = float(gap.norm() / (exact - exact.mean(0)).norm())
                print(
                    f"skip | {name} | {steps} | to {ratio:g} | {calls} | {error:.3f}", flush=True
                )


def phase(images: Tensor, prior: Prior, folder: Path) -> None:
    """Tabulate and draw NoiseMAP and DPS on phase retrieval; images are known up to a turn."""
    operator = PhaseRetrieval(tuple(images.shape[1:]), noise_sigma=0.01)
    generator = torch.Generator().manual_seed(0)
    clean = operator.A(images)
    y = clean + 0.01 * torch.randn(clean.shape, generator=generator)
    shown = {"truth": images}
    for name, (solver, count) in PHASE.items():
        started = time.perf_counter()
        found = solver(y, operator, prior, seed=None if count == 1 else 0, num_samples=count)
        seconds = time.perf_counter() - started
        residual, best = found.residual.reshape(count, -1).min(0)
        chosen = found.samples[best, torch.arange(len(images))]
        turns = torch.stack([chosen, chosen.flip(-2, -1)])
        either, turn = torch.stack([psnr(v, images) for v in turns]).max(0)
        shown[name] = turns[turn, torch.arange(len(images))]
        each = " ".join(f"{v:.1f}" for v in either.tolist())
        facts = f"{each} | {float(residual.mean()):.2f} | {count * found.nfe} | {seconds:.0f} s"
        print(f"phase | {name} | best of {count} | {facts}", flush=True)
    draw_columns(shown, folder / "inversion-phase.png")


def draw_columns(shown: dict[str, Tensor], path: Path) -> None:
    """Draw batches of images, each a column."""
    rows = len(next(iter(shown.values())))
    canvas = figure(1.6 * len(shown), 1.6 * rows + 0.3)
    grid = canvas.subplots(rows, len(shown))
    for column, (name, images) in zip(grid.T, shown.items(), strict=True):
        column[0].set_title(name, fontsize=6)
        for axes, image in zip(column, images, strict=True):
            axes.imshow(displayable(image).clip(0, 1))
            axes.set_axis_off()
    write_figure(canvas, path)


def main(folder: Path, names: Sequence[str]) -> None:
    """Make the figures of these names."""
    torch.manual_seed(0)
    ct, natural = load("ct"), load("natural")
    images = {p: sample(p, 2, (32, 32), steps=20, seed=3) for p in (ct, natural)}
    both = {"ct": (ct, images[ct]), "natural": (natural, images[natural])}
    parts = {
        "orders": partial(orders, folder),
        "trips": partial(round_trips, ct, images[ct], folder),
        "memory": partial(memory, ct, folder),
        "geometry": partial(curves, both, folder),
        "skips": partial(skips, both),
        "phase": partial(phase, torch.cat([images[natural], photograph()]), natural, folder),
    }
    for name in names or parts:
        parts[name]()


def photograph() -> Tensor:
    """Return part of a photograph that no prior has seen, (1, 3, 32, 32)."""
    pixels = torch.from_numpy(read_photograph(PHOTO).pixels).float().permute(2, 0, 1)[None]
    return avg_pool2d(pixels[..., 64:192, 64:192], 4)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), sys.argv[2:])
