"""Several measurements of one image as one measurement."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import ShapeError, require
from wellposed.operators.base import LinearOperator
from wellposed.operators.compatible import added, require_items, require_same_image


class Joint(LinearOperator):
    """``y = (A_1 x, A_2 x, ...) + n``: several measurements, ``torch.cat([y_1, y_2, ...], 1)``.

    An example are two scans of one object. All measurements have the same noise level: if the
    levels differ, divide each operator and its data by its level first, ``A / sigma``.

    Args:
        operators: one or more operators on images of one size, whose measurements differ at most
            in their first side.

    Raises:
        ArgumentError: no operators, or operators with parameters for different numbers of items
            or with different noise levels.
        ShapeError, DtypeError: the operators do not fit together.
        DeviceError: the operators are on different devices.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> masks = [operators.random_mask(16, 16, 0.3, seed=n) for n in range(2)]
        >>> scans = [operators.Inpainting(mask, noise_sigma=0.05) for mask in masks]
        >>> operator = operators.Joint(scans)
        >>> operator.A(torch.rand(1, 3, 16, 16)).shape  # both measurements
        torch.Size([1, 6, 16, 16])
    """

    def __init__(self, operators: Sequence[LinearOperator]) -> None:
        several = isinstance(operators, Sequence) and len(operators) > 0
        ours = several and all(isinstance(operator, LinearOperator) for operator in operators)
        require(ours, "operators", operators, "one or more wellposed linear operators")
        first = operators[0]
        for operator in operators:
            require_same_image("operators", first, operator)
            _require_fit(first, operator)
        channels = [operator.measurement_size[0] for operator in operators]
        super().__init__(
            first.img_size,
            (sum(channels), *first.measurement_size[1:]),
            first.noise_model.sigma,
            complex_image=first.complex_image,
            complex_measurement=first.complex_measurement,
            items=require_items("operators", *operators),
        )
        self.operators: Any = nn.ModuleList(operators)
        self.channels = channels
        self.to(first.device)

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        """Return the single measurements in (B, *measurement_size)."""
        return torch.split(y, self.channels, 1)

    def forward_map(self, x: Tensor) -> Tensor:
        return torch.cat([operator.A(x) for operator in self.operators], 1)

    def adjoint_map(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, self.split(y), strict=True)
        return added(operator.A_adjoint(part) for operator, part in parts)

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return the sum of the operators' ``A_adjoint_A``."""
        return added(operator.A_adjoint_A(x) for operator in self.operators)

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that are never measured set to zero."""
        parts = zip(self.operators, self.split(y), strict=True)
        return torch.cat([operator.restrict(part) for operator, part in parts], 1)


def _require_fit(first: LinearOperator, operator: LinearOperator) -> None:
    sizes = first.measurement_size, operator.measurement_size
    if sizes[0][1:] != sizes[1][1:]:
        raise ShapeError(
            f"operators: got measurements {sizes[0]} and {sizes[1]}, accepted: measurements that "
            "differ at most in the first side"
        )
    levels = [part.noise_model.sigma.tolist() for part in (first, operator)]
    accepted = "one noise level; divide each operator and its data by its level, A / sigma"
    require(levels[0] == levels[1], "operators", f"noise levels {levels}", accepted)
