"""Reconstruct real brain MRI with a diffusion prior: the project's main job in one command.

(a) Measured 8-coil k-space (12 % of the samples were taken; SigPy MRI tutorial, BSD-3). There is
    no ground truth, so a tenth of the outer samples is held back and predicted.
(b) A slice of the studyforrest volume (PDDL), undersampled 4 x with 8 simulated coils and noise.

Each by three methods without a prior (back-projection, Tikhonov, which is CG-SENSE, and total
variation), by HQS and MMPS, which `solvers.recommend` gives for an estimate and for samples, and
by DDS and RED-diff. The shipped `brain-mri` prior has seen neither data set. Panels and the table
go to the folder given by --out.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from wellposed import Reconstruction, operators, priors, solvers
from wellposed.figures import format_table
from wellposed.metrics import psnr, ssim
from wellposed.operators.presets import Task, measured_mri

DATA = Path(__file__).parent / "data"
NOISE = 0.01  # per real and imaginary part; in (a) about what the rim of k-space shows
HEADER = ["data", "method", "image", "PSNR", "SSIM", "held-out", "residual", "NFE", "seconds"]
Row = list[str]


def measured(prior: priors.Prior, held_back: float = 0.1) -> tuple[Task, Tensor, Tensor]:
    """Return problem (a) for a prior, its whole k-space and the mask of samples held back."""
    kspace = torch.from_numpy(np.load(DATA / "sigpy_brain_kspace.npy"))[None]
    task = measured_mri(kspace)
    brightest = priors.fit_range(prior, kspace, task.operator).data_range[1]
    rows, columns = kspace.shape[-2:]
    taken = task.operator.mask[0, 0] > 0
    taken[rows // 2 - 16 : rows // 2 + 16, columns // 2 - 16 : columns // 2 + 16] = False
    chosen = torch.from_numpy(np.random.default_rng(0).random(tuple(taken.shape)) < held_back)
    held = taken & chosen
    mask = task.operator.mask[0, 0] * ~held
    noise = NOISE * brightest
    operator = operators.MultiCoilMRI(mask, task.operator.sensitivity_maps, noise_sigma=noise)
    return Task(operator.restrict(task.y), operator, None, in_scanner_units=True), task.y, held


def simulated() -> Task:
    """Return problem (b): 4 x undersampled, 8 coils, noise of 1 % of the brightest tissue."""
    with h5py.File(DATA / "studyforrest_slice.h5") as file:
        magnitude = torch.from_numpy(file["magnitude"][()].astype(np.float32))
    image = magnitude.to(torch.complex64)[None, None]
    height, width = magnitude.shape
    maps = operators.simulate_sensitivity_maps(8, height, width, seed=0)
    mask = operators.uniform_random_lines(width, 4, seed=0)
    operator = operators.MultiCoilMRI(mask, maps, noise_sigma=NOISE)
    return Task(operator.measure(image, seed=0), operator, image)


def methods(task: Task, prior: priors.Prior) -> list[tuple[solvers.Solver, int]]:
    """Return solvers and how many samples each draws; estimates have none.

    As recommended, then two published samplers with weights that follow the noise. RED-diff starts
    from the back-projection, as undersampled MRI has no stable pseudo-inverse.
    """
    return [
        (solvers.BackProjection(), 1),
        (solvers.Tikhonov(), 1),
        (solvers.TotalVariation(), 1),
        (solvers.recommend(task.operator, prior, "mean"), 1),
        (solvers.recommend(task.operator, prior, "samples"), 2),
        (solvers.DDS(steps=30, eta=1.0, spacing="karras"), 2),
        (solvers.REDDiff(steps=100, regularization=None, start="back-projection"), 1),
    ]


class Report:
    """Collects the rows of the table for one problem."""

    def __init__(self, name: str, task: Task, held_out: Callable[[Tensor], str]) -> None:
        self.name, self.task, self.held_out, self.rows = name, task, held_out, list[Row]()

    def add(self, method: str, kind: str, image: Tensor, nfe: str, seconds: float) -> None:
        """Add one image (1, 1, H, W) and its figures."""
        quality = ["-", "-"]
        if self.task.truth is not None:
            truth = self.task.truth
            quality = [f"{float(psnr(image, truth)):.2f}", f"{float(ssim(image, truth)):.4f}"]
        y, operator = self.task.y, self.task.operator
        entries = 2 * float(operator.mask.sum()) * y.shape[1]
        noise = float(operator.noise_model.sigma)
        misfit = float((operator.A(image) - y).norm()) / (noise * entries**0.5)
        figures = [*quality, self.held_out(image), f"{misfit:.2f}", nfe, f"{seconds:.1f}"]
        self.rows.append([self.name, method, kind, *figures])

        print(" | ".join(self.rows[-1]), flush=True)

    def add_result(self, method: str, result: Reconstruction) -> None:
        """Add the estimate, or one sample and the mean of several."""
        nfe, count = str(result.nfe), len(result.samples)
        self.add(method, result.kind, result.samples[0], nfe, result.seconds / count)
        if count > 1:
            self.add(method, f"mean of {count}", result.mean, f"{count} x {nfe}", result.seconds)


def run(
    name: str, task: Task, prior: priors.Prior, held_out: Callable[[Tensor], str], out: Path
) -> list[Row]:
    """Solve one problem by all methods; write the panels and return the rows."""
    report = Report(name, task, held_out)
    if task.in_scanner_units:
        prior = priors.fit_range(prior, task.y, task.operator)
    others = {"zero-filled": task.operator.A_adjoint(task.y)}
    for solver, samples in methods(task, prior):
        method = type(solver).__name__
        seed = None if solver.deterministic else 0
        result = solver(task.y, task.operator, prior, num_samples=samples, seed=seed)
        report.add_result(method, result)
        result.save(out, others=others, truth=task.truth, name=f"{name}-{method.lower()}")
    return report.rows


def main() -> None:
    """Run both problems and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/demo"))
    out: Path = parser.parse_args().out
    prior = priors.load("brain-mri")
    task, kspace, held = measured(prior)
    everything = operators.MultiCoilMRI(held.float(), task.operator.sensitivity_maps)

    def held_out(image: Tensor) -> str:
        error = everything.A(image) - everything.restrict(kspace)
        return f"{float(error.norm() / everything.restrict(kspace).norm()):.3f}"

    print(" | ".join(HEADER))
    rows = run("measured", task, prior, held_out, out)
    rows += run("simulated", simulated(), prior, lambda image: "-", out)
    table = format_table(HEADER, rows)
    (out / "table.md").write_text(table + "\n")
    print(f"\n{table}")
    print(
        f"\nheld-out: relative error of k-space samples kept from the solver. Panels: {out}/*.png"
    )


if __name__ == "__main__":
    main()
