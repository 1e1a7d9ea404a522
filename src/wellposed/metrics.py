"""Image quality and calibration against ground truth, per item.

Complex images are compared by magnitude.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from wellposed.checks import Count, Seed, checked, require_integer
from wellposed.errors import ShapeError, require
from wellposed.noise import item_generator

DIRECTIONS = 3
"""First word of the seeds of projections, next to those in `wellposed.noise`."""

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SLICES_AT_ONCE = 16


def _pair(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if estimate.shape != truth.shape:
        raise ShapeError(
            f"estimate: got shape {tuple(estimate.shape)}, accepted: {tuple(truth.shape)} as truth"
        )
    estimate = estimate.abs() if estimate.is_complex() else estimate
    truth = truth.abs() if truth.is_complex() else truth
    return estimate.double(), truth.double()


def absolute_error(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return ``|estimate - truth|`` of each pixel, (B, C, ...), in double precision.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> metrics.absolute_error(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.5, -0.25]]]]))
        tensor([[[[0.5000, 0.2500]]]], dtype=torch.float64)
    """
    estimate, truth = _pair(estimate, truth)
    return (estimate - truth).abs()


@checked
def psnr(estimate: Tensor, truth: Tensor, peak: float = 1.0) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each item, (B,).

    Args:
        estimate: (B, C, ...); complex images are compared by magnitude. It is not rescaled.
        truth: the same shape.
        peak: the largest possible value.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> truth = torch.rand(2, 3, 16, 16)
        >>> metrics.psnr(truth + 0.1, truth).round(decimals=2)
        tensor([20., 20.], dtype=torch.float64)
    """
    require(peak > 0, "peak", peak, "a positive number")
    estimate, truth = _pair(estimate, truth)
    mse = (estimate - truth).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / mse)


@checked
def nmse(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return ``||estimate - truth||^2 / ||truth||^2`` of each item, (B,).

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> metrics.nmse(torch.full((1, 1, 8, 8), 0.9), torch.ones(1, 1, 8, 8)).round(decimals=4)
        tensor([0.0100], dtype=torch.float64)
    """
    estimate, truth = _pair(estimate, truth)
    error = (estimate - truth).square().flatten(1).sum(1)
    return error / truth.square().flatten(1).sum(1)


@checked
def ssim(estimate: Tensor, truth: Tensor, peak: float = 1.0) -> Tensor:
    """Return the structural similarity of each item, (B,): 11 x 11 Gaussian window, sigma 1.5.

    Wang et al. 2004, with the values of torchmetrics, whose windows are not separated and take
    gigabytes in double precision. Images (B, C, H, W) of at least 11 pixels.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> truth = torch.rand(2, 3, 16, 16)
        >>> metrics.ssim(truth, truth)
        tensor([1., 1.], dtype=torch.float64)
    """
    require(peak > 0, "peak", peak, "a positive number")
    a, b = _pair(estimate, truth)
    if b.ndim != 4 or min(b.shape[-2:]) < SSIM_WINDOW:
        raise ShapeError(
            f"truth: got {tuple(b.shape)}, accepted: (B, C, H, W) with sides of at least 11"
        )
    mean_a, mean_b = _window_means(a), _window_means(b)
    product = mean_a * mean_b
    squares = mean_a.square() + mean_b.square()
    variances = (_window_means(a.square() + b.square()) - squares).clamp(min=0)
    covariance = _window_means(a * b) - product
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    likeness = (2 * product + c1) / (squares + c1) * (2 * covariance + c2) / (variances + c2)
    return likeness.flatten(1).mean(1)


def _window_means(images: Tensor) -> Tensor:
    """Return the means in Gaussian windows around all pixels of images, reflected at borders."""
    reach = SSIM_WINDOW // 2
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (places / SSIM_SIGMA).square())
    means = pad(images, (reach,) * 4, mode="reflect")
    for axis in (-2, -1):
        side = images.shape[axis]
        parts = [means.narrow(axis, start, side) for start in range(SSIM_WINDOW)]
        means = torch.zeros_like(parts[0])
        for weight, part in zip((weights / weights.sum()).tolist(), parts, strict=True):
            means.add_(part, alpha=weight)
    return means


