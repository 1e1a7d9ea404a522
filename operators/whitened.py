"""Measurements with unequal noise, scaled to equal noise."""

from torch import Tensor

from wellposed.errors import DtypeError, ShapeError, require
from wellposed.operators.base import LinearOperator


class Whitened(LinearOperator):
    """An operator and its data divided by the standard deviation of the noise: ``y / std``.

    Solvers weight all data equally. Data with unequal noise, e.g. from photon counts, must be
    divided by the standard deviation of their noise first, by `whiten`.

    Args:
        operator: the operator of the unweighted data.
        std: standard deviation of each datum, real, (B, *measurement_size) or without B; for
            complex data, of the real and of the imaginary part.

    Raises:
        ArgumentError: deviations that are not positive and finite.
        ShapeError: another shape than that of the data, or another number of items than the
            operator has parameters for.
        DtypeError: not a real tensor.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> scan = operators.ParallelBeamCT(16, angles=12)
        >>> counts = operators.simulate_counts(scan.A(torch.full((1, 1, 16, 16), 0.02)), 1e4)
        >>> operator = operators.Whitened(scan, operators.line_integral_noise(counts))
        >>> operator.whiten(operators.to_line_integrals(counts, 1e4)).shape
        torch.Size([1, 1, 12, 24])
    """

    weights: Tensor

    _of_items = ("weights",)

    def __init__(self, operator: LinearOperator, std: Tensor) -> None:
        if not isinstance(std, Tensor) or not std.is_floating_point():
            got = getattr(std, "dtype", type(std).__name__)
            raise DtypeError(f"std: got {got}, accepted: a real floating-point tensor")
        size = operator.measurement_size
        std = std[None] if std.ndim == len(size) else std
        items = "B" if operator.items == 1 else f"1 or {operator.items}"
        alike = std.ndim == len(size) + 1 and tuple(std.shape[1:]) == size and len(std) > 0
        if not alike or 1 != operator.items != len(std) != 1:
            raise ShapeError(
                f"std: got {tuple(std.shape)}, accepted: ({items}, {', '.join(map(str, size))})"
            )
        positive = bool(((std > 0) & std.isfinite()).all())
        require(positive, "std", "values <= 0 or not finite", "positive, finite values")
        super().__init__(
            operator.img_size,
            size,
            noise_sigma=1.0,
            complex_image=operator.complex_image,
            complex_measurement=operator.complex_measurement,
            items=max(operator.items, len(std)),
        )
        self.operator = operator
        self.register_buffer("weights", 1 / std)
        self.to(operator.device)

    def whiten(self, y: Tensor) -> Tensor:
        """Return data divided by the standard deviation of their noise."""
        return self.weights.to(y.real.dtype) * y

    def forward_map(self, x: Tensor) -> Tensor:
        return self.whiten(self.operator.A(x))

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self.operator.A_adjoint(self.whiten(y))

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that are never measured set to zero."""
        return self.operator.restrict(y)

    def fbp(self, y: Tensor) -> Tensor:
        """Return the operator's own filtered back-projection of the unweighted data."""
        self._check("y", y, self.measurement_size, self.complex_measurement)
        image: Tensor = self.operator.fbp(y / self.weights.to(y.real.dtype))
        return image

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the operator's pseudo-inverse of the unweighted data, as a start."""
        self._check("y", y, self.measurement_size, self.complex_measurement)
        return self.operator.A_dagger(y / self.weights.to(y.real.dtype))
