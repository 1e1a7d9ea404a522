"""Compressed sensing with orthonormal rows: in blocks, permuted, and Walsh-Hadamard."""

from collections.abc import Sequence
from math import ceil, prod, sqrt

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from wellposed.checks import Count, Seed, divisible_sides, image_sides, require_integer
from wellposed.errors import ShapeError, require
from wellposed.operators.decomposable import Decomposable, sandwich


class CompressedSensing(Decomposable):
    """Every block of ``n = block^2`` pixels measured by the same orthonormal rows.

    ``y_l = Phi^T x_l`` with ``ceil(ratio n)`` orthonormal columns in ``Phi``, drawn uniformly
    (Haar) from ``seed``, the same for all channels. Blocks are squares of the image or, with
    ``permuted``, n random pixels, after a random permutation of all pixels. The latter is the
    measurement of IDM (Chen et al., "Invertible Diffusion Models for Compressed Sensing", 2024,
    arXiv:2403.17006), except that IDM pads images with zeros and draws a permutation per image;
    here sizes must fit, and the permutation belongs to the operator. As ``A A^T = 1``, the
    pseudo-inverse is the adjoint.

    Args:
        image_size: (C, H, W), H and W divisible by ``block``.
        ratio: measurements per pixel, in (0, 1].
        block: side of a block, 32 as in IDM.
        permuted: whether blocks are random sets of pixels.
        noise_sigma: noise level in ``y``, which has shape (B, C, blocks, ceil(ratio n)).
        seed: seed of the matrix and the permutation.

    Raises:
        ShapeError: a side is not divisible by ``block``.
        ArgumentError: ``ratio`` or ``block`` out of range.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.CompressedSensing((1, 32, 32), ratio=0.25, block=16)
        >>> operator.A(torch.rand(1, 1, 32, 32)).shape  # 4 blocks, 64 measurements of each
        torch.Size([1, 1, 4, 64])
    """

    basis: Tensor
    order: Tensor
    place: Tensor

    def __init__(
        self,
        image_size: Sequence[Count],
        ratio: float,
        block: Count = 32,
        permuted: bool = False,
        noise_sigma: float | Tensor = 0.0,
        seed: Seed = 0,
    ) -> None:
        require_integer("block", block)
        channels, height, width = divisible_sides(image_size, block, "block")
        n, rng = block**2, np.random.default_rng(seed)
        rows = _count(ratio, n)
        super().__init__(image_size, (channels, height * width // n, rows), noise_sigma)
        # Orthonormalised Gaussian columns span a uniformly random subspace.
        basis = np.linalg.qr(rng.standard_normal((n, rows)))[0]
        pixels = np.arange(height * width).reshape(height // block, block, width // block, block)
        order = rng.permutation(pixels.size) if permuted else pixels.swapaxes(1, 2).ravel()
        self.register_buffer("singular_values", torch.ones(()))
        self.register_buffer("basis", torch.from_numpy(basis))
        self.register_buffer("order", torch.from_numpy(order))
        self.register_buffer("place", torch.from_numpy(np.argsort(order)))

    def V(self, coordinates: Tensor) -> Tensor:
        pixels = (coordinates @ self.basis.to(coordinates.dtype).mT).flatten(2)
        return torch.unflatten(pixels[..., self.place], 2, self.img_size[1:])

    def V_adjoint(self, x: Tensor) -> Tensor:
        blocks = torch.unflatten(x.flatten(2)[..., self.order], 2, (-1, len(self.basis)))
        return blocks @ self.basis.to(x.dtype)


class WalshHadamard(Decomposable):
    """A random choice of the Walsh-Hadamard coefficients of every channel.

    This is the compressed sensing of DDRM (Kawar et al., "Denoising Diffusion Restoration Models",
    2022, arXiv:2201.11793) and DDNM (Wang et al., 2023, arXiv:2212.00490), which use a ratio of
    1/4 or 1/2. The transform is orthonormal, so ``A A^T = 1`` and the pseudo-inverse is the
    adjoint.

    Args:
        image_size: (C, H, W), H and W powers of two.
        ratio: fraction of coefficients measured, in (0, 1].
        noise_sigma: noise level in ``y``, which has shape (B, C, ceil(ratio H W)).
        seed: seed of the choice.

    Raises:
        ShapeError: a side is not a power of two.
        ArgumentError: ``ratio`` out of range.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.WalshHadamard((1, 16, 16), ratio=0.25)
        >>> operator.A(torch.rand(1, 1, 16, 16)).shape
        torch.Size([1, 1, 64])
    """

    kept: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        image_size: Sequence[Count],
        ratio: float,
        noise_sigma: float | Tensor = 0.0,
        seed: Seed = 0,
    ) -> None:
        channels, *sides = image_sides(image_size)
        if any(side & (side - 1) for side in sides):
            raise ShapeError(f"image_size: got {sides[0]} x {sides[1]}, accepted: powers of two")
        count = _count(ratio, prod(sides))
        super().__init__(image_size, (channels, count), noise_sigma)
        kept = np.random.default_rng(seed).permutation(prod(sides))[:count]
        self.register_buffer("singular_values", torch.ones(()))
        self.register_buffer("kept", torch.from_numpy(np.sort(kept)))
        for name, side in zip(("rows", "columns"), sides, strict=True):
            matrix = scipy.linalg.hadamard(side) / sqrt(side)
            self.register_buffer(name, torch.from_numpy(matrix))

    def V(self, coordinates: Tensor) -> Tensor:
        spectrum = coordinates.new_zeros(*coordinates.shape[:2], prod(self.img_size[1:]))
        spectrum = spectrum.index_copy(2, self.kept, coordinates)
        return sandwich(self.rows, spectrum.unflatten(2, self.img_size[1:]), self.columns)

    def V_adjoint(self, x: Tensor) -> Tensor:
        # Hadamard matrices are symmetric, so the transform is its own adjoint.
        return sandwich(self.rows, x, self.columns).flatten(2)[..., self.kept]


def _count(ratio: float, pixels: int) -> int:
    require(0 < ratio <= 1, "ratio", ratio, "a number in (0, 1]")
    return ceil(ratio * pixels - 1e-9)  # .07 * 100 is a little more than 7
