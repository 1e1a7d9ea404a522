"""Particles on images: how far weights go, against MMPS at equal network evaluations.

    python benchmarks/particles.py --photographs kodak24 --out docs/particles.md

Images of 64 x 64 pixels: a Gaussian field with its exact posterior, and photographs under the
prior `natural`. Three operators whose rows are orthogonal: 30 % of the pixels, all but a box, and
averages of 4 x 4 pixels. All particle methods have the proposals of `Twisted` with an isotropic
covariance of x_0, and differ in what the weights do:

- none: nothing;
- whole: whole images are resampled, as by `Twisted`;
- block of N: each block of N x N pixels is resampled by its own weights, on a grid that is shifted
  at random in each step;
- tempered: whole images, by weights to the power that keeps half of the effective size.

Blocks have seams, and tempered weights forget a part of the data: neither is exact.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from wellposed.datasets import read_photograph
from wellposed.figures import format_table
from wellposed.metrics import psnr
from wellposed.operators import Inpainting, LinearOperator, SuperResolution, random_mask
from wellposed.priors import GaussianPrior, Prior, load
from wellposed.priors.transition import levels, starting_std, variance
from wellposed.solvers import MMPS
from wellposed.solvers.particles import effective_size, systematic
from wellposed.solvers.problem import Problem
from wellposed.validation.gaussian import field_covariance

SIDE, SIGMA, FACTOR = 64, 0.05, 4
METHODS: dict[str, tuple[int, bool]] = {
    "none": (0, False),
    "whole": (SIDE, False),
    "block of 16": (16, False),
    "block of 8": (8, False),
    "block of 4": (4, False),
    "tempered": (SIDE, True),
}
"""Pixels along a side that share a weight, 0 for no weights, and whether weights are tempered."""


class Case(NamedTuple):
    """A problem of one image; the exact mean and variances if the prior is Gaussian."""

    name: str
    prior: Prior
    operator: LinearOperator
    truth: Tensor
    y: Tensor
    mean: Tensor | None = None
    variances: Tensor | None = None


class Look(NamedTuple):
    """x0 at a noise level, corrected by the data; log psi by measured number; rho^2."""

    x0: Tensor
    corrected: Tensor
    log_psi: Tensor
    rho2: float


@dataclass(frozen=True)
class Rows:
    """An operator of orthogonal rows of norm s, each of its own block of pixels."""

    problem: Problem
    factor: int
    seen: Tensor

    @property
    def s(self) -> float:
        """The singular value of all rows."""
        return 1 / self.factor

    @property
    def sigma(self) -> float:
        """The noise level in units."""
        return float(self.problem.noise_sigma[0])

    def coordinates(self, x: Tensor) -> Tensor:
        """Return ``V^T x``, on the grid of the measurement."""
        return self.seen * self.factor * avg_pool2d(x, self.factor)

    def image(self, c: Tensor) -> Tensor:
        """Return ``V c``."""
        pixels = self.seen * c / self.factor
        return pixels.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)

    def look(self, x: Tensor, t: float) -> Look:
        """Return what is known at ``x_t``."""
        y, A = self.problem.y, self.problem.A
        if t == 0:
            return Look(x, x, -0.5 * self.seen * ((y - A(x)) / self.sigma) ** 2, 0.0)
        x0 = self.problem.denoise(x, t)
        rho2 = self.remaining(x[:1], t)
        S = self.s**2 * rho2 + self.sigma**2
        gap = y - A(x0)
        log_psi = -0.5 * self.seen * (gap**2 / S + math.log(S / self.sigma**2))
        return Look(x0, x0 + self.image(rho2 * self.s / S * gap), log_psi, rho2)

    def remaining(self, x: Tensor, t: float) -> float:
        """Return the variance of a pixel of x_0, from the trace of one particle's Jacobian."""
        generator = torch.Generator().manual_seed(7)
        probe = torch.randn(x.shape, generator=generator, dtype=x.dtype).sign()
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            (back,) = torch.autograd.grad(self.problem.denoise(point, t), point, probe)
        alpha, sigma = (float(v) for v in self.problem.prior.schedule(t))
        share = float((back * probe).mean())
        most = (sigma / alpha) ** 2
        return min(max(alpha * most * share, 1e-9 * most), most)


def blocks(weights: Tensor, side: int, shift: int) -> Tensor:
    """Return the weights (P, n, n) of blocks from those of pixels (P, H, W)."""
    moved = weights.roll((-shift, -shift), (-2, -1))[:, None]
    return avg_pool2d(moved, side)[:, 0] * side**2


