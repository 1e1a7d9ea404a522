"""Sampling masks for undersampled k-space: lines in one direction, points in two.

Every mask is float32 with values 0 and 1, on the CPU, for centred k-space (see `fft2c`). It
depends only on its arguments: random masks have their own generator with the given ``seed``. The
fully sampled block of n lines starts at ``size // 2 - n // 2``.
"""

from math import isfinite
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, Fraction, Seed, checked, require_integer
from wellposed.errors import ArgumentError, require


@checked
def uniform_random_lines(
    width: Count, acceleration: float, center_fraction: Fraction = 0.08, seed: Seed = 0
) -> Tensor:
    """Return a line mask (W,): the centre, and lines drawn uniformly from the rest.

    This is the mask of the MRI experiments of DDS (Chung et al., "Decomposed Diffusion Sampler for
    Accelerating Large-Scale Inverse Problems", 2023, arXiv:2303.05754): the central
    ``int(center_fraction W)`` lines and random lines. The published code draws the latter with
    replacement from all lines, so it samples fewer lines than stated. Here they are drawn without
    replacement outside the centre, so that exactly ``round(W / acceleration)`` lines are sampled.

    Args:
        width: number W of lines.
        acceleration: W over the number of sampled lines, at least 1.
        center_fraction: fraction of the lines in the fully sampled centre, 0 to 1.
        seed: seed of the random draw.

    Raises:
        ArgumentError: an argument out of range, or more lines in the centre than the
            acceleration allows.

    Example:
        >>> from wellposed import operators
        >>> mask = operators.uniform_random_lines(64, acceleration=4, center_fraction=0.08, seed=0)
        >>> mask.shape, int(mask.sum())
        (torch.Size([64]), 16)
    """
    center = _center_count("width", width, center_fraction)
    total = _total(width, acceleration, center)
    mask = _center_mask(width, center)
    others = np.flatnonzero(mask == 0)
    mask[np.random.default_rng(seed).choice(others, total - center, replace=False)] = 1
    return torch.from_numpy(mask)


@checked
def equispaced_lines(
    width: Count, acceleration: int, center_fraction: Fraction = 0.08, offset: int = 0
) -> Tensor:
    """Return a line mask (W,): lines ``offset``, ``offset + acceleration``, ... and the centre.

    This is the sampling for GRAPPA (Griswold et al., "Generalized autocalibrating partially
    parallel acquisitions", 2002). The central ``int(center_fraction W)`` lines are additional, so
    the mask has somewhat more than ``W / acceleration`` lines.

    Args:
        width: number W of lines.
        acceleration: distance between two lines, an integer of at least 1.
        center_fraction: fraction of the lines in the fully sampled centre, 0 to 1.
        offset: first line, 0 to ``acceleration - 1``.

    Raises:
        ArgumentError: an argument out of range.

    Example:
        >>> from wellposed import operators
        >>> operators.equispaced_lines(12, acceleration=4, center_fraction=0.2)
        tensor([1., 0., 0., 0., 1., 1., 1., 0., 1., 0., 0., 0.])
    """
    center = _center_count("width", width, center_fraction)
    require_integer("acceleration", acceleration, 1, width)
    require_integer("offset", offset, 0, acceleration - 1)
    mask = _center_mask(width, center)
    mask[offset::acceleration] = 1
    return torch.from_numpy(mask)


