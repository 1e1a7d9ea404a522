"""Multi-coil data before and after reconstruction: whitening, compression, combination.

Coils are the axis after the batch, (B, coils, ...), for k-space, images and coil maps. There is
one matrix per item, (B, new coils, coils), so that an item's result does not depend on the batch.
`mix_coils` applies the same matrix to other data of the same coils.
"""

import torch
from torch import Tensor

from wellposed.checks import checked, require_integer
from wellposed.errors import ArgumentError, DtypeError, ShapeError, check_finite, require
from wellposed.kinds import shown


@checked
def mix_coils(matrix: Tensor, data: Tensor) -> Tensor:
    """Return ``matrix`` applied to the coils of complex data.

    Args:
        matrix: (B, new coils, coils), or (new coils, coils) for all items.
        data: complex (B, coils, ...).

    Returns:
        (B, new coils, ...), of the dtype of ``data``.

    Raises:
        DtypeError, ShapeError, NonFiniteError: ``data`` is not complex, has too few axes, contains
            NaN or infinite values, or the matrix does not fit it.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> kspace = torch.randn(1, 8, 16, 16, dtype=torch.complex64)
        >>> _, matrix = operators.compress_coils(kspace, coils=4)
        >>> maps = operators.simulate_sensitivity_maps(8, 16, 16)
        >>> operators.mix_coils(matrix, maps[None]).shape  # the maps of the virtual coils
        torch.Size([1, 4, 16, 16])
    """
    _check_coils("data", data)
    fits = matrix.ndim in (2, 3) and matrix.shape[-1] == data.shape[1]
    if not fits or (matrix.ndim == 3 and len(matrix) not in (1, len(data))):
        raise ShapeError(
            f"matrix: got {tuple(matrix.shape)}, accepted: ({len(data)}, new coils, "
            f"{data.shape[1]}) for this data"
        )
    mixed = matrix.to(data.dtype) @ data.flatten(2)
    return torch.unflatten(mixed, 2, data.shape[2:])


@checked
def compress_coils(kspace: Tensor, coils: int) -> tuple[Tensor, Tensor]:
    """Return k-space of the virtual coils with most of the energy, and the matrix.

    Buehrer, Pruessmann, Boesiger and Kozerke, "Array compression for MRI with large coil
    arrays", Magnetic Resonance in Medicine 57, 2007, doi:10.1002/mrm.21237; the combinations are
    the first left singular vectors of the data, (coils) by (samples). Rows of the matrix are
    orthonormal: white noise stays white with the same level. The same matrix must be applied to
    coil maps, with `mix_coils`, or the maps must be estimated from the returned k-space.

    Args:
        kspace: complex (B, coils, ...), preferably with white noise (`prewhiten`).
        coils: number of virtual coils, at most the number of coils of ``kspace``.

    Returns:
        k-space (B, n, ...), strongest coil first, and the matrix (B, n, coils).

    Raises:
        DtypeError, ShapeError, NonFiniteError: as `mix_coils`.
        ArgumentError: ``coils`` is out of range.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> kspace = torch.randn(1, 8, 16, 16, dtype=torch.complex64)
        >>> virtual, matrix = operators.compress_coils(kspace, coils=4)
        >>> virtual.shape, matrix.shape
        (torch.Size([1, 4, 16, 16]), torch.Size([1, 4, 8]))
    """
    _check_coils("kspace", kspace)
    require_integer("coils", coils, 1, kspace.shape[1])
    # The eigenvectors of the small correlation matrix are the singular vectors of the long data.
    matrix = torch.linalg.eigh(_correlation(kspace))[1].flip(-1)[..., :coils].mH
    matrix = matrix.to(kspace.dtype)
    return mix_coils(matrix, kspace), matrix


@checked
def noise_covariance(noise: Tensor) -> Tensor:
    """Return the covariance ``E[n n^H]`` of complex noise samples, (B, coils, coils).

    Args:
        noise: a noise scan, complex (B, coils, ...), with at least as many samples as coils.

    Raises:
        DtypeError, ShapeError, NonFiniteError: as `mix_coils`.
        ArgumentError: there are fewer samples than coils.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> noise = torch.randn(1, 8, 1000, dtype=torch.complex64)
        >>> operators.noise_covariance(noise).shape
        torch.Size([1, 8, 8])
    """
    _check_coils("noise", noise)
    samples = noise[0, 0].numel()
    accepted = f"at least {noise.shape[1]} samples, one per coil"
    require(samples >= noise.shape[1], "noise", f"{samples} samples", accepted)
    return (_correlation(noise) / samples).to(noise.dtype)


