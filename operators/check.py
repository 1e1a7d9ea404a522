"""Checks of what solvers assume: linear operators with correct adjoint and normal map.

Errors are measured per element, on matrices or on norms of differences, never on signed means or
single inner products, which hide mismatches of several percent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.checks import Count, Seed, Steps, checked, require_batch
from wellposed.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    ShapeError,
    check_finite,
    require,
    warn,
)
from wellposed.linalg import inner, largest_eigenvalue, norm

if TYPE_CHECKING:
    from deepinv.physics import LinearPhysics, Physics

IMPLAUSIBLE = 2.0
"""Noise level, in root mean squares of the measurement, that cannot be."""


@dataclass(frozen=True)
class OperatorReport:
    """Relative errors of an operator's defining properties.

    Attributes:
        adjoint: largest ``|<A x, y> - <x, A^H y>| / (||A x|| ||y||)`` scaled by ``sqrt(m)``, over
            random pairs; about 1 for an unrelated adjoint.
        linearity: ``||A(a x + z) - a A x - A z|| / ||A x||``, with a complex ``a`` for complex
            images.
        normal: ``||A^H A x (fused) - A^H (A x)|| / ||A^H A x||``.
        norm: estimate of the spectral norm ``||A||`` by power iterations.

    Example:
        >>> from wellposed import operators
        >>> operator = operators.FunctionOperator(lambda x: 2 * x, (1, 8, 8))
        >>> report = operators.check_operator(operator)
        >>> round(report.norm, 2)
        2.0
    """

    adjoint: float
    linearity: float
    normal: float
    norm: float

    def passes(self, tolerance: float = 1e-5) -> bool:
        """Return whether adjoint, linearity and normal errors are all below ``tolerance``."""
        return all(error < tolerance for error in (self.adjoint, self.linearity, self.normal))


def is_linear_operator(operator: "Physics") -> bool:
    """Tell whether an operator is a linear one."""
    from deepinv.physics import LinearPhysics

    return isinstance(operator, LinearPhysics)


def require_physics(operator: "Physics | None") -> "Physics":
    """Return ``operator``; raise unless it is an operator."""
    complete = callable(getattr(operator, "A", None)) and hasattr(operator, "A_adjoint")
    if not (isinstance(operator, nn.Module) and complete):
        raise ArgumentError(
            f"operator: got {type(operator).__name__}, accepted: a wellposed operator or a "
            "deepinv physics with A and A_adjoint"
        )
    return operator


def require_operator(operator: "Physics | None", y: Tensor) -> "Physics":
    """Return ``operator``; raise unless it is an operator and ``y`` a finite batch on its device.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError, NonFiniteError: it is not.
    """
    operator = require_physics(operator)
    require_batch("y", y)
    for tensor in (*operator.buffers(), *operator.parameters()):
        if tensor.device != y.device:
            raise DeviceError(
                f"operator: is on {tensor.device} but y on {y.device}; move one with .to()"
            )
    check_finite("y", y)
    return operator


def noise_levels(operator: "Physics | None", count: int) -> Tensor:
    """Return the noise level of the operator's measurements, (1,) or one per item; 0 without.

    Args:
        operator: the operator.
        count: number of items.

    Raises:
        ShapeError: neither one noise level nor one per item.
    """
    sigma = getattr(getattr(operator, "noise_model", None), "sigma", None)
    levels = torch.zeros(1) if sigma is None else torch.as_tensor(sigma).flatten()
    if len(levels) not in (1, count):
        raise ShapeError(
            f"operator: got {len(levels)} noise levels, accepted: 1, or one for each of {count} "
            "items"
        )
    return levels


def warn_of_noise(y: Tensor, operator: "Physics") -> None:
    """Warn of a noise level that the measurement, which holds the noise, is too small for."""
    sigma = getattr(getattr(operator, "noise_model", None), "sigma", None)
    measured = y[y != 0].abs()
    if sigma is None or not len(measured):
        return
    size, most = float(measured.square().mean().sqrt()), float(torch.as_tensor(sigma).max())
    if most > IMPLAUSIBLE * size:
        warn(
            f"noise_sigma: got {most:.4g}, but the measurement's root mean square, noise and all, "
            f"is {size:.4g}; accepted: the noise in the units of y (25 of 255 is 25 / 255)"
        )


def _random(shape: tuple[int, ...], dtype: torch.dtype, rng: np.random.Generator) -> Tensor:
    real = torch.from_numpy(rng.standard_normal((*shape, 2)))
    return (torch.view_as_complex(real) if dtype.is_complex else real[..., 0]).to(dtype)


@checked
def check_operator(
    operator: "LinearPhysics",
    image_size: Sequence[Count] | None = None,
    dtype: torch.dtype | None = None,
    pairs: Count = 8,
    seed: Seed = 0,
) -> OperatorReport:
    """Measure adjoint, linearity and normal-map errors of a linear operator, and its norm.

    Args:
        operator: a wellposed `LinearOperator` or any deepinv `LinearPhysics`.
        image_size: shape of one image; taken from the operator's ``img_size`` by default.
        dtype: dtype of the images; single precision, real or complex, by default.
        pairs: number of random pairs; the images form one batch. For an operator with a mask or
            maps per item it is the number of items.
        seed: seed of the random images and measurements.

    Raises:
        ArgumentError: no image size is known, or ``pairs`` is below 1.
        DtypeError: ``dtype`` is not floating-point or complex, or not what ``A_adjoint`` returns.
        ShapeError: ``A_adjoint`` does not return images.

    Example:
        >>> from wellposed import operators
        >>> report = operators.check_operator(operators.SuperResolution((3, 16, 16), factor=2))
        >>> report.adjoint < 1e-4, report.linearity < 1e-4
        (True, True)
    """
    maps = hasattr(operator, "A") and hasattr(operator, "A_adjoint")
    require(maps, "operator", type(operator).__name__, "a linear operator with A and A_adjoint")
    size = tuple(image_size or getattr(operator, "img_size", None) or ())
    if not size:
        raise ArgumentError("image_size: got None, accepted: the shape (C, H, W) of one image")
    dtype = dtype or _single_precision(operator)
    if not (dtype.is_floating_point or dtype.is_complex):
        raise DtypeError(f"dtype: got {dtype}, accepted: floating-point or complex")
    require(pairs >= 1, "pairs", pairs, "an integer of at least 1")
    items = getattr(operator, "items", 1)
    pairs = items if items > 1 else pairs
    rng = np.random.default_rng(seed)
    device = getattr(operator, "_device_holder", torch.zeros(())).device
    x, z = (_random((pairs, *size), dtype, rng).to(device) for _ in range(2))
    Ax = operator.A(x)
    y = _random(tuple(Ax.shape), Ax.dtype, rng).to(device)
    Aty = operator.A_adjoint(y)
    if Aty.shape != x.shape:
        raise ShapeError(
            f"operator: A_adjoint returns {tuple(Aty.shape)}, accepted: {tuple(x.shape)}"
        )
    if Aty.dtype != x.dtype:
        raise DtypeError(f"operator: A_adjoint returns {Aty.dtype}, accepted: {x.dtype}")
    gap = inner(Ax, y) - inner(x, Aty)
    # Real images form a real space for any kind of measurement: only real parts have to agree.
    gap = (gap if dtype.is_complex else gap.real).abs() / (norm(Ax) * norm(y))
    a = 0.7 - 0.4j if dtype.is_complex else 0.7
    combined = operator.A(a * x + z)
    AtAx = operator.A_adjoint(Ax)
    return OperatorReport(
        adjoint=float(gap.max()) * float(np.sqrt(Ax[0].numel())),
        linearity=float((norm(combined - a * Ax - operator.A(z)) / norm(Ax)).max()),
        normal=float((norm(operator.A_adjoint_A(x) - AtAx) / norm(AtAx)).max()),
        norm=operator_norm(operator.A_adjoint_A, x if items > 1 else x[:1]) ** 0.5,
    )


def operator_norm(
    normal: Callable[[Tensor], Tensor], start: Tensor, iterations: Steps = 50
) -> float:
    """Return the largest eigenvalue of a Hermitian map by power iterations from ``start``.

    It is the largest eigenvalue of all items of ``start``.
    """
    return float(largest_eigenvalue(normal, start, iterations).max())


def _single_precision(operator: object) -> torch.dtype:
    return torch.complex64 if getattr(operator, "complex_image", False) else torch.float32


def dense_matrix(
    linear_map: Callable[[Tensor], Tensor], size: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Return the matrix of a linear map on small images of shape ``size``, column by column.

    Complex maps give the complex matrix; rows are the flattened measurement.
    """
    basis = torch.eye(int(np.prod(size)), dtype=dtype).reshape(-1, *size)
    return linear_map(basis).flatten(1).T


def require_adjoint(operator: "Physics", y: Tensor, back: Tensor, tolerance: float = 0.02) -> None:
    """Raise if ``A_adjoint`` is not the adjoint of ``A``.

    With ``x = A^H y``, ``<A x, y>`` must equal ``||x||^2``. These terms add up coherently, so even
    a mismatch of a few percent is detected, which random vectors would hide.
    """
    square = inner(back, back)
    gap = (inner(operator.A(back), y) - square).abs()
    if bool((gap > tolerance * square.clamp(min=1e-300)).any()):
        raise ArgumentError(
            f"operator: A_adjoint of {type(operator).__name__} is not the adjoint of A (relative "
            f"mismatch {float((gap / square).max()):.3g}), accepted: one below {tolerance}; "
            "see operators.check_operator"
        )
