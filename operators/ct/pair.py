"""A linear map and its transpose, each the gradient of the other."""

from typing import Protocol

import torch
from torch import Tensor

from wellposed.operators.ct.fbp import single_or_double


class Pair(Protocol):
    """A linear map and its transpose."""

    def project(self, values: Tensor, /) -> Tensor:
        """Return the map applied to images or volumes."""

    def backproject(self, values: Tensor, /) -> Tensor:
        """Return its transpose applied to data."""


class _Kept(Protocol):
    """What a projection keeps for its gradient."""

    projector: Pair
    transpose: bool


class Projection(torch.autograd.Function):
    """The application of a `Pair`; the gradient of the map is its transpose and vice versa."""

    @staticmethod
    def forward(values: Tensor, projector: Pair, transpose: bool) -> Tensor:
        return projector.backproject(values) if transpose else projector.project(values)

    @staticmethod
    def setup_context(ctx: _Kept, inputs: tuple[Tensor, Pair, bool], output: Tensor) -> None:
        _, ctx.projector, ctx.transpose = inputs

    @staticmethod
    def backward(ctx: _Kept, grad: Tensor) -> tuple[Tensor, None, None]:
        return Projection.apply(grad, ctx.projector, not ctx.transpose), None, None

    @staticmethod
    def jvp(ctx: _Kept, tangent: Tensor, *_: None) -> Tensor:
        out: Tensor = Projection.apply(tangent, ctx.projector, ctx.transpose)
        return out


def apply_pair(pair: Pair, values: Tensor, transpose: bool = False) -> Tensor:
    """Return a pair's map, or its transpose, of values (B, 1, ...) in any precision."""
    out: Tensor = Projection.apply(single_or_double(values)[:, 0], pair, transpose)
    return out[:, None].to(values.dtype)
