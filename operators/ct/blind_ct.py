"""Tomography whose rotation centre, or detector blur, is unknown."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.checks import Count, require_integer
from wellposed.errors import require
from wellposed.operators.base import Composed, LinearOperator
from wellposed.operators.ct.operators import PlanarCT
from wellposed.operators.linear_map import check_batch
from wellposed.operators.unknown_kernel import UnknownKernel, middle, on_canvas


class BlindCT(UnknownKernel):
    """``y = k * (A x) + n``: tomography behind a detector with an unknown response.

    The kernel k acts along the detector and is the same for all views. If the detector is shifted
    against the geometry, k is shifted as far; if it blurs, k is wide. A kernel that was found
    gives the geometry's correction, see `offset`. For parallel beams a wrong rotation centre is
    such a shift; in a fan only nearly, as the shift depends on the distance to the source. Over
    half a turn and more, only one centre explains all views: Donath et al., "Automated
    determination of the center of rotation in tomography data", 2006, doi
    10.1364/JOSAA.23.001048.

    Args:
        ct: the scan as far as it is known.
        kernel_size: bins of the kernel, odd, at most the columns of the image. The centre may be
            wrong by half as many bins.
        noise_sigma: noise level in ``y``.

    Raises:
        ArgumentError: a kernel that is even or wider than the image.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.BlindCT(operators.ParallelBeamCT(16, angles=20), kernel_size=5)
        >>> kernel = operator.canvas(torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0]]))
        >>> operator.A(torch.cat([torch.rand(1, 1, 16, 16), kernel], 1)).shape
        torch.Size([1, 1, 20, 24])
        >>> operator.offset(kernel)  # the centre is one bin further than in the geometry
        tensor([-1.])
    """

    def __init__(
        self, ct: PlanarCT, kernel_size: Count, noise_sigma: float | Tensor = 0.0
    ) -> None:
        odd = require_integer("kernel_size", kernel_size) % 2 == 1
        require(odd, "kernel_size", kernel_size, "an odd number of bins")
        super().__init__(ct.img_size, (1, kernel_size), ct.measurement_size, noise_sigma)
        self.kernel_size = kernel_size
        self.ct = ct
        self.to(ct.device)

    def offset(self, parameter: Tensor) -> Tensor:
        """Return the `Detector.offset` that centres the kernels (B, 1, H, W), (B,).

        A kernel's centre is the mean place of its peak. What is below a tenth of the largest value
        does not count.
        """
        kernel = self.window(self.normalised(parameter))[:, 0, 0]
        peak = (kernel - kernel.amax(1, keepdim=True) / 10).clamp(min=0)
        places = torch.arange(self.kernel_size).to(kernel) - self.kernel_size // 2
        detector = self.ct.geometry.detector
        return detector.offset - self.ct.geometry.bin_size * (peak @ places) / peak.sum(1)

    def given_parameter(self, parameter: Tensor) -> LinearOperator:
        """Return the tomography with kernels (B, 1, H, W), which are not normalised here."""
        kernels = self.window(parameter)[:, 0, 0]
        response = DetectorResponse(kernels, self.measurement_size, self.noise_model.sigma)
        return _RespondingCT(response, self.ct)

    def given_image(self, image: Tensor) -> LinearOperator:
        """Return the map from a kernel's canvas to the sinogram of an ``image`` (B, 1, H, W)."""
        sigma = self.noise_model.sigma
        return KernelCT(self.ct.A(image), self.kernel_size, self.ct.img_size, sigma)

    def forward_map(self, x: Tensor) -> Tensor:
        image, kernel = self.split(x)
        return _along(self.ct.A(image), self.window(self.normalised(kernel))[:, 0, 0])

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the filtered back-projection, and a flat kernel."""
        check_batch("y", y, self.measurement_size)
        image = self.ct.fbp(y)
        return self.join(image, self.normalised(torch.zeros_like(image)))


class DetectorResponse(LinearOperator):
    """``s -> k * s``: convolution of sinograms along the detector, with zeros beyond its ends.

    Args:
        kernels: (B, taps), an odd number of taps, one for each item or one for all.
        size: (1, views, bins).
        noise_sigma: noise level in ``y``.
    """

    _of_items = ("kernels",)
    kernels: Tensor

    def __init__(
        self, kernels: Tensor, size: tuple[int, ...], noise_sigma: float | Tensor = 0.0
    ) -> None:
        super().__init__(size, size, noise_sigma, items=len(kernels))
        self.register_buffer("kernels", kernels)
        self.to(kernels.device)

    def forward_map(self, x: Tensor) -> Tensor:
        return _along(x, self.kernels.to(x))

    def adjoint_map(self, y: Tensor) -> Tensor:
        return _along(y, self.kernels.to(y).flip(-1))


class KernelCT(LinearOperator):
    """``k -> k * s``: the convolution of known sinograms as a map of the kernel.

    Args:
        sinogram: (B, 1, views, bins), one for each item or one for all.
        kernel_size: bins of the kernel.
        image_size: of the canvas, (1, H, W).
        noise_sigma: noise level in ``y``.
    """

    _of_items = ("gram", "sinogram")
    sinogram: Tensor
    gram: Tensor

    def __init__(
        self,
        sinogram: Tensor,
        kernel_size: int,
        image_size: tuple[int, ...],
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        super().__init__(image_size, sinogram.shape[1:], noise_sigma, items=len(sinogram))
        self._window = middle((1, kernel_size), image_size[1:])
        self._taps = kernel_size
        columns = self._shifted(sinogram).double()
        self.register_buffer("gram", torch.einsum("bvnj,bvnk->bjk", columns, columns))
        self.register_buffer("sinogram", sinogram)
        self.to(sinogram.device)

    def _shifted(self, sinogram: Tensor) -> Tensor:
        """Return the sinogram moved by each tap, (B, views, bins, taps)."""
        half = self._taps // 2
        return F.pad(sinogram[:, 0], (half, half)).unfold(-1, self._taps, 1).flip(-1)

    def forward_map(self, x: Tensor) -> Tensor:
        sinogram, kernel = self.sinogram.to(x), x[self._window][:, 0, 0]
        return _along(sinogram.expand(len(x), *sinogram.shape[1:]), kernel)

    def adjoint_map(self, y: Tensor) -> Tensor:
        moved = self._shifted(self.sinogram.to(y)).expand(len(y), -1, -1, -1)
        return self._canvas(torch.einsum("bvnk,bvn->bk", moved, y[:, 0]))

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H A x``, by the inner products of the moved sinograms."""
        self._check("x", x, self.img_size, False)
        kernel = x[self._window][:, 0, 0, :, None]
        return self._canvas((self.gram.to(x) @ kernel)[..., 0])

    def _canvas(self, kernels: Tensor) -> Tensor:
        """Return kernels (B, taps) as canvases (B, 1, H, W)."""
        return on_canvas(kernels[:, None, None], self.img_size[1:])


class _RespondingCT(Composed):
    """A detector's response after a scan, with the scan's preconditioner: k sums to 1."""

    left: DetectorResponse
    right: PlanarCT

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return about ``(A^H A + weight)^-1`` of the scan."""
        return self.right.preconditioner(weight)


def _along(sinogram: Tensor, kernels: Tensor) -> Tensor:
    """Return sinograms (B, 1, views, bins) convolved with kernels (B or 1, taps) along bins."""
    items, taps = len(sinogram), kernels.shape[-1]
    rows = sinogram[:, 0].transpose(0, 1)  # the views as batch, the items as groups
    weights = kernels.flip(-1)[:, None].expand(items, 1, taps)
    found = F.conv1d(rows, weights.to(rows), padding=taps // 2, groups=items)
    return found.transpose(0, 1)[:, None]
