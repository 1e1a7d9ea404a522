"""Image quality against ground truth, per item; complex images are compared by magnitude."""

import torch
from torch import Tensor

from wellposed.errors import ShapeError, require


def _pair(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if estimate.shape != truth.shape:
        raise ShapeError(
            f"estimate: got shape {tuple(estimate.shape)}, accepted: {tuple(truth.shape)} as truth"
        )
    estimate = estimate.abs() if estimate.is_complex() else estimate
    truth = truth.abs() if truth.is_complex() else truth
    return estimate.double(), truth.double()


def psnr(estimate: Tensor, truth: Tensor, peak: float = 1.0) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each item, (B,).

    Args:
        estimate: (B, C, ...); the magnitude is taken of complex images. Not rescaled.
        truth: the same shape.
        peak: the largest possible value.
    """
    require(peak > 0, "peak", peak, "a positive number")
    estimate, truth = _pair(estimate, truth)
    mse = (estimate - truth).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / mse)


def nmse(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return ``||estimate - truth||^2 / ||truth||^2`` of each item, (B,)."""
    estimate, truth = _pair(estimate, truth)
    error = (estimate - truth).square().flatten(1).sum(1)
    return error / truth.square().flatten(1).sum(1)


def ssim(estimate: Tensor, truth: Tensor, peak: float = 1.0) -> Tensor:
    """Return the structural similarity of each item, (B,): 11 x 11 Gaussian window, sigma 1.5.

    Wang et al. 2004, as computed by torchmetrics. Images (B, C, H, W) of at least 11 pixels.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    require(peak > 0, "peak", peak, "a positive number")
    estimate, truth = _pair(estimate, truth)
    if truth.ndim != 4 or min(truth.shape[-2:]) < 11:
        raise ShapeError(f"truth: got {tuple(truth.shape)}, accepted: (B, C, H, W) from 11 pixels")
    values = structural_similarity_index_measure(
        estimate, truth, data_range=peak, reduction="none", gaussian_kernel=True
    )
    assert isinstance(values, Tensor)
    return values.reshape(-1)
