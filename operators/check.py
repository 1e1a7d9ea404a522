"""Checks that an operator is what solvers assume: linear, with its true adjoint and normal map.

Errors are measured per element, on matrices or on norms of differences, never on signed means or
single inner products, which hide mismatches of several percent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import ArgumentError, ShapeError
from wellposed.operators.linalg import inner, norm


@dataclass(frozen=True)
class OperatorReport:
    """Relative errors of an operator's defining properties.

    Attributes:
        adjoint: largest ``|<A x, y> - <x, A^H y>| / (||A x|| ||y||)`` scaled by ``sqrt(m)``, over
            random pairs, i.e. as large as the typical inner product of a wrong adjoint.
        linearity: ``||A(a x + z) - a A x - A z|| / ||A x||``.
        normal: ``||A^H A x (fused) - A^H (A x)|| / ||A^H A x||``.
        norm: estimate of the spectral norm ``||A||`` by power iterations.
    """

    adjoint: float
    linearity: float
    normal: float
    norm: float

    def passes(self, tolerance: float = 1e-5) -> bool:
        """Tell whether adjoint, linearity and normal errors are all below ``tolerance``."""
        return max(self.adjoint, self.linearity, self.normal) < tolerance


def _random(shape: tuple[int, ...], dtype: torch.dtype, rng: np.random.Generator) -> Tensor:
    real = torch.from_numpy(rng.standard_normal((*shape, 2)))
    return (torch.view_as_complex(real) if dtype.is_complex else real[..., 0]).to(dtype)


def check_operator(
    operator: Any,
    image_size: tuple[int, ...] | None = None,
    dtype: torch.dtype = torch.float32,
    pairs: int = 8,
    seed: int = 0,
) -> OperatorReport:
    """Measure adjoint, linearity and normal-map errors of a linear operator, and its norm.

    Args:
        operator: a wellposed `LinearOperator` or any deepinv `LinearPhysics`.
        image_size: shape of one image; taken from the operator's ``img_size`` by default.
        dtype: dtype of the images, e.g. ``torch.complex64`` for MRI.
        pairs: number of random pairs; the images form one batch.
        seed: decides the random images and measurements.

    Raises:
        ArgumentError: no image size is known.
        ShapeError: ``A_adjoint`` does not return images.
    """
    size = tuple(image_size or getattr(operator, "img_size", None) or ())
    if not size:
        raise ArgumentError("image_size: got None, accepted: the shape (C, H, W) of one image")
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
    gap = (inner(Ax, y) - inner(x, Aty)).abs() / (norm(Ax) * norm(y))
    combined = operator.A(0.7 * x + z)
    AtAx = operator.A_adjoint(Ax)
    return OperatorReport(
        adjoint=float(gap.max()) * float(np.sqrt(Ax[0].numel())),
        linearity=float((norm(combined - 0.7 * Ax - operator.A(z)) / norm(Ax)).max()),
        normal=float((norm(operator.A_adjoint_A(x) - AtAx) / norm(AtAx)).max()),
        norm=operator_norm(operator.A_adjoint_A, x[:1]) ** 0.5,
    )


def operator_norm(
    normal: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 50
) -> float:
    """Return the largest eigenvalue of a Hermitian map by power iterations from ``start``."""
    value, v = 0.0, start / norm(start)
    for _ in range(iterations):
        w = normal(v)
        value = float(norm(w)[0])
        if value == 0.0:
            return 0.0
        v = w / value
    return value


def dense_matrix(
    linear_map: Callable[[Tensor], Tensor], size: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Return the matrix of a linear map on images of shape ``size``, by columns; for small ones.

    Complex maps give the complex matrix; rows are the flattened measurement.
    """
    basis = torch.eye(int(np.prod(size)), dtype=dtype).reshape(-1, *size)
    return linear_map(basis).flatten(1).T
