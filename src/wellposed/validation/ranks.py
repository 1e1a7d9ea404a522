"""Self-consistency of posterior samples: the ranks of truths that the prior has drawn.

A truth drawn from the prior and exact posterior samples given its measurement are exchangeable, so
any number computed of them ranks the truth uniformly among its samples. Samples that are too
narrow rank it first or last too often, biased ones shift its rank.

References: Talts et al., "Validating Bayesian inference algorithms with simulation-based
calibration", 2018, arXiv 1804.06788; Modrák et al., 2022, arXiv 2211.02383, for numbers that
depend on the data; Lemos et al., "Sampling-based accuracy testing of posterior estimators for
general inference" (TARP), ICML 2023, arXiv 2302.03026, for the distance to a random point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, Seed, checked
from wellposed.errors import require
from wellposed.linalg import as_real
from wellposed.noise import MEASUREMENT, ItemNoise, item_generator
from wellposed.operators.physics import Forward
from wellposed.priors.analytic import SupportsNoisyDraws
from wellposed.priors.prior import Prior
from wellposed.priors.sampling import sample

SIMULATIONS = 2000
"""Sets of uniform ranks with which found ones are compared."""

QUANTITIES = {
    "pixel": "a random pixel",
    "direction": "the projection on a random direction",
    "mean": "the mean of all pixels",
    "energy": "the sum of squares",
    "misfit": "the distance from the data",
    "distance": "the distance from a random point (TARP)",
}
"""Numbers whose ranks are tested; random choices differ by image."""


@torch.no_grad()
def draw_prior(
    prior: Prior,
    count: int,
    image_size: tuple[int, int],
    seed: int,
    device: str = "cpu",
    steps: int = 100,
) -> Tensor:
    """Return draws of a prior (count, C, H, W), exact ones of analytic priors, in public values.

    Networks take ``steps`` ancestral steps, which draw from them up to the error of these steps.

    Args:
        prior: the prior.
        count: number of images.
        image_size: (H, W).
        seed: seed of the draws.
        device: of the network and the images.
        steps: of networks.
    """
    if not isinstance(prior, SupportsNoisyDraws):
        return sample(prior, count, image_size, steps=steps, eta=1.0, seed=seed, device=device)
    dtype = torch.complex64 if prior.is_complex else torch.float32
    like = torch.zeros(count, prior.channels or 1, *image_size, dtype=dtype, device=device)
    noise = ItemNoise(seed, [(n,) for n in range(count)])
    return prior.to_public(prior.draw_noisy(like, 0.0, noise))


@checked
def ranks_of(
    truth: Tensor,
    samples: Tensor,
    y: Tensor,
    operator: Forward,
    reference: Tensor,
    seed: Seed = 0,
) -> dict[str, int]:
    """Return the rank of a truth among its samples, 0 to N, by the names in `QUANTITIES`.

    Args:
        truth: a draw of the prior, (1, C, ...).
        samples: (N, C, ...), drawn given ``y``.
        y: its measurement, (1, ...).
        operator: what measured it.
        reference: the random point, another draw of the prior, (1, C, ...).
        seed: seed of the random choices; another for each image.
    """
    rng = item_generator(seed, (4,), MEASUREMENT)
    images = torch.cat([truth, samples])
    flat = as_real(images).flatten(1).double()
    u = torch.from_numpy(rng.standard_normal(flat.shape[1])).to(flat)
    values = {
        "pixel": flat[:, int(rng.integers(flat.shape[1]))],
        "direction": flat @ u,
        "mean": flat.mean(1),
        "energy": flat.square().sum(1),
        "misfit": torch.stack([_norm(operator.A(image[None]) - y) for image in images]),
        "distance": (flat - as_real(reference).flatten(1).double()).norm(dim=1),
    }
    return {name: _rank(value, float(rng.uniform())) for name, value in values.items()}


def _norm(y: Tensor) -> Tensor:
    size: Tensor = as_real(y).double().norm()
    return size


def _rank(values: Tensor, chance: float) -> int:
    """Return the rank of the first value among the others; equal ones are in random order."""
    below = int((values[1:] < values[0]).sum())
    return below + int(chance * (1 + int((values[1:] == values[0]).sum())))


@dataclass(frozen=True)
class Uniformity:
    """How far ranks are from uniform.

    Attributes:
        p_value: probability of so large a departure for exact samples.
        mean: of the ranks over N; 1/2 without a bias.
        variance: of the ranks over that of uniform ones; above 1 for samples that are too narrow.
        curve: fractions of ranks below 0, 1, ... N + 1.
        band: half-width about the diagonal in which exact samples keep the whole curve with
            probability .95.
    """

    p_value: float
    mean: float
    variance: float
    curve: np.ndarray
    band: np.ndarray


@checked
def uniformity(ranks: Sequence[int], num_samples: Count) -> Uniformity:
    """Return how far ranks of independent truths, 0 to ``num_samples``, are from uniform.

    The statistic is the largest distance of their distribution from the uniform one, in its
    standard deviations; its distribution is simulated.

    Raises:
        ArgumentError: no ranks, or some outside the range.
    """
    found = np.asarray(ranks)
    inside = len(found) > 0 and 0 <= found.min() and found.max() <= num_samples
    require(inside, "ranks", "none, or some outside", f"numbers from 0 to {num_samples}")
    curve = _curves(found[None], num_samples)[0]
    null, deviation = _null(len(found), num_samples)
    departure = _departure(curve[None], deviation)[0]
    return Uniformity(
        p_value=float((1 + (null >= departure - 1e-12).sum()) / (1 + len(null))),
        mean=float(found.mean()) / num_samples,
        variance=float(found.var()) * 12 / ((num_samples + 1) ** 2 - 1),
        curve=curve,
        band=float(np.quantile(null, 0.95)) * deviation,
    )


def _curves(ranks: np.ndarray, num_samples: int) -> np.ndarray:
    """Return the fraction of ranks (S, n) below each of 0 to N + 1, (S, N + 2)."""
    return np.stack([(ranks < k).mean(1) for k in range(num_samples + 2)], 1)


def _departure(curves: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    diagonal = np.linspace(0, 1, curves.shape[1])
    distance: np.ndarray = (abs(curves - diagonal)[:, 1:-1] / deviation[1:-1]).max(1)
    return distance


@lru_cache
def _null(count: int, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return departures of simulated uniform ranks, and the deviation of a curve's points."""
    p = np.linspace(0, 1, num_samples + 2)
    deviation = np.sqrt(p * (1 - p) / count)
    rng = item_generator(0, (5,), MEASUREMENT)
    ranks = rng.integers(num_samples + 1, size=(SIMULATIONS, count))
    return _departure(_curves(ranks, num_samples), deviation), deviation