def resampled(
    block: Tensor, arrays: list[Tensor], shift: int, generator: torch.Generator
) -> list[Tensor]:
    """Return arrays (P, ...) whose blocks are resampled by their weights (P, n, n)."""
    n = block.shape[-1]
    u = torch.rand(n, n, generator=generator, dtype=torch.float64)
    pairs = zip(block.flatten(1).T, u.flatten(), strict=True)
    chosen = torch.stack([systematic(w, v) for w, v in pairs], -1)
    found = []
    for array in arrays:
        size = array.shape[-1]  # pixels, or the coarser grid of the measurement
        own = shift * size // SIDE
        full = chosen.reshape(-1, n, n)
        full = full.repeat_interleave(size // n, -1).repeat_interleave(size // n, -2)
        moved = array.roll((-own, -own), (-2, -1))
        moved = moved.gather(0, full[:, None].expand_as(moved))
        found.append(moved.roll((own, own), (-2, -1)))
    return found


def tempered(weights: Tensor) -> Tensor:
    """Return weights to the power that leaves an effective size of half of the particles."""
    low, high, whole = 0.0, 1.0, weights.flatten(1).sum(1)
    for _ in range(30):
        middle = (low + high) / 2
        enough = float(effective_size(middle * whole)) >= len(weights) / 2
        low, high = (middle, high) if enough else (low, middle)
    return low * weights


@torch.no_grad()
def particles(case: Case, method: str, count: int, steps: int) -> tuple[Tensor, float]:
    """Return samples (P, C, H, W) and the mean effective size before resampling."""
    side, temper = METHODS[method]
    generator = torch.Generator().manual_seed(0)
    problem = Problem.create(case.y, case.operator, case.prior)
    factor = SIDE // case.y.shape[-1]
    rows = Rows(problem, factor, (case.operator.A(torch.ones_like(case.truth)) != 0).to(case.y))
    shape = (count, *case.truth.shape[1:])
    times = case.prior.schedule.times(steps, "karras").tolist()

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=case.truth.dtype)

    x, sizes = starting_std(case.prior.schedule, times[0]) * draw(), []
    look = rows.look(x, times[0])
    for t, s in pairwise(times):
        level = levels(case.prior.schedule, t, s)
        v = float(variance("markov", level))
        k = math.sqrt(max(float(level.sigma_s) ** 2 - v, 0)) / float(level.sigma_t)
        c = float(level.alpha_s) - k * float(level.alpha_t)
        wide = v + (c**2) * look.rho2
        left = rows.sigma**2 / (rows.s**2 * look.rho2 + rows.sigma**2)
        narrow, z = v + c**2 * look.rho2 * left, draw()
        change = math.sqrt(narrow) - math.sqrt(wide)
        noise = math.sqrt(wide) * z + rows.image(change * rows.coordinates(z))
        move = c * (look.corrected - look.x0) + noise
        x = float(level.alpha_s) * look.x0 + k * (x - float(level.alpha_t) * look.x0) + move
        new = rows.look(x, s)
        pixels = (z**2 - move**2 / wide).sum(1, keepdim=True) / 2
        logs = 0.5 * math.log(wide / narrow) * rows.seen
        numbers = (new.log_psi - look.log_psi - logs).sum(1, keepdim=True)
        weights = pixels + numbers.repeat_interleave(factor, -1).repeat_interleave(factor, -2) / (
            factor**2
        )
        look = new
        if side:
            w = tempered(weights[:, 0].double()) if temper else weights[:, 0].double()
            shift = int(torch.randint(0, side, (1,), generator=generator)) // FACTOR * FACTOR
            shift = 0 if side == SIDE else shift
            block = blocks(w, side, shift)
            sizes.append(float(effective_size(block).mean()))
            x, *others = resampled(block, [x, *look[:3]], shift, generator)
            look = Look(*others, look.rho2)
    return problem.to_public(x), sum(sizes) / len(sizes) if sizes else math.nan


def operators_of(channels: int, seed: int) -> dict[str, LinearOperator]:
    """Return the operators by name."""
    box = torch.ones(1, SIDE, SIDE)
    box[:, 20:44, 20:44] = 0
    some = random_mask(SIDE, SIDE, 0.3, seed)[None]
    return {
        "30 % of pixels": Inpainting(some, channels, SIGMA),
        "all but a box": Inpainting(box, channels, SIGMA),
        "averages": SuperResolution((channels, SIDE, SIDE), FACTOR, "average", SIGMA),
    }


