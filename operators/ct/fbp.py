"""Filtered back-projection for parallel and fan beams."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.operators.ct.geometry import Geometry

# Largest number of images that are back-projected together; more are limited by memory bandwidth.
GROUP = 32


def filtered_backprojection(y: Tensor, geometry: Geometry) -> Tensor:
    """Return the filtered back-projection of sinograms.

    Kak and Slaney, 1988: equation 3.30 for parallel beams, 3.99 for flat and 3.85 for curved
    fan-beam detectors. The data are weighted by the obliquity of the rays, filtered with a
    band-limited ramp and back-projected with linear interpolation between bins. Views are weighted
    by the gaps between them, data by how often their rays are measured, see `Coverage`.

    Args:
        y: sinograms (B, views, bins).
        geometry: the scan.

    Returns:
        Images (B, H, W), in 1 / length.
    """
    detector, coverage = geometry.detector, geometry.coverage
    weights = coverage.redundancy(geometry.ray_places(geometry.bin_centres()))
    data = single_or_double(y)
    left, right = coverage.unseen(detector.offset, geometry.bin_size)
    data = F.pad(data * weights.to(data), (left, right))
    shift = (right - left) / 2 * geometry.bin_size
    detector = replace(detector, bins=data.shape[-1], offset=detector.offset + shift)
    seen = replace(geometry, detector=detector)
    views = coverage.view_weights.tolist()
    images = [_spread(_filter(part, seen), seen, views) for part in data.split(GROUP)]
    return torch.cat(images).to(y.dtype)


def single_or_double(values: Tensor) -> Tensor:
    """Return values in double precision if they are double, otherwise in single precision."""
    return values.to(torch.float64 if values.dtype == torch.float64 else torch.float32)


def _spread(filtered: Tensor, geometry: Geometry, weights: list[float]) -> Tensor:
    """Return the weighted views of filtered data (B, views, bins) spread over images (B, H, W)."""
    X, Y = (v.to(filtered) for v in geometry.pixel_centres(filtered.device))
    # Rows of all images' values: gathering copies them whole.
    rows = F.pad(filtered.permute(1, 2, 0), (0, 0, 1, 2)).contiguous()  # (views, bins + 3, B)
    total = filtered.new_zeros(X.numel(), len(filtered))
    for view, angle, weight in zip(rows, geometry.angles, weights, strict=True):
        places, shares = _rays(X, Y, math.radians(angle), geometry)
        places = places.clamp(-1, geometry.bins) + 1
        low = places.floor()
        share, index = (places - low)[:, None], low.long()
        values = torch.lerp(view.index_select(0, index), view.index_select(0, index + 1), share)
        total.addcmul_(values, (weight * shares)[:, None])
    return total.T.reshape(-1, *geometry.image_size)


def _filter(data: Tensor, geometry: Geometry) -> Tensor:
    """Weight the rays and convolve each view with the ramp."""
    distance, pitch = geometry.source_distance, geometry.bin_size
    t = geometry.bin_centres()
    obliquity, stretch = torch.ones_like(t), None
    if geometry.detector.curved:
        pitch = pitch / geometry.detector_distance
        obliquity, stretch = distance * (t / geometry.detector_distance).cos(), pitch
    elif not geometry.is_parallel:
        # Scaled to a detector at the rotation centre.
        pitch = pitch * distance / geometry.detector_distance
        obliquity = geometry.detector_distance / (t**2 + geometry.detector_distance**2).sqrt()
    return ramp_filter(data * obliquity.to(data), pitch, stretch)


def ramp_filter(data: Tensor, pitch: float, stretch: float | None = None) -> Tensor:
    """Convolve the last axis with the band-limited ramp, zero-padded.

    Args:
        data: equally spaced samples.
        pitch: distance between samples.
        stretch: angle between bins on an arc around the source.
    """
    bins = data.shape[-1]
    length = 1 << (2 * bins - 1).bit_length()
    response = torch.fft.rfft(_ramp_kernel(length, stretch)).real / pitch
    spectrum = torch.fft.rfft(data, n=length) * response.to(data)
    filtered: Tensor = torch.fft.irfft(spectrum, n=length)
    return filtered[..., :bins]


def _ramp_kernel(length: int, stretch: float | None = None) -> Tensor:
    """Return the band-limited ramp at unit pitch, circular of even ``length``, float64.

    For bins ``stretch`` radians apart on an arc it is that of equation 3.85, with sines.
    """
    n = torch.arange(length, dtype=torch.float64)
    n = torch.minimum(n, length - n).clamp(min=1)
    arc = n if stretch is None else (stretch * n).clamp(max=math.pi / 2).sin() / stretch
    kernel = torch.where(n % 2 == 1, -1 / (math.pi * arc) ** 2, 0.0)
    kernel[0] = 0.25
    return kernel


def _rays(X: Tensor, Y: Tensor, theta: float, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the real-valued bin position of each pixel, and the pixel's weight."""
    seen = geometry.project(X, Y, theta) - geometry.detector.offset
    places = seen / geometry.bin_size + (geometry.bins - 1) / 2
    if geometry.is_parallel:
        return places, torch.ones_like(X)
    depth = geometry.depth(X, Y, theta)
    if geometry.detector.curved:
        along = X * math.cos(theta) + Y * math.sin(theta)
        return places, 1 / (along**2 + depth**2)
    return places, (geometry.source_distance / depth) ** 2
