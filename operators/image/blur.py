"""Convolution with a known kernel: circular, separable, or without wrap-around."""

from collections.abc import Sequence

import numpy as np
import scipy.fft
import torch
from torch import Tensor
from torch.nn.functional import pad

from wellposed.checks import Count, image_sides
from wellposed.errors import ArgumentError, DtypeError, ShapeError, require, require_choice, warn
from wellposed.operators.base import LinearOperator
from wellposed.operators.decomposable import Decomposable, Separable
from wellposed.operators.linear_map import as_buffer

BRIGHTEST = 1.5
"""Sum of a kernel from which on it is likely that of a picture with values to 255."""


class FourierFilter(Decomposable):
    """A circular filter of real images, given by its transfer function.

    Its coordinates are the half spectrum (B, C, H, W // 2 + 1) of a real image. ``U`` contains the
    phase of the transfer function, and the singular values are its magnitude.

    Args:
        transfer: complex (H, W // 2 + 1), or (B, 1, H, W // 2 + 1) for one filter of each item.
        image_size: (C, H, W).
        noise_sigma: noise level in ``y``.
        cutoff: Fourier components with ``|K| <= cutoff max|K|`` are set to zero in ``A_dagger``.
    """

    _of_items = ("singular_values", "phase")
    phase: Tensor

    def __init__(
        self,
        transfer: Tensor,
        image_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
        cutoff: float = 1e-3,
    ) -> None:
        require(0 <= cutoff < 1, "cutoff", cutoff, "a fraction in [0, 1)")
        items = len(transfer) if transfer.ndim == 4 else 1
        super().__init__(image_size, image_size, noise_sigma, items=items)
        self.register_buffer("singular_values", transfer.abs())
        self.register_buffer(
            "phase", torch.polar(torch.ones_like(transfer.real), transfer.angle())
        )
        self.cutoff = cutoff
        self.to(transfer.device)

    def V(self, coordinates: Tensor) -> Tensor:
        image: Tensor = torch.fft.irfft2(coordinates, s=self.img_size[-2:], norm="ortho")
        return image

    def V_adjoint(self, x: Tensor) -> Tensor:
        coordinates: Tensor = torch.fft.rfft2(x, norm="ortho")
        return coordinates

    def U(self, coordinates: Tensor) -> Tensor:
        return self.V(self.phase.to(coordinates.dtype) * coordinates)

    def U_adjoint(self, y: Tensor) -> Tensor:
        coordinates = self.V_adjoint(y)
        return self.phase.to(coordinates.dtype).conj() * coordinates

    def trace(self, values: Tensor) -> Tensor:
        # The other half of the spectrum mirrors the columns from 1 to (W - 1) // 2.
        mirrored = values[..., 1 : (self.img_size[-1] + 1) // 2]
        return super().trace(values) + super().trace(mirrored)


class Blur(FourierFilter):
    """Circular convolution with a known kernel, diagonal in Fourier space; see `FourierFilter`.

    Args:
        kernel: (h, w), at most as large as the image; its centre is pixel (h // 2, w // 2).
        image_size: (C, H, W).
        noise_sigma: noise level in ``y``.
        cutoff: Fourier components with ``|K| <= cutoff max|K|`` are set to zero in ``A_dagger``.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> kernel = operators.gaussian_kernel(1.0, size=9)
        >>> operator = operators.Blur(kernel, (3, 16, 16), noise_sigma=0.01)
        >>> operator.measure(torch.rand(1, 3, 16, 16), seed=0).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        kernel: Tensor,
        image_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
        cutoff: float = 1e-3,
    ) -> None:
        kernel = _kernel_for(kernel, image_size)
        padded = torch.zeros(image_sides(image_size)[-2:], dtype=torch.float64)
        padded[: kernel.shape[0], : kernel.shape[1]] = kernel
        padded = padded.roll((-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1))
        transfer = torch.fft.rfft2(padded).to(kernel.device)
        super().__init__(transfer, image_size, noise_sigma, cutoff)


class SeparableBlur(Separable):
    """Convolution with a separable kernel and a boundary that does not wrap around.

    It is decomposed exactly by the singular values of a band matrix along each axis, as in the
    deblurring of DDRM (Kawar et al., "Denoising Diffusion Restoration Models", 2022,
    arXiv:2201.11793; boundary ``zero``). Gaussian deblurring in DPS (Chung et al., "Diffusion
    Posterior Sampling for General Noisy Inverse Problems", 2023, arXiv:2209.14687) has the
    boundary ``reflect``.

    Args:
        kernel: (h, w) of rank 1, at most as large as the image; its centre is (h // 2, w // 2).
        image_size: (C, H, W).
        noise_sigma: noise level in ``y``.
        cutoff: singular values up to ``cutoff`` times the largest are zero in ``A_dagger``.
        boundary: ``zero`` outside the image, or ``reflect`` about its outermost pixels.

    Raises:
        ArgumentError: the kernel is not separable.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> kernel = operators.gaussian_kernel(1.0, size=9)
        >>> operator = operators.SeparableBlur(kernel, (3, 16, 16), boundary="reflect")
        >>> y = operator.A(torch.ones(1, 3, 16, 16))
        >>> torch.allclose(y, torch.ones_like(y))  # reflected edges do not darken
        True
    """

    def __init__(
        self,
        kernel: Tensor,
        image_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
        cutoff: float = 1e-3,
        boundary: str = "zero",
    ) -> None:
        require(0 <= cutoff < 1, "cutoff", cutoff, "a fraction in [0, 1)")
        require_choice("boundary", boundary, ("zero", "reflect"))
        kernel = _kernel_for(kernel, image_size)
        column, row = _factors(kernel)
        channels, height, width = image_sides(image_size)
        rows, columns = (
            _band_matrix(line, side, boundary).to(kernel.device)
            for line, side in ((column, height), (row, width))
        )
        super().__init__(rows, columns, channels, noise_sigma)
        self.cutoff = cutoff


class PaddedBlur(LinearOperator):
    """Convolution without wrap-around, by zero-padded transforms: any kernel, exact adjoint.

    With ``valid`` only pixels whose whole neighbourhood lies in the image are measured, as in a
    photograph: nothing is assumed about the outside. There is no closed form for the
    pseudo-inverse and the proximal solution, which use conjugate gradients. For separable kernels
    with closed forms see `SeparableBlur`.

    Args:
        kernel: (h, w), at most as large as the image; its centre is pixel (h // 2, w // 2).
        image_size: (C, H, W).
        noise_sigma: noise level in ``y``.
        boundary: ``zero``, y of size (C, H, W), or ``valid``, y of size
            (C, H - h + 1, W - w + 1).

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> kernel = operators.motion_kernel(size=9, seed=0)
        >>> operator = operators.PaddedBlur(kernel, (3, 32, 32), boundary="valid")
        >>> operator.A(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 3, 24, 24])
    """

    transfer: Tensor

    def __init__(
        self,
        kernel: Tensor,
        image_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
        boundary: str = "zero",
    ) -> None:
        require_choice("boundary", boundary, ("zero", "valid"))
        kernel = _kernel_for(kernel, image_size)
        channels, *sides = image_sides(image_size)
        pairs = list(zip(sides, kernel.shape, strict=True))
        if boundary == "zero":
            starts, shape = [k // 2 for _, k in pairs], sides
        else:
            starts, shape = [k - 1 for _, k in pairs], [n - k + 1 for n, k in pairs]
        super().__init__(image_size, (channels, *shape), noise_sigma)
        self._window = list(zip(starts, shape, strict=True))
        # Wide enough that wrap-around stays outside the window.
        self._padded = [
            scipy.fft.next_fast_len(max(start + m, n + k - 1 - start), real=True)
            for (n, k), (start, m) in zip(pairs, self._window, strict=True)
        ]
        transfer = torch.fft.rfft2(kernel.to(torch.float64), s=self._padded)
        self.register_buffer("transfer", transfer)
        self.to(kernel.device)

    def forward_map(self, x: Tensor) -> Tensor:
        full = self._filter(x, self.transfer)
        (top, height), (left, width) = self._window
        return full[..., top : top + height, left : left + width]

    def adjoint_map(self, y: Tensor) -> Tensor:
        (top, _), (left, _) = self._window
        height, width = self.img_size[-2:]
        # The transform pads zeros after the window.
        return self._filter(pad(y, (left, 0, top, 0)), self.transfer.conj())[..., :height, :width]

    def _filter(self, x: Tensor, transfer: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x, s=self._padded)
        filtered = spectrum * transfer.to(spectrum.dtype)
        full: Tensor = torch.fft.irfft2(filtered, s=self._padded)
        return full


def _kernel_for(kernel: Tensor, image_size: Sequence[Count]) -> Tensor:
    """Return a usable kernel as (h, w)."""
    kernels = as_buffer("kernel", kernel, 3)
    if len(kernels) > 1:
        raise ShapeError(
            f"kernel: got {tuple(kernels.shape)}, accepted: (h, w), one for all channels"
        )
    if kernels.is_complex():
        raise DtypeError(f"kernel: got {kernels.dtype}, accepted: a real tensor")
    kernel, (_, height, width) = kernels[0], image_sides(image_size)
    if kernel.shape[0] > height or kernel.shape[1] > width:
        raise ShapeError(
            f"kernel: got {tuple(kernel.shape)}, accepted: a kernel of at most {height} x {width}"
        )
    require(bool(kernel.any()), "kernel", "all zeros", "a kernel that is not zero")
    if float(kernel.sum()) > BRIGHTEST:
        warn(
            f"kernel: sums to {float(kernel.sum()):.4g}, so that measurements are as many times "
            "brighter than images; of a photograph's blur it is 1, kernel / kernel.sum()"
        )
    return kernel


def _factors(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Return the column (h,) and the row (w,) whose product is a separable kernel."""
    U, s, Vh = torch.linalg.svd(kernel.to(torch.float64), full_matrices=False)
    # Kernels in single precision are separable only to its rounding.
    if len(s) > 1 and s[1] > 1e-6 * s[0]:
        raise ArgumentError(
            f"kernel: got rank above 1 (singular values {s[0]:.3g}, {s[1]:.3g}, ...), "
            "accepted: an outer product of a column and a row; use PaddedBlur for others"
        )
    return U[:, 0] * s[0], Vh[0]


def _band_matrix(line: Tensor, side: Count, boundary: str) -> Tensor:
    """Return the (side, side) matrix of convolution with ``line``, centred at ``len // 2``."""
    to, tap = np.meshgrid(np.arange(side), np.arange(len(line)), indexing="ij")
    source = to - tap + len(line) // 2
    period = max(2 * side - 2, 1)
    folded = np.minimum(source % period, -source % period)
    inside = (source == folded) if boundary == "zero" else np.full(source.shape, True)
    matrix = np.zeros((side, side))
    np.add.at(matrix, (to[inside], folded[inside]), line.cpu().numpy()[tap[inside]])
    return torch.from_numpy(matrix)
