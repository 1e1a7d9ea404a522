"""The methods that `dehazing.py` compares, and the beats it compares them on."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from dehazing_unet import load_dehazer
from torch import Tensor

from wellposed import priors
from wellposed.datasets.ultrasound import (
    EchoFrames,
    Sector,
    compand,
    dehazing_scores,
    expand,
    simulate_echoes,
)
from wellposed.priors import Diagonal, GaussianPrior, Prior
from wellposed.solvers import (
    Dehazing,
    DiffPIR,
    NoisyProjection,
    VarianceSharing,
    dehaze,
    dehaze_sequence,
)

Method = Callable[[Tensor], Tensor]
Family = Callable[[float], Method]
Rows = dict[str, Callable[[], tuple[Method, str]]]

PUBLISHED_STEPS = 200
"""Of the published projection guidance."""

SAMPLES = 4
"""A sample has twice the squared error of the posterior's mean, which a supervised network is."""


@dataclass(frozen=True)
class Beats:
    """Hearts of a split, frames of each beat one after the other.

    Attributes:
        tissue, haze, cavity, myocardium: (hearts * frames, 1, depths, beams).
        frames: in a beat.
    """

    tissue: Tensor
    haze: Tensor
    cavity: Tensor
    myocardium: Tensor
    frames: int

    @classmethod
    def simulate(cls, hearts: int, split: str, frames: int, sector: Sector) -> "Beats":
        """Return beats."""
        echoes: EchoFrames = simulate_echoes(range(hearts), split, sector, frames)
        parts = (v.transpose(1, 2).flatten(0, 1) for v in vars(echoes).values())
        return cls(*parts, frames)

    def hazy(self, level: float) -> Tensor:
        """Return frames behind haze of a level."""
        return self.tissue + 10 ** (level / 20) * self.haze

    def scores(self, rf: Tensor) -> dict[str, float]:
        """Return mean scores."""
        values = dehazing_scores(rf, self.tissue, self.cavity, self.myocardium)
        return {name: float(v.clamp(max=99).mean()) for name, v in values.items()}


def by_bm3d(rf: Tensor, sigma: float) -> Tensor:
    """Return BM3D of companded frames."""
    from bm3d import bm3d

    frames = [bm3d(frame[0].cpu().numpy(), sigma) for frame in compand(rf)]
    return expand(torch.from_numpy(np.stack(frames)).to(rf)[:, None])


def by_nuclear_norm(rf: Tensor, frames: int, weight: float, iterations: int = 60) -> Tensor:
    """Return the sparse part of each beat, principal component pursuit.

    ``min ||L||_* + weight ||S||_1``, ``L + S = Y``, one row for each frame: haze stands still, so
    that it is of low rank. By the alternating directions of Candes et al., "Robust principal
    component analysis?", 2011, arXiv 0912.3599; weight in units of ``1 / sqrt(pixels)``.
    """
    beats = rf.reshape(-1, frames, rf[0].numel())
    sparse = [_pursuit(Y, weight / Y.shape[1] ** 0.5, iterations) for Y in beats]
    return torch.stack(sparse).view_as(rf)


def _pursuit(Y: Tensor, weight: float, iterations: int) -> Tensor:
    mu = Y.numel() / (4 * Y.abs().sum())
    S, dual = torch.zeros_like(Y), torch.zeros_like(Y)
    for _ in range(iterations):
        U, s, Vh = torch.linalg.svd(Y - S + dual / mu, full_matrices=False)
        L = (U * (s - 1 / mu).clamp(min=0)) @ Vh
        gap = Y - L + dual / mu
        S = gap.sign() * (gap.abs() - weight / mu).clamp(min=0)
        dual = dual + mu * (Y - L - S)
    return Y - L


def by_one_prior(rf: Tensor, tissue: Prior, rms: float, steps: int, batch_size: int) -> Tensor:
    """Return companded frames denoised by the tissue's prior alone: haze is white noise to it."""
    from wellposed.operators import Denoising

    operator = Denoising(rf.shape[1:], rms).to(rf.device)
    solver = DiffPIR(steps=steps, spacing="geometric", lambda_=1.0, zeta=1.0)
    parts = compand(rf).split(batch_size)
    return expand(
        torch.cat([solver(y, operator, tissue, seed=n).mean for n, y in enumerate(parts)])
    )


