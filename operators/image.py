"""Image operators: inpainting, super-resolution, blur. Exact adjoints, exact pseudo-inverses."""

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import ArgumentError, DtypeError, ShapeError, require, require_choice
from wellposed.operators.base import LinearOperator, as_buffer, binary_mask


class Inpainting(LinearOperator):
    """Keeps the pixels where a mask is 1 and zeroes the others: ``y = M x``.

    Args:
        mask: 0 or 1, shape (H, W), (C, H, W) or (B, C, H, W).
        channels: channels of the image, for masks given as (H, W).
        noise_sigma: noise level in ``y``.
    """

    def __init__(self, mask: Tensor, channels: int = 3, noise_sigma: float | Tensor = 0.0) -> None:
        _require_size("channels", channels)
        mask = torch.as_tensor(mask)
        mask = mask.expand(channels, *mask.shape) if mask.ndim == 2 else mask
        mask = binary_mask(mask, 4)
        super().__init__(mask.shape[1:], mask.shape[1:], noise_sigma, items=len(mask))
        self.register_buffer("mask", mask)
        self.to(mask.device)

    def forward_map(self, x: Tensor) -> Tensor:
        return self.mask.to(x.dtype) * x

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Return ``M y``: the mask is its own adjoint."""
        return self.forward_map(y)

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with zeros where no pixel is known."""
        return self.mask.to(y.dtype) * y

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the known pixels, zero elsewhere."""
        return self.A_adjoint(y)


def random_mask(height: int, width: int, keep: float, seed: int = 0) -> Tensor:
    """Return a mask (H, W) that keeps exactly ``round(keep H W)`` pixels chosen at random."""
    _require_size("height", height)
    _require_size("width", width)
    require(0 < keep <= 1, "keep", keep, "a fraction in (0, 1]")
    count = max(1, round(keep * height * width))
    order = np.random.default_rng(seed).permutation(height * width)
    mask = torch.zeros(height * width)
    mask[torch.from_numpy(order[:count])] = 1
    return mask.view(height, width)


def box_mask(
    height: int, width: int, box: tuple[int, int], corner: tuple[int, int] | None = None
) -> Tensor:
    """Return a mask (H, W) that loses a box of size ``(rows, columns)``; centred by default."""
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


class SuperResolution(LinearOperator):
    """Downsampling by an integer factor: ``Y = R_h X R_w^T`` with one resampling matrix per axis.

    ``bicubic`` is the antialiased cubic (a = -1/2, kernel widened by the factor, symmetric
    boundary) of MATLAB's ``imresize``, as in the DPS and DDRM benchmarks; ``average`` is block
    averaging, as in DDRM's and RED-diff's. Both are given with their exact adjoint and, through
    the singular values of the two matrices, with the exact pseudo-inverse.

    Args:
        image_size: (C, H, W) of the high-resolution image; H and W divisible by ``factor``.
        factor: integer of at least 2.
        kernel: ``bicubic`` or ``average``.
        noise_sigma: noise level in ``y``.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        factor: int = 4,
        kernel: str = "bicubic",
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        channels, height, width = _image_size(image_size)
        require_choice("kernel", kernel, ("bicubic", "average"))
        require(isinstance(factor, int) and factor >= 2, "factor", factor, "an integer >= 2")
        if height % factor or width % factor:
            raise ShapeError(
                f"image_size: got {height} x {width}, accepted: sides divisible by the factor "
                f"{factor}; crop to {height - height % factor} x {width - width % factor}"
            )
        super().__init__(image_size, (channels, height // factor, width // factor), noise_sigma)
        build = bicubic_matrix if kernel == "bicubic" else average_matrix
        for name, side in (("rows", height), ("columns", width)):
            matrix = build(side, factor)
            self.register_buffer(name, matrix)
            self.register_buffer(f"{name}_inverse", torch.linalg.pinv(matrix))

    def forward_map(self, x: Tensor) -> Tensor:
        return self.rows.to(x.dtype) @ x @ self.columns.to(x.dtype).T

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self.rows.to(y.dtype).T @ y @ self.columns.to(y.dtype)

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the exact pseudo-inverse, separable like the operator."""
        self._check("y", y, self.measurement_size, False)
        return self.rows_inverse.to(y.dtype) @ y @ self.columns_inverse.to(y.dtype).T


def average_matrix(side: int, factor: int) -> Tensor:
    """Return the (side / factor, side) matrix of block averaging, float64."""
    return torch.eye(side // factor, dtype=torch.float64).repeat_interleave(factor, 1) / factor


def bicubic_matrix(side: int, factor: int) -> Tensor:
    """Return the (side / factor, side) matrix of antialiased bicubic downsampling, float64."""
    centre = (np.arange(side // factor) + 0.5) * factor - 0.5
    reach = 2 * factor
    taps = np.floor(centre)[:, None] + np.arange(-reach, reach + 2)
    u = np.abs(centre[:, None] - taps) / factor
    near = 1.5 * u**3 - 2.5 * u**2 + 1
    far = -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
    weights = np.where(u <= 1, near, np.where(u < 2, far, 0.0))
    weights /= weights.sum(1, keepdims=True)
    # Symmetric extension, reflected as often as a kernel wider than the image needs.
    folded = np.mod(taps.astype(int), 2 * side)
    folded = np.where(folded < side, folded, 2 * side - 1 - folded)
    matrix = np.zeros((side // factor, side))
    np.add.at(matrix, (np.arange(side // factor)[:, None], folded), weights)
    return torch.from_numpy(matrix)


class Blur(LinearOperator):
    """Circular convolution with a known kernel, diagonal in Fourier space.

    Args:
        kernel: (h, w), at most as large as the image; its centre is pixel (h // 2, w // 2).
        image_size: (C, H, W).
        noise_sigma: noise level in ``y``.
        cutoff: Fourier components with ``|K| <= cutoff max|K|`` count as lost in ``A_dagger``.
    """

    def __init__(
        self,
        kernel: Tensor,
        image_size: Sequence[int],
        noise_sigma: float | Tensor = 0.0,
        cutoff: float = 1e-3,
    ) -> None:
        kernels = as_buffer("kernel", kernel, 3)
        if len(kernels) > 1:
            raise ShapeError(
                f"kernel: got {tuple(kernels.shape)}, accepted: (h, w), one for all channels"
            )
        if kernels.is_complex():
            raise DtypeError(f"kernel: got {kernels.dtype}, accepted: a real tensor")
        kernel, (_, height, width) = kernels[0], _image_size(image_size)
        if kernel.shape[0] > height or kernel.shape[1] > width:
            raise ShapeError(
                f"kernel: got {tuple(kernel.shape)}, accepted: at most the image's "
                f"{height} x {width}"
            )
        require(bool(kernel.any()), "kernel", "all zeros", "a kernel with weight")
        require(0 <= cutoff < 1, "cutoff", cutoff, "a fraction in [0, 1)")
        super().__init__(image_size, image_size, noise_sigma)
        padded = torch.zeros(height, width, dtype=torch.float64)
        padded[: kernel.shape[0], : kernel.shape[1]] = kernel
        padded = padded.roll((-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1))
        self.register_buffer("transfer", torch.fft.rfft2(padded))
        self.cutoff = cutoff
        self.to(kernel.device)

    def _filter(self, x: Tensor, transfer: Tensor) -> Tensor:
        kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64
        return torch.fft.irfft2(torch.fft.rfft2(x) * transfer.to(kind), s=x.shape[-2:])

    def forward_map(self, x: Tensor) -> Tensor:
        return self._filter(x, self.transfer)

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self._filter(y, self.transfer.conj())

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^T A x`` with one pair of transforms."""
        self._check("x", x, self.img_size, False)
        return self._filter(x, self.transfer.abs().square())

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the pseudo-inverse; components under the cutoff are left out."""
        self._check("y", y, self.measurement_size, False)
        kept = self.transfer.abs() > self.cutoff * self.transfer.abs().max()
        inverse = torch.where(kept, 1 / torch.where(kept, self.transfer, 1), 0)
        return self._filter(y, inverse)


def gaussian_kernel(sigma: float, size: int = 61) -> Tensor:
    """Return a (size, size) Gaussian kernel of standard deviation ``sigma`` pixels, sum 1."""
    require(0 < sigma < math.inf, "sigma", sigma, "a positive number of pixels")
    _require_size("size", size)
    u = torch.arange(size, dtype=torch.float64) - size // 2
    line = torch.exp(-0.5 * (u / sigma) ** 2)
    line = line / line.sum()
    return torch.outer(line, line)


def motion_kernel(size: int = 61, intensity: float = 0.5, seed: int = 0) -> Tensor:
    """Return a (size, size) random camera-shake kernel, sum 1.

    A smooth random walk of the camera, splatted bilinearly; ``intensity`` in (0, 1] sets how far
    it strays (0 would be a straight line).
    """
    if not 0 < intensity <= 1:
        raise ArgumentError(f"intensity: got {intensity!r}, accepted: a number in (0, 1]")
    _require_size("size", size)
    rng, count = np.random.default_rng(seed), 512
    turns = np.cumsum(rng.normal(0, 0.35 * intensity, count)) + rng.uniform(0, 2 * np.pi)
    path = np.cumsum(np.stack([np.sin(turns), np.cos(turns)]), 1)
    path -= path.mean(1, keepdims=True)
    path *= min(0.4 * size, (size - 1) // 2) / np.abs(path).max()
    points = np.clip(path + size // 2, 0, size - 1)
    low = np.floor(points).astype(int)
    u, kernel = points - low, np.zeros((size, size))
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - u[0]) * np.abs(1 - dx - u[1])
            # On the last row or column the neighbour outside has no weight.
            at = np.minimum([low[0] + dy, low[1] + dx], size - 1)
            np.add.at(kernel, tuple(at), weight)
    return torch.from_numpy(kernel / kernel.sum())


def _require_size(name: str, size: int) -> None:
    require(isinstance(size, Integral) and size >= 1, name, size, "an integer of at least 1")


def _image_size(image_size: Sequence[int]) -> tuple[int, int, int]:
    size = tuple(image_size)
    if len(size) != 3:
        raise ShapeError(f"image_size: got {size}, accepted: (C, H, W)")
    for side in size:
        _require_size("image_size", side)
    return size
