"""Super-resolution: downsampling by an integer factor with an exact decomposition."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, divisible_sides, require_integer
from wellposed.errors import require_choice
from wellposed.operators.decomposable import Separable


class SuperResolution(Separable):
    """Downsampling by an integer factor: ``Y = R_h X R_w^T`` with one resampling matrix per axis.

    ``bicubic`` is the antialiased cubic (a = -1/2, kernel widened by the factor, symmetric
    boundary) of MATLAB's ``imresize``, as in the DPS and DDRM benchmarks; ``average`` is block
    averaging, as in the benchmarks of DDRM and RED-diff. Both have their exact adjoint and, by the
    singular values of the two matrices, the exact pseudo-inverse and proximal solution.

    Args:
        image_size: (C, H, W) of the high-resolution image; H and W divisible by ``factor``.
        factor: integer of at least 2.
        kernel: ``bicubic`` or ``average``.
        noise_sigma: noise level in ``y``.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.SuperResolution((3, 32, 32), factor=4, noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 32, 32), seed=0)
        >>> y.shape, operator.A_dagger(y).shape
        (torch.Size([1, 3, 8, 8]), torch.Size([1, 3, 32, 32]))
    """

    def __init__(
        self,
        image_size: Sequence[Count],
        factor: Count = 4,
        kernel: str = "bicubic",
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        require_choice("kernel", kernel, ("bicubic", "average"))
        require_integer("factor", factor, 2)
        channels, height, width = divisible_sides(image_size, factor, "factor")
        build = bicubic_matrix if kernel == "bicubic" else average_matrix
        super().__init__(build(height, factor), build(width, factor), channels, noise_sigma)


def average_matrix(side: Count, factor: Count) -> Tensor:
    """Return the (side / factor, side) matrix of block averaging, float64."""
    return torch.eye(side // factor, dtype=torch.float64).repeat_interleave(factor, 1) / factor


def bicubic_matrix(side: Count, factor: Count) -> Tensor:
    """Return the (side / factor, side) matrix of antialiased bicubic downsampling, float64."""
    centre = (np.arange(side // factor) + 0.5) * factor - 0.5
    reach = 2 * factor
    taps = np.floor(centre)[:, None] + np.arange(-reach, reach + 2)
    u = np.abs(centre[:, None] - taps) / factor
    near = 1.5 * u**3 - 2.5 * u**2 + 1
    far = -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
    weights = np.where(u <= 1, near, np.where(u < 2, far, 0.0))
    weights /= weights.sum(1, keepdims=True)
    # Symmetric extension, reflected repeatedly if the kernel is wider than the image.
    folded = np.mod(taps.astype(int), 2 * side)
    folded = np.where(folded < side, folded, 2 * side - 1 - folded)
    matrix = np.zeros((side // factor, side))
    np.add.at(matrix, (np.arange(side // factor)[:, None], folded), weights)
    return torch.from_numpy(matrix)