def by_two_priors(
    rf: Tensor, tissue: Prior, haze: Prior, settings: Dehazing, samples: int = 1
) -> Tensor:
    """Return the tissue of the preset, the mean of some samples."""
    return dehaze(rf, tissue, haze, settings, num_samples=samples).tissue


def by_sequence(rf: Tensor, tissue: Prior, haze: Prior, frames: int) -> Tensor:
    """Return the tissue of beats, each frame from the haze of the one before."""
    beats = [dehaze_sequence(beat, tissue, haze) for beat in rf.split(frames)]
    return torch.cat([found.tissue for found in beats])


def white_noise(tissue: Prior, rms: float) -> Prior:
    """Return companded white noise as a prior."""
    return GaussianPrior(0.0, Diagonal(torch.tensor(rms**2)), tissue.schedule)


def best(make: Family, values: tuple[float, ...], y: Tensor, at: Beats) -> float:
    """Return the setting of the highest PSNR of RF."""
    return max(values, key=lambda value: at.scores(make(value)(y))["psnr_rf"])


def methods(options: argparse.Namespace, level: float, test: Beats, tuning: Beats) -> Rows:
    """Return for each row what makes its method and tells its setting, when it is needed."""
    y = tuning.hazy(level)
    rms = float(compand((10 ** (level / 20) * tuning.haze).clamp(-1, 1)).std())

    def tuned(make: Family, values: tuple[float, ...]) -> tuple[Method, str]:
        value = best(make, values, y, tuning)
        return make(value), f"{value:g}"

    def nuclear(weight: float) -> Method:
        return partial(by_nuclear_norm, frames=test.frames, weight=weight)

    def found(name: str) -> Prior:
        return priors.load(getattr(options, name)).to(options.device)

    sampling = Dehazing(solver=VarianceSharing(steps=options.steps), batch_size=options.batch_size)
    rows: Rows = {
        "hazy": lambda: (lambda rf: rf, ""),
        "BM3D": lambda: tuned(lambda s: partial(by_bm3d, sigma=s), (0.02, 0.05, 0.1, 0.2, 0.3)),
        "nuclear norm": lambda: tuned(nuclear, (0.005, 0.01, 0.02, 0.05, 0.1, 0.5)),
    }
    if options.unet is not None:
        rows["U-Net"] = lambda: (load_dehazer(options.unet).to(options.device).dehaze, "")
    one = partial(by_one_prior, rms=rms, steps=options.steps, batch_size=options.batch_size)
    rows["one prior"] = lambda: (partial(one, tissue=found("tissue")), f"sigma {rms:.3f}")

    def white() -> tuple[Method, str]:
        tissue = found("tissue")
        haze = white_noise(tissue, rms).to(options.device)
        method = partial(by_two_priors, tissue=tissue, haze=haze, settings=sampling)
        return method, f"rms {rms:.3f}"

    def both(method: Callable[..., Tensor], setting: str, **how: Any) -> tuple[Method, str]:
        return partial(method, tissue=found("tissue"), haze=found("haze"), **how), setting

    batch = options.batch_size
    mode = Dehazing(batch_size=batch)
    published = NoisyProjection(steps=PUBLISHED_STEPS, noise="shared", start=1.0)
    projection = Dehazing(solver=published, batch_size=batch)
    drawn = f"{options.steps} steps"
    two = partial(both, by_two_priors)
    rows |= {
        "white noise as second": white,
        "two priors": partial(two, drawn, settings=sampling),
        f"two priors, mean of {SAMPLES}": partial(two, drawn, settings=sampling, samples=SAMPLES),
        "two priors, projection": partial(two, f"{PUBLISHED_STEPS} steps", settings=projection),
        "two priors, estimate": partial(two, f"{mode.steps} evaluations", settings=mode),
        "two priors, sequence": partial(
            both, by_sequence, f"{mode.steps}, then 3 evaluations", frames=test.frames
        ),
    }
    if find_spec("zea") is not None:
        from dehazing_zea import by_dds, by_nuclear_diffusion

        rows["zea DDS"] = partial(both, by_dds, drawn, steps=options.steps)
        follow = partial(by_nuclear_diffusion, tissue=found("tissue"), frames=test.frames)
        weights = (0.1, 1.0, 10.0)
        rows["zea Nuclear Diffusion"] = lambda: tuned(lambda w: partial(follow, weight=w), weights)
    return rows
