"""JPEG compression as a differentiable operator."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
import scipy.fft
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from wellposed.checks import Count, require_integer
from wellposed.errors import ShapeError
from wellposed.operators.image.nonlinear import NonlinearOperator
from wellposed.operators.linear_map import check_batch

# Tables K.1 and K.2 of the standard (ITU-T T.81, 1992).
_LUMINANCE = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
"""
_CHROMINANCE += "99 " * 32
# Y, Cb, Cr of R, G, B (ITU-T T.871), Cb and Cr about 128.
_TO_YCC = [
    [0.299, 0.587, 0.114],
    [-0.299 / 1.772, -0.587 / 1.772, 0.5],
    [0.5, -0.587 / 1.402, -0.114 / 1.402],
]


class JPEG(NonlinearOperator):
    """The decoded image of a baseline JPEG file of a given quality.

    Images are in [0, 1], grey or RGB. Colours are converted to Y, Cb, Cr with 8 bits. The 8x8
    cosine transforms are quantised with the tables of the standard, scaled by the quality with the
    usual rule (Independent JPEG Group). Decoding reverses this, again with 8 bits. With
    ``subsampling`` Cb and Cr are averaged over 2x2 pixels (4:2:0, the default of most software)
    and interpolated linearly in decoding, or repeated in images of up to four pixels width.

    Values are rounded as in libjpeg, except that its cosines have only 13 bits. About one
    coefficient in a thousand, on the border of two codes, therefore has another code: 90 to 100 %
    of the decoded values equal those of Pillow's files, and in the blocks of such a coefficient
    values differ by up to half its quantisation step (2 levels in smooth images).

    The gradients of rounding and clipping are zero almost everywhere; here gradients pass them
    unchanged (straight-through: Bengio et al., "Estimating or Propagating Gradients Through
    Stochastic Neurons", 2013, arXiv:1308.3432). The gradient of a misfit is thus that of the
    linear part of the code: the misfit itself, with low-pass chroma if subsampled.

    Args:
        image_size: (1, H, W) or (3, H, W); edges are repeated to fill whole blocks.
        quality: 1 to 100.
        subsampling: whether colours have half the resolution.
        noise_sigma: noise level added to the decoded image.

    Example:
        >>> import torch
        >>> from wellposed import metrics, operators
        >>> x = torch.rand(1, 3, 16, 16)
        >>> coarse, fine = (operators.JPEG((3, 16, 16), quality=q).A(x) for q in (10, 90))
        >>> bool(metrics.psnr(fine, x) > metrics.psnr(coarse, x))
        True
    """

    def __init__(
        self,
        image_size: Sequence[Count],
        quality: int = 75,
        subsampling: bool = True,
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        quality = require_integer("quality", quality, 1, 100)
        super().__init__(image_size, image_size, noise_sigma)
        if self.img_size[0] not in (1, 3):
            raise ShapeError(f"image_size: got {self.img_size}, accepted: 1 or 3 channels")
        self.subsampling = subsampling
        self.register_buffer("luminance", quantisation_table(_LUMINANCE, quality))
        self.register_buffer("chrominance", quantisation_table(_CHROMINANCE, quality))
        # In 16 bits, as in libjpeg: colour differences are often on the border of two values.
        to_ycc = (torch.tensor(_TO_YCC, dtype=torch.float64) * 2**16).round() / 2**16
        self.register_buffer("to_ycc", to_ycc)
        cosines = sqrt(8) * scipy.fft.dct(np.eye(8), axis=0, norm="ortho")
        self.register_buffer("cosines", torch.from_numpy(cosines))

    def forward_map(self, x: Tensor) -> Tensor:
        pixels = _eight_bits(255 * x)
        if self.img_size[0] == 1:
            return self._code(pixels, self.luminance) / 255
        luma, chroma = _mix(self.to_ycc, pixels).split([1, 2], 1)
        # Ties are rounded up in Y, and down in Cb and Cr.
        chroma = _straight_through(chroma + 128, (chroma + 127.5).ceil())
        luma = self._code(_eight_bits(luma), self.luminance)
        ycc = torch.cat([luma, self._code_chroma(chroma) - 128], 1)
        return _eight_bits(_mix(torch.linalg.inv(self.to_ycc), ycc)) / 255

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return ``y``, which is an image."""
        check_batch("y", y, self.measurement_size)
        return y

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return ``y``, the decoded image."""
        return self.A_adjoint(y)

    def _code(self, plane: Tensor, table: Tensor) -> Tensor:
        """Return 8-bit planes (B, C, H, W) after quantisation in blocks."""
        height, width = plane.shape[-2:]
        whole = pad(plane - 128, (0, -width % 8, 0, -height % 8), "replicate")
        blocks = whole.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
        table, cosines = table.to(plane.dtype), self.cosines.to(plane.dtype)
        # Integer intermediates, as in libjpeg: rows in quarters, coefficients in eighths.
        rows = _rounded(4 * blocks @ cosines.mT)
        codes = _quantise(_rounded(cosines @ rows / 4) / 8, table)
        columns = _rounded(4 * cosines.mT @ (codes * table))
        blocks = _rounded(columns @ cosines / 32)
        decoded = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
        return _eight_bits(decoded[..., :height, :width] + 128)

    def _code_chroma(self, chroma: Tensor) -> Tensor:
        if not self.subsampling:
            return self._code(chroma, self.chrominance)
        height, width = chroma.shape[-2:]
        # Whole blocks along rows and whole pairs along columns, as libjpeg fills them.
        even = pad(chroma, (0, -width % 16, 0, -height % 2), "replicate")
        half = self._code(_halve(even), self.chrominance)[..., : (width + 1) // 2]
        full = _double(half) if width > 4 else interpolate(half, scale_factor=2, mode="nearest")
        return full[..., :height, :width]


def quantisation_table(base: str, quality: int) -> Tensor:
    """Return a table (8, 8) at a quality by the Independent JPEG Group's rule, float64."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    values = (np.array(base.split(), dtype=int) * percent + 50) // 100
    return torch.from_numpy(values.clip(1, 255).reshape(8, 8)).to(torch.float64)


def _straight_through(x: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``x``."""
    return x + (value - x).detach()


def _rounded(x: Tensor) -> Tensor:
    """Return integers; the frequent ties are rounded up, regardless of rounding errors."""
    return _straight_through(x, (x + 0.5 + 1e-3).floor())


def _eight_bits(x: Tensor) -> Tensor:
    return _straight_through(x, (x + 0.5).floor().clamp(0, 255))


def _quantise(coefficients: Tensor, table: Tensor) -> Tensor:
    """Return codes; ties are rounded away from zero."""
    codes = coefficients.sign() * (coefficients.abs() / table + 0.5 + 1e-4).floor()
    return _straight_through(coefficients / table, codes)


def _halve(x: Tensor) -> Tensor:
    """Return means over 2x2 pixels; ties are rounded down and up in turn, as in libjpeg."""
    mean = avg_pool2d(x, 2)
    bias = 0.25 + 0.25 * (torch.arange(mean.shape[-1], device=x.device) % 2)
    return _straight_through(mean, (mean + bias).floor())


def _double(x: Tensor) -> Tensor:
    """Return twice as many pixels, linear between those of ``x``; ties as in `_halve`."""
    full = interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    bias = 0.5 - (torch.arange(full.shape[-1], device=x.device) % 2) / 16
    return _straight_through(full, (full + bias).floor())


def _mix(matrix: Tensor, planes: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix.to(planes.dtype), planes)
