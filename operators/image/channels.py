"""Channels of an image: some of them, or each times a number."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from wellposed.checks import Count, Whole
from wellposed.errors import ArgumentError, require
from wellposed.operators.base import Composed, LinearOperator
from wellposed.operators.decomposable import Decomposable


class Channels(LinearOperator):
    """``y = x[:, kept]``: some channels of an image, such as one contrast of several.

    Operators on one channel act on images of several by ``@``: ``SingleCoilMRI(mask) @
    Channels((3, H, W), [0], complex_measurement=True)`` is the k-space of the first of three real
    contrasts. `Joint` adds further ones, and what no operator measures is imputed.
    `Inpainting` with a mask (C, H, W) hides whole channels too.

    Args:
        image_size: shape of one image, (C, H, W) or (C, D, H, W).
        kept: numbers of the channels, from 0, in the order of the measurement.
        noise_sigma: noise level in ``y``.
        complex_image: whether images are complex tensors.
        complex_measurement: whether ``y`` is complex; real channels get the imaginary part 0. By
            default as the images.

    Raises:
        ArgumentError: no channels, repeated ones, or ones that the image does not have; complex
            images with a real measurement.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> first = operators.Channels((3, 16, 16), [0])
        >>> blur = operators.Blur(operators.uniform_kernel(3), (1, 16, 16), noise_sigma=0.05)
        >>> (blur @ first).A(torch.rand(1, 3, 16, 16)).shape  # the blurred first channel
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        image_size: Sequence[Count],
        kept: Sequence[Annotated[int, Whole(0, 10**6)]],
        noise_sigma: float | Tensor = 0.0,
        *,
        complex_image: bool = False,
        complex_measurement: bool | None = None,
    ) -> None:
        numbers, count = [*kept], image_size[0]
        known = set(numbers) <= {*range(count)} and 0 < len(numbers) == len(set(numbers))
        require(known, "kept", kept, f"distinct channels from 0 to {count - 1}")
        complex_y = complex_image if complex_measurement is None else complex_measurement
        require(
            complex_y or not complex_image, "complex_measurement", complex_y, "True, as images"
        )
        super().__init__(
            image_size,
            (len(numbers), *image_size[1:]),
            noise_sigma,
            complex_image=complex_image,
            complex_measurement=complex_y,
        )
        self.kept = tuple(numbers)

    def forward_map(self, x: Tensor) -> Tensor:
        y = x[:, list(self.kept)]
        return y + 0j if self.complex_measurement and not x.is_complex() else y

    def adjoint_map(self, y: Tensor) -> Tensor:
        y = y if self.complex_image else y.real
        x = y.new_zeros(len(y), *self.img_size)
        x[:, list(self.kept)] = y
        return x

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the known channels, zero elsewhere."""
        return self.A_adjoint(y)


class ChannelGains(Decomposable):
    """``y_c = g_c x_c``: each channel times a positive number.

    Args:
        gains: one positive number for each channel.
        image_size: shape of one image, (C, H, W) or (C, D, H, W).
        complex_image: whether images are complex tensors.

    Raises:
        ArgumentError: another number of gains, or gains that are not positive.
    """

    def __init__(
        self, gains: Sequence[float], image_size: Sequence[Count], *, complex_image: bool = False
    ) -> None:
        usable = len(gains) == image_size[0] and all(g > 0 for g in gains)
        require(usable, "gains", gains, f"{image_size[0]} positive numbers")
        super().__init__(
            image_size,
            image_size,
            complex_image=complex_image,
            complex_measurement=complex_image,
        )
        values = torch.tensor(gains, dtype=torch.float64)
        self.register_buffer("singular_values", values.view(-1, *[1] * (len(image_size) - 1)))


class PixelwiseOnGains(Composed, Decomposable):
    """``A G`` with gains G of the channels and ``A = U diag(s)``: the values are ``s g``.

    Args:
        left: a decomposable operator whose ``V`` is the identity.
        right: the gains.
    """

    left: Decomposable

    def __init__(self, left: Decomposable, right: ChannelGains) -> None:
        super().__init__(left, right)
        values = left.singular_values * right.singular_values
        self.register_buffer("singular_values", values)
        self.cutoff = left.cutoff

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H A x``, without passing through the measurement."""
        return Decomposable.A_adjoint_A(self, x)

    def U(self, coordinates: Tensor) -> Tensor:
        return self.left.U(coordinates)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.left.U_adjoint(y)

    def trace(self, values: Tensor) -> Tensor:
        return self.left.trace(values)


def with_gains(operator: object, gains: Sequence[float]) -> LinearOperator:
    """Return ``A G``, with closed forms where A acts pixel by pixel.

    Raises:
        ArgumentError: not a linear operator of this package.
    """
    if not isinstance(operator, LinearOperator):
        raise ArgumentError(
            f"operator: got {type(operator).__name__}, accepted with ranges of single channels: a "
            "wellposed linear operator, as FunctionOperator makes one"
        )
    G = ChannelGains(gains, operator.img_size, complex_image=operator.complex_image)
    G = G.to(operator.device)
    pixelwise = isinstance(operator, Decomposable) and type(operator).V is Decomposable.V
    return PixelwiseOnGains(operator, G) if pixelwise else operator @ G
