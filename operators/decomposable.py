"""Operators with a fast singular value decomposition, which gives closed forms."""

import torch
from torch import Tensor

from wellposed.checks import Count
from wellposed.errors import DtypeError, ShapeError, check_finite
from wellposed.operators.base import Adjoint, LinearOperator, Scaled
from wellposed.operators.linear_map import Spectral
from wellposed.operators.proximal import as_weight, require_items


class Decomposable(LinearOperator):
    """``A = U diag(s) V^H`` with isometric ``U`` and ``V`` that are applied fast.

    The decomposition gives the operator, its exact pseudo-inverse and its proximal solution.
    Solvers such as DDRM (Kawar et al., "Denoising Diffusion Restoration Models", 2022,
    arXiv:2201.11793) work in its coordinates. The decomposition is thin: components outside the
    range of ``V`` are not measured; singular values may also be zero. On coordinates
    ``V_adjoint V = 1 = U_adjoint U``. Coordinates are real, or complex with the symmetry of a
    spectrum for Fourier operators; noise in coordinates is ``V_adjoint`` of a noise image. The
    names are those of deepinv's ``DecomposablePhysics``.

    Subclasses register the buffer ``singular_values`` and define the maps that are not the
    identity.

    Args:
        image_size, measurement_size, noise_sigma: see `LinearOperator`.
        complex_image, complex_measurement, items: see `LinearOperator`.

    Attributes:
        singular_values: s >= 0, broadcast over coordinates (B, ...).
        cutoff: singular values up to ``cutoff`` times the largest are treated as zero in
            ``A_dagger``.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.SuperResolution((1, 16, 16), factor=2)  # a Decomposable operator
        >>> x = torch.rand(1, 1, 16, 16)
        >>> y = operator.U(operator.singular_values.float() * operator.V_adjoint(x))
        >>> torch.allclose(y, operator.A(x), atol=1e-5)
        True
    """

    singular_values: Tensor
    cutoff: float = 1e-6

    def V(self, coordinates: Tensor) -> Tensor:
        """Return the image with these coordinates, (B, *image_size)."""
        return coordinates

    def V_adjoint(self, x: Tensor) -> Tensor:
        """Return the coordinates of an image."""
        return x

    def U(self, coordinates: Tensor) -> Tensor:
        """Return the measurement with these coordinates, (B, *measurement_size)."""
        return coordinates

    def U_adjoint(self, y: Tensor) -> Tensor:
        """Return the coordinates of a measurement."""
        return y

    def trace(self, values: Tensor) -> Tensor:
        """Return the trace of ``V diag(values) V^H`` of each item, (B,).

        Args:
            values: real numbers for all coordinates, (B, ...).
        """
        return values.flatten(1).sum(1)

    def forward_map(self, x: Tensor) -> Tensor:
        return self.U(self._s(x) * self.V_adjoint(x))

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self.V(self._s(y) * self.U_adjoint(y))

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H A x``, without passing through the measurement."""
        self._check("x", x, self.img_size, self.complex_image)
        return self.V(self._s(x).square() * self.V_adjoint(x))

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the exact pseudo-inverse; components below the cutoff are set to zero."""
        self._check("y", y, self.measurement_size, self.complex_measurement)
        s = self._s(y)
        kept = s > self.cutoff * s.max()
        return self.V(torch.where(kept, 1 / torch.where(kept, s, 1), 0) * self.U_adjoint(y))

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor, **kwargs: object) -> Tensor:
        """Return ``argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - z||^2``, exactly."""
        self._check("z", z, self.img_size, self.complex_image)
        self._check("y", y, self.measurement_size, self.complex_measurement)
        require_items(z, y)
        s = self._s(z)
        gap = self.U_adjoint(y) - s * self.V_adjoint(z)
        weight = as_weight(gamma, gap)
        return z + self.V(weight * s / (1 + weight * s.square()) * gap)

    def normal_function(self, f: Spectral, b: Tensor) -> Tensor | None:
        """Return ``f(A^H A) b``, in which unmeasured components have the factor ``f(0)``."""
        coordinates = self.V_adjoint(b)
        s = self._s(b)
        values = s.square().view(*[1] * (coordinates.ndim - s.ndim), *s.shape)
        unmeasured = f(values.new_zeros([1] * coordinates.ndim))
        measured = self.V((f(values) - unmeasured) * coordinates)
        return unmeasured.view(-1, *[1] * (b.ndim - 1)) * b + measured

    @property
    def H(self) -> LinearOperator:
        """The adjoint ``V diag(s) U^H``, from measurements to images."""
        return DecomposableAdjoint(self)

    def scaled(self, factor: complex) -> LinearOperator:
        """Return ``factor * A``; the factor is finite and not 0."""
        return DecomposableScaled(self, factor)

    def _s(self, like: Tensor) -> Tensor:
        return self.singular_values.to(like.real.dtype)


