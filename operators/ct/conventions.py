"""Sinograms of other packages: their conventions, and conversion to ours.

Ours are defined in `geometry`. The table is for an image of N x N pixels, B bins as wide as pixels
and equal angles in degrees, which are counter-clockwise in all packages:

| package | axes | rotation centre | its bin |
|---|---|---|---|
| wellposed | (views, bins) | pixel (N-1)/2 | (B-1)/2 |
| ASTRA, ``parallel`` and ``fanflat`` | (views, bins) | pixel (N-1)/2 | (B-1)/2 |
| CIL, 2-D | (views, bins) | pixel (N-1)/2 | (B-1)/2 |
| scikit-image, ``radon(circle=False)`` | (bins, views) | pixel N // 2 | B // 2 |
| deepinv, ``Tomography``, N + B even | (bins, views) | pixel (N-1)/2 | (B-1)/2 |
| deepinv, ``Tomography``, N even, B odd | (bins, views) | pixel N/2 | (B-1)/2 |
| deepinv, ``Tomography``, N odd, B even | (bins, views) | pixel N/2 - 1 | (B-1)/2 |

The angle of deepinv's fan beam is our angle + 90, about pixel (N-1)/2. `from_astra` and `from_cil`
make operators of geometries of ASTRA, tomosipo and CIL.
"""

import torch
from torch import Tensor

from wellposed.checks import Count
from wellposed.errors import ShapeError, require_choice

PACKAGES = ("scikit-image", "deepinv")


def from_package(package: str, sinogram: Tensor, angles: Tensor, image_side: Count) -> Tensor:
    """Return another package's sinogram of a parallel beam in our convention.

    Args:
        package: "scikit-image" or "deepinv"; ASTRA's needs no conversion.
        sinogram: (..., bins, views).
        angles: of the views in degrees, (views,).
        image_side: N.

    Returns:
        (..., views, bins), interpolated in Fourier space by half a bin or .7 bins at most.

    Example:
        >>> import torch
        >>> from wellposed.operators.ct.conventions import from_package
        >>> sinogram, angles = torch.rand(32, 60), 3.0 * torch.arange(60)  # of skimage's radon
        >>> from_package("scikit-image", sinogram, angles, image_side=32).shape
        torch.Size([60, 32])
    """
    shift = _shift(package, sinogram.shape[-2], angles, image_side)
    return _moved(sinogram.transpose(-2, -1), shift)


def to_package(package: str, sinogram: Tensor, angles: Tensor, image_side: Count) -> Tensor:
    """Return our sinogram (..., views, bins) as another package's; undoes `from_package`.

    Example:
        >>> import torch
        >>> from wellposed.operators.ct.conventions import to_package
        >>> sinogram, angles = torch.rand(60, 32), torch.arange(60) * 3.0
        >>> to_package("scikit-image", sinogram, angles, image_side=32).shape
        torch.Size([32, 60])
    """
    shift = _shift(package, sinogram.shape[-1], angles, image_side)
    return _moved(sinogram, -shift).transpose(-2, -1)


def _shift(package: str, bins: int, angles: Tensor, side: Count) -> Tensor:
    """Return the shift of each view to the right of ours, in bins, (views,)."""
    require_choice("package", package, PACKAGES)
    theta = torch.deg2rad(angles.to(torch.float64))
    if package == "scikit-image":
        pixel, bin_ = 0.5 * (1 - side % 2), 0.5 * (1 - bins % 2)
    else:
        pixel, bin_ = 0.5 * (bins % 2 - side % 2), 0.0
    # The centre is right of and below ours: at (pixel, -pixel).
    return bin_ - pixel * (theta.cos() - theta.sin())


def _moved(sinogram: Tensor, shift: Tensor) -> Tensor:
    """Return views (..., views, bins) moved left by ``shift`` bins."""
    views, bins = sinogram.shape[-2:]
    if tuple(shift.shape) != (views,):
        raise ShapeError(f"angles: got {tuple(shift.shape)}, accepted: ({views},), one per view")
    padded = 2 * bins
    cycles = torch.fft.rfftfreq(padded, dtype=torch.float64)
    turns = (2 * torch.pi * shift[:, None] * cycles).to(sinogram)
    spectrum = torch.fft.rfft(sinogram, n=padded) * torch.polar(torch.ones_like(turns), turns)
    moved: Tensor = torch.fft.irfft(spectrum, n=padded)
    return moved[..., :bins]
