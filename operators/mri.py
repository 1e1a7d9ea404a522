"""Cartesian magnetic resonance imaging, single and multi-coil, on complex tensors."""

import torch
from torch import Tensor

from wellposed.errors import DtypeError, ShapeError
from wellposed.operators.base import LinearOperator, as_buffer, binary_mask


def fft2c(x: Tensor) -> Tensor:
    """Return the centred orthonormal 2-D Fourier transform over the last two axes."""
    axes = (-2, -1)
    return torch.fft.fftshift(
        torch.fft.fft2(torch.fft.ifftshift(x, dim=axes), norm="ortho"), dim=axes
    )


def ifft2c(k: Tensor) -> Tensor:
    """Return the inverse of `fft2c`."""
    axes = (-2, -1)
    return torch.fft.fftshift(
        torch.fft.ifft2(torch.fft.ifftshift(k, dim=axes), norm="ortho"), dim=axes
    )


class MultiCoilMRI(LinearOperator):
    """Undersampled multi-coil Cartesian MRI: ``y_c = M F (S_c x)``.

    ``F`` is the centred orthonormal 2-D Fourier transform (fastMRI's ``fft2c``). Images are
    complex (B, 1, H, W), k-space is complex (B, coils, H, W) with zeros where nothing was
    measured.

    Args:
        mask: sampling mask (H, W) or (B, H, W), 0 or 1; a line mask (W,) or (1, W) is spread
            over the rows.
        sensitivity_maps: complex coil maps (coils, H, W) or (B, coils, H, W).
        noise_sigma: noise in the real and in the imaginary part of k-space.

    Raises:
        ShapeError, DtypeError, ArgumentError: mask and maps do not fit each other, maps are not
            complex, the mask holds other values than 0 and 1 or is empty.
    """

    def __init__(
        self, mask: Tensor, sensitivity_maps: Tensor, noise_sigma: float | Tensor = 0.0
    ) -> None:
        maps = as_buffer("sensitivity_maps", sensitivity_maps, 4)
        if not maps.is_complex():
            raise DtypeError(f"sensitivity_maps: got {maps.dtype}, accepted: complex tensors")
        height, width = maps.shape[-2:]
        lines = torch.as_tensor(mask)
        lines = lines[None] if lines.ndim == 1 else lines
        mask = binary_mask(lines, 3)
        if mask.shape[-1] != width or mask.shape[-2] not in (1, height):
            raise ShapeError(
                f"mask: got {tuple(mask.shape)}, accepted: ({height}, {width}) as the maps have"
            )
        if 1 != len(mask) != len(maps) != 1:
            raise ShapeError(
                f"mask: got {len(mask)} of them for {len(maps)} sets of maps, accepted: 1 or "
                f"{len(maps)}"
            )
        mask = mask.expand(-1, height, width)
        coils = maps.shape[1]
        super().__init__(
            (1, height, width),
            (coils, height, width),
            noise_sigma,
            complex_image=True,
            complex_measurement=True,
            items=max(len(mask), len(maps)),
        )
        self.register_buffer("mask", mask[:, None].contiguous())
        self.register_buffer("sensitivity_maps", maps)
        # The normal operator needs no shift of images or k-space when the mask carries it, and a
        # line mask leaves one of the two transforms to cancel with its inverse.
        self.register_buffer("_shifted_mask", torch.fft.ifftshift(self.mask, dim=(-2, -1)))
        same_rows = bool((self.mask == self.mask[..., :1, :]).all())
        same_columns = bool((self.mask == self.mask[..., :1]).all())
        self._axes = (-1,) if same_rows else (-2,) if same_columns else (-2, -1)
        self.to(maps.device)

    def forward_map(self, x: Tensor) -> Tensor:
        return self.mask.to(x.real.dtype) * fft2c(self.sensitivity_maps.to(x.dtype) * x)

    def adjoint_map(self, y: Tensor) -> Tensor:
        coil_images = ifft2c(self.mask.to(y.real.dtype) * y)
        return (self.sensitivity_maps.to(y.dtype).conj() * coil_images).sum(1, keepdim=True)

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H A x`` without shifts and, for line masks, with 1-D transforms only."""
        self._check("x", x, self.img_size, True)
        maps = self.sensitivity_maps.to(x.dtype)
        # In place on temporaries: half the time goes into fresh memory otherwise.
        k = torch.fft.fftn(maps * x, dim=self._axes).mul_(self._shifted_mask.to(x.real.dtype))
        conjugate = torch.fft.ifftn(k, dim=self._axes).conj_physical_().mul_(maps)
        return conjugate.sum(1, keepdim=True).conj_physical_()

    def restrict(self, y: Tensor) -> Tensor:
        """Return k-space with zeros where the mask is zero."""
        return self.mask.to(y.real.dtype) * y

    def coil_combined_rss(self, y: Tensor) -> Tensor:
        """Return the root-sum-of-squares magnitude of zero-filled coil images, (B, 1, H, W)."""
        self._check("y", y, self.measurement_size, True)
        return ifft2c(y).abs().square().sum(1, keepdim=True).sqrt()


class SingleCoilMRI(MultiCoilMRI):
    """Undersampled single-coil Cartesian MRI: ``y = M F x``, k-space (B, 1, H, W).

    Args:
        mask: sampling mask (H, W) or (B, H, W).
        noise_sigma: noise in the real and in the imaginary part of k-space.
    """

    def __init__(self, mask: Tensor, noise_sigma: float | Tensor = 0.0) -> None:
        mask = binary_mask(mask, 3)
        ones = torch.ones(1, *mask.shape[-2:], dtype=torch.complex64, device=mask.device)
        super().__init__(mask, ones, noise_sigma)

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the zero-filled image, the exact pseudo-inverse."""
        return self.A_adjoint(y)