class DecomposableScaled(Scaled, Decomposable):
    """``c A = (c / |c| U) diag(|c| s) V^H``."""

    operator: Decomposable

    _of_items = ("singular_values",)

    def __init__(self, operator: Decomposable, factor: complex) -> None:
        super().__init__(operator, factor)
        self.register_buffer("singular_values", abs(self.factor) * operator.singular_values)
        self.cutoff, self.phase = operator.cutoff, self.factor / abs(self.factor)

    def V(self, coordinates: Tensor) -> Tensor:
        return self.operator.V(coordinates)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self.operator.V_adjoint(x)

    def U(self, coordinates: Tensor) -> Tensor:
        return self.phase * self.operator.U(coordinates)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.operator.U_adjoint(self.phase.conjugate() * y)

    def trace(self, values: Tensor) -> Tensor:
        return self.operator.trace(values)


class DecomposableAdjoint(Adjoint, Decomposable):
    """``A^H = V diag(s) U^H``."""

    operator: Decomposable

    _of_items = ("singular_values",)

    def __init__(self, operator: Decomposable) -> None:
        super().__init__(operator)
        self.register_buffer("singular_values", operator.singular_values.clone())
        self.cutoff = operator.cutoff

    def V(self, coordinates: Tensor) -> Tensor:
        return self.operator.U(coordinates)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return self.operator.U_adjoint(x)

    def U(self, coordinates: Tensor) -> Tensor:
        return self.operator.V(coordinates)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return self.operator.V_adjoint(y)

    def trace(self, values: Tensor) -> Tensor:
        return self.operator.trace(values)


class Separable(Decomposable):
    """``Y = R X C^T`` in every channel: one small matrix acts along each axis.

    Its singular values are all products of a singular value of ``R`` and one of ``C``.

    Args:
        rows: ``R``, real, shape (h, H).
        columns: ``C``, real, shape (w, W).
        channels: channels of the image.
        noise_sigma: noise level in ``y``.

    Raises:
        DtypeError, ShapeError, NonFiniteError: ``rows`` or ``columns`` are not a real matrix, or
            contain NaN or infinite values.
        ArgumentError: ``channels`` is not an integer of at least 1.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> rows, columns = torch.rand(8, 16), torch.rand(6, 16)
        >>> operator = operators.Separable(rows, columns, channels=3)
        >>> operator.A(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 3, 8, 6])
    """

    def __init__(
        self, rows: Tensor, columns: Tensor, channels: Count, noise_sigma: float | Tensor = 0.0
    ) -> None:
        matrices = {"rows": rows, "columns": columns}
        for name, matrix in matrices.items():
            _check_matrix(name, matrix)
        inner, outer = ((channels, rows.shape[i], columns.shape[i]) for i in (1, 0))
        super().__init__(inner, outer, noise_sigma)
        values = []
        for name, matrix in matrices.items():
            U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
            self.register_buffer(name, matrix)
            self.register_buffer(f"{name}_U", U)
            self.register_buffer(f"{name}_V", Vh.mT.contiguous())
            values.append(s)
        s = torch.outer(*values)
        # Values below rounding are noise of the decomposition, and slow denormal numbers.
        s = torch.where(s > torch.finfo(s.dtype).eps * s.max(), s, 0)
        self.register_buffer("singular_values", s)
        self.to(rows.device)

    def forward_map(self, x: Tensor) -> Tensor:
        return sandwich(self.rows, x, self.columns)

    def adjoint_map(self, y: Tensor) -> Tensor:
        return sandwich(self.rows.mT, y, self.columns.mT)

    def V(self, coordinates: Tensor) -> Tensor:
        return sandwich(self.rows_V, coordinates, self.columns_V)

    def V_adjoint(self, x: Tensor) -> Tensor:
        return sandwich(self.rows_V.mT, x, self.columns_V.mT)

    def U(self, coordinates: Tensor) -> Tensor:
        return sandwich(self.rows_U, coordinates, self.columns_U)

    def U_adjoint(self, y: Tensor) -> Tensor:
        return sandwich(self.rows_U.mT, y, self.columns_U.mT)


def _check_matrix(name: str, matrix: Tensor) -> None:
    if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
        got = getattr(matrix, "dtype", type(matrix).__name__)
        raise DtypeError(f"{name}: got {got}, accepted: a real floating-point tensor")
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ShapeError(f"{name}: got shape {tuple(matrix.shape)}, accepted: a non-empty matrix")
    check_finite(name, matrix)


def sandwich(left: Tensor, x: Tensor, right: Tensor) -> Tensor:
    """Return ``left x right^T`` over the last two axes, in the dtype of ``x``."""
    return left.to(x.dtype) @ x @ right.to(x.dtype).mT
