"""Coil sensitivity maps: estimated from calibration data (ESPIRiT), or simulated."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import pi

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, Seed, checked, require_integer
from wellposed.errors import check_finite, require, warn
from wellposed.operators.mri.calibration import (
    calibration_block,
    check_kspace,
    find_calibration,
    padded,
)
from wellposed.operators.mri.cartesian import ifft2c

MUCH = 0.05
"""Share of the energy that ESPIRiT may not set to zero without a word."""

_CHUNK_BYTES = 64 * 2**20


@checked
def espirit(
    kspace: Tensor,
    calibration: int | tuple[int, int] | None = 24,
    kernel: Count | None = None,
    threshold: float = 0.02,
    crop: float = 0.9,
) -> Tensor:
    r"""Estimate coil sensitivity maps from the fully sampled centre of k-space.

    ESPIRiT: Uecker et al., "ESPIRiT - an eigenvalue approach to autocalibrating parallel MRI:
    where SENSE meets GRAPPA", Magnetic Resonance in Medicine 71, 2014. All windows of
    ``kernel`` x ``kernel`` samples of all coils lie in the space of the singular vectors
    :math:`v_r` of the calibration matrix with singular values above ``threshold`` times the
    largest. Projecting the windows onto this space and averaging their overlaps leaves k-space
    unchanged. In the image domain this is one Hermitian coils x coils matrix per pixel,

    .. math:: G(q) = \frac{1}{k^2} \sum_r \hat v_r(q) \hat v_r(q)^H, \qquad G(q) S(q) = S(q),

    whose eigenvector with eigenvalue 1 is the sensitivity. One set of maps is returned; objects
    that fold into the field of view would need two. The free phase of the eigenvector is chosen so
    that the first principal coil (the combination with the largest energy in the calibration data)
    is real and positive, and the maps are as smooth as the coils.

    Args:
        kspace: complex (coils, H, W) or (B, coils, H, W), centred as in `fft2c`; only the
            calibration block is used. Items are treated one by one.
        calibration: size of that block, one number or (rows, columns); ``None`` uses the fully
            sampled block of each item, see `find_calibration`.
        kernel: window size k in samples; by default half the block's shorter side, but 2 to 6:
            of few lines larger windows have too few places to tell signal from noise.
        threshold: relative singular value below which a vector belongs to the null space.
        crop: eigenvalue below which a pixel has no signal and its maps are zero, 0 to 1;
            0 keeps every pixel, as solving with a prior needs: where maps are zero, no datum
            holds the image to anything.

    Returns:
        Maps with the shape and dtype of ``kspace``, and ``sum_c |S_c|^2 = 1`` where not zero.

    Raises:
        DtypeError, ShapeError, NonFiniteError: ``kspace`` is not complex, has other axes, or
            contains NaN or infinite values.
        ArgumentError: the block is smaller than a window, larger than the image or not fully
            sampled; or another argument is out of range; k-space is not centred.

    Warns:
        UserWarning: maps are zero where the calibration data have over 5 % of their energy.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> maps = operators.simulate_sensitivity_maps(4, 32, 32)
        >>> operator = operators.MultiCoilMRI(torch.ones(32), maps)
        >>> kspace = operator.A(torch.ones(1, 1, 32, 32, dtype=torch.complex64))
        >>> found = operators.espirit(kspace[0], calibration=16, crop=0.0)
        >>> found.shape
        torch.Size([4, 32, 32])
    """
    check_kspace(kspace)
    if kernel is not None:
        require_integer("kernel", kernel)
    require(0 < threshold < 1, "threshold", threshold, "a number in (0, 1)")
    require(0 <= crop <= 1, "crop", crop, "a number in [0, 1]")
    items = kspace if kspace.ndim == 4 else kspace[None]
    maps = []
    with _one_thread():
        for item in items:
            size = find_calibration(item) if calibration is None else calibration
            data = check_finite("kspace", calibration_block(item, size, kernel))
            vectors = _signal_space(data, kernel or _window(data), threshold)
            height, width = item.shape[-2:]
            maps.append(_eigen_maps(vectors, _principal_coil(data), (height, width), crop))
            _warn_of_loss(data, maps[-1])
    return torch.stack(maps).view_as(kspace)


@checked
def simulate_sensitivity_maps(coils: Count, height: Count, width: Count, seed: Seed = 0) -> Tensor:
    """Return smooth maps (coils, H, W), complex64, of coils on a ring around the image.

    They resemble a head array. The magnitude of each coil decreases as the field on the axis of a
    current loop of radius a, ``(1 + (d / a)^2)^(-3/2)`` (Biot and Savart), with the distance d
    from the coil; a = .7 and the ring has radius 1.3, in units of half the field of view. The
    phase is linear, with a slope and an offset per coil. Maps are normalised so that
    ``sum_c |S_c|^2 = 1`` in every pixel.

    Args:
        coils: number of coils.
        height: rows of the image.
        width: columns of the image.
        seed: seed of the phases and of the rotation of the ring.

    Raises:
        ArgumentError: a size below 1.

    Example:
        >>> from wellposed import operators
        >>> maps = operators.simulate_sensitivity_maps(8, 32, 32, seed=0)
        >>> maps.shape, round(float(maps.abs().square().sum(0).mean()), 3)
        (torch.Size([8, 32, 32]), 1.0)
    """
    for name, size in (("coils", coils), ("height", height), ("width", width)):
        require_integer(name, size)
    rng = np.random.default_rng(seed)
    angle = 2 * pi * (np.arange(coils) + rng.uniform()) / coils
    offset, slope = rng.uniform(-pi, pi, coils), rng.uniform(-pi / 4, pi / 4, (2, coils))
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    place = 1.3 * np.stack([np.sin(angle), np.cos(angle)])[..., None, None]
    distance2 = (y - place[0]) ** 2 + (x - place[1]) ** 2
    offset, slope = offset[:, None, None], slope[..., None, None]
    maps = np.exp(1j * (offset + slope[0] * y + slope[1] * x)) * (1 + distance2 / 0.7**2) ** -1.5
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    return torch.from_numpy(maps.astype(np.complex64))


def _window(data: Tensor) -> int:
    """Return the window size for a calibration block (coils, rows, columns)."""
    shorter = min(data.shape[1:])
    return min(max(shorter // 2, 2), 6, shorter)


def _warn_of_loss(data: Tensor, maps: Tensor) -> None:
    """Warn if maps (coils, H, W) are zero where the calibration data have much energy."""
    taper = [torch.hann_window(n + 2, False, dtype=data.real.dtype)[1:-1] for n in data.shape[1:]]
    smooth = data * taper[0][:, None] * taper[1]
    energy = ifft2c(padded(smooth, maps.shape[-2:])).abs().square().sum(0)
    lost = float(energy[(maps == 0).all(0)].sum() / energy.sum())
    if lost > MUCH:
        warn(
            f"kspace: ESPIRiT set the maps to zero where the image has {lost:.0%} of its energy; "
            "use a smaller kernel or crop=0"
        )


def _signal_space(data: Tensor, kernel: Count, threshold: float) -> Tensor:
    """Return the vectors (R, coils, k, k) that span the windows of the calibration data."""
    windows = data.unfold(1, kernel, 1).unfold(2, kernel, 1)
    matrix = windows.permute(1, 2, 0, 3, 4).reshape(-1, data.shape[0] * kernel**2)
    _, values, vectors = torch.linalg.svd(matrix, full_matrices=False)
    # Windows are rows of the matrix, hence combinations of the rows of V^H, not conjugated.
    spanning: Tensor = vectors[values > threshold * values[0]]
    return spanning.view(-1, data.shape[0], kernel, kernel)


def _principal_coil(data: Tensor) -> Tensor:
    """Return the unit vector (coils,) along which the calibration data have the most energy."""
    flat = data.flatten(1)
    vector: Tensor = torch.linalg.eigh(flat @ flat.mH)[1][:, -1]
    largest = vector[vector.abs().argmax()]
    return vector * largest.conj() / largest.abs()


def _eigen_maps(vectors: Tensor, principal: Tensor, size: tuple[int, int], crop: float) -> Tensor:
    """Return the maps (coils, H, W): leading eigenvectors of G, chunks of rows at a time."""
    coils, (height, width) = len(principal), size
    lags = _lag_matrices(vectors)
    across = _lag_phases(torch.arange(width), width, lags)
    step = max(1, _CHUNK_BYTES // (coils**2 * width * lags.element_size()))
    maps = []
    for rows in torch.arange(height).split(step):
        down = _lag_phases(rows, height, lags)
        half = torch.einsum("yu,uvp->yvp", down, lags)
        matrices = (across @ half).view(len(rows), width, coils, coils)
        values, bases = torch.linalg.eigh(matrices)
        kept = values[..., -1].clamp(min=0) >= crop
        maps.append(_aligned(bases[..., -1], principal) * kept[..., None])
    return torch.cat(maps).permute(2, 0, 1)


def _lag_matrices(vectors: Tensor) -> Tensor:
    """Return the Fourier coefficients of G, shape (2k - 1, 2k - 1, coils^2).

    G is a trigonometric polynomial: its coefficients are the correlations of the vectors for lags
    from -k + 1 to k - 1. With these instead of zero-padded kernels, the cost per pixel does not
    depend on the number of vectors.
    """
    kernel = vectors.shape[-1]
    lags = 2 * kernel - 1
    images = torch.fft.ifft2(vectors, s=(lags, lags), norm="forward")
    images = images.permute(2, 3, 1, 0)
    coefficients: Tensor = torch.fft.ifft2(images @ images.mH / kernel**2, dim=(0, 1))
    return coefficients.flatten(2)


def _lag_phases(positions: Tensor, size: Count, lags: Tensor) -> Tensor:
    """Return the Fourier matrix from the lags to image positions, with the centre as origin."""
    lag = torch.fft.fftfreq(len(lags), 1 / len(lags), dtype=lags.real.dtype)
    angle = -2 * pi * torch.outer(positions - size // 2, lag) / size
    return torch.polar(torch.ones_like(angle), angle).to(lags)


def _aligned(vectors: Tensor, principal: Tensor) -> Tensor:
    """Change the phase of vectors (..., coils) so that their principal coil is positive."""
    phase = torch.sgn(vectors @ principal.conj())
    return vectors * torch.where(phase == 0, 1, phase).conj()[..., None]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run the CPU's linear algebra on one thread, and restore the old number of threads.

    More threads do not help small decompositions, as they wait for each other in every step: on a
    busy machine two threads were 10 to 60 times slower than one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
