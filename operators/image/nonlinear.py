"""Differentiable nonlinear operators: their base class, and phase retrieval."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from wellposed.checks import Count, Range, Steps, image_sides, require_integer
from wellposed.operators.linear_map import check_batch
from wellposed.operators.physics import GaussianPhysics


class NonlinearOperator(GaussianPhysics):
    """``y = A(x) + n`` with a differentiable ``A`` and Gaussian noise.

    Subclasses implement ``forward_map``, and ``A_adjoint`` and ``A_dagger``, which map a
    measurement to an image: a rough one, and the best one at low cost.

    Args:
        image_size: (C, H, W).
        measurement_size: shape of one measurement, without the batch axis.
        noise_sigma: standard deviation of the noise in ``y``; a number or one per item.
        complex_image: images are complex.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> class Gamma(operators.NonlinearOperator):
        ...     def forward_map(self, x):
        ...         return x.clamp(min=1e-3) ** 0.45
        >>> operator = Gamma((1, 16, 16), (1, 16, 16), noise_sigma=0.01)
        >>> operator.measure(torch.rand(1, 1, 16, 16), seed=0).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        image_size: Sequence[Count],
        measurement_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
        complex_image: bool = False,
    ) -> None:
        super().__init__(noise_sigma)
        self.complex_image = complex_image
        self.img_size = image_sides(image_size)
        self.measurement_size = tuple(measurement_size)

    @abstractmethod
    def forward_map(self, x: Tensor) -> Tensor:
        """Return ``A(x)`` for a checked ``x``."""

    @abstractmethod
    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return an image of the size of ``x``; it is not an adjoint, as ``A`` is nonlinear."""

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A(x)``, noise-free; ``x`` has shape (B, C, H, W)."""
        check_batch("x", x, self.img_size, self.complex_image)
        return self.forward_map(x)


class PhaseRetrieval(NonlinearOperator):
    """The magnitude of the Fourier transform of a zero-padded image: ``y = |F P x|``.

    ``F`` is the centred orthonormal 2-D transform. Each side is padded by
    ``int(oversampling / 8 * side)`` pixels at both ends, the definition of DPS (Chung et al.,
    "Diffusion Posterior Sampling for General Noisy Inverse Problems", 2023, arXiv:2209.14687):
    at 2.0, as published, 256 pixels become 384. At best, the image is determined up to sign and
    rotation by 180 degrees. DPS measures images in [-1, 1], this package images in [0, 1]: the
    measurements of DPS differ by the spectrum of a constant, and ``A_dagger``, which finds
    non-negative images, does not fit them.

    Args:
        image_size: (C, H, W).
        oversampling: oversampling, at least 0.
        noise_sigma: noise level in ``y``.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.PhaseRetrieval((1, 16, 16), oversampling=2.0, noise_sigma=0.05)
        >>> operator.measure(torch.rand(1, 1, 16, 16), seed=0).shape
        torch.Size([1, 1, 24, 24])
    """

    def __init__(
        self,
        image_size: Sequence[Count],
        oversampling: Annotated[float, Range(0, 100)] = 2.0,
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        channels, *sides = image_sides(image_size)
        self._margins = [int(oversampling / 8 * side) for side in sides]
        padded = [side + 2 * margin for side, margin in zip(sides, self._margins, strict=True)]
        super().__init__(image_size, (channels, *padded), noise_sigma)

    def forward_map(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(self._pad(x), norm="ortho")
        magnitude: Tensor = torch.fft.fftshift(spectrum.abs(), dim=(-2, -1))
        return magnitude

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the image of the magnitudes with zero phase."""
        check_batch("y", y, self.measurement_size)
        magnitude = torch.fft.ifftshift(y, dim=(-2, -1))
        image = torch.fft.ifft2(magnitude, norm="ortho").real
        return self._crop(torch.fft.fftshift(image, dim=(-2, -1)))

    def A_dagger(self, y: Tensor, iterations: Steps = 100, **kwargs: object) -> Tensor:
        """Return a start for solvers: a non-negative image with about these magnitudes.

        It is found by the hybrid input-output algorithm (Fienup, "Phase retrieval algorithms: a
        comparison", 1982, doi:10.1364/AO.21.002758) with feedback .9, from a fixed random phase.

        Args:
            y: magnitudes (B, *measurement_size).
            iterations: number of steps, at least 1.
            kwargs: deepinv's, unused.
        """
        check_batch("y", y, self.measurement_size)
        require_integer("iterations", iterations)
        size = self.measurement_size[-2:]
        magnitude = torch.fft.ifftshift(y, dim=(-2, -1))[..., : size[1] // 2 + 1]
        support = self._pad(torch.ones_like(self._crop(y))) > 0
        image = torch.from_numpy(np.random.default_rng(0).random(self.measurement_size)).to(y)
        for _ in range(iterations):
            phase = torch.sgn(torch.fft.rfft2(image))
            fitted = torch.fft.irfft2(magnitude * phase, s=size, norm="ortho")
            image = torch.where(support & (fitted >= 0), fitted, image - 0.9 * fitted)
        return self._crop(fitted).clamp(min=0)

    def _pad(self, x: Tensor) -> Tensor:
        rows, columns = self._margins
        return pad(x, (columns, columns, rows, rows))

    def _crop(self, padded: Tensor) -> Tensor:
        (rows, columns), (height, width) = self._margins, self.img_size[1:]
        return padded[..., rows : rows + height, columns : columns + width]
