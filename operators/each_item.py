"""Several operators as one, for a batch of which each item has its own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import ShapeError, require
from wellposed.operators.base import LinearOperator
from wellposed.operators.compatible import require_items, require_same_image


class EachItem(LinearOperator):
    """``y_i = A_i x_i + n_i``: measures each item of a batch with an operator of its own.

    Solvers then take scans of equal shape as one batch, whatever their masks, maps, geometries
    and noise levels are.

    Args:
        operators: two or more operators with the same shapes, one for each item.

    Raises:
        ArgumentError: fewer operators, or one with parameters or noise levels for several items.
        ShapeError, DtypeError: they differ in their images or measurements.
        DeviceError: the operators are on different devices.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> scans = [operators.ParallelBeamCT(16, torch.arange(0.0, 180, 30) + k) for k in (0, 10)]
        >>> operators.EachItem(scans).A(torch.rand(2, 1, 16, 16)).shape
        torch.Size([2, 1, 6, 24])
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        several = isinstance(operators, Sequence) and len(operators) > 1
        ours = several and all(isinstance(operator, LinearOperator) for operator in operators)
        require(ours, "operators", operators, "two or more wellposed linear operators")
        first, levels = operators[0], [operator.noise_model.sigma for operator in operators]
        for operator, level in zip(operators, levels, strict=True):
            require_same_image("operators", first, operator)
            _require_fit(first, operator)
            each = max(operator.items, level.numel())
            require(each == 1, "operators", f"parameters for {each} items", "those of one item")
        require_items("operators", *operators)
        super().__init__(
            first.img_size,
            first.measurement_size,
            torch.cat([level.reshape(1) for level in levels]),
            complex_image=first.complex_image,
            complex_measurement=first.complex_measurement,
            items=len(operators),
        )
        self.operators: Any = nn.ModuleList(operators)
        self.to(first.device)

    def item(self, index: int) -> LinearOperator:
        """Return the operator of one item."""
        operator: LinearOperator = self.operators[index]
        return operator

    def forward_map(self, x: Tensor) -> Tensor:
        return self._each("A", x)

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self._each("A_adjoint", y)

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H A x``, with the operators' ``A_adjoint_A``."""
        self._check("x", x, self.img_size, self.complex_image)
        return self._each("A_adjoint_A", x)

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return each operator's pseudo-inverse."""
        self._check("y", y, self.measurement_size, self.complex_measurement)
        return self._each("A_dagger", y)

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that are never measured set to zero."""
        return self._each("restrict", y)

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return the operators' approximate inverses, if all have one."""
        one = weight.ndim == 0 or len(weight) == 1
        weights = [weight] * len(self.operators) if one else weight.split(1)
        if len(weights) != len(self.operators):
            return None
        pairs = zip(self.operators, weights, strict=True)
        inverses = [operator.preconditioner(own) for operator, own in pairs]
        if any(inverse is None for inverse in inverses):
            return None

        def apply(x: Tensor) -> Tensor:
            parts = zip(inverses, x.split(1), strict=True)
            return torch.cat([inverse(part) for inverse, part in parts])

        return apply

    def _each(self, name: str, value: Tensor) -> Tensor:
        parts = zip(self.operators, value.split(1), strict=True)
        return torch.cat([getattr(operator, name)(part) for operator, part in parts])


def _require_fit(first: LinearOperator, operator: LinearOperator) -> None:
    sizes = tuple(first.measurement_size), tuple(operator.measurement_size)
    if sizes[0] != sizes[1]:
        raise ShapeError(
            f"operators: got measurements {sizes[0]} and {sizes[1]}, accepted: one shape"
        )
