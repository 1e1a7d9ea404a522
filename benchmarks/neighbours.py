"""How many network calls a neighbouring slice, or the frame before, saves as a warm start.

    python benchmarks/neighbours.py --data studyforrest_t1.nii.gz --out docs

Slices of a head, 8 x undersampled k-space of four coils, one after another: each starts from the
reconstruction of the slice before by `priors.Skip.near`; the first one, which has none, is not
counted. Against the same solver from pure noise, by network calls.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from wellposed import datasets, operators, priors, solvers
from wellposed.datasets.images.crops import central_crop, random_phase
from wellposed.figures import format_table, write_figure
from wellposed.metrics import psnr

COILS, NOISE, LINES = 4, 0.01, (8, 0.04)


class Counted(priors.Itemwise):
    """A prior that counts its calls."""

    calls = 0

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: object = None) -> Tensor:
        """Return the estimate of the prior."""
        Counted.calls += 1
        return self.prior.denoise(x_t, t)


def slices(o: argparse.Namespace) -> Tensor:
    """Return neighbouring slices with one smooth phase, (N, 1, side, side)."""
    volume = datasets.load_nifti(o.data).volume[0, 0]
    positive = volume[volume > 0]
    volume = volume / torch.quantile(positive[:: 1 + len(positive) // 1_000_000], 0.998)
    places = range(o.place, o.place + o.count * o.gap, o.gap)
    stack = torch.stack([volume[n].flip(0) for n in places])[:, None]
    phase = random_phase(torch.ones_like(stack[:1]), seed=0)
    return central_crop(stack * phase, o.side)


def solve(
    y: Tensor, operator: operators.LinearOperator, prior: priors.Prior, steps: int
) -> Tensor:
    """Return one sample of DDS."""
    solver = solvers.DDS(steps=steps, eta=1.0, spacing="karras")
    return solver(y, operator, prior, seed=0).mean


def sequence(x: Tensor, steps: int, spread: float | None) -> tuple[float, float]:
    """Return the mean PSNR and the calls of all slices but the first."""
    prior, before, quality, calls = Counted(priors.load("brain-mri")), None, [], []
    maps = operators.simulate_sensitivity_maps(COILS, *x.shape[-2:], seed=0)
    for n, truth in enumerate(x.split(1)):
        mask = operators.fastmri_lines("random", x.shape[-1], *LINES, seed=n)
        operator = operators.MultiCoilMRI(mask, maps, NOISE)
        y = operator.measure(truth, seed=n)
        warm = before is not None and spread is not None
        near = priors.Skip.near(before, spread, prior).applied(prior) if warm else prior
        Counted.calls = 0
        solver = solvers.DDS(steps=steps if n else 20, eta=1.0, spacing="karras")
        before = solver(y, operator, near, seed=0).mean
        quality.append(float(psnr(before.abs(), truth.abs())))
        calls.append(Counted.calls)
    return sum(quality[1:]) / len(quality[1:]), sum(calls[1:]) / len(calls[1:])


def draw(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw the PSNR over the network calls of each slice."""
    canvas = Figure(figsize=(4.2, 3), dpi=96, layout="constrained")
    axes = canvas.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=f"from {name}")
    axes.set(xlabel="network calls of a slice", title="PSNR in dB", xlim=(0, None))
    axes.legend(fontsize=7)
    write_figure(canvas, path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--place", type=int, default=230, help="first slice")
    parser.add_argument("--gap", type=int, default=2, help="slices from one to the next")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 8, 12, 20])
    parser.add_argument("--out", type=Path, help="folder of the figure")
    o = parser.parse_args()
    x, rows = slices(o), []
    apart = float((x[1:] - x[:-1]).abs().square().mean().sqrt())
    starts = {"noise": None, "slice before": apart}
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in starts}
    print(f"neighbours differ by {apart:.3f}, root mean square")
    for steps in o.steps:
        for name, spread in starts.items():
            quality, calls = sequence(x, steps, spread)
            curves[name].append((calls, quality))
            rows.append([str(steps), name, f"{calls:.0f}", f"{quality:.2f}"])
            print(" | ".join(rows[-1]), flush=True)
    print(format_table(["steps", "start", "calls", "PSNR"], rows))
    if o.out:
        draw(curves, o.out / "inversion-neighbours.png")


if __name__ == "__main__":
    main()
