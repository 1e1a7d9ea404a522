"""The Gaussian case of the Levy-process benchmark, which has a closed-form posterior.

"A statistical benchmark for diffusion posterior sampling algorithms", ICLR 2026,
arXiv 2509.12821: signals that are sums of independent increments, here Gaussian increments.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import require_choice
from wellposed.noise import MEASUREMENT, item_generator
from wellposed.operators.matrix import MatrixOperator
from wellposed.priors.analytic import GaussianPrior
from wellposed.priors.covariance import Full
from wellposed.reconstruction import Reconstruction
from wellposed.solvers.base import Solver
from wellposed.validation.errors import expected_region_coverage
from wellposed.validation.gaussian import BatchNoise, draw_samples, process

LENGTH, VARIANCE, SNR = 64, 0.25, 25.0
"""Signal length, variance of an increment, and median signal-to-noise ratio in dB."""


def covariance() -> Tensor:
    """Return the covariance (64, 64) of a random walk: ``.25 min(i, j)``."""
    steps = torch.arange(1, LENGTH + 1, dtype=torch.float64)
    return VARIANCE * torch.minimum(steps[:, None], steps)


def _convolution() -> np.ndarray:
    taps = np.exp(-0.5 * (np.arange(-6, 7) / 2) ** 2)
    offset = np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)) + 6
    inside = (offset >= 0) & (offset < 13)
    return np.where(inside, (taps / taps.sum())[offset.clip(0, 12)], 0.0)


def _chosen(count: int, total: int) -> np.ndarray:
    """Return the indices used in the benchmark: the first one and random others."""
    rng = item_generator(0, (LENGTH, total), MEASUREMENT)
    return np.sort(np.append(rng.choice(np.arange(1, total), count - 1, replace=False), 0))


def _partial_transform() -> np.ndarray:
    spectrum = np.fft.rfft(np.eye(LENGTH), axis=0, norm="ortho")[_chosen(16, LENGTH // 2 + 1)]
    return np.concatenate([spectrum.real, spectrum.imag[1:]])  # frequency 0 has no imaginary part


MATRICES = {
    "identity": np.eye(LENGTH),
    "convolution": _convolution(),
    "samples": np.eye(LENGTH)[_chosen(32, LENGTH)],
    "transform": _partial_transform(),
}
"""Identity, 13-tap Gaussian of width 2, 32 of 64 samples, 16 of 33 frequencies.

The numbers of samples and frequencies are our choice.
"""


@dataclass(frozen=True)
class LevyErrors:
    """A solver's errors in the closed-form case.

    Attributes:
        gap: mean squared error of the sample mean over the minimum, in dB, at least 0.
        coverage: probability of the highest-density region of the samples at level .9.
    """

    gap: float
    coverage: float


def levy_problem(name: str, signals: int) -> tuple[Tensor, MatrixOperator, GaussianPrior]:
    """Return ``(y, operator, prior)`` with measurements (signals, m) of random walks, float64."""
    require_choice("name", name, MATRICES)
    rng = item_generator(0, (list(MATRICES).index(name), signals), MEASUREMENT)
    prior = GaussianPrior(0.0, Full(covariance()), process("vp"))
    x = prior.draw(torch.from_numpy(rng.standard_normal((signals, 1, 1, LENGTH))))
    clean = MatrixOperator(torch.from_numpy(MATRICES[name]), (1, 1, LENGTH))
    level = math.sqrt(float(clean.A(x).square().mean(1).median()) / 10 ** (SNR / 10))
    operator = MatrixOperator(clean.matrix, (1, 1, LENGTH), level)
    return operator.measure(x), operator, prior


def levy_errors(
    solver: Solver | None, name: str, signals: int = 20, num_samples: int = 50
) -> LevyErrors:
    """Return the errors on random signals, averaged.

    Args:
        solver: the solver; ``None`` uses exact samples: the floor.
        name: name of the operator, see `MATRICES`.
        signals: number of signals.
        num_samples: samples per signal; 50 as published.
    """
    y, operator, prior = levy_problem(name, signals)
    posterior = prior.posterior(y, operator)
    mean, spread = posterior.mean.flatten(1), posterior.covariance()
    if solver is None:
        rng = item_generator(1, (list(MATRICES).index(name), signals), MEASUREMENT)
        z = torch.from_numpy(rng.standard_normal((num_samples, signals, LENGTH)))
        samples = mean + z @ torch.linalg.cholesky(spread).T
    else:
        samples = draw_samples(solver, (y, operator, prior), num_samples, BatchNoise(0))
        samples = samples.reshape(num_samples, signals, LENGTH)
    return _errors(samples, mean, spread)


def levy_scores(name: str, signals: int, found: Reconstruction) -> dict[str, float]:
    """Return the errors of a reconstruction of all signals of a problem, by name.

    Args:
        name: name of the operator, see `MATRICES`.
        signals: number of signals.
        found: samples of all of them.
    """
    y, operator, prior = levy_problem(name, signals)
    posterior = prior.posterior(y, operator)
    samples = found.samples.reshape(len(found.samples), signals, LENGTH)
    errors = _errors(samples, posterior.mean.flatten(1), posterior.covariance())
    return {"gap in dB": errors.gap, "coverage of regions": errors.coverage}


def _errors(samples: Tensor, mean: Tensor, spread: Tensor) -> LevyErrors:
    """Return the errors of samples (N, signals, L) of posteriors of these means and covariance."""
    excess = (samples.mean(0) - mean).square().sum(1).mean() / spread.trace()
    covered = [
        expected_region_coverage(samples[:, i], mean[i], spread, 0.9)
        for i in range(samples.shape[1])
    ]
    return LevyErrors(10 * math.log10(1 + float(excess)), float(np.mean(covered)))
