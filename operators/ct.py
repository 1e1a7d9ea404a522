"""Computed tomography with parallel beams: exact strip integrals held as a sparse matrix."""

import math
import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, vstack
from torch import Tensor, nn

from wellposed.errors import ArgumentError, DtypeError, ShapeError, check_finite, require
from wellposed.operators.base import LinearOperator

# Sparse products lose speed beyond this many columns: images of a batch go in groups.
MAX_COLUMNS = 16

# Weights below this, in pixels, come from rounding of cos and sin at axis-aligned views.
NEGLIGIBLE = 1e-12


class ParallelBeamCT(LinearOperator):
    """2-D parallel-beam computed tomography: each datum is a line integral averaged over a bin.

    Images (B, 1, H, W) hold attenuation per unit length, sinograms (B, 1, views, detector_bins)
    hold its dimensionless line integrals. Conventions:

    - The origin, which is the rotation centre, is the middle of the image: row (H-1)/2, column
      (W-1)/2. Column j is at ``X = (j - (W-1)/2) pixel_size``, row i at
      ``Y = ((H-1)/2 - i) pixel_size``: X points right, Y points up, although rows count down.
    - A view at angle theta, counter-clockwise in degrees, sums along (-sin theta, cos theta) and
      orders its lines by ``s = X cos(theta) + Y sin(theta)``. At 0 degrees bin order is column
      order; at 90 degrees it is row order reversed, bottom row first. Views turn as those of
      `skimage.transform.radon`, whose centre is N // 2 instead.
    - The detector is centred on the rotation centre and its pitch is ``pixel_size``: bin k covers
      ``s / pixel_size`` from k - detector_bins/2 to k + 1 - detector_bins/2.

    Pixels are squares of constant value. One pixel's shadow is a trapezoid, integrated over each
    bin in closed form, so nothing on the detector is lost: without truncation every view sums to
    ``pixel_size`` times the sum of the image. ``A`` and its exact transpose are both stored in
    compressed rows, some 2.3 entries of 8 bytes per pixel and view in each: 430 MB together for
    256 x 256 pixels and 180 views. They are built on the CPU; ``.to(device)`` moves them.
    Half-precision tensors are multiplied in single precision.

    Args:
        image_size: side N of a square image, or (H, W).
        angles: view angles in degrees, shape (views,), or the number of views spaced equally over
            [0, 180).
        detector_bins: cells of the detector. By default the fewest that cover the image's
            diagonal and are odd or even as W is, so that bins and columns line up at 0 degrees.
        pixel_size: side of a pixel and width of a bin, in the unit of length wanted, e.g. mm.
        noise_sigma: standard deviation of the noise in the line integrals.

    Raises:
        ArgumentError: a size, the number of bins or views, or ``pixel_size`` is not positive, or
            there is no angle.
        ShapeError, DtypeError, NonFiniteError: angles are not 1-D, not real or not finite.

    Warns:
        UserWarning: the detector is narrower than the image's inscribed circle, so the data are
            truncated.

    References:
        Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, sections 3.1, 3.3
        and 7.1 (line integrals, filtered back-projection, strip areas as weights),
        https://doi.org/10.1137/1.9780898719277
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        angles: Tensor | int,
        detector_bins: int | None = None,
        pixel_size: float = 1.0,
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        height, width = _image_shape(image_size)
        views = _view_angles(angles)
        bins = _covering_bins(height, width) if detector_bins is None else detector_bins
        require(_is_count(bins), "detector_bins", bins, "an int >= 1")
        positive = isinstance(pixel_size, Real) and 0 < pixel_size < math.inf
        require(positive, "pixel_size", pixel_size, "a finite length > 0")
        if bins < min(height, width):
            warnings.warn(
                f"detector_bins: got {bins}, narrower than the image's inscribed circle of "
                f"{min(height, width)} pixels: the sinogram is truncated",
                stacklevel=2,
            )
        super().__init__((1, height, width), (1, len(views), int(bins)), noise_sigma)
        self.pixel_size = float(pixel_size)
        self.register_buffer("angles", views)
        matrix = _strip_matrix((height, width), np.deg2rad(views.numpy()), int(bins))
        matrix.data *= self.pixel_size
        self._projection = _StoredMatrix(matrix)
        self._backprojection = _StoredMatrix(matrix.T.tocsr())

    def forward_map(self, x: Tensor) -> Tensor:
        """Return the sinograms of images (B, 1, H, W)."""
        return self._multiply(x, self._projection, self._backprojection, self.measurement_size)

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Return the unfiltered back-projection of sinograms, by the exact transpose."""
        return self._multiply(y, self._backprojection, self._projection, self.img_size)

    def fbp(self, y: Tensor) -> Tensor:
        """Return the filtered back-projection of sinograms, shape (B, 1, H, W), in 1 / length.

        The band-limited ramp of Kak and Slaney (chapter 3, equation 61) is applied by zero-padded
        transforms and the result is spread back by ``A_adjoint``. Values are right where views
        are equally spaced over 180 or 360 degrees and the data are not truncated.

        Args:
            y: sinograms, shape (B, 1, views, detector_bins).

        Raises:
            ShapeError, DtypeError, DeviceError: ``y`` is not a sinogram of this operator.
        """
        self._check("y", y, self.measurement_size, self.complex_measurement)
        views, bins = self.measurement_size[1:]
        length = 1 << (2 * bins - 1).bit_length()
        response = torch.fft.rfft(_ramp_kernel(length)).real
        data = y.to(_working_dtype(y))
        spectrum = torch.fft.rfft(data, n=length) * response.to(data.device, data.dtype)
        filtered = torch.fft.irfft(spectrum, n=length)[..., :bins]
        # One factor of the pixel size undoes the one in A_adjoint, the other is the ramp's unit.
        scale = math.pi / (views * self.pixel_size**2)
        return (scale * self.adjoint_map(filtered)).to(y.dtype)

    def _multiply(
        self,
        value: Tensor,
        stored: "_StoredMatrix",
        adjoint: "_StoredMatrix",
        size: tuple[int, ...],
    ) -> Tensor:
        columns = value.to(_working_dtype(value)).flatten(1).T
        parts = [
            _SparseProduct.apply(part.contiguous(), stored, adjoint)
            for part in columns.split(MAX_COLUMNS, dim=1)
        ]
        return torch.cat(parts, 1).T.reshape(-1, *size).to(value.dtype).contiguous()


