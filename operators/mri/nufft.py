"""Non-uniform Fourier transforms by an oversampled FFT and interpolation with a sparse matrix.

Conventions: an image of sides ``N_a`` has its origin at pixel ``N_a // 2``, and frequencies are in
cycles per field of view, from ``-N_a / 2`` to ``N_a / 2`` along the image's axis ``a``, in the
order of the axes (rows first). Integer frequencies are those of the centred FFT, `fft2c`.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import ceil, pi, prod, sqrt
from numbers import Real

import torch
from scipy.fft import next_fast_len
from torch import Tensor, nn

from wellposed.checks import Checked, Count, RealTensor, require_integer
from wellposed.errors import ArgumentError, DtypeError, ShapeError, check_finite, require, warn
from wellposed.operators.mri.gridding import Gridding, KaiserBessel

LOW = 0.25
"""Reach of a trajectory, over half the image's pixels, below which its unit is suspected."""


# Sparse products lose speed beyond 16 real columns, which are 8 complex images.
MAX_IMAGES = 8


class NUFFT(Checked, nn.Module):
    r"""Fourier transform of images at any frequencies, and its exact adjoint.

    .. math:: X_j = \frac{1}{\sqrt{N_1 \cdots N_d}} \sum_n x_n
        \exp\Big(-2 \pi i \sum_a k_{ja} \frac{n_a - \lfloor N_a / 2 \rfloor}{N_a}\Big)

    Images are divided by the transform of the kernel, zero-padded, transformed and interpolated.
    The adjoint applies the transpose of each step, so it is exact to rounding. The transform
    itself has an interpolation error; for white noise, compared with the direct sum:

    =====  =================  ====  ====
    width  oversampling 1.25  1.5   2
    =====  =================  ====  ====
    4      7e-3               2e-3  6e-4
    5      2e-3               3e-4  6e-5
    6      4e-4               5e-5  7e-6
    7      9e-5               8e-6  8e-7
    8      2e-5               1e-6  2e-7
    =====  =================  ====  ====

    The error is smaller for objects that do not reach the edge of the image. Rounding in single
    precision is 3e-7, but 5e-6 for width 8 at 1.25, where the edge is divided by small numbers.

    Args:
        trajectory: frequencies in cycles per field of view, real, (M, d) or (..., d), with
            ``|k_a| <= N_a / 2``; d is 1, 2 or 3.
        image_size: the d sides of the image.
        width: support of the Kaiser-Bessel kernel in cells, 3 to 16. Memory and time of the
            interpolation grow as ``width^d``.
        oversampling: sides of the grid over those of the image, 1.25 to 4; rounded up to sizes
            with a fast FFT.

    Raises:
        ShapeError: ``trajectory`` does not end in as many coordinates as the image has sides.
        DtypeError, NonFiniteError: it is not real, or contains NaN or infinite values.
        ArgumentError: it is outside the band of the image, or another argument is out of range.

    References:
        Fessler and Sutton, "Nonuniform fast Fourier transforms using min-max interpolation",
        IEEE Transactions on Signal Processing 51, 2003, doi:10.1109/TSP.2002.807005

    Example:
        >>> import torch
        >>> from wellposed.operators import NUFFT
        >>> frequencies = torch.tensor([[0.0, 0.0], [1.5, -2.25], [3.0, 0.5]])
        >>> nufft = NUFFT(frequencies, image_size=(16, 16))
        >>> X = nufft(torch.ones(1, 16, 16, dtype=torch.complex64))
        >>> X.shape, nufft.adjoint(X).shape
        (torch.Size([1, 3]), torch.Size([1, 16, 16]))
    """

    trajectory: Tensor
    _taper: Tensor

    def __init__(
        self,
        trajectory: RealTensor,
        image_size: Sequence[Count],
        width: Count = 7,
        oversampling: float = 1.5,
    ) -> None:
        super().__init__()
        self.image_size = _checked_size(image_size)
        width = require_integer("width", width, 3, 16)
        inside = isinstance(oversampling, Real) and 1.25 <= oversampling <= 4
        require(inside, "oversampling", oversampling, "a number from 1.25 to 4")
        k = _checked_trajectory(trajectory, self.image_size)
        _warn_of_units(k, self.image_size)
        self.samples, self.width = len(k), width
        least = [max(oversampling * n, width) for n in self.image_size]
        self.grid_size = tuple(2 * next_fast_len(ceil(g / 2)) for g in least)
        ratio = [g / n for g, n in zip(self.grid_size, self.image_size, strict=True)]
        kernels = [KaiserBessel.matched(self.width, r) for r in ratio]
        self.gridding = Gridding(k * torch.tensor(ratio, dtype=k.dtype), self.grid_size, kernels)
        sides = zip(self.grid_size, self.image_size, strict=True)
        self._start = [g // 2 - n // 2 for g, n in sides]
        taper = _taper(self.image_size, self.grid_size, kernels).float()
        self.register_buffer("_taper", taper, persistent=False)
        self.register_buffer("trajectory", k, persistent=False)
        self.to(trajectory.device)

    def forward(self, images: Tensor) -> Tensor:
        """Return the transforms (..., M) of complex images (..., *image_size).

        Raises:
            DtypeError, ShapeError: the images are not complex, of another size, or none.
        """
        _check("images", images, self.image_size)
        return _in_groups(self._forward, images, len(self.image_size))

    def adjoint(self, samples: Tensor) -> Tensor:
        """Return the adjoint of `forward`: complex (..., M) to (..., *image_size).

        Raises:
            DtypeError, ShapeError: the samples are not complex, of another number, or none.
        """
        _check("samples", samples, (self.samples,))
        return _in_groups(self._adjoint, samples, 1)

    def _forward(self, images: Tensor) -> Tensor:
        sides = zip(self.grid_size, self.image_size, self._start, strict=True)
        # torch pads the last axis first.
        pad = [extent for g, n, s in reversed(list(sides)) for extent in (s, g - n - s)]
        padded = nn.functional.pad(images * self._taper.to(images.real.dtype), pad)
        spectra = torch.fft.fftn(padded, dim=self._axes)
        return _complex_rows(self.gridding.interpolate(_real_columns(spectra.flatten(1))))

    def _adjoint(self, samples: Tensor) -> Tensor:
        spectra = _complex_rows(self.gridding.spread(_real_columns(samples)))
        # The unscaled inverse is the adjoint of the unscaled transform.
        padded: Tensor = torch.fft.ifftn(
            spectra.unflatten(1, self.grid_size), dim=self._axes, norm="forward"
        )
        for axis, (start, n) in enumerate(zip(self._start, self.image_size, strict=True), 1):
            padded = padded.narrow(axis, start, n)
        return padded * self._taper.to(samples.real.dtype)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.image_size), 0))


