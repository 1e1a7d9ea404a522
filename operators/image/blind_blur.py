"""Circular convolution with an unknown kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wellposed.checks import Count
from wellposed.operators.base import LinearOperator
from wellposed.operators.image.blur import FourierFilter
from wellposed.operators.linear_map import check_batch
from wellposed.operators.unknown_kernel import UnknownKernel, middle, on_canvas


class BlindBlur(UnknownKernel):
    """``y = k * x + n``: circular convolution of an image with an unknown kernel.

    The kernel is a further channel of the unknown, a canvas (1, H, W) with the kernel's centre at
    pixel (H // 2, W // 2); `canvas` and `window` convert. `A` uses the `normalised` kernel, so
    that image and kernel cannot exchange their brightness.

    Args:
        image_size: (C, H, W).
        kernel_size: side of the window that the kernel fills, at most that of the image.
        noise_sigma: noise level in ``y``.

    Raises:
        ArgumentError: a window that is larger than the image.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.BlindBlur((3, 16, 16), kernel_size=5, noise_sigma=0.01)
        >>> kernel = operator.canvas(operators.gaussian_kernel(1.0, size=5)).float()
        >>> image = torch.rand(1, 3, 16, 16)
        >>> operator.A(torch.cat([image, kernel], 1)).shape  # the unknown is image and kernel
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        image_size: Sequence[Count],
        kernel_size: Count,
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        super().__init__(image_size, (kernel_size, kernel_size), image_size, noise_sigma)
        self.kernel_size = kernel_size

    def centred(self, image: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Return both shifted by whole pixels such that the kernels' means are in the middle.

        What a kernel has beyond the window is then lost, and the rest normalised.
        """
        weights = self.normalised(parameter)[:, 0]
        pairs = [
            (x.roll(shift, (-2, -1)), k.roll([-n for n in shift], (-2, -1)))
            for x, k, shift in zip(image, parameter, self._means(weights), strict=True)
        ]
        images, kernels = zip(*pairs, strict=True)
        return torch.stack(images), self.normalised(torch.stack(kernels))

    def _means(self, weights: Tensor) -> list[list[int]]:
        """Return the mean place of weights (B, H, W) from the middle, in whole pixels, (B, 2)."""
        places = [torch.arange(side).to(weights) - side // 2 for side in self.img_size[1:]]
        means = [weights.sum(2) @ places[0], weights.sum(1) @ places[1]]
        found: list[list[int]] = torch.stack(means, 1).round().long().tolist()
        return found

    def prefiltered(self, values: Tensor) -> Tensor:
        """Return the differences of neighbours along rows and columns, as further channels.

        Errors of images are mostly of low frequency, as images are; those of differences are not.
        White noise has four times the energy in them. A fit that takes it for noise of the values
        trusts the data four times as much.
        """
        return torch.cat([values - values.roll(1, axis) for axis in (-2, -1)], 1)

    def given_parameter(self, parameter: Tensor) -> LinearOperator:
        """Return the blur with kernels (B, 1, H, W), which are not normalised here."""
        transfer = _transfer(self.canvas(self.window(parameter.double())))
        size = (self.channels[0], *self.img_size[1:])
        return FourierFilter(transfer, size, self.noise_model.sigma)

    def given_image(self, image: Tensor) -> LinearOperator:
        """Return the map from a kernel's canvas to the blurred ``image`` (B, C, H, W)."""
        return KernelBlur(image, self.kernel_size, self.noise_model.sigma)

    def forward_map(self, x: Tensor) -> Tensor:
        image, kernel = self.split(x)
        return _convolved(image, _transfer(self.normalised(kernel)))

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the measurement as image, and a flat kernel."""
        check_batch("y", y, self.measurement_size)
        return self.join(y, self.normalised(torch.zeros_like(y[:, :1])))


class KernelBlur(LinearOperator):
    """``k -> k * x``: the convolution of known images as a map of the kernel.

    Args:
        image: (B, C, H, W), one for each item or one for all.
        kernel_size: side of the window that the kernel fills.
        noise_sigma: noise level in ``y``.
    """

    _of_items = ("spectrum", "correlation")
    spectrum: Tensor
    correlation: Tensor

    def __init__(
        self, image: Tensor, kernel_size: Count, noise_sigma: float | Tensor = 0.0
    ) -> None:
        size = tuple(image.shape[1:])
        super().__init__((1, *size[1:]), size, noise_sigma, items=len(image))
        self._window = middle([kernel_size] * 2, size[1:])
        # Sides of a transform in which the differences of any two window pixels are distinct.
        self._sides = [min(2 * kernel_size - 1, side) for side in size[1:]]
        spectrum = torch.fft.rfft2(image.double())
        self.register_buffer("spectrum", spectrum)
        self.register_buffer("correlation", self._correlation(spectrum))
        self.to(image.device)

    def forward_map(self, x: Tensor) -> Tensor:
        spectrum = _transfer(self._canvas(x[self._window]))
        return _back(self.spectrum.to(spectrum.dtype) * spectrum, x)

    def adjoint_map(self, y: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(y)
        canvas = _back((self.spectrum.conj().to(spectrum.dtype) * spectrum).sum(1, True), y)
        return self._canvas(torch.fft.fftshift(canvas, dim=(-2, -1))[self._window])

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H A x`` by transforms of about twice the window, not of the image."""
        self._check("x", x, self.img_size, False)
        kernel = x[self._window]
        spectrum = torch.fft.rfft2(kernel, s=self._sides) * self.correlation.to(x.dtype)
        height, width = kernel.shape[-2:]
        return self._canvas(torch.fft.irfft2(spectrum, s=self._sides)[..., :height, :width])

    def _correlation(self, spectrum: Tensor) -> Tensor:
        """Return the transform of the image's autocorrelation at the window's differences."""
        sides, power = self.img_size[1:], spectrum.abs().square().sum(1, keepdim=True)
        whole = torch.fft.fftshift(torch.fft.irfft2(power, s=sides), dim=(-2, -1))
        near = whole[middle(self._sides, sides)]
        found: Tensor = torch.fft.rfft2(torch.fft.ifftshift(near, dim=(-2, -1))).real
        return found

    def _canvas(self, kernels: Tensor) -> Tensor:
        return on_canvas(kernels, self.img_size[1:])


def _transfer(canvas: Tensor) -> Tensor:
    """Return the transform of kernels whose centre is the middle of the canvas."""
    spectrum: Tensor = torch.fft.rfft2(torch.fft.ifftshift(canvas, dim=(-2, -1)))
    return spectrum


def _convolved(image: Tensor, transfer: Tensor) -> Tensor:
    return _back(torch.fft.rfft2(image) * transfer, image)


def _back(spectrum: Tensor, like: Tensor) -> Tensor:
    image: Tensor = torch.fft.irfft2(spectrum, s=like.shape[-2:])
    return image
