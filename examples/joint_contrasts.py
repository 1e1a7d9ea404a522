"""Three contrasts of one head under one joint prior: what is not measured is imputed.

T1, T2 and FLAIR of a slice are the channels of one image. FLAIR is undersampled in k-space or
missing, T1 and T2 are given or missing. The joint prior returns all three with their spread. It is
compared with the shipped single-channel prior `brain-mri`, which sees the k-space alone, and with
plain regression: least squares of each missing contrast on 5 x 5 patches of what is given, the
CG-SENSE image of the k-space among it, fitted on slices of the other heads.

    python examples/joint_data.py brain_mri_256.h5 joint.h5      # and wellposed train, see there
    python examples/joint_contrasts.py --data joint.h5 --prior joint --out out/joint

The head is the last one of the file, held out in training and of `brain-mri` too.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import unfold

from wellposed import operators, priors, solvers
from wellposed.figures import format_table, write_figure
from wellposed.metrics import psnr
from wellposed.reconstruction import Reconstruction

CONTRASTS = ("T1", "T2", "FLAIR")
COILS, KSPACE_NOISE, IMAGE_NOISE, PATCH = 4, 0.02, 0.02, 5


@dataclass(frozen=True)
class Case:
    """What is measured: FLAIR's k-space, images of other contrasts, or both.

    Attributes:
        lines: acceleration of FLAIR's k-space; 0: missing.
        given: numbers of the contrasts that are given as images.
    """

    lines: int
    given: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the table calls it."""
        seen = [f"FLAIR {self.lines} x"] if self.lines else []
        return " + ".join(seen + [CONTRASTS[n] for n in self.given])


CASES = (Case(8, ()), Case(8, (0, 1)), Case(0, (0, 1)))


def scanner(case: Case, side: int) -> operators.MultiCoilMRI:
    """Return the coils and lines of FLAIR's scan; the coils have the phase of the image."""
    maps = operators.simulate_sensitivity_maps(COILS, side, side, seed=0)
    mask = operators.fastmri_lines("random", side, case.lines, 0.04, seed=0)
    return operators.MultiCoilMRI(mask, maps, KSPACE_NOISE)


def joint_operator(case: Case, side: int) -> operators.LinearOperator:
    """Return the operator on all contrasts."""
    shape = (len(CONTRASTS), side, side)
    if not case.lines:
        return operators.Channels(shape, case.given, IMAGE_NOISE)
    flair = operators.Channels(shape, [2], complex_measurement=True)
    parts = [scanner(case, side) @ flair]
    if case.given:
        level = KSPACE_NOISE / IMAGE_NOISE
        parts.append(
            level * operators.Channels(shape, case.given, IMAGE_NOISE, complex_measurement=True)
        )
    return operators.Joint(parts)


def sense(case: Case, images: Tensor, seed: int) -> Tensor:
    """Return the CG-SENSE magnitude of FLAIR, (B, 1, H, W)."""
    operator = scanner(case, images.shape[-1])
    y = operator.measure(images[:, 2:].to(torch.complex64), seed=seed)
    return operator.prox_l2(torch.zeros_like(images[:, 2:] + 0j), y, 100.0).abs()