class ToeplitzNormal(nn.Module):
    """``F^H F`` of a NUFFT ``F`` without interpolation: one product between two FFTs.

    ``F^H F`` is a convolution with the point-spread function of the trajectory, exact on images
    zero-padded to twice their sides. Its error is that of the NUFFT; its cost does not depend
    on the number of samples.

    Args:
        nufft: the transform.

    References:
        Fessler, Lee, Olafsson, Shi and Noll, "Toeplitz-based iterative image reconstruction for
        MRI with correction for magnetic field inhomogeneity", IEEE Transactions on Signal
        Processing 53, 2005, doi:10.1109/TSP.2005.853152
    """

    _spectrum: Tensor

    def __init__(self, nufft: NUFFT) -> None:
        super().__init__()
        self.image_size = nufft.image_size
        spectrum = torch.fft.fftn(_point_spread(nufft)).real.to(torch.float32)
        self.register_buffer("_spectrum", spectrum, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``F^H F x`` of complex images (..., *image_size).

        Raises:
            DtypeError, ShapeError: the images are not complex, of another size, or none.
        """
        _check("images", images, self.image_size)
        return _in_groups(self._forward, images, len(self.image_size))

    def _forward(self, images: Tensor) -> Tensor:
        axes = tuple(range(-len(self.image_size), 0))
        spectra = torch.fft.fftn(images, s=self._spectrum.shape, dim=axes)
        out: Tensor = torch.fft.ifftn(spectra * self._spectrum.to(images.real.dtype), dim=axes)
        for axis, n in zip(axes, self.image_size, strict=True):
            out = out.narrow(axis, 0, n)
        return out


def _point_spread(nufft: NUFFT) -> Tensor:
    """Return ``sum_j exp(2 pi i k_j l / N) / prod(N)`` for lags l of -N to N - 1, in FFT order.

    Each of the 2^d blocks of N lags is an adjoint transform of the shifted origin.
    """
    sizes = nufft.image_size
    psf = torch.zeros([2 * n for n in sizes], dtype=torch.complex128).to(nufft.trajectory.device)
    for corner in product((0, 1), repeat=len(sizes)):
        shift = torch.tensor([n // 2 - c * n for c, n in zip(corner, sizes, strict=True)])
        turns = nufft.trajectory @ (shift / torch.tensor(sizes)).to(nufft.trajectory)
        block = nufft.adjoint(torch.polar(torch.ones_like(turns), 2 * pi * turns))
        place = tuple(slice(c * n, (c + 1) * n) for c, n in zip(corner, sizes, strict=True))
        psf[place] = block / sqrt(prod(sizes))
    return psf


def _check(name: str, values: Tensor, size: tuple[int, ...]) -> None:
    """Raise unless ``values`` are complex and of shape (..., *size)."""
    if not isinstance(values, Tensor) or not values.is_complex():
        kind = getattr(values, "dtype", type(values).__name__)
        raise DtypeError(f"{name}: got {kind}, accepted: a complex tensor")
    if tuple(values.shape[-len(size) :]) != size or values.numel() == 0:
        accepted = f"(..., {', '.join(map(str, size))}), not empty"
        raise ShapeError(f"{name}: got shape {tuple(values.shape)}, accepted: {accepted}")


def _in_groups(apply: Callable[[Tensor], Tensor], values: Tensor, axes: int) -> Tensor:
    """Apply a map to the last ``axes`` axes of values, a few items of the others at a time."""
    flat = values.reshape(-1, *values.shape[-axes:])
    out = torch.cat([apply(part) for part in flat.split(MAX_IMAGES)])
    return out.view(*values.shape[:-axes], *out.shape[1:])


def _taper(
    image_size: Sequence[Count], grid_size: Sequence[int], kernels: Sequence[KaiserBessel]
) -> Tensor:
    """Return the inverse of the kernels' transform over the image, over ``sqrt(prod(N))``."""
    taper = torch.ones((), dtype=torch.float64)
    for n, g, kernel in zip(image_size, grid_size, kernels, strict=True):
        x = (torch.arange(n, dtype=torch.float64) - n // 2) / g
        taper = taper[..., None] / (kernel.transform(x) * sqrt(n))
    return taper


def _real_columns(rows: Tensor) -> Tensor:
    """Return complex rows (n, M) as real columns (M, 2 n)."""
    return torch.view_as_real(rows.resolve_conj().T.contiguous()).flatten(1)


def _complex_rows(columns: Tensor) -> Tensor:
    """Undo `_real_columns`."""
    return torch.view_as_complex(columns.unflatten(1, (-1, 2))).T.contiguous()


def _checked_size(image_size: Sequence[Count]) -> tuple[int, ...]:
    size = tuple(image_size) if isinstance(image_size, Sequence) else ()
    require(1 <= len(size) <= 3, "image_size", image_size, "one to three integers")
    return tuple(require_integer("image_size", n) for n in size)


def _checked_trajectory(trajectory: Tensor, image_size: tuple[int, ...]) -> Tensor:
    """Return the frequencies as (M, d), float64, on the CPU, for making the matrix."""
    if not isinstance(trajectory, Tensor) or not trajectory.is_floating_point():
        kind = getattr(trajectory, "dtype", type(trajectory).__name__)
        raise DtypeError(f"trajectory: got {kind}, accepted: a real floating-point tensor")
    if trajectory.ndim < 2 or trajectory.shape[-1] != len(image_size):
        raise ShapeError(
            f"trajectory: got shape {tuple(trajectory.shape)}, accepted: (..., {len(image_size)}) "
            f"for images of {len(image_size)} axes"
        )
    if trajectory.numel() == 0:
        raise ArgumentError("trajectory: is empty, accepted: at least one sample")
    k = check_finite("trajectory", trajectory).detach().to("cpu", torch.float64)
    k = k.reshape(-1, len(image_size))
    for axis, (reach, n) in enumerate(zip(k.abs().amax(0).tolist(), image_size, strict=True)):
        # A tolerance for the rounding of measured trajectories at the edge of the band.
        require(
            reach <= n / 2 * (1 + 1e-5),
            "trajectory",
            f"{reach:.6g} cycles per field of view on axis {axis}",
            f"at most {n / 2:g}, the band of an image of {n} pixels",
        )
    return k


def _warn_of_units(k: Tensor, image_size: tuple[int, ...]) -> None:
    """Warn if frequencies (M, d) stay in the middle of the band, as in another unit."""
    half = torch.tensor(image_size, dtype=k.dtype) / 2
    reach = float((k.abs() / half).max())
    if len(k) > 1 and 0 < reach < LOW:
        warn(
            f"trajectory: extends to {float(k.abs().max()):.4g} cycles per field of view, "
            f"{reach:.2g} of the band of an image of {image_size} pixels; multiply cycles per "
            "pixel by the pixels along each axis, radians per pixel by these pixels / (2 pi)"
        )