@checked
def band_quality(estimate: Tensor, truth: Tensor, peak: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the PSNR in dB and the SSIM of each item, both as means over its bands, (B,) each.

    MPSNR and MSSIM of hyperspectral images: a band with small errors counts as much as one with
    large errors, unlike in `psnr`.

    Args:
        estimate: (B, bands, H, W), real.
        truth: the same shape; sides of at least 11 pixels.
        peak: the largest possible value.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> truth = torch.rand(1, 20, 16, 16)  # 20 bands
        >>> mpsnr, mssim = metrics.band_quality(truth + 0.1, truth)
        >>> mpsnr.round(decimals=2)
        tensor([20.], dtype=torch.float64)
    """
    ours, exact = _pair(estimate, truth)
    size = exact.shape[:2]
    ours, exact = ours.flatten(0, 1)[:, None], exact.flatten(0, 1)[:, None]
    pairs = zip(ours.split(SLICES_AT_ONCE), exact.split(SLICES_AT_ONCE), strict=True)
    structure = torch.cat([ssim(a, b, peak) for a, b in pairs])
    return psnr(ours, exact, peak).reshape(size).mean(1), structure.reshape(size).mean(1)


@checked
def spectral_angle(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the spectral angle (SAM) of each item in degrees, its mean over pixels, (B,).

    ``arccos(<a, b> / (|a| |b|))`` of the spectra of a pixel; a common factor does not count.
    Kruse et al. 1993, doi 10.1016/0034-4257(93)90013-N, as computed by torchmetrics.

    Args:
        estimate: (B, bands, H, W), real, with two or more bands.
        truth: the same shape.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
        >>> a, b = (v.view(1, 2, 1, 1).expand(1, 2, 8, 8) for v in (a, b))
        >>> metrics.spectral_angle(a, b).round(decimals=2)  # degrees
        tensor([45.], dtype=torch.float64)
    """
    from torchmetrics.functional.image import spectral_angle_mapper

    ours, exact = _pair(estimate, truth)
    if exact.ndim != 4 or exact.shape[1] < 2:
        raise ShapeError(
            f"truth: got {tuple(exact.shape)}, accepted: (B, bands, H, W) with two or more bands"
        )
    angles = spectral_angle_mapper(ours, exact, reduction="none")
    assert isinstance(angles, Tensor)
    return angles.flatten(1).mean(1).rad2deg()


@checked
def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Return the continuous ranked probability score of each item, (B,), averaged over pixels.

    ``mean |X - x| - mean |X - X'| / 2``, the second mean over pairs of different samples, so that
    its expectation does not depend on the number of samples; in the units of the image, lower is
    better. Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation",
    2007, doi 10.1198/016214506000001437, eq. 21.

    Args:
        samples: (N, B, C, ...), N >= 2; complex images are compared by magnitude.
        truth: (B, C, ...).

    Raises:
        ArgumentError, ShapeError: a single sample, or another shape.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> samples = torch.randn(100, 2, 1, 8, 8)
        >>> metrics.crps(samples, torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2])
    """
    count = len(samples)
    require(count >= 2, "samples", f"{count} samples", "2 or more")
    values, truth = _pair(samples, truth.expand(count, *truth.shape))
    distance = (values - truth).abs().mean(0)
    rank = torch.arange(1, count + 1, dtype=values.dtype, device=values.device)
    weight = (2 * rank - count - 1) / (count * (count - 1))
    pairs = torch.einsum("n,n...->...", weight, values.sort(0).values)
    return (distance - pairs).flatten(1).mean(1)


@checked
def coverage(interval: tuple[Tensor, Tensor], truth: Tensor) -> Tensor:
    """Return the fraction of each item's pixels whose truth lies in the interval, (B,).

    Args:
        interval: lower and upper ends, (B, C, ...) each, real.
        truth: (B, C, ...); complex images are compared by magnitude.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> truth = torch.tensor([[0.1, 0.5, 0.7, 2.0]])
        >>> metrics.coverage((torch.zeros(1, 4), torch.ones(1, 4)), truth)
        tensor([0.7500], dtype=torch.float64)
    """
    lower, value = _pair(interval[0], truth)
    upper, _ = _pair(interval[1], truth)
    return ((lower <= value) & (value <= upper)).double().flatten(1).mean(1)


@checked
def sliced_wasserstein(a: Tensor, b: Tensor, slices: Count = 1000, seed: Seed = 0) -> Tensor:
    """Return the sliced Wasserstein-1 distance between two sets of samples, a scalar.

    It is the mean distance between the projections on random directions. Bonneel, Rabin, Peyre
    and Pfister, "Sliced and Radon Wasserstein barycenters of measures", 2015,
    doi 10.1007/s10851-014-0506-3.

    Args:
        a: (N, ...), real.
        b: the same shape.
        slices: number of directions.
        seed: seed of the directions.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> a = torch.randn(100, 2)
        >>> metrics.sliced_wasserstein(a, a, slices=50)
        tensor(0.)
    """
    require_integer("slices", slices)
    if a.shape != b.shape:
        raise ShapeError(f"a: got shape {tuple(a.shape)}, accepted: {tuple(b.shape)} as b")
    a, b = a.flatten(1), b.flatten(1)
    directions = item_generator(seed, (0,), DIRECTIONS).standard_normal((a.shape[1], slices))
    directions /= np.linalg.norm(directions, axis=0)
    total = a.new_zeros(())
    for some in torch.from_numpy(directions).to(a).split(500, dim=1):
        total = total + ((a @ some).sort(0).values - (b @ some).sort(0).values).abs().mean(0).sum()
    return total / slices


@checked
def slices_across(volume: Tensor, axis: int) -> Tensor:
    """Return the slices across an axis of volumes (B, C, D, H, W) as a batch (n, C, ., .).

    Raises:
        ShapeError: a tensor that does not have five axes.
        ArgumentError: the axis is not 2, 3 or 4.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> metrics.slices_across(torch.rand(2, 1, 4, 16, 20), axis=3).shape
        torch.Size([32, 1, 4, 20])
    """
    if volume.ndim != 5:
        raise ShapeError(f"volume: got {tuple(volume.shape)}, accepted: (B, C, D, H, W)")
    require(axis in (2, 3, 4), "axis", axis, "2, 3 or 4 of (B, C, D, H, W)")
    return volume.movedim(axis, 1).flatten(0, 1)


@checked
def plane_quality(
    estimate: Tensor, truth: Tensor, axis: int, peak: float = 1.0
) -> tuple[float, float]:
    """Return the mean PSNR and the mean SSIM of the slices across an axis.

    The tables of DiffusionMBIR and DDS report these for axial, coronal and sagittal slices. The
    mean PSNR excludes slices without any error, such as empty ones.

    Args:
        estimate: volumes (B, C, D, H, W); complex ones are compared by magnitude.
        truth: the same shape.
        axis: 2, 3 or 4.
        peak: the largest possible value.

    Returns:
        PSNR in dB, and SSIM, which is NaN for slices with a side below 11 pixels.

    Example:
        >>> import torch
        >>> from wellposed import metrics
        >>> truth = torch.rand(1, 1, 4, 16, 16)
        >>> psnr, ssim = metrics.plane_quality(truth + 0.1, truth, axis=2)
        >>> round(psnr, 2)
        20.0
    """
    if estimate.shape != truth.shape:
        raise ShapeError(
            f"estimate: got shape {tuple(estimate.shape)}, accepted: {tuple(truth.shape)} as truth"
        )
    ours, exact = slices_across(estimate, axis), slices_across(truth, axis)
    each = psnr(ours, exact, peak)
    decibels = float(each[each.isfinite()].mean()) if bool(each.isfinite().any()) else math.inf
    if min(exact.shape[-2:]) < SSIM_WINDOW:
        return decibels, math.nan
    parts = zip(ours.split(SLICES_AT_ONCE), exact.split(SLICES_AT_ONCE), strict=True)
    total = sum(float(ssim(a, b, peak).sum()) for a, b in parts)
    return decibels, total / len(exact)
