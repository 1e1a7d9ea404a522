"""Images from radio-frequency (RF) frames.

Frames are (B, C, depth, beams) with the depth sampled at the RF rate. All functions are
differentiable and keep dtype and device.
"""

import math

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from wellposed.checks import checked, require_integer
from wellposed.datasets.ultrasound.sector import Sector
from wellposed.errors import ShapeError, require
from wellposed.operators.companding import compand as compand
from wellposed.operators.companding import expand as expand
from wellposed.operators.companding import require_real


@checked
def envelope(rf: Tensor) -> Tensor:
    """Return the magnitude of the analytic signal along the depth, by a Hilbert transform.

    The signal is continued by zeros, so that an echo cut off at the bottom does not come again at
    the top.

    Args:
        rf: real (..., depth, beams).

    Raises:
        DtypeError: ``rf`` is not floating-point.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> rf = torch.cos(torch.arange(128) * 0.8)[:, None]  # one beam
        >>> round(float(ultrasound.envelope(rf)[64]), 1)
        1.0
    """
    require_real("rf", rf)
    depth = rf.shape[-2]
    padded = next_fast_len(2 * depth)
    padded += padded % 2
    weight = rf.new_zeros(padded, 1)
    weight[0] = weight[padded // 2] = 1
    weight[1 : padded // 2] = 2
    spectrum = torch.fft.fft(rf, n=padded, dim=-2)
    analytic: Tensor = torch.fft.ifft(spectrum * weight, dim=-2)[..., :depth, :]
    return analytic.abs()


@checked
def log_compress(
    envelope: Tensor, dynamic_range: float = 60.0, reference: float | Tensor | None = None
) -> Tensor:
    """Return grey values of decibels: 0 dB is 1, ``-dynamic_range`` dB and less are 0.

    Args:
        envelope: (B, ...), not negative.
        dynamic_range: dynamic range in dB.
        reference: the value of 0 dB, a number or one per item (B,); by default the largest of each
            item. Images that are compared need a common reference.

    Raises:
        ArgumentError: a range or reference that is not positive.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> ultrasound.log_compress(torch.tensor([[1.0, 0.0316228, 1e-6]]), dynamic_range=60.0)
        tensor([[1.0000, 0.5000, 0.0000]])
    """
    require_real("envelope", envelope)
    require(dynamic_range > 0, "dynamic_range", dynamic_range, "a positive number of dB")
    peak = envelope.flatten(1).amax(1) if reference is None else torch.as_tensor(reference)
    counted = peak.numel() in (1, len(envelope))
    accepted = f"one value, or one for each of {len(envelope)} items"
    require(counted, "reference", reference, accepted)
    peak = peak.to(envelope).reshape(-1, *[1] * (envelope.ndim - 1))
    given = reference is None or bool((peak > 0).all())
    require(given, "reference", reference, "positive values")
    peak = torch.where(peak > 0, peak, 1)  # an item of zeros is black
    decibels = 20 * torch.log10((envelope / peak).clamp(min=torch.finfo(envelope.dtype).tiny))
    return (1 + decibels.clamp(max=0) / dynamic_range).clamp(min=0)


@checked
def b_mode(
    rf: Tensor, dynamic_range: float = 60.0, reference: float | Tensor | None = None
) -> Tensor:
    """Return the grey image of RF frames on their grid, in [0, 1]; see `log_compress`.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> grey = ultrasound.b_mode(torch.randn(1, 1, 256, 16), dynamic_range=60.0)
        >>> grey.shape, float(grey.max())
        (torch.Size([1, 1, 256, 16]), 1.0)
    """
    return log_compress(envelope(rf), dynamic_range, reference)


@checked
def scan_convert(image: Tensor, sector: Sector, height: int = 512, fill: float = 0.0) -> Tensor:
    """Resample a polar image to square pixels for display.

    Args:
        image: (B, C, depths, beams) on the grid of ``sector``: envelopes or grey values, not RF.
        sector: the grid.
        height: number of rows, from the probe to the largest depth.
        fill: value outside of the sector.

    Returns:
        (B, C, height, W) with square pixels of ``depth_mm / height``, wide enough for all beams.

    Raises:
        ShapeError: ``image`` is not on that grid.

    Example:
        >>> import torch
        >>> from wellposed.datasets import Sector, ultrasound
        >>> sector = Sector(depths=256, beams=64, depth_mm=40.0)
        >>> ultrasound.scan_convert(torch.rand(1, 1, 256, 64), sector, height=128).shape
        torch.Size([1, 1, 128, 156])
    """
    if image.ndim != 4 or tuple(image.shape[-2:]) != (sector.depths, sector.beams):
        raise ShapeError(
            f"image: got {tuple(image.shape)}, accepted: (B, C, {sector.depths}, {sector.beams})"
        )
    require_real("image", image)
    height = require_integer("height", height)
    half = math.radians(sector.degrees) / 2
    width = 2 * math.ceil(height * math.sin(half))
    pixel = sector.depth_mm / height
    z = (torch.arange(height) + 0.5)[:, None] * pixel
    x = (torch.arange(width) + 0.5 - width / 2)[None, :] * pixel
    radius, angle = torch.hypot(x, z), torch.atan2(x, z)
    # In the units of grid_sample, -1 and 1 are the outer edges of the first and the last cell.
    place = torch.stack([angle / half, 2 * radius / sector.depth_mm - 1], -1)
    inside = (place.abs() <= 1).all(-1).to(image.device)
    place = place.to(image).expand(len(image), -1, -1, -1)
    pixels = F.grid_sample(image, place, "bilinear", "border", align_corners=False)
    return torch.where(inside, pixels, fill)
