"""An approximate inverse of the normal operator of planar scans, diagonal in Fourier space.

Back-projecting a projection blurs an image by nearly ``1 / r``, whose transform falls as one over
the frequency, if views come from all sides (Kak and Slaney, 1988, chapter 3). That transform makes
a circulant preconditioner (Clinthorne et al., "Preconditioning methods for improved convergence
rates in iterative reconstructions", 1993, https://doi.org/10.1109/42.222670).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.operators.ct.footprints import footprints
from wellposed.operators.ct.geometry import Geometry

LOWEST = 0.4
"""Frequency that stands for the mean of the image, in cycles per image."""


@dataclass(frozen=True)
class RampInverse:
    """``(C + weight)^-1`` with a circulant approximation C of ``A^H A``: symmetric and positive.

    Attributes:
        spectrum: eigenvalues of C, float64 (H, W // 2 + 1).
        weight: weight above 0, one number or (B, 1, 1, 1).
    """

    spectrum: Tensor
    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the inverse applied to images (B, 1, H, W)."""
        size = x.shape[-2:]
        # One by one: in a batch, MKL rounds some sizes in another way.
        found = torch.cat([torch.fft.rfft2(image) for image in x.split(1)])
        filtered = found / (self.spectrum.to(x) + self.weight)
        image: Tensor = torch.fft.irfft2(filtered, s=size)
        return image


def ramp_spectrum(geometry: Geometry) -> Tensor | None:
    """Return the eigenvalues of the circulant approximation, float64 (H, W // 2 + 1).

    None for views that do not come from all sides, of which Fourier space lacks a wedge.
    """
    if not geometry.coverage.from_all_sides:
        return None
    height, width = geometry.image_size
    down, across = torch.fft.fftfreq(height).double(), torch.fft.fftfreq(width).double()
    frequency = torch.hypot(down[:, None], across).clamp(min=LOWEST / max(height, width))
    # Beyond this frequency views sample rays in Fourier space with gaps between them.
    dense = len(geometry.angles) / (math.pi * max(height, width))
    gain = 1 / frequency.clamp(max=max(dense, float(frequency.min())))
    spectrum = gain * (_mean_square(geometry) / gain.mean())
    return spectrum[:, : width // 2 + 1]


def _mean_square(geometry: Geometry) -> float:
    """Return the squared norm of the projection of a pixel in the middle, an entry of A^H A."""
    (height, width), bins = geometry.image_size, geometry.bins
    degrees = torch.tensor(geometry.angles, dtype=torch.float64)
    found = footprints(geometry, degrees, slice(height // 2, height // 2 + 1))
    first = found.first[:, width // 2]
    weights = torch.stack([tap[:, width // 2] for tap in found.weights])
    place = first + torch.arange(len(weights))[:, None]
    return float(torch.where((place >= 0) & (place < bins), weights, 0).square().sum())
