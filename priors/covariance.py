"""Covariances of Gaussian priors, as functions of their eigenvalues."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Checked, Count, NonNegative, Positive, RealTensor
from wellposed.errors import DtypeError, ShapeError, require

SpectralFunction = Callable[[Tensor], Tensor]


class Covariance(Checked, ABC):
    """A symmetric positive covariance acting on images (B, C, ...)."""

    @abstractmethod
    def spectral(self, x: Tensor, function: SpectralFunction) -> Tensor:
        """Return ``f(C) x``, the function applied to the eigenvalues."""

    def __matmul__(self, x: Tensor) -> Tensor:
        """Return ``C x``."""
        return self.spectral(x, lambda values: values)


class Diagonal(Covariance):
    """Independent pixels.

    Args:
        variance: of each pixel, broadcastable to one image (C, ...).

    Raises:
        ArgumentError: variances that are not positive.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> variance = torch.tensor([0.1, 0.4]).view(1, 1, 2)  # of each column
        >>> prior = priors.GaussianPrior(0.0, priors.Diagonal(variance))
        >>> prior.covariance @ torch.ones(1, 1, 1, 2)
        tensor([[[[0.1000, 0.4000]]]])
    """

    def __init__(self, variance: RealTensor | Positive) -> None:
        exact = None if isinstance(variance, Tensor) else torch.float64
        self.variance = torch.as_tensor(variance, dtype=exact)
        require(bool((self.variance > 0).all()), "variance", "values <= 0", "positive values")

    def spectral(self, x: Tensor, function: SpectralFunction) -> Tensor:
        """Return ``f(C) x``."""
        return function(self.variance.to(x.real.dtype).to(x.device)) * x


class Full(Covariance):
    """Any covariance.

    Args:
        matrix: covariance of the flattened image, (n, n), Hermitian and positive definite.

    Raises:
        DtypeError, ShapeError, ArgumentError: another matrix.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> covariance = priors.Full(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))  # of two pixels
        >>> covariance @ torch.tensor([[[[1.0, 0.0]]]])
        tensor([[[[1.0000, 0.5000]]]])
    """

    def __init__(self, matrix: Tensor) -> None:
        if not (matrix.is_floating_point() or matrix.is_complex()):
            raise DtypeError(f"matrix: got {matrix.dtype}, accepted: floating-point or complex")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ShapeError(f"matrix: got {tuple(matrix.shape)}, accepted: (n, n)")
        off = float((matrix - matrix.mH).abs().max())
        hermitian = off <= 1e-4 * float(matrix.abs().max())  # up to rounding in single precision
        require(hermitian, "matrix", f"one that is {off:.3g} from Hermitian", "a Hermitian one")
        self.values: Tensor
        self.vectors: Tensor
        self.values, self.vectors = torch.linalg.eigh(matrix)
        definite = bool((self.values > 0).all())
        require(definite, "matrix", "an indefinite matrix", "a positive definite matrix")

    def spectral(self, x: Tensor, function: SpectralFunction) -> Tensor:
        """Return ``f(C) x``."""
        V = self.vectors.to(x.dtype).to(x.device)
        # In the shape of one image, so that the function may have a factor per item.
        values = self.values.to(x.real.dtype).to(x.device).reshape(1, *x.shape[1:])
        return ((x.flatten(1) @ V.conj() * function(values).flatten(1)) @ V.T).reshape(x.shape)


class Stationary(Covariance):
    """A stationary field: ``C = F^H diag(spectrum) F`` with the orthonormal 2-D transform.

    Args:
        spectrum: power spectrum, broadcastable to (C, H, W), in FFT order; symmetric under
            frequency negation for real images.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> frequencies = torch.fft.fftfreq(16)
        >>> radius = torch.hypot(frequencies[:, None], frequencies)
        >>> prior = priors.GaussianPrior(0.5, priors.Stationary(1 / (1 + (radius / 0.1) ** 3)))
        >>> prior.denoise(torch.randn(1, 1, 16, 16), 500.0).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(self, spectrum: RealTensor) -> None:
        require(bool((spectrum > 0).all()), "spectrum", "values <= 0", "positive values")
        self.spectrum = spectrum

    def spectral(self, x: Tensor, function: SpectralFunction) -> Tensor:
        """Return ``f(C) x``."""
        values = function(self.spectrum.to(x.real.dtype).to(x.device))
        out: Tensor = torch.fft.ifft2(values * torch.fft.fft2(x))
        return out if x.is_complex() else out.real