class _SparseProduct(torch.autograd.Function):
    """``matrix @ columns``, whose gradient is a product with the stored transpose.

    PyTorch's own gradient transposes the compressed rows anew at each call. The sparse tensor
    is made inside ``forward`` because `torch.func` transforms cannot make one outside it.
    """

    @staticmethod
    def forward(columns: Tensor, stored: "_StoredMatrix", adjoint: "_StoredMatrix") -> Tensor:
        # Sparse products exist in single and double precision only: autocast must not lower them.
        with torch.autocast(columns.device.type, enabled=False):
            return stored.matrix(columns.dtype) @ columns

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.stored, ctx.adjoint = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _SparseProduct.apply(grad.contiguous(), ctx.adjoint, ctx.stored), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _SparseProduct.apply(tangent, ctx.stored, ctx.adjoint)


class _StoredMatrix(nn.Module):
    """A sparse matrix in compressed rows that follows its operator between devices."""

    _rows: Tensor
    _columns: Tensor
    _values: Tensor

    def __init__(self, matrix: csr_array) -> None:
        super().__init__()
        self.shape = matrix.shape
        indices = matrix.indices.astype(matrix.indptr.dtype, copy=False)
        # The geometry determines these arrays: a state dict need not carry them.
        self.register_buffer("_rows", torch.from_numpy(matrix.indptr), persistent=False)
        self.register_buffer("_columns", torch.from_numpy(indices), persistent=False)
        self.register_buffer("_values", torch.from_numpy(matrix.data), persistent=False)
        with warnings.catch_warnings():
            # Once per process torch calls its CSR layout beta: a user can do nothing about it.
            # Here and not at each product, which would make other warnings show repeatedly.
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            self.matrix(torch.float32)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the torch CSR tensor over the stored arrays, values cast to ``dtype``."""
        values = self._values.to(dtype)
        return torch.sparse_csr_tensor(
            self._rows, self._columns, values, self.shape, check_invariants=False
        )


def _working_dtype(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and int(value) >= 1


def _image_shape(image_size: int | Sequence[int]) -> tuple[int, int]:
    pair = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    good = len(pair) == 2 and all(map(_is_count, pair))
    require(good, "image_size", image_size, "an int >= 1 or a pair (H, W) of them")
    return int(pair[0]), int(pair[1])


def _view_angles(angles: Tensor | int) -> Tensor:
    """Return checked angles in degrees, float64, shape (views,), on the CPU."""
    if isinstance(angles, Integral):
        require(
            _is_count(angles), "angles", angles, "a number of views >= 1 or a tensor of degrees"
        )
        return torch.arange(int(angles), dtype=torch.float64) * (180 / int(angles))
    angles = torch.as_tensor(angles)
    if angles.is_complex() or angles.dtype == torch.bool:
        raise DtypeError(f"angles: got dtype {angles.dtype}, accepted: real degrees")
    if angles.ndim != 1:
        raise ShapeError(f"angles: got shape {tuple(angles.shape)}, accepted: (views,)")
    if angles.numel() == 0:
        raise ArgumentError("angles: is empty, accepted: at least one view")
    return check_finite("angles", angles.detach().to("cpu", torch.float64, copy=True))


def _covering_bins(height: int, width: int) -> int:
    bins = math.ceil(math.hypot(height, width))
    return bins + (bins - width) % 2


def _ramp_kernel(length: int) -> Tensor:
    """Return the band-limited ramp at unit pitch, circular of even ``length``, float64."""
    n = torch.arange(length, dtype=torch.float64)
    n = torch.minimum(n, length - n)
    kernel = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp(min=1)) ** 2, 0.0)
    kernel[0] = 0.25
    return kernel


def _strip_matrix(shape: tuple[int, int], angles: np.ndarray, bins: int) -> csr_array:
    """Return the strip areas of unit pixels, (views * bins, H * W), float32; angles in radians."""
    height, width = shape
    x = np.arange(width) - (width - 1) / 2
    y = (height - 1) / 2 - np.arange(height)
    return vstack([_view_block(x, y, angle, bins) for angle in angles], format="csr")


def _view_block(x: np.ndarray, y: np.ndarray, angle: float, bins: int) -> csr_array:
    """Return one view's rows of the matrix; pixel centres at columns ``x`` and rows ``y``."""
    cos, sin = math.cos(angle), math.sin(angle)
    centre = (x * cos + y[:, None] * sin).ravel() + bins / 2
    # A shadow is at most sqrt(2) wide, so it touches no more than three bins from its first one.
    first = np.floor(centre - (abs(cos) + abs(sin)) / 2)
    edges = first[:, None] + np.arange(4)
    weights = np.diff(_shadow_below(edges - centre[:, None], abs(cos), abs(sin)), axis=1)
    # 32-bit indices: the CPU library would convert wider ones at each product.
    cells = edges[:, :3].astype(np.int32)
    pixels = np.broadcast_to(np.arange(centre.size, dtype=np.int32)[:, None], cells.shape)
    keep = (weights > NEGLIGIBLE) & (cells >= 0) & (cells < bins)
    entries = (weights[keep].astype(np.float32), (cells[keep], pixels[keep]))
    return coo_array(entries, shape=(bins, centre.size)).tocsr()


def _shadow_below(u: np.ndarray, cos: float, sin: float) -> np.ndarray:
    """Return the area of a unit pixel's shadow below ``u``, measured from the pixel's centre.

    The shadow is a trapezoid of unit area: the convolution of two boxes as wide as ``cos`` and
    ``sin``. It rises over the narrow width, stays at one over the broad one, and falls.
    """
    broad, narrow = max(cos, sin), min(cos, sin)
    # The slope's area is a product of ratios: no cancellation as the narrow width goes to zero.
    slope = max(narrow, np.finfo(float).tiny)
    rise = np.clip(u + (broad + narrow) / 2, 0, narrow)
    flat = np.clip(u + (broad - narrow) / 2, 0, broad - narrow)
    fall = np.clip(u - (broad - narrow) / 2, 0, narrow)
    return (rise * (rise / slope) / 2 + flat + fall * (1 - fall / slope / 2)) / broad