@checked
def gaussian_random_2d(
    height: Count,
    width: Count,
    acceleration: float,
    center_fraction: Fraction = 0.08,
    spread: float = 0.25,
    seed: Seed = 0,
) -> Tensor:
    """Return a variable-density mask (H, W) of points, densest at the centre of k-space.

    It is used in compressed sensing with two phase-encoding directions (Lustig et al., "Sparse
    MRI", 2007). A central block of ``int(center_fraction H)`` by ``int(center_fraction W)`` points
    is fully sampled. The others are drawn without replacement with weights
    ``exp(-((i / H)^2 + (j / W)^2) / (2 spread^2))``, with i and j relative to the centre, so that
    exactly ``round(H W / acceleration)`` points are sampled.

    Args:
        height: rows H of the mask.
        width: columns W of the mask.
        acceleration: H W over the number of sampled points, at least 1.
        center_fraction: fraction of each axis in the fully sampled block, 0 to 1.
        spread: standard deviation of the density, as a fraction of each axis.
        seed: seed of the random draw.

    Raises:
        ArgumentError: an argument out of range, or more points in the central block than the
            acceleration allows.

    Example:
        >>> from wellposed import operators
        >>> mask = operators.gaussian_random_2d(32, 32, acceleration=8, seed=0)
        >>> mask.shape, int(mask.sum())
        (torch.Size([32, 32]), 128)
    """
    block, total = _center_block(height, width, acceleration, center_fraction)
    require(_positive(spread), "spread", spread, "a positive, finite number")
    i, j = ((np.arange(n) - n // 2) / n for n in (height, width))
    log_weight = -(i[:, None] ** 2 + j**2) / (2 * spread**2)
    # The largest log-weights plus Gumbel noise are a weighted draw without replacement, which is
    # exact even if the weights underflow.
    keys = log_weight + np.random.default_rng(seed).gumbel(size=log_weight.shape)
    keys[block == 1] = np.inf
    mask = np.zeros(height * width, dtype=np.float32)
    mask[np.argsort(-keys, axis=None, kind="stable")[:total]] = 1
    return torch.from_numpy(mask.reshape(height, width))


@checked
def poisson_disc_2d(
    height: Count,
    width: Count,
    acceleration: float,
    center_fraction: Fraction = 0.08,
    seed: Seed = 0,
) -> Tensor:
    """Return a variable-density Poisson-disc mask (H, W): random points with a minimum distance.

    It is used in compressed sensing with two phase-encoding directions (Vasanawala et al.,
    "Practical parallel imaging compressed sensing MRI", 2011, doi:10.1109/ISBI.2011.5872579), and
    made by dart throwing (Cook, "Stochastic sampling in computer graphics", 1986): in random order
    each point is accepted unless an accepted point p is closer than ``scale r(p)``, where r is the
    distance from the centre in units of half the width along j and half the height along i. The
    density thus decreases as ``1 / r^2``. The scale is the largest, to 2^-16 of the longer side,
    for which ``round(H W / acceleration)`` points fit, including the central block of
    ``int(center_fraction H)`` by ``int(center_fraction W)``; exactly this number is sampled.

    Args:
        height: rows H of the mask.
        width: columns W of the mask.
        acceleration: H W over the number of sampled points, at least 1.
        center_fraction: fraction of each axis in the fully sampled block, 0 to 1.
        seed: seed of the random order.

    Raises:
        ArgumentError: an argument out of range, or more points in the central block than the
            acceleration allows.

    Example:
        >>> from wellposed import operators
        >>> mask = operators.poisson_disc_2d(32, 32, acceleration=8, seed=0)
        >>> mask.shape, int(mask.sum())
        (torch.Size([32, 32]), 128)
    """
    block, total = _center_block(height, width, acceleration, center_fraction)
    order = np.random.default_rng(seed).permutation(height * width)
    i, j = (2 * (np.arange(n) - n // 2) / n for n in (height, width))
    radius = np.hypot(i[:, None], j)
    low, high = 0.0, float(max(height, width))
    mask = _throw_darts(block, order, 0 * radius, total)
    for _ in range(16):
        scale = (low + high) / 2
        darts = _throw_darts(block, order, scale * radius, total)
        if darts.sum() == total:
            mask, low = darts, scale
        else:
            high = scale
    return torch.from_numpy(mask)


def _throw_darts(
    block: np.ndarray, order: np.ndarray, reach: np.ndarray, total: int
) -> np.ndarray:
    """Return the mask of ``block`` and of points out of reach of earlier ones, up to ``total``."""
    (height, width), mask = block.shape, block.copy()
    free = mask == 0
    missing = total - int(mask.sum())
    offset2 = np.add.outer(np.arange(1 - height, height) ** 2, np.arange(1 - width, width) ** 2)
    places = (axis.tolist() for axis in np.unravel_index(order, block.shape))
    for i, j in zip(*places, strict=True):
        if missing == 0:
            break
        if not free[i, j]:
            continue
        mask[i, j], missing = 1, missing - 1
        if reach[i, j] > 1:
            distance2 = offset2[height - 1 - i :, width - 1 - j :]
            _block(free, distance2, (i, j), reach[i, j])
    return mask


def _block(free: np.ndarray, distance2: np.ndarray, point: tuple[int, int], reach: float) -> None:
    """Block in place the points of ``free`` nearer to ``point`` than ``reach``."""
    (i, j), r = point, int(reach)
    window = slice(max(i - r, 0), i + r + 1), slice(max(j - r, 0), j + r + 1)
    around = free[window]
    around &= distance2[window][: around.shape[0], : around.shape[1]] >= reach**2


def _positive(value: float) -> bool:
    return isinstance(value, Real) and isfinite(value) and value > 0


def _center_count(name: str, size: Count, fraction: float) -> int:
    require_integer(name, size)
    inside = isinstance(fraction, Real) and 0 <= fraction <= 1
    require(inside, "center_fraction", fraction, "a fraction in [0, 1]")
    return int(fraction * size)


def _center_mask(size: Count, count: int) -> np.ndarray:
    mask = np.zeros(size, dtype=np.float32)
    start = size // 2 - count // 2
    mask[start : start + count] = 1
    return mask


def _center_block(
    height: Count, width: Count, acceleration: float, fraction: float
) -> tuple[np.ndarray, int]:
    """Return the mask (H, W) of the central block, and the total number of points to sample."""
    rows = _center_count("height", height, fraction)
    columns = _center_count("width", width, fraction)
    block = np.outer(_center_mask(height, rows), _center_mask(width, columns))
    return block, _total(height * width, acceleration, rows * columns)


def _total(size: Count, acceleration: float, center: int) -> int:
    """Return how many of ``size`` samples the acceleration allows, at least the central ones."""
    usable = _positive(acceleration) and 1 <= acceleration <= size
    require(usable, "acceleration", acceleration, f"a number from 1 to {size}")
    total = round(size / acceleration)
    if total < center:
        raise ArgumentError(
            f"acceleration: got {acceleration!r}, accepted: at most {size / center:.4g}, as the "
            f"centre has {center} of {size} samples; or reduce center_fraction"
        )
    return total