def features(case: Case, images: Tensor, seed: int) -> Tensor:
    """Return what regression sees at each pixel, (B, F, H W)."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    given = [(images + IMAGE_NOISE * noise)[:, list(case.given)]] if case.given else []
    seen = torch.cat(given + ([sense(case, images, seed)] if case.lines else []), 1)
    middle = seen.flatten(2)
    patches = unfold(seen, PATCH, padding=PATCH // 2)
    curves = [middle**2, middle.clamp(min=0).sqrt(), torch.ones_like(middle[:, :1])]
    return torch.cat([patches, *curves], 1)


def regression(case: Case, slices: Tensor) -> Tensor:
    """Return the least-squares weights (F, 3) of all contrasts, of slices of other heads."""
    seen = torch.cat(list(features(case, slices, seed=1)), 1).double()
    wanted = torch.cat(list(slices.flatten(2)), 1).double()
    some = torch.randperm(seen.shape[1], generator=torch.Generator().manual_seed(0))[:60_000]
    x = seen[:, some]
    damped = x @ x.T + 1e-6 * len(some) * torch.eye(len(x), dtype=x.dtype)
    return torch.linalg.solve(damped, x @ wanted[:, some].T).float()


def solved(
    case: Case, truth: Tensor, joint: priors.Prior, o: argparse.Namespace
) -> Reconstruction:
    """Return the contrasts under the joint prior."""
    operator = joint_operator(case, truth.shape[-1])
    y = operator.measure(truth, seed=0)
    sampler = solvers.recommend(operator, joint, "samples", o.steps)
    return sampler(y, operator, joint, seed=0, num_samples=o.samples)


def single(case: Case, truth: Tensor, o: argparse.Namespace) -> Tensor:
    """Return FLAIR under the prior of one channel, from its k-space alone."""
    operator = scanner(case, truth.shape[-1])
    y = operator.measure(truth[:, 2:].to(torch.complex64), seed=0)
    prior = priors.load("brain-mri")
    sampler = solvers.recommend(operator, prior, "samples", o.steps)
    return sampler(y, operator, prior, seed=0, num_samples=o.samples).mean.abs()


def read(o: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return the slice (1, 3, H, W) that is tested, and slices of other heads."""
    with h5py.File(o.data) as file:
        subjects = file["subject"].asstr()[:]
        own = np.flatnonzero(subjects == subjects[-1])
        others = np.flatnonzero(subjects != subjects[-1])
        rows = [own[int(o.place * len(own))], *others[:: max(1, len(others) // 12)]]
        images = np.stack([file["images"][row] for row in rows]).astype(np.float32)
    stack = torch.from_numpy(images).permute(0, 3, 1, 2)
    trim = (stack.shape[-1] - o.side) // 2
    stack = stack[..., trim : trim + o.side, trim : trim + o.side]
    return stack[:1], stack[1:]


def rows_of(name: str, method: str, image: Tensor, truth: Tensor, std: Tensor | None) -> list[str]:
    """Return a row of the table: PSNR of each contrast, and the spread over the error."""
    quality = [f"{float(psnr(image[:, n : n + 1], truth[:, n : n + 1])):.2f}" for n in range(3)]
    if std is None:
        return [name, method, *quality, ""]
    error = (image - truth).square().mean((0, 2, 3)).sqrt()
    share = std.square().mean((0, 2, 3)).sqrt() / error
    return [name, method, *quality, " ".join(f"{v:.2f}" for v in share.tolist())]


def draw(path: Path, truth: Tensor, found: Reconstruction, regressed: Tensor) -> None:
    """Write truth, imputed images, their spread, the error and the regression."""
    rows = [
        truth[0],
        found.mean[0],
        3 * found.std[0],
        3 * (found.mean - truth)[0].abs(),
        regressed[0],
    ]
    titles = ["truth", "joint prior, mean", "3 x its spread", "3 x its error", "regression"]
    canvas = Figure(figsize=(2 * len(rows), 6.3), dpi=80, layout="constrained")
    for column, (images, title) in enumerate(zip(rows, titles, strict=True)):
        for row, image in enumerate(images):
            axes = canvas.add_subplot(3, len(rows), 1 + row * len(rows) + column)
            axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
            axes.set_title(f"{CONTRASTS[row]}, {title}", fontsize=7)
    write_figure(canvas, path)


def main() -> None:
    """Compare the methods; print the table and write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="made by joint_data.py")
    parser.add_argument("--prior", required=True, help="folder of the joint prior")
    parser.add_argument("--out", type=Path, default=Path("out/joint"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--side", type=int, default=192, help="of the central crop, in pixels")
    parser.add_argument("--place", type=float, default=0.5, help="of the slice in the head")
    o = parser.parse_args()
    truth, others = read(o)
    joint, rows = priors.load(o.prior), []
    for number, case in enumerate(CASES):
        found = solved(case, truth, joint, o)
        weights = regression(case, others)
        regressed = (weights.T @ features(case, truth, seed=2)).view_as(truth)
        rows.append(rows_of(case.name, "joint prior", found.mean, truth, found.std))
        rows.append(rows_of(case.name, "regression", regressed, truth, None))
        if case.lines and not case.given:
            alone = single(case, truth, o)
            quality = f"{float(psnr(alone, truth[:, 2:])):.2f}"
            rows.append([case.name, "brain-mri", "", "", quality, ""])
        draw(o.out / f"joint-{number}.png", truth, found, regressed)
    print(format_table(["measured", "method", *CONTRASTS, "spread over error"], rows))


if __name__ == "__main__":
    main()
