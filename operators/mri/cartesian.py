"""Cartesian magnetic resonance imaging on complex tensors: slices, volumes, moving images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor

from wellposed.errors import DtypeError, ShapeError
from wellposed.operators.base import LinearOperator
from wellposed.operators.linear_map import Spectral, as_buffer, binary_mask
from wellposed.operators.mri.coils import root_sum_of_squares
from wellposed.operators.mri.rows import RowFactors


def fftc(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the centred orthonormal Fourier transform over ``axes``."""
    spectrum = torch.fft.fftn(torch.fft.ifftshift(x, dim=axes), dim=axes, norm="ortho")
    centred: Tensor = torch.fft.fftshift(spectrum, dim=axes)
    return centred


def ifftc(k: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the inverse of `fftc`."""
    image = torch.fft.ifftn(torch.fft.ifftshift(k, dim=axes), dim=axes, norm="ortho")
    centred: Tensor = torch.fft.fftshift(image, dim=axes)
    return centred


def fft2c(x: Tensor) -> Tensor:
    """Return the centred orthonormal 2-D Fourier transform over the last two axes."""
    return fftc(x, (-2, -1))


def ifft2c(k: Tensor) -> Tensor:
    """Return the inverse of `fft2c`."""
    return ifftc(k, (-2, -1))


class CartesianMRI(LinearOperator):
    """Base of undersampled multi-coil Cartesian MRI: ``y_c = M F (S_c x)``.

    Images are complex (B, 1, *grid), k-space is complex (B, coils, *grid) with zeros where
    nothing was measured. ``F`` is the centred orthonormal Fourier transform over some axes of the
    grid (fastMRI's ``fft2c`` over two).

    Args:
        mask: 0 or 1, shape (1 or B, *grid).
        maps: complex, shape (1 or B, coils, *grid); axes of the grid may be 1.
        axes: axes of the transform ``F``, counted from the last.
        noise_sigma: noise in the real and in the imaginary part of k-space.

    Raises:
        ShapeError: masks and maps are for different numbers of items.
    """

    mask: Tensor
    sensitivity_maps: Tensor
    _shifted_mask: Tensor

    _of_items = ("mask", "sensitivity_maps", "_shifted_mask")

    def __init__(
        self, mask: Tensor, maps: Tensor, axes: tuple[int, ...], noise_sigma: float | Tensor
    ) -> None:
        if 1 != len(mask) != len(maps) != 1:
            raise ShapeError(
                f"mask: got {len(mask)} masks for {len(maps)} sets of maps, accepted: 1 or "
                f"{len(maps)} masks"
            )
        grid = mask.shape[1:]
        super().__init__(
            (1, *grid),
            (maps.shape[1], *grid),
            noise_sigma,
            complex_image=True,
            complex_measurement=True,
            items=max(len(mask), len(maps)),
        )
        self.register_buffer("mask", mask[:, None].contiguous())
        self.register_buffer("sensitivity_maps", maps)
        # The normal operator needs no shift of images or k-space if the mask is shifted, and
        # along an axis on which the mask is constant the transform cancels with its inverse.
        self.register_buffer("_shifted_mask", torch.fft.ifftshift(self.mask, dim=axes))
        varies = [a for a in axes if bool((self.mask != self.mask.narrow(a, 0, 1)).any())]
        self._axes = tuple(varies) or axes[-1:]
        self._transformed = axes
        self._factors: dict[tuple[torch.device, torch.dtype], RowFactors | None] = {}
        self.to(maps.device)

    def item(self, index: int) -> Self:
        """Return the operator of one item, which makes its own factors."""
        one = super().item(index)
        one._factors = {}
        return one

    def forward_map(self, x: Tensor) -> Tensor:
        coil_images = self.sensitivity_maps.to(x.dtype) * x
        return self.mask.to(x.real.dtype) * fftc(coil_images, self._transformed)

    def adjoint_map(self, y: Tensor) -> Tensor:
        coil_images = ifftc(self.mask.to(y.real.dtype) * y, self._transformed)
        return (self.sensitivity_maps.to(y.dtype).conj() * coil_images).sum(1, keepdim=True)

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H A x`` without shifts, transforming only axes on which the mask varies."""
        self._check("x", x, self.img_size, True)
        maps = self.sensitivity_maps.to(x.dtype)
        # In place on temporaries; otherwise half of the time is spent on new memory.
        k: Tensor = torch.fft.fftn(maps * x, dim=self._axes)
        k.mul_(self._shifted_mask.to(x.real.dtype))
        conjugate: Tensor = torch.fft.ifftn(k, dim=self._axes).conj_physical_().mul_(maps)
        return conjugate.sum(1, keepdim=True).conj_physical_()

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return about ``(A^H A + weight)^-1``, for slices whose mask has lines only.

        Conjugate gradients then take 1 to 10 steps where they would take 20 to several hundred.
        """
        if not bool((weight > 0).any()):
            return None
        factors = self._row_factors(weight.dtype.to_complex())
        return None if factors is None else partial(factors.solve, weight=weight)

    def normal_function(self, f: Spectral, b: Tensor) -> Tensor | None:
        """Return ``f(A^H A) b``, if the mask has lines only and the factors of its rows fit.

        They take ``8 H W^2`` bytes for lines along H, at most 256 MiB.
        """
        factors = self._row_factors(b.dtype)
        return factors.apply(b, f) if factors is not None and factors.exact else None

    def _row_factors(self, dtype: torch.dtype) -> RowFactors | None:
        key = self.device, dtype
        if key not in self._factors:
            self._factors[key] = self._factorised(dtype)
        return self._factors[key]

    def _factorised(self, dtype: torch.dtype) -> RowFactors | None:
        """Return the factors of the normal operator, once for each device and dtype."""
        if len(self._axes) > 1 or len(self.img_size) != 3:
            return None
        with torch.inference_mode(False), torch.no_grad():
            return RowFactors.of(self.sensitivity_maps, self._shifted_mask, self._axes[0], dtype)

    def restrict(self, y: Tensor) -> Tensor:
        """Return k-space with zeros where the mask is zero."""
        return self.mask.to(y.real.dtype) * y

    def coil_combined_rss(self, y: Tensor) -> Tensor:
        """Return the root-sum-of-squares magnitude of zero-filled coil images, (B, 1, *grid)."""
        self._check("y", y, self.measurement_size, True)
        return root_sum_of_squares(ifftc(y, self._transformed))


class MultiCoilMRI(CartesianMRI):
    """Undersampled multi-coil Cartesian MRI of slices: ``y_c = M F (S_c x)``.

    Images are complex (B, 1, H, W), k-space is complex (B, coils, H, W).

    Args:
        mask: sampling mask (H, W) or (B, H, W), 0 or 1; a line mask (W,) or (1, W) is repeated
            over the rows.
        sensitivity_maps: complex coil maps (coils, H, W) or (B, coils, H, W).
        noise_sigma: noise in the real and in the imaginary part of k-space.

    Raises:
        ShapeError, DtypeError, ArgumentError: mask and maps do not fit each other, maps are not
            complex, or the mask has values other than 0 and 1 or is empty.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> maps = operators.simulate_sensitivity_maps(4, 16, 16)
        >>> mask = operators.uniform_random_lines(16, acceleration=4)
        >>> operator = operators.MultiCoilMRI(mask, maps, noise_sigma=0.01)
        >>> kspace = operator.measure(torch.ones(1, 1, 16, 16, dtype=torch.complex64), seed=0)
        >>> kspace.shape, operator.A_adjoint(kspace).shape
        (torch.Size([1, 4, 16, 16]), torch.Size([1, 1, 16, 16]))
    """

    def __init__(
        self, mask: Tensor, sensitivity_maps: Tensor, noise_sigma: float | Tensor = 0.0
    ) -> None:
        maps = coil_maps(sensitivity_maps, 2)
        super().__init__(_spread_mask(mask, maps.shape[-2:]), maps, (-2, -1), noise_sigma)


class SingleCoilMRI(MultiCoilMRI):
    """Undersampled single-coil Cartesian MRI: ``y = M F x``, k-space (B, 1, H, W).

    Args:
        mask: sampling mask (H, W) or (B, H, W).
        noise_sigma: noise in the real and in the imaginary part of k-space.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> mask = operators.uniform_random_lines(16, acceleration=4).expand(16, 16)
        >>> operator = operators.SingleCoilMRI(mask, noise_sigma=0.01)
        >>> operator.measure(torch.ones(1, 1, 16, 16, dtype=torch.complex64), seed=0).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(self, mask: Tensor, noise_sigma: float | Tensor = 0.0) -> None:
        mask = binary_mask(mask, 3)
        ones = torch.ones(1, *mask.shape[-2:], dtype=torch.complex64, device=mask.device)
        super().__init__(mask, ones, noise_sigma)

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the zero-filled image, the exact pseudo-inverse."""
        return self.A_adjoint(y)


class MultiCoilMRI3D(CartesianMRI):
    """Undersampled multi-coil Cartesian MRI of volumes, with the 3-D transform.

    Images are complex (B, 1, D, H, W), k-space is complex (B, coils, D, H, W). Along a fully
    sampled readout the mask is constant, and the normal operator transforms only the other two
    axes.

    Args:
        mask: sampling mask (D, H, W) or (B, D, H, W), 0 or 1; it is repeated along axes of size 1
            and missing leading axes.
        sensitivity_maps: complex coil maps (coils, D, H, W) or (B, coils, D, H, W).
        noise_sigma: noise in the real and in the imaginary part of k-space.

    Raises:
        ShapeError, DtypeError, ArgumentError: as `MultiCoilMRI`.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> maps = operators.simulate_sensitivity_maps(4, 16, 16)[:, None].expand(-1, 8, -1, -1)
        >>> mask = operators.poisson_disc_2d(16, 16, acceleration=4)
        >>> operator = operators.MultiCoilMRI3D(mask, maps, noise_sigma=0.01)
        >>> operator.A(torch.ones(1, 1, 8, 16, 16, dtype=torch.complex64)).shape
        torch.Size([1, 4, 8, 16, 16])
    """

    def __init__(
        self, mask: Tensor, sensitivity_maps: Tensor, noise_sigma: float | Tensor = 0.0
    ) -> None:
        maps = coil_maps(sensitivity_maps, 3)
        super().__init__(_spread_mask(mask, maps.shape[-3:]), maps, (-3, -2, -1), noise_sigma)


class DynamicMRI(CartesianMRI):
    """Undersampled multi-coil Cartesian MRI of moving slices, with a mask for each frame.

    Images are complex (B, 1, T, H, W), k-space is complex (B, coils, T, H, W). Each frame is
    transformed in 2-D; all frames have the same coil maps.

    Args:
        mask: sampling masks (T, H, W) or (B, T, H, W), 0 or 1; line masks (T, 1, W) are repeated
            over the rows.
        sensitivity_maps: complex coil maps (coils, H, W) or (B, coils, H, W).
        noise_sigma: noise in the real and in the imaginary part of k-space.

    Raises:
        ShapeError, DtypeError, ArgumentError: as `MultiCoilMRI`, or the mask has no frames.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> masks = torch.stack([operators.uniform_random_lines(16, 4, seed=f) for f in range(5)])
        >>> maps = operators.simulate_sensitivity_maps(4, 16, 16)
        >>> operator = operators.DynamicMRI(masks[:, None], maps, noise_sigma=0.01)
        >>> operator.A(torch.ones(1, 1, 5, 16, 16, dtype=torch.complex64)).shape  # 5 frames
        torch.Size([1, 4, 5, 16, 16])
    """

    def __init__(
        self, mask: Tensor, sensitivity_maps: Tensor, noise_sigma: float | Tensor = 0.0
    ) -> None:
        maps = coil_maps(sensitivity_maps, 2)
        mask = torch.as_tensor(mask)
        if mask.ndim not in (3, 4):
            raise ShapeError(f"mask: got {tuple(mask.shape)}, accepted: (T, H, W) or (B, T, H, W)")
        grid = (mask.shape[-3], *maps.shape[-2:])
        super().__init__(_spread_mask(mask, grid), maps[:, :, None], (-2, -1), noise_sigma)


def coil_maps(sensitivity_maps: Tensor, axes: int) -> Tensor:
    """Return checked complex maps as a buffer (1 or B, coils, ...) of ``axes`` spatial axes."""
    maps = as_buffer("sensitivity_maps", sensitivity_maps, axes + 2)
    if not maps.is_complex():
        raise DtypeError(f"sensitivity_maps: got {maps.dtype}, accepted: complex tensors")
    return maps


def _spread_mask(mask: Tensor, grid: Sequence[int]) -> Tensor:
    """Return a mask (1 or B, *grid) from a mask with missing leading axes or axes of size 1."""
    mask = torch.as_tensor(mask)
    if 0 < mask.ndim < len(grid):
        mask = mask[(None,) * (len(grid) - mask.ndim)]
    mask = binary_mask(mask, len(grid) + 1)
    if any(m not in (1, n) for m, n in zip(mask.shape[1:], grid, strict=True)):
        raise ShapeError(
            f"mask: got {tuple(mask.shape)}, accepted: ({', '.join(map(str, grid))}) as for the "
            f"maps"
        )
    return mask.expand(-1, *grid)
