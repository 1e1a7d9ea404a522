"""Filtered back-projection for parallel and fan beams."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.operators.ct.geometry import Geometry


def filtered_backprojection(y: Tensor, geometry: Geometry) -> Tensor:
    """Return the filtered back-projection of sinograms.

    Kak and Slaney, 1988: equation 3.30 for parallel beams, 3.99 for fans on a line and 3.85 for
    fans on an arc. The data are weighted by the obliquity of the rays, filtered with a
    band-limited ramp and spread back along the rays, interpolated linearly between bins. All views
    count alike; together they should cover a half turn (parallel beams) or a full one.

    Args:
        y: sinograms (B, views, bins).
        geometry: the scan.

    Returns:
        Images (B, H, W), in 1 / length.
    """
    data = y.to(torch.float64 if y.dtype == torch.float64 else torch.float32)
    filtered = _filter(data, geometry)
    X, Y = (v.to(data) for v in geometry.pixel_centres(data.device))
    total = data.new_zeros(len(data), X.numel())
    for view, angle in enumerate(geometry.angles):
        places, weights = _rays(X, Y, math.radians(angle), geometry)
        total += weights * _interpolate(filtered[:, view], places)
    # Over its full turn a fan sees every ray twice, which the step of pi allows for.
    step = math.pi / len(geometry.angles)
    return (step * total).reshape(-1, *geometry.image_size).to(y.dtype)


def _filter(data: Tensor, geometry: Geometry) -> Tensor:
    """Weight the rays and convolve each view with the ramp."""
    bins, distance, pitch = geometry.bins, geometry.source_distance, geometry.bin_size
    n = torch.arange(bins, dtype=torch.float64)
    t = (n - (bins - 1) / 2) * pitch + geometry.detector.offset
    obliquity, stretch = torch.ones_like(t), None
    if geometry.detector.curved:
        pitch = pitch / geometry.detector_distance
        obliquity, stretch = distance * (t / geometry.detector_distance).cos(), pitch
    elif not geometry.is_parallel:
        # As if the detector stood in the rotation centre.
        pitch = pitch * distance / geometry.detector_distance
        obliquity = geometry.detector_distance / torch.hypot(
            t, torch.tensor(geometry.detector_distance, dtype=t.dtype)
        )
    return ramp_filter(data * obliquity.to(data), pitch, stretch)


def ramp_filter(data: Tensor, pitch: float, stretch: float | None = None) -> Tensor:
    """Convolve the last axis with the band-limited ramp, zero-padded.

    Args:
        data: samples ``pitch`` apart.
        pitch: their distance.
        stretch: angle between bins on an arc around the source.
    """
    bins = data.shape[-1]
    length = 1 << (2 * bins - 1).bit_length()
    response = torch.fft.rfft(_ramp_kernel(length, stretch)).real / pitch
    spectrum = torch.fft.rfft(data, n=length) * response.to(data)
    return torch.fft.irfft(spectrum, n=length)[..., :bins]


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
    """Return the bin that sees each pixel, a real number, and the pixel's weight."""
    cos, sin = math.cos(theta), math.sin(theta)
    along, weights = X * cos + Y * sin, torch.ones_like(X)
    if not geometry.is_parallel:
        depth = geometry.source_distance - X * sin + Y * cos
        if geometry.detector.curved:
            weights = 1 / (along**2 + depth**2)
            along = geometry.detector_distance * torch.atan2(along, depth)
        else:
            weights = (geometry.source_distance / depth) ** 2
            along = geometry.detector_distance * along / depth
    places = (along - geometry.detector.offset) / geometry.bin_size + (geometry.bins - 1) / 2
    return places, weights


def _interpolate(view: Tensor, places: Tensor) -> Tensor:
    """Return a view (B, bins) at real-numbered bins (pixels,), zero outside."""
    padded = F.pad(view, (1, 2))
    places = places.clamp(-1, view.shape[1]) + 1
    low = places.floor()
    share, index = places - low, low.long()
    return (1 - share) * padded[:, index] + share * padded[:, index + 1]