def fields() -> Iterator[Case]:
    """Yield the problems of a Gaussian field."""
    prior = GaussianPrior(0.5, field_covariance(SIDE, 0.3))
    draws = torch.Generator().manual_seed(0)
    truth = prior.draw(torch.randn(1, 1, SIDE, SIDE, generator=draws, dtype=torch.float64))
    eye = torch.eye(SIDE**2, dtype=torch.float64).reshape(-1, 1, SIDE, SIDE)
    C = (prior.covariance @ eye).flatten(1)
    for name, operator in operators_of(1, 0).items():
        y = operator.measure(truth, 0)
        rows = operator.A(eye).flatten(1).T
        seen = rows.abs().sum(1) > 0
        A = rows[seen]
        S = A @ C @ A.T + SIGMA**2 * torch.eye(len(A), dtype=torch.float64)
        gain = torch.linalg.solve(S, A @ C).T
        mean = 0.5 + gain @ (y.flatten()[seen] - A @ torch.full((SIDE**2,), 0.5).double())
        yield Case(name, prior, operator, truth, y, mean, C.diagonal() - (gain * (A @ C).T).sum(1))


def photographs(folder: Path, count: int) -> Iterator[Case]:
    """Yield the problems of the middles of photographs, reduced 3 times."""
    prior = load("natural")
    paths = sorted(folder.iterdir())[3 :: max(1, 21 // count)][:count]
    for number, path in enumerate(paths):
        pixels = torch.from_numpy(read_photograph(path).pixels).float().permute(2, 0, 1)[None]
        small = avg_pool2d(pixels, 3)
        top, left = ((n - SIDE) // 2 for n in small.shape[-2:])
        truth = small[..., top : top + SIDE, left : left + SIDE].contiguous()
        for name, operator in operators_of(3, number).items():
            yield Case(name, prior, operator, truth, operator.measure(truth, number))


def errors(case: Case, samples: Tensor) -> list[float]:
    """Return error of the mean and spread, over the exact ones; or PSNR of the mean and of one.

    The error of the mean of P exact samples would be ``1 / sqrt(P)``.
    """
    mean = samples.mean(0)
    if case.mean is None or case.variances is None:
        one = psnr(samples, case.truth.expand_as(samples)).mean()
        return [float(psnr(mean[None], case.truth)), float(one)]
    whole = case.variances.sum()
    error = ((mean.flatten() - case.mean) ** 2).sum().div(whole).sqrt()
    return [float(error), float(samples.flatten(1).var(0).sum() / whole)]


def table(cases: list[Case], count: int, steps: int, heads: list[str]) -> str:
    """Return the table of all methods, means over the cases of each operator."""
    names = list(dict.fromkeys(case.name for case in cases))
    found: dict[str, dict[str, list[list[float]]]] = {}
    for case in cases:
        samples = MMPS(steps=steps, spacing="karras")(
            case.y, case.operator, case.prior, num_samples=count, seed=0
        ).samples[:, 0]
        found.setdefault("MMPS", {}).setdefault(case.name, []).append(
            [*errors(case, samples), math.nan]
        )
        for method in METHODS:
            # MMPS differentiates the network; particles get twice as many evaluations instead.
            x, size = particles(case, method, count, 2 * steps)
            found.setdefault(method, {}).setdefault(case.name, []).append([*errors(case, x), size])
    rows = []
    for method, by_name in found.items():
        row = [method]
        for name in names:
            values = torch.tensor(by_name[name]).mean(0).tolist()
            size = "" if math.isnan(values[2]) else f", {values[2]:.1f}"
            row.append(f"{values[0]:.2f} / {values[1]:.2f}{size}")
        rows.append(row)
    return format_table([heads[0], *[f"{name}: {heads[1]}" for name in names]], rows)


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=3, help="photographs")
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument(
        "--steps", type=int, default=25, help="of MMPS; twice as many of particles"
    )
    parser.add_argument("--out", type=Path, help="file of the tables")
    o = parser.parse_args()
    exact = table(
        list(fields()), o.particles, o.steps, ["weights", "error of the mean / variance, size"]
    )
    real = table(
        list(photographs(o.photographs, o.count)),
        o.particles,
        o.steps,
        ["weights", "PSNR of the mean / of a sample, size"],
    )
    text = f"Gaussian field\n\n{exact}\n\nPhotographs\n\n{real}\n"
    print(text)
    if o.out:
        o.out.write_text(text)


if __name__ == "__main__":
    main()
