"""Denoising and inpainting: operators that act pixel by pixel."""

from collections.abc import Sequence
from math import prod
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, Seed, checked, require_integer
from wellposed.errors import ShapeError, require
from wellposed.operators.decomposable import Decomposable
from wellposed.operators.linear_map import binary_mask


class Denoising(Decomposable):
    """The identity: ``y = x + n``.

    Args:
        image_size: shape of one image, (C, H, W) or (C, D, H, W).
        noise_sigma: noise level in ``y``.
        complex_image: whether images are complex tensors.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.Denoising((3, 16, 16), noise_sigma=0.1)
        >>> operator.measure(torch.rand(1, 3, 16, 16), seed=0).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        image_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
        *,
        complex_image: bool = False,
    ) -> None:
        super().__init__(
            image_size,
            image_size,
            noise_sigma,
            complex_image=complex_image,
            complex_measurement=complex_image,
        )
        self.register_buffer("singular_values", torch.ones(()))


class Inpainting(Decomposable):
    """Keeps the pixels where a mask is 1 and zeroes the others: ``y = M x``.

    Args:
        mask: 0 or 1, shape (H, W), (C, H, W) or (B, C, H, W).
        channels: channels of the image. By default those of the mask, or 3 for masks (H, W).
            A mask of one channel hides the same pixels in all channels: without ``channels`` it
            takes grey and colour images.
        noise_sigma: noise level in ``y``.

    Raises:
        ShapeError: the mask has several channels and ``channels`` is another number.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> mask = operators.random_mask(16, 16, keep=0.5)
        >>> operator = operators.Inpainting(mask, noise_sigma=0.05)
        >>> x = 1 - torch.rand(1, 3, 16, 16)
        >>> int((operator.A(x) != 0).sum())  # half of the 768 values are known
        384
    """

    _of_items = ("singular_values",)

    def __init__(
        self,
        mask: Tensor,
        channels: Count | None = None,
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        mask = torch.as_tensor(mask)
        if channels is None and mask.ndim == 2:
            channels = 3
        mask = binary_mask(mask[None] if mask.ndim == 2 else mask, 4)
        if channels is not None:
            mask = _in_channels(mask, require_integer("channels", channels))
        super().__init__(mask.shape[1:], mask.shape[1:], noise_sigma, items=len(mask))
        self._grey_or_colour = channels is None and mask.shape[1] == 1
        self.register_buffer("singular_values", mask)
        self.to(mask.device)

    @property
    def mask(self) -> Tensor:
        """The mask, (1, C, H, W) or (B, C, H, W)."""
        return self.singular_values

    def _check(self, name: str, value: Tensor, size: tuple[int, ...], is_complex: bool) -> None:
        if self._grey_or_colour and isinstance(value, Tensor) and value.shape[1:2] == (3,):
            size = (3, *size[1:])
        super()._check(name, value, size, is_complex)

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with zeros at unknown pixels."""
        return self.mask.to(y.dtype) * y

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the known pixels, zero elsewhere."""
        return self.A_adjoint(y)


@checked
def _in_channels(mask: Tensor, channels: int) -> Tensor:
    """Return a mask (B, C, H, W) of a number of channels; one channel stands for all."""
    if mask.shape[1] not in (1, channels):
        raise ShapeError(
            f"mask: got {mask.shape[1]} channels, accepted: 1 or {channels}, as the image has"
        )
    return mask.expand(-1, channels, -1, -1).clone()


@checked
def random_mask(
    height: Count, width: Count, keep: float, seed: Seed = 0, channels: Count | None = None
) -> Tensor:
    """Return a mask (H, W) that keeps exactly ``round(keep H W)`` random pixels.

    With ``channels`` it is (C, H, W), each channel with pixels of its own.

    Example:
        >>> from wellposed import operators
        >>> mask = operators.random_mask(8, 8, keep=0.25, seed=0)
        >>> mask.shape, int(mask.sum())
        (torch.Size([8, 8]), 16)
    """
    shape = (height, width) if channels is None else (channels, height, width)
    for name, side in zip(("width", "height", "channels"), shape[::-1], strict=False):
        require_integer(name, side)
    require(0 < keep <= 1, "keep", keep, "a fraction in (0, 1]")
    total = prod(shape)
    order = np.random.default_rng(seed).permutation(total)
    mask = torch.zeros(total)
    mask[torch.from_numpy(order[: max(1, round(keep * total))])] = 1
    return mask.view(shape)


@checked
def box_mask(
    height: Count, width: Count, box: tuple[int, int], corner: tuple[int, int] | None = None
) -> Tensor:
    """Return a mask (H, W) that is 0 in a box of size ``(rows, columns)``, centred by default.

    Example:
        >>> from wellposed import operators
        >>> operators.box_mask(4, 6, box=(2, 2))
        tensor([[1., 1., 1., 1., 1., 1.],
                [1., 1., 0., 0., 1., 1.],
                [1., 1., 0., 0., 1., 1.],
                [1., 1., 1., 1., 1., 1.]])
    """
    for name, pair in (("box", box), ("corner", (0, 0) if corner is None else corner)):
        two = isinstance(pair, Sequence) and len(pair) == 2
        two = two and all(isinstance(side, Integral) for side in pair)
        require(two, name, pair, "two integers (rows, columns)")
    top, left = corner or ((height - box[0]) // 2, (width - box[1]) // 2)
    inside = 0 <= top and 0 <= left and top + box[0] <= height and left + box[1] <= width
    require(inside and min(box) > 0, "box", (box, corner), f"a box inside {height} x {width}")
    mask = torch.ones(height, width)
    mask[top : top + box[0], left : left + box[1]] = 0
    return mask