class Matern(Covariance):
    """A smooth field that need not be periodic: Matern's covariance, mirrored at the borders.

    The cosine transform (DCT-II) diagonalises it, with eigenvalues in proportion to
    ``(1 + (2 pi f length)^2 / (2 nu))^-(nu + 1)`` at the frequency f. It is the prior of fields
    such as coil maps. Lindgren, Rue and Lindstrom, "An explicit link between Gaussian fields and
    Gaussian Markov random fields", 2011, doi 10.1111/j.1467-9868.2011.00777.x.

    Args:
        size: (H, W).
        length: correlation length in pixels.
        std: standard deviation of a pixel, on average.
        nu: smoothness; fields have about nu derivatives.

    Raises:
        ArgumentError: a size that is not two sides.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> smooth = priors.Matern((16, 16), length=6.0, std=0.3)
        >>> fields = smooth.spectral(torch.randn(2, 1, 16, 16), torch.sqrt)
        >>> bool(fields.diff(dim=-1).std() < 0.5 * fields.std())
        True
    """

    def __init__(
        self, size: Sequence[Count], length: Positive, std: Positive = 1.0, nu: Positive = 2.0
    ) -> None:
        require(len(size) == 2, "size", tuple(size), "two sides (H, W)")
        self.cosines = [_cosines(side) for side in size]
        rows, columns = (torch.arange(n, dtype=torch.float64) / (2 * n) for n in size)
        squared = (2 * math.pi * length) ** 2 * (rows[:, None] ** 2 + columns**2)
        values = (1 + squared / (2 * nu)) ** -(nu + 1)
        self.values = float(std) ** 2 * values / values.mean()

    def spectral(self, x: Tensor, function: SpectralFunction) -> Tensor:
        """Return ``f(C) x``."""
        rows, columns = (cosines.to(x.dtype).to(x.device) for cosines in self.cosines)
        values = function(self.values.to(x.real.dtype).to(x.device))
        found: Tensor = rows.T @ (values * (rows @ x @ columns.T)) @ columns
        return found


def _cosines(side: int) -> Tensor:
    """Return the orthonormal matrix of the cosine transform of a line."""
    import scipy.fft  # which takes a seventh of a second

    return torch.from_numpy(scipy.fft.dct(np.eye(side), axis=0, norm="ortho"))


class LowRank(Covariance):
    """``C = U diag(l) U^H + rest (1 - U U^H)``: some components, and one variance for the rest.

    Args:
        components: orthonormal images (k, C, ...), the columns of U.
        values: their variances (k,), not negative.
        rest: variance of everything else.

    Raises:
        ShapeError: not one value for each component.
        ArgumentError: components that are not orthonormal, or negative values.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> flat = torch.full((1, 1, 4, 4), 0.25)  # of norm 1
        >>> covariance = priors.LowRank(flat, torch.tensor([4.0]), rest=0.1)
        >>> (covariance @ torch.ones(1, 1, 4, 4)).mean()
        tensor(4.)
    """

    def __init__(self, components: Tensor, values: RealTensor, rest: NonNegative = 0.0) -> None:
        if components.ndim < 2 or values.ndim != 1 or len(components) != len(values):
            raise ShapeError(
                f"components: got {tuple(components.shape)} for values {tuple(values.shape)}, "
                "accepted: (k, C, ...) and (k,)"
            )
        require(bool((values >= 0).all()), "values", "values < 0", "values of at least 0")
        flat = components.flatten(1)
        off = float((flat.conj() @ flat.T - torch.eye(len(flat)).to(flat)).abs().max())
        accepted = "orthonormal images, of which there are at most as many as numbers in one"
        require(off <= 1e-4, "components", f"ones that are {off:.3g} from orthonormal", accepted)
        self.components, self.values, self.rest = components, values, float(rest)

    def spectral(self, x: Tensor, function: SpectralFunction) -> Tensor:
        """Return ``f(C) x``."""
        one = [1] * (x.ndim - 1)
        kind = torch.promote_types(x.dtype, self.components.dtype)
        U = self.components.flatten(1).to(kind if kind.is_complex else x.dtype).to(x.device)
        values = self.values.to(x.real.dtype).to(x.device).view(1, -1, *one[1:])
        rest = function(values.new_full((1, *one), self.rest))
        gain = (function(values) - rest).flatten(1)
        return rest * x + ((x.flatten(1).to(U.dtype) @ U.mH * gain) @ U).reshape(x.shape)
