"""Bilinear operators whose unknown parameter is a convolution kernel."""

from collections.abc import Sequence
from types import EllipsisType

import torch
from torch import Tensor

from wellposed.checks import Count, image_sides, require_integer
from wellposed.errors import ShapeError, require
from wellposed.operators.bilinear import Bilinear


class UnknownKernel(Bilinear):
    """A convolution with an unknown kernel, next to the image or behind another operator.

    The kernel is a further channel of the unknown, a canvas (1, H, W) with the kernel's centre at
    pixel (H // 2, W // 2); `canvas` and `window` convert. `A` uses the `normalised` kernel, so
    that image and kernel cannot exchange their brightness.

    Args:
        image_size: (C, H, W).
        kernel_size: sides (h, w) of the window that the kernel fills, at most those of the image.
        measurement_size: shape of one measurement.
        noise_sigma: noise level in ``y``.

    Raises:
        ArgumentError: a window that is larger than the image.
    """

    def __init__(
        self,
        image_size: Sequence[Count],
        kernel_size: tuple[Count, Count],
        measurement_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        size = image_sides(image_size)
        for side, most in zip(kernel_size, size[1:], strict=True):
            require_integer("kernel_size", side)
            require(side <= most, "kernel_size", side, f"at most {most}, as the image")
        super().__init__(size, 1, measurement_size, noise_sigma)
        self._kernel_sides = kernel_size

    def canvas(self, kernels: Tensor) -> Tensor:
        """Return kernels (B, 1, h, w) or (h, w) as canvases (B, 1, H, W)."""
        sides = self._kernel_sides
        single = kernels.ndim == 2 or (kernels.ndim == 4 and kernels.shape[1] == 1)
        if not single or tuple(kernels.shape[-2:]) != sides:
            raise ShapeError(
                f"kernels: got {tuple(kernels.shape)}, accepted: {sides} or "
                f"(B, 1, {sides[0]}, {sides[1]})"
            )
        return on_canvas(kernels.reshape(-1, 1, *sides), self.img_size[-2:])

    def window(self, canvas: Tensor) -> Tensor:
        """Return the kernels (B, 1, h, w) on canvases (B, 1, H, W)."""
        return canvas[middle(self._kernel_sides, self.img_size[-2:])]

    def normalised(self, parameter: Tensor) -> Tensor:
        """Return kernels without negative values and with sum 1; flat ones if nothing is left."""
        kernel = self.canvas(self.window(parameter).clamp(min=0))
        total = kernel.sum((-2, -1), keepdim=True)
        ones = self.canvas(parameter.new_ones(self._kernel_sides))
        return torch.where(total <= 0, ones / ones.sum(), kernel / total.clamp(min=1e-12))


def on_canvas(kernels: Tensor, sides: Sequence[int]) -> Tensor:
    """Return kernels (B, 1, h, w) in the middle of canvases (B, 1, H, W) of zeros."""
    canvas = kernels.new_zeros(*kernels.shape[:2], *sides)
    canvas[middle(kernels.shape[-2:], sides)] = kernels
    return canvas


def middle(extents: Sequence[int], sides: Sequence[int]) -> tuple[EllipsisType, slice, slice]:
    """Return the window of some extents whose middle is that of an image's sides."""
    rows, columns = (
        slice(side // 2 - n // 2, side // 2 - n // 2 + n)
        for n, side in zip(extents, sides, strict=True)
    )
    return ..., rows, columns
