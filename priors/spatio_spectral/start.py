"""Where the factors of an image of many bands start: singular vectors, smoothed, completed."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.operators.image.kernels import gaussian_kernel

WIDTHS = (0.4, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Deviations of the Gaussians, in pixels, of which each map takes one or none."""

HAAR_MEDIAN = 0.6745
"""Median of the magnitude of a standard normal number."""

MOST, LEAST_CHANGE = 100, 1e-3
"""Iterations of a completion, and the relative change at which an item is complete."""


def leading(image: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return maps (rank, H, W), scales and spectra (rank, bands) of the truncated SVD.

    Maps and spectra have unit mean square. Ranks above the number of bands or pixels get zeros.

    Args:
        image: (1, bands, H, W).
        rank: number of maps.
    """
    bands, *size = image.shape[1:]
    U, s, Vh = torch.linalg.svd(image[0].flatten(1), full_matrices=False)
    norms = Vh.shape[1] ** 0.5, bands**0.5
    parts = norms[0] * Vh, s / (norms[0] * norms[1]), norms[1] * U.mT
    maps, scale, spectra = (_padded(part, rank) for part in parts)
    return maps.reshape(rank, *size), scale, spectra


def _padded(values: Tensor, rank: int) -> Tensor:
    """Return the first values, followed by zeros where there are less."""
    found = values.new_zeros(rank, *values.shape[1:])
    found[: len(values)] = values[:rank]
    return found


def smoothed(maps: Tensor) -> Tensor:
    """Return maps (rank, H, W), each blurred by the Gaussian that leaves it the least error.

    The error is Stein's unbiased estimate ``|K u - u|^2 + 2 s^2 tr K`` ("Estimation of the mean of
    a multivariate normal distribution", 1981, doi 10.1214/aos/1176345632), with s from the median
    of the finest diagonal wavelet coefficients (Donoho and Johnstone, 1994, doi
    10.1093/biomet/81.3.425). Maps of strong components stay sharp; those of noise are smoothed.
    """
    noise = noise_levels(maps)
    found, least = maps, 2 * noise**2
    for width in WIDTHS:
        reach = math.ceil(3 * width)
        kernel = gaussian_kernel(width, 2 * reach + 1).to(maps)
        blurred = _blurred(maps, kernel)
        error = (blurred - maps).square().mean((1, 2)) + 2 * kernel[reach, reach] * noise**2
        better = (error < least)[:, None, None]
        found, least = torch.where(better, blurred, found), torch.minimum(error, least)
    return found


def noise_levels(maps: Tensor) -> Tensor:
    """Return the deviations of white noise in maps (rank, H, W), (rank,)."""
    details = maps.diff(dim=1).diff(dim=2) / 2
    if details.numel() == 0:
        return maps.new_zeros(len(maps))
    return details.abs().flatten(1).median(1).values / HAAR_MEDIAN


def _blurred(maps: Tensor, kernel: Tensor) -> Tensor:
    """Return maps (rank, H, W) blurred by a kernel of odd sides."""
    reach = len(kernel) // 2
    padded = F.pad(maps[:, None], [reach] * 4, mode="replicate")
    blurred: Tensor = F.conv2d(padded, kernel[None, None])
    return blurred[:, 0]


@torch.no_grad()
def completed(project: Callable[[Tensor], Tensor], like: Tensor, rank: int) -> Tensor:
    """Return images of a rank with `smoothed` maps that the data explain, (B, bands, H, W).

    Low rank and smoothness in turn with the data: the iterated SVD of Troyanskaya et al., "Missing
    value estimation methods for DNA microarrays", 2001, doi 10.1093/bioinformatics/17.6.520, with
    the smoothing in between.

    Args:
        project: the projection of images onto those that the data allow.
        like: images of the same shape.
        rank: number of maps.
    """
    found, going = torch.zeros_like(like), torch.ones(len(like), dtype=torch.bool)
    for _ in range(MOST):
        allowed = project(found)
        for item in going.nonzero().flatten().tolist():
            maps, scale, spectra = leading(allowed[item : item + 1], rank)
            image = torch.einsum("rhw,r,rc->chw", smoothed(maps), scale, spectra)
            change = (image - found[item]).norm()
            going[item] = bool(change > LEAST_CHANGE * image.norm())
            found[item] = image
        if not bool(going.any()):
            break
    return found