@checked
def prewhiten(kspace: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return k-space whose noise is white, and the matrix.

    Kellman and McVeigh, "Image reconstruction in SNR units: a general method for SNR
    measurement", Magnetic Resonance in Medicine 54, 2005, doi:10.1002/mrm.20713. The matrix is
    ``sqrt(2) L^-1`` with ``covariance = L L^H`` (Cholesky): noise becomes uncorrelated between
    coils, with standard deviation 1 in the real and in the imaginary part, which is
    ``noise_sigma=1`` of the operators here.

    Args:
        kspace: complex (B, coils, ...).
        covariance: covariance of its noise, complex (B, coils, coils) or (coils, coils), see
            `noise_covariance`.

    Returns:
        k-space and the matrix (B, coils, coils), which must also be applied to coil maps.

    Raises:
        DtypeError, ShapeError, NonFiniteError: as `mix_coils`.
        ArgumentError: the covariance is not Hermitian positive definite.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> noise = 3.0 * torch.randn(1, 8, 1000, dtype=torch.complex64)
        >>> white, matrix = operators.prewhiten(noise, operators.noise_covariance(noise))
        >>> white.shape, round(float(white.real.std()), 1)
        (torch.Size([1, 8, 1000]), 1.0)
    """
    _check_coils("kspace", kspace)
    coils = kspace.shape[1]
    alike = covariance.ndim == 2 or (covariance.ndim == 3 and len(covariance) in (1, len(kspace)))
    if not alike or tuple(covariance.shape[-2:]) != (coils, coils):
        raise ShapeError(
            f"covariance: got {tuple(covariance.shape)}, accepted: ({len(kspace)}, {coils}, "
            f"{coils})"
        )
    exact = check_finite("covariance", covariance).to(torch.complex128)
    scale = exact.abs().amax((-2, -1), keepdim=True)
    hermitian = bool(((exact - exact.mH).abs() <= 1e-5 * scale).all())
    factor, failed = torch.linalg.cholesky_ex(exact)
    if not hermitian or bool(failed.any()):
        raise ArgumentError(
            "covariance: got another matrix, accepted: a Hermitian positive definite matrix"
        )
    identity = torch.eye(coils, dtype=exact.dtype, device=exact.device)
    inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    matrix = (2**0.5 * inverse).to(kspace.dtype).expand(len(kspace), -1, -1)
    return mix_coils(matrix, kspace), matrix


@checked
def root_sum_of_squares(coil_images: Tensor) -> Tensor:
    """Return the combined magnitude (B, 1, ...) of coil images (B, coils, ...).

    Roemer, Edelstein, Hayes, Souza and Mueller, "The NMR phased array", Magnetic Resonance in
    Medicine 16, 1990, doi:10.1002/mrm.1910160203.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> images = operators.simulate_sensitivity_maps(4, 16, 16)[None]
        >>> combined = operators.root_sum_of_squares(images)
        >>> combined.shape, round(float(combined.mean()), 3)
        (torch.Size([1, 1, 16, 16]), 1.0)
    """
    if coil_images.ndim < 2 or not (coil_images.is_floating_point() or coil_images.is_complex()):
        raise ShapeError(f"coil_images: got {shown(coil_images)}, accepted: (B, coils, ...)")
    magnitude: Tensor = torch.linalg.vector_norm(coil_images, dim=1, keepdim=True)
    return magnitude


def _correlation(data: Tensor) -> Tensor:
    """Return ``sum d d^H`` over the samples, (B, coils, coils), double precision."""
    flat = data.flatten(2).to(torch.complex128)
    return flat @ flat.mH


def _check_coils(name: str, data: Tensor) -> None:
    if not isinstance(data, Tensor) or not data.is_complex():
        kind = data.dtype if isinstance(data, Tensor) else type(data).__name__
        raise DtypeError(f"{name}: got {kind}, accepted: a complex tensor")
    if data.ndim < 3 or data.numel() == 0:
        raise ShapeError(f"{name}: got {tuple(data.shape)}, accepted: non-empty (B, coils, ...)")
    check_finite(name, data)
