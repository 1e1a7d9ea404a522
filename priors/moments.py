"""Mean and covariance of images, and of what a denoiser has learned."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, require, warn
from wellposed.noise import ItemNoise
from wellposed.priors.covariance import LowRank
from wellposed.priors.jacobian import Jacobian, leading_modes
from wellposed.priors.prior import Prior

CHUNK = 16
"""Directions that are differentiated together."""


LARGEST = 0.9999
"""Eigenvalue of a denoiser's Jacobian above which no variance is read from it."""


class Moments(NamedTuple):
    """Mean (1, C, ...) and covariance of a distribution of images."""

    mean: Tensor
    covariance: LowRank


def moments_of_images(images: Tensor, rank: int | None) -> Moments:
    """Return the sample moments of images (N, C, ...), N at least 2.

    The covariance has the leading components, at most N - 1, and the mean variance of the others.
    """
    count, size = len(images), images[0].numel()
    require(count > 1, "source", f"{count} image", "2 or more images")
    rank = min(count - 1, size, count - 1 if rank is None else rank)
    mean = images.mean(0, keepdim=True)
    gaps = (images - mean).flatten(1)
    _, scales, vectors = torch.linalg.svd(gaps, full_matrices=False)
    parts = 2 if images.is_complex() else 1
    values = scales.square() / (count - 1) / parts
    left = size - rank
    rest = float(values[rank:].sum()) / left if left else 0.0
    # Rows of the decomposition are conjugate to the components.
    components = vectors[:rank].reshape(rank, *images.shape[1:])
    return Moments(mean, LowRank(components, values[:rank], rest))


@torch.no_grad()
def moments_of_prior(
    prior: Prior, shape: tuple[int, ...], rank: int, ratio: float, device: torch.device
) -> Moments:
    """Return the moments that a denoiser has learned, without any image; exact for a Gaussian.

    The mean m is where ``E[D(a m + s z)] = m`` at the largest level. With the eigenvalues j of
    its Jacobian at the level ``r = ratio`` the variances are ``l = r^2 j / (1 - j)``; Wang and
    Vastola 2024, arXiv 2412.09726.

    Args:
        prior: a prior of real images that can be differentiated.
        shape: shape (C, ...) of an image in units.
        rank: number of components.
        ratio: noise level of the Jacobian.
        device: device of the prior.
    """
    if prior.is_complex:
        raise ArgumentError("prior: got one of complex images, accepted: real ones; fit to images")
    dtype = next((weight.dtype for weight in prior.parameters()), torch.float64)
    mean = _mean(prior, torch.zeros(1, *shape, dtype=dtype, device=device))
    noise = ItemNoise(1, [(0,)])
    t = float(prior.schedule.time_at(ratio))
    alpha, sigma = (float(v) for v in prior.schedule(t))
    point = alpha * mean + sigma * noise.draw(mean)

    def apply(rows: Tensor) -> Tensor:
        return _in_chunks(rows, lambda v: _product(prior, point, t, v.reshape(-1, *shape)))

    modes = leading_modes(apply, point.numel(), rank, point)
    if float(modes.values[0]) > LARGEST:
        warn(
            f"prior: its Jacobian at the level {ratio:g} has eigenvalues up to "
            f"{float(modes.values[0]):.3g}, those of a denoiser are below 1: its moments are not "
            "known; fit the Gaussian to images, or at another ratio"
        )
    variances = _variances(modes.values, ratio)
    probes = ItemNoise(2, [(p,) for p in range(CHUNK)]).draw(point.expand(CHUNK, *shape))
    off = probes.flatten(1) - probes.flatten(1) @ modes.vectors.T @ modes.vectors
    shares = (off * apply(off)).sum(1) / off.square().sum(1).clamp(min=1e-30)
    rest = float(_variances(shares.mean(), ratio)) if rank < point.numel() else 0.0
    return Moments(mean, LowRank(modes.vectors.reshape(-1, *shape), variances, rest))


def _mean(prior: Prior, mean: Tensor, draws: int = 4, rounds: int = 4) -> Tensor:
    noise = ItemNoise(0, [(n,) for n in range(draws)])
    T = prior.schedule.T
    alpha, sigma = (float(v) for v in prior.schedule(T))
    if alpha == 0 and prior.prediction in ("noise", "score"):
        T = float(prior.schedule.time_at(1e3))
        alpha, sigma = (float(v) for v in prior.schedule(T))
    z = noise.draw(mean.expand(draws, *mean.shape[1:]))
    both = torch.cat([z, -z])
    for _ in range(rounds):
        mean = prior.denoise(alpha * mean + sigma * both, T).mean(0, keepdim=True)
    return mean


def _product(prior: Prior, point: Tensor, t: float, v: Tensor) -> Tensor:
    return Jacobian(prior, point.expand_as(v), t).times(v).flatten(1)


def _in_chunks(rows: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([apply(part) for part in rows.split(CHUNK)])


def _variances(eigenvalues: Tensor, ratio: float) -> Tensor:
    shares = eigenvalues.clamp(0, LARGEST)
    return ratio**2 * shares / (1 - shares)
