"""A Gaussian prior of patches learnt from incomplete, noisy patches alone.

    python examples/measured_prior.py tests/data/held_out/kodak_08.png

Patches of the left half of a photograph are measured: a share of the pixels is missing, different
ones in each patch, and there is noise. `GaussianPrior.fit_measured` sees nothing else. The priors
learnt are compared with the one fitted to the clean patches: by the distance of the covariance,
and by the completion of patches of the right half, which no prior has seen. Takes about a minute.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from wellposed import datasets, metrics, operators, priors
from wellposed.figures import format_table
from wellposed.noise import MEASUREMENT, ItemNoise

SIDE, NOISE = 6, 0.05


def patches(image: Tensor, stride: int) -> Tensor:
    """Return the patches (N, 1, side, side) of an image (1, 1, H, W)."""
    found = image.unfold(2, SIDE, stride).unfold(3, SIDE, stride)
    return found.reshape(-1, 1, SIDE, SIDE)


def measured(x: Tensor, keep: float, seed: int) -> tuple[Tensor, operators.Inpainting]:
    """Return noisy measurements of patches, and their operator with one mask for each."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(x.shape, generator=generator) < keep).double()
    mask[:, :, SIDE // 2, SIDE // 2] = 1  # no patch is empty
    operator = operators.Inpainting(mask, noise_sigma=NOISE)
    y = operator.A(x)
    noise = ItemNoise(seed, [(n,) for n in range(len(x))], MEASUREMENT).draw(y)
    return operator.restrict(y + NOISE * noise), operator


def covariance(prior: priors.GaussianPrior) -> Tensor:
    """Return the dense covariance of patches."""
    basis = torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, 1, SIDE, SIDE)
    return (prior.covariance @ basis).flatten(1)


def clean_fit(x: Tensor) -> priors.GaussianPrior:
    """Return the Gaussian with the moments of clean patches."""
    mean = x.mean(0, keepdim=True)
    gap = (x - mean).flatten(1)
    floor = 1e-6 * torch.eye(SIDE**2, dtype=torch.float64)
    return priors.GaussianPrior(mean, priors.Full(gap.T @ gap / len(x) + floor))


def main() -> None:
    """Learn, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photograph", type=Path)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    pixels = torch.from_numpy(datasets.read_photograph(args.photograph).pixels)
    image = pixels.double().mean(-1)[None, None]
    half = image.shape[-1] // 2
    seen, unseen = patches(image[..., :half], 3), patches(image[..., half:], SIDE)
    exact = clean_fit(seen)
    y, operator = measured(unseen, 0.5, seed=1)
    rows = [row("clean patches", exact, exact, y, operator, unseen)]
    for keep in args.keep:
        learnt = priors.GaussianPrior.fit_measured(*measured(seen, keep, seed=0), args.rounds)
        name = f"{1 - keep:.0%} of the pixels missing"
        rows.append(row(name, learnt, exact, y, operator, unseen))
    white = priors.GaussianPrior(float(seen.mean()), float(seen.var()))
    rows.append(row("none: white noise", white, exact, y, operator, unseen))
    print(format_table(["learnt from", "covariance off", "completion PSNR"], rows))


def row(
    name: str,
    prior: priors.GaussianPrior,
    exact: priors.GaussianPrior,
    y: Tensor,
    operator: operators.Inpainting,
    truth: Tensor,
) -> list[str]:
    """Return a row of the table."""
    C, true = covariance(prior), covariance(exact)
    found = prior.posterior(y, operator).mean
    psnr = metrics.psnr(found.reshape(1, 1, 1, -1), truth.reshape(1, 1, 1, -1))
    return [name, f"{float((C - true).norm() / true.norm()):.1%}", f"{float(psnr):.2f}"]


if __name__ == "__main__":
    main()
