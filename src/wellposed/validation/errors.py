"""Distances of samples from an exact Gaussian posterior, without the noise of a random truth."""

import math
from dataclasses import asdict, dataclass

import torch
from scipy.stats import chi2
from torch import Tensor

LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class PosteriorErrors:
    """Distance of a sample set from an exact Gaussian posterior.

    Attributes:
        mean: ``||mean error|| / sqrt(trace C)``, in posterior standard deviations.
        covariance: ``||C_samples - C||_F / ||C||_F``.
        spread: ``trace C_samples / trace C``; below 1 is overconfident.
        crps: continuous ranked probability score over that of the exact posterior, at least 1.
        coverage_50, coverage_80, coverage_90, coverage_95: probability, under the exact
            posterior, of the samples' central intervals, averaged over pixels.

    Example:
        >>> from wellposed import solvers
        >>> from wellposed.validation import gaussian_errors
        >>> errors = gaussian_errors(solvers.MMPS(steps=10), problems=1, num_samples=50)
        >>> errors.mean < 1, errors.coverage_90 < 0.9  # overconfident
        (True, True)
    """

    mean: float
    covariance: float
    spread: float
    crps: float
    coverage_50: float
    coverage_80: float
    coverage_90: float
    coverage_95: float


def compare(samples: Tensor, mean: Tensor, covariance: Tensor) -> PosteriorErrors:
    """Return the errors of samples (N, ...) against an exact mean and covariance (n, n)."""
    flat, mean = samples.flatten(1), mean.flatten()
    std, trace = covariance.diagonal().sqrt(), covariance.trace()
    found = torch.cov(flat.T)
    return PosteriorErrors(
        float((flat.mean(0) - mean).norm() / trace.sqrt()),
        float((found - covariance).norm() / covariance.norm()),
        float(found.trace() / trace),
        expected_crps(flat, mean, std) / (float(std.mean()) / math.sqrt(math.pi)),
        *(expected_coverage(flat, mean, std, level) for level in LEVELS),
    )


def average(errors: list[PosteriorErrors]) -> PosteriorErrors:
    """Return the mean of several errors."""
    rows = torch.tensor([list(asdict(e).values()) for e in errors], dtype=torch.float64)
    return PosteriorErrors(*rows.mean(0).tolist())


def expected_coverage(flat: Tensor, mean: Tensor, std: Tensor, level: float) -> float:
    """Return the probability under N(mean, std^2) of the central intervals of samples (N, n)."""
    tail = (1 - level) / 2
    ends = flat.new_tensor([tail, 1 - tail])
    low, high = torch.special.ndtr((torch.quantile(flat, ends, dim=0) - mean) / std)
    return float((high - low).mean())


def expected_crps(flat: Tensor, mean: Tensor, std: Tensor) -> float:
    """Return the expected CRPS of samples (N, n) when the truth is N(mean, std^2), over pixels.

    ``E|X - x| - E|X - X'| / 2`` with the first expectation over the truth in closed form and the
    second over pairs of different samples, so that few samples are not penalised (Gneiting and
    Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007,
    doi 10.1198/016214506000001437).
    """
    g, count = (flat - mean) / std, len(flat)
    density = torch.exp(-0.5 * g**2) / math.sqrt(2 * math.pi)
    distance = (g * (2 * torch.special.ndtr(g) - 1) + 2 * density).mean(0)
    rank = torch.arange(1, count + 1, dtype=flat.dtype)[:, None]
    pairs = ((2 * rank - count - 1) * g.sort(0).values).sum(0) / (count * (count - 1))
    return float((std * (distance - pairs)).mean())


def expected_region_coverage(
    samples: Tensor, mean: Tensor, covariance: Tensor, level: float
) -> float:
    """Return the probability of the highest-density region of samples (N, n) at ``level``.

    The region is bounded by the ``level`` quantile of the samples' energies under the exact
    posterior. Energies of exact samples are chi-square distributed.
    """
    factor = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(factor, (samples - mean).T, upper=False)
    energy = torch.quantile(white.square().sum(0), level)
    return float(chi2.cdf(float(energy), samples.shape[1]))


def gaussian_samples(mean: Tensor, covariance: Tensor, z: Tensor) -> Tensor:
    """Return exact samples ``mean + L z``, ``L L^T = covariance``, for standard normal (N, n)."""
    L: Tensor = torch.linalg.cholesky(covariance)
    return mean.flatten() + z @ L.T
