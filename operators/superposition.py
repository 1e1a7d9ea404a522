"""Sums of several unknown images, each with its own operator."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.operators.base import LinearOperator
from wellposed.operators.compatible import added, as_factor
from wellposed.operators.decomposable import Decomposable
from wellposed.parallel.part import part_of


class Superposition(LinearOperator):
    """``y = sum_k w_k A_k x_k + n``: several images measured at once, such as tissue and haze.

    The unknown is one tensor, with the blocks ``x_k`` stacked on the channel axis, so that solvers
    need no changes; `split` separates the blocks. Its prior is a `priors.Product`.

    If all operators are ``Decomposable`` with the same ``U`` (they act pixel by pixel, or are one
    operator), the sum is decomposable too and its proximal solutions have closed forms: the result
    is an `AlignedSuperposition`.

    Args:
        operators: one or more operators on images (C_k, *sides) of equal sides, with measurements
            of equal shape. Their noise levels are not used.
        weights: ``w_k``, finite, not all 0; all 1 by default.
        noise_sigma: noise level in ``y``.

    Raises:
        ArgumentError: no operators, or operators that cannot be combined; weights that are not
            finite, or another number of weights.
        ShapeError: operators with other images or measurements than the first.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> one = operators.Denoising((1, 16, 16))
        >>> operator = operators.Superposition([one, one], weights=[1.0, 0.5], noise_sigma=0.01)
        >>> x = torch.rand(1, 2, 16, 16)  # two images, one measurement
        >>> operator.A(x).shape, len(operator.split(x))
        (torch.Size([1, 1, 16, 16]), 2)
    """

    def __new__(cls, operators: Sequence[LinearOperator] = (), *_: object, **__: object) -> Self:
        aligned = cls is Superposition and _share_U(operators)
        made: Self = super().__new__(AlignedSuperposition if aligned else cls)
        return made

    def __init__(
        self,
        operators: Sequence[LinearOperator],
        weights: Sequence[float] | None = None,
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        first = _checked(operators)
        weights = [1.0] * len(operators) if weights is None else weights
        usable = (
            isinstance(weights, Sequence)
            and len(weights) == len(operators)
            and all(
                isinstance(weight, (int, float)) and math.isfinite(weight) for weight in weights
            )
        )
        accepted = f"{len(operators)} finite numbers, not all 0"
        require(usable and any(weights), "weights", weights, accepted)
        channels = [operator.img_size[0] for operator in operators]
        super().__init__(
            (sum(channels), *first.img_size[1:]),
            first.measurement_size,
            noise_sigma,
            complex_image=first.complex_image,
            complex_measurement=first.complex_measurement,
            items=max(operator.items for operator in operators),
        )
        self.operators: Any = nn.ModuleList(operators)
        self.channels = channels
        self.weights = tuple(float(weight) for weight in weights)
        self.to(first.device)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the blocks of images (..., sum C_k, *sides)."""
        return torch.split(x, self.channels, x.ndim - len(self.img_size))

    def reweighted(self, factors: Sequence[float]) -> "Superposition":
        """Return the operator with each weight multiplied by a factor."""
        weights = [w * f for w, f in zip(self.weights, factors, strict=True)]
        return Superposition(list(self.operators), weights, self.noise_model.sigma)

    def scaled(self, factor: complex) -> LinearOperator:
        """Return ``factor * A``; for real factors again a superposition."""
        c = as_factor("*", factor, self.complex_measurement)
        if isinstance(c, complex):
            return super().scaled(c)
        weights = [c * weight for weight in self.weights]
        return Superposition(list(self.operators), weights, abs(c) * self.noise_model.sigma)

    def forward_map(self, x: Tensor) -> Tensor:
        parts = zip(self.weights, self.operators, self.split(x), strict=True)
        return added(weight * operator.A(part) for weight, operator, part in parts)

    def adjoint_map(self, y: Tensor) -> Tensor:
        blocks = zip(self.weights, self.operators, strict=True)
        return torch.cat([weight * operator.A_adjoint(y) for weight, operator in blocks], 1)

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that no operator measures set to zero."""
        blocks, ones = zip(self.weights, self.operators, strict=True), torch.ones_like(y)
        masks = [operator.restrict(ones) != 0 for weight, operator in blocks if weight != 0]
        return torch.where(torch.stack(masks).any(0), y, 0)


class AlignedSuperposition(Superposition, Decomposable):
    """A superposition of operators with the same ``U``, in closed form.

    With ``A_k = U diag(s_k) V_k^H`` the singular values are ``s = sqrt(sum_k w_k^2 s_k^2)``, and
    block k of ``V c`` is ``V_k (w_k s_k / s) c``.

    Raises:
        ArgumentError: see `Superposition`; also operators with different ``U``.
    """

    _of_items = ("singular_values",)

    def __init__(
        self,
        operators: Sequence[LinearOperator],
        weights: Sequence[float] | None = None,
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        super().__init__(operators, weights, noise_sigma)
        accepted = "Decomposable operators with the same U"
        require(_share_U(operators), "operators", operators, accepted)
        values = [w * s for w, s in zip(self.weights, self._own_values(), strict=True)]
        s = sum(value.square() for value in values)
        self.register_buffer("singular_values", torch.as_tensor(s).sqrt())

    def V(self, coordinates: Tensor) -> Tensor:
        blocks = zip(self._shares(coordinates), self.operators, strict=True)
        return torch.cat([operator.V(share * coordinates) for share, operator in blocks], 1)

    def V_adjoint(self, x: Tensor) -> Tensor:
        blocks = zip(self._shares(x), self.operators, self.split(x), strict=True)
        return added(share * operator.V_adjoint(part) for share, operator, part in blocks)

    def U(self, coordinates: Tensor) -> Tensor:
        first: Decomposable = self.operators[0]
        return first.U(coordinates)

    def U_adjoint(self, y: Tensor) -> Tensor:
        first: Decomposable = self.operators[0]
        return first.U_adjoint(y)

    def trace(self, values: Tensor) -> Tensor:
        first: Decomposable = self.operators[0]
        return first.trace(values)

    def _own_values(self) -> list[Tensor]:
        # In double precision, as the weights are.
        return [operator.singular_values.double() for operator in self.operators]

    def _shares(self, like: Tensor) -> list[Tensor]:
        """Return ``w_k s_k / s``, or equal shares in unmeasured coordinates."""
        s, equal = self.singular_values, len(self.weights) ** -0.5
        blocks = zip(self.weights, self._own_values(), strict=True)
        shares = [
            torch.where(s > 0, w * own / torch.where(s > 0, s, 1), equal) for w, own in blocks
        ]
        return [share.to(like.real.dtype) for share in shares]


def _share_U(operators: object) -> bool:
    """Return whether operators are decomposable with the same ``U``."""
    blocks = list(operators) if isinstance(operators, Sequence) else []
    if not blocks or not all(isinstance(block, Decomposable) for block in blocks):
        return False
    pixelwise = all(type(block).U is Decomposable.U for block in blocks)
    return pixelwise or all(block is blocks[0] for block in blocks)


def _checked(operators: Sequence[LinearOperator]) -> LinearOperator:
    """Return the first operator; raise unless all can be combined."""
    several = isinstance(operators, Sequence) and len(operators) > 0
    ours = several and all(isinstance(operator, LinearOperator) for operator in operators)
    whole = ours and all(part_of(operator).processes == 1 for operator in operators)
    require(whole, "operators", operators, "wellposed linear operators that share no volume")
    first, kinds = operators[0], set()
    for operator in operators:
        shapes = [(o.img_size[1:], o.measurement_size) for o in (operator, first)]
        if shapes[0] != shapes[1]:
            raise ShapeError(
                f"operators: got image sides and measurement {shapes[0]}, accepted: {shapes[1]} "
                f"as for the first operator"
            )
        kinds.add((operator.complex_image, operator.complex_measurement, operator.device))
    items = {operator.items for operator in operators} - {1}
    if len(kinds) > 1 or len(items) > 1:
        raise ArgumentError(
            "operators: got several kinds (real, complex), devices or batch sizes, accepted: "
            "operators of one kind, device and batch size"
        )
    return first
