"""Linear operators and their algebra: products, sums, multiples and adjoints."""

from collections.abc import Callable
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, ShapeError
from wellposed.operators.compatible import (
    as_factor,
    require_items,
    require_kind,
    require_same_image,
    summed_level,
)
from wellposed.operators.linear_map import LinearMap, Spectral


class LinearOperator(LinearMap):
    """A linear forward operator ``y = A x + n`` with Gaussian noise of known standard deviation.

    Operators combine as matrices do::

        A @ B         x -> A (B x), with the noise of A
        A + B, A - B  with the independent noise of both
        c * A, A / c  with the noise times |c| or divided by |c|
        A.H           the adjoint, without noise

    Subclasses implement ``forward_map`` and ``adjoint_map``; the public ``A`` and ``A_adjoint``
    first check shape, dtype and device. Results have the dtype of the input: stored masks, maps
    and kernels are cast to it.

    Args:
        image_size: shape of one image, (C, H, W) or (C, D, H, W).
        measurement_size: shape of one measurement, without the batch axis.
        noise_sigma: standard deviation of the noise in ``y``, in the units of ``y``; for complex
            measurements, of the real and of the imaginary part. A number or one per item.
        complex_image, complex_measurement: whether ``x`` and ``y`` are complex tensors.
        items: batch size of an operator with a mask or maps for each item; 1 for any batch size.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> blur = operators.Blur(operators.uniform_kernel(3), (3, 16, 16), noise_sigma=0.05)
        >>> smaller = operators.SuperResolution((3, 16, 16), factor=2)
        >>> operator = smaller @ blur  # first the blur
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> y.shape, operator.H.A(y).shape
        (torch.Size([1, 3, 8, 8]), torch.Size([1, 3, 16, 16]))
    """

    _pattern: ClassVar[str] = ""

    def _formula(self) -> str:
        """Return the formula of the operators that this one combines."""
        if not self._pattern:
            return super()._formula()
        parts = {name: _named(part) for name, part in self._modules.items()}
        return self._pattern.format(**vars(self), **parts)

    @property
    def H(self) -> "LinearOperator":
        """The adjoint, from measurements to images."""
        return Adjoint(self)

    def scaled(self, factor: complex) -> "LinearOperator":
        """Return ``factor * A``; see `LinearOperator` for ``@ + - /``."""
        return Scaled(self, factor)

    def stack(self, other: object) -> NoReturn:
        """Raise `ArgumentError`; use `Joint` for several measurements of one image."""
        raise ArgumentError("stack: not supported, accepted: operators.Joint([A, B])")

    def __matmul__(self, other: "LinearOperator") -> "LinearOperator":
        return Composed(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __add__(self, other: "LinearOperator") -> "LinearOperator":
        return Sum(self, other) if isinstance(other, LinearOperator) else NotImplemented

    def __sub__(self, other: "LinearOperator") -> "LinearOperator":
        return Sum(self, -other) if isinstance(other, LinearOperator) else NotImplemented

    def __mul__(self, factor: complex) -> "LinearOperator":
        return self.scaled(factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: complex) -> "LinearOperator":
        return self.scaled(1 / as_factor("/", divisor, self.complex_measurement))

    def __neg__(self) -> "LinearOperator":
        return self.scaled(-1)


def _named(part: object) -> str:
    """Return the name of a part of a formula, or its own formula."""
    combined = part._formula() if isinstance(part, LinearOperator) and part._pattern else ""
    text = combined or type(part).__name__
    return f"({text})" if " " in text else text


class Composed(LinearOperator):
    """``A B``: ``left`` acts on the result of ``right``; the noise is that of ``left``.

    Raises:
        ShapeError, DtypeError: the measurements of ``right`` are not images of ``left``.
        ArgumentError, DeviceError: they differ in the number of items or in the device.
    """

    _pattern = "{left} @ {right}"

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if right.measurement_size != left.img_size:
            raise ShapeError(
                f"@: the right operator has measurements {right.measurement_size}, accepted: "
                f"{left.img_size}, the image size of the left operator"
            )
        require_kind("@", right.complex_measurement, left.complex_image)
        super().__init__(
            right.img_size,
            left.measurement_size,
            left.noise_model.sigma,
            complex_image=right.complex_image,
            complex_measurement=left.complex_measurement,
            items=require_items("@", left, right),
        )
        self.left, self.right = left, right
        self.to(left.device)

    def forward_map(self, x: Tensor) -> Tensor:
        return self.left.A(self.right.A(x))

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self.right.A_adjoint(self.left.A_adjoint(y))

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``B^H A^H A B x``, with the left operator's ``A_adjoint_A``."""
        return self.right.A_adjoint(self.left.A_adjoint_A(self.right.A(x)))

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that are never measured set to zero."""
        return self.left.restrict(y)


class Sum(LinearOperator):
    """``A + B`` of one image; independent noise of level ``sqrt(sigma_A^2 + sigma_B^2)``.

    Raises:
        ShapeError, DtypeError: the operators differ in their images or measurements.
        ArgumentError, DeviceError: they differ in the number of items or in the device.
    """

    _pattern = "{first} + {second}"

    def __init__(self, first: LinearOperator, second: LinearOperator) -> None:
        require_same_image("+", first, second)
        sizes = first.measurement_size, second.measurement_size
        if sizes[0] != sizes[1]:
            raise ShapeError(f"+: got measurements {sizes[0]} and {sizes[1]}, accepted: one size")
        items = require_items("+", first, second)
        super().__init__(
            first.img_size,
            first.measurement_size,
            summed_level("+", first, second),
            complex_image=first.complex_image,
            complex_measurement=first.complex_measurement,
            items=items,
        )
        self.first, self.second = first, second
        self.to(first.device)

    def forward_map(self, x: Tensor) -> Tensor:
        return self.first.A(x) + self.second.A(x)

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self.first.A_adjoint(y) + self.second.A_adjoint(y)

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that neither operator measures set to zero."""
        ones = torch.ones_like(y)
        measured = (self.first.restrict(ones) != 0) | (self.second.restrict(ones) != 0)
        return torch.where(measured, y, 0)


class Scaled(LinearOperator):
    """``c A``: the measurement, with its noise, times a number.

    Raises:
        ArgumentError: ``factor`` is not a finite number, or is 0.
        DtypeError: a complex factor for real measurements.
    """

    _pattern = "{factor:.4g} * {operator}"

    def __init__(self, operator: LinearOperator, factor: complex) -> None:
        c = as_factor("*", factor, operator.complex_measurement)
        super().__init__(
            operator.img_size,
            operator.measurement_size,
            abs(c) * operator.noise_model.sigma,
            complex_image=operator.complex_image,
            complex_measurement=operator.complex_measurement,
            items=require_items("*", operator),
        )
        self.operator, self.factor = operator, c
        self.to(operator.device)

    def forward_map(self, x: Tensor) -> Tensor:
        return self.factor * self.operator.A(x)

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self.operator.A_adjoint(self.factor.conjugate() * y)

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``|c|^2 A^H A x``, with the operator's ``A_adjoint_A``."""
        normal: Tensor = self.operator.A_adjoint_A(x)
        return abs(self.factor) ** 2 * normal

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return the operator's own for ``weight / |c|^2``, which differs by a factor."""
        return self.operator.preconditioner(weight / abs(self.factor) ** 2)

    def normal_function(self, f: Spectral, b: Tensor) -> Tensor | None:
        """Return ``f(|c|^2 A^H A) b``, if the operator has such functions."""
        square = abs(self.factor) ** 2
        return self.operator.normal_function(lambda values: f(square * values), b)

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the operator's pseudo-inverse of ``y / c``."""
        self._check("y", y, self.measurement_size, self.complex_measurement)
        return self.operator.A_dagger(y / self.factor)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor, **kwargs: object) -> Tensor:
        """Return the operator's proximal solution for ``y / c`` and ``|c|^2 gamma``."""
        self._check("y", y, self.measurement_size, self.complex_measurement)
        return self.operator.prox_l2(z, y / self.factor, abs(self.factor) ** 2 * gamma)

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that are never measured set to zero."""
        return self.operator.restrict(y)


class Adjoint(LinearOperator):
    """``A^H``, from measurements to images, without noise."""

    _pattern = "{operator}.H"

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(
            operator.measurement_size,
            operator.img_size,
            complex_image=operator.complex_measurement,
            complex_measurement=operator.complex_image,
            items=require_items("H", operator),
        )
        self.operator = operator
        self.to(operator.device)

    @property
    def H(self) -> LinearOperator:
        """The operator itself."""
        return self.operator

    def forward_map(self, x: Tensor) -> Tensor:
        return self.operator.A_adjoint(x)

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self.operator.A(y)
