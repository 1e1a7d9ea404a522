"""Operators given by a dense matrix."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wellposed.checks import Count
from wellposed.errors import DtypeError, ShapeError, check_finite
from wellposed.operators.decomposable import Decomposable


class MatrixOperator(Decomposable):
    """``y = M x`` on flattened images, with closed forms by the singular value decomposition.

    Singular values up to 1e-3 times the largest are treated as zero in ``A_dagger``.

    Args:
        matrix: (m, n), real, or complex for complex images and measurements.
        image_size: shape of one image, with n values.
        noise_sigma: noise level in ``y``.

    Raises:
        ShapeError: the matrix does not fit the image.
        DtypeError: not a floating-point or complex tensor.
        NonFiniteError: it contains NaN or infinite values.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.MatrixOperator(torch.rand(10, 64), (1, 8, 8), noise_sigma=0.1)
        >>> operator.measure(torch.rand(1, 1, 8, 8), seed=0).shape
        torch.Size([1, 10])
    """

    cutoff = 1e-3
    matrix: Tensor
    left: Tensor
    right: Tensor

    def __init__(
        self, matrix: Tensor, image_size: Sequence[Count], noise_sigma: float | Tensor = 0.0
    ) -> None:
        is_complex = _require_matrix(matrix, math.prod(image_size))
        super().__init__(
            image_size,
            matrix.shape[:1],
            noise_sigma,
            complex_image=is_complex,
            complex_measurement=is_complex,
        )
        left, singular_values, right = torch.linalg.svd(matrix, full_matrices=False)
        self.register_buffer("matrix", matrix)
        self.register_buffer("singular_values", singular_values)
        self.register_buffer("left", left)
        self.register_buffer("right", right.mH.contiguous())
        self.to(matrix.device)

    def forward_map(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T.to(x.dtype)

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self._image(y @ self.matrix.conj().to(y.dtype))

    def V(self, coordinates: Tensor) -> Tensor:
        return self._image(coordinates @ self.right.T.to(coordinates.dtype))

    def V_adjoint(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.right.conj().to(x.dtype)

    def U(self, coordinates: Tensor) -> Tensor:
        return coordinates @ self.left.T.to(coordinates.dtype)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return y @ self.left.conj().to(y.dtype)

    def _image(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *self.img_size)


def _require_matrix(matrix: Tensor, columns: int) -> bool:
    """Check a matrix; return whether it is complex."""
    numbers = isinstance(matrix, Tensor) and (matrix.is_floating_point() or matrix.is_complex())
    if not numbers:
        got = getattr(matrix, "dtype", type(matrix).__name__)
        raise DtypeError(f"matrix: got {got}, accepted: a floating-point or complex tensor")
    if matrix.ndim != 2 or matrix.shape[1] != columns or not matrix.numel():
        raise ShapeError(f"matrix: got {tuple(matrix.shape)}, accepted: (m, {columns}), m >= 1")
    check_finite("matrix", matrix)
    return matrix.is_complex()
