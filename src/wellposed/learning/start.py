"""The prior of the first round: a stationary Gaussian, learnt by exact sampling."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, Seed, checked
from wellposed.errors import ShapeError
from wellposed.learning.measurements import Measurement
from wellposed.linalg import inner, per_item, squares
from wellposed.priors.analytic import GaussianPrior
from wellposed.priors.covariance import Stationary

FLOOR = 1e-6
"""Least power of a frequency, over the mean power."""


@checked
def stationary_start(
    measurements: Sequence[Measurement], rounds: Count = 8, seed: Seed = 0
) -> GaussianPrior:
    """Return a Gaussian with one mean for each channel and a power spectrum, from measurements.

    Rounds of expectation maximisation: one exact posterior sample of every image, then their mean
    and their mean spectrum, from white noise as bright as the back-projections, each times the
    factor that fits its measurement best.

    Args:
        measurements: of images of one shape, (1, C, H, W).
        rounds: number of rounds.
        seed: seed of the samples.

    Raises:
        ShapeError: images of different shapes, or volumes.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> from wellposed.learning import Measurement, stationary_start
        >>> operator = operators.Inpainting(operators.random_mask(8, 8, 0.5), 1, noise_sigma=0.1)
        >>> measured = [operator.measure(torch.rand(1, 1, 8, 8)) for _ in range(4)]
        >>> scans = [Measurement(str(n), y, operator) for n, y in enumerate(measured)]
        >>> prior = stationary_start(scans, rounds=2, seed=0)
        >>> prior.denoise(torch.randn(1, 1, 8, 8), 500.0).shape
        torch.Size([1, 1, 8, 8])
    """
    first = measurements[0].image
    size = tuple(first.shape[1:])
    if len(size) != 3:
        raise ShapeError(f"measurements: got images {size}, accepted: images (C, H, W)")
    parts = 2 if first.is_complex() else 1
    back = [_image(m, size) for m in measurements]
    power = sum(float(b.abs().square().mean()) for b in back) / len(back) / parts
    mean, spectrum = first.new_zeros((size[0], 1, 1)), torch.full(size, power).to(first.real)
    for number in range(rounds):
        prior = GaussianPrior(mean, Stationary(spectrum), is_complex=parts == 2)
        drawn = [_sample(m, prior, (seed, number, k)) for k, m in enumerate(measurements)]
        x = torch.cat(drawn)
        mean = x.mean((0, 2, 3), keepdim=True)[0]
        found = torch.fft.fft2(x - mean, norm="ortho").abs().square().mean(0) / parts
        spectrum = found.clamp(min=FLOOR * float(found.mean()))
    return GaussianPrior(mean, Stationary(spectrum), is_complex=parts == 2)


def _image(measurement: Measurement, size: tuple[int, ...]) -> Tensor:
    """Return the back-projection times the factor that fits the measurement best."""
    image = measurement.image
    if tuple(image.shape[1:]) != size:
        raise ShapeError(
            f"measurements: got images {tuple(image.shape[1:])} in {measurement.name} and {size} "
            "before, accepted: images of one shape"
        )
    seen = measurement.operator.A(image)
    factor = inner(seen, measurement.y) / squares(seen).clamp(min=1e-30).to(image.real)
    return image * per_item(factor, image)


def _sample(measurement: Measurement, prior: GaussianPrior, place: tuple[int, ...]) -> Tensor:
    posterior = prior.posterior(measurement.y, measurement.operator)
    return posterior.sample(1, seed_of(*place))[0]


def seed_of(*words: int) -> int:
    """Return a seed of its own for each place, such as round and item of a run."""
    return int(np.random.SeedSequence(words).generate_state(1)[0])
