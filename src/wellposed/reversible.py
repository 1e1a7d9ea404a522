"""Chains of invertible couplings, whose gradients need the memory of a single one."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import require

Pair = tuple[Tensor, Tensor]
_LEAF = object()
"""Place of a tensor in a context; tensors are saved by autograd."""


class Coupling(nn.Module):
    """``(x1, x2) -> ((1 - v) f(x1) + v x2, x1)`` with a learned ``v``; invertible for any ``f``.

    The rounding error of the inverse grows like ``v^-L`` over L couplings, so ``v`` stays above a
    bound, by a sigmoid. With half precision around it, keep ``x1`` and ``x2`` in float32.

    Reference: "Invertible Diffusion Models for Compressed Sensing", Chen et al., 2024, section
    3.2, arXiv:2403.17006, which has no bounds.

    Args:
        body: ``f``, called as ``f(x1, *context)``; its result has the shape of ``x1``.
        mix: initial ``v``.
        bounds: least and largest ``v``.
    """

    def __init__(
        self, body: nn.Module, mix: float = 0.75, bounds: tuple[float, float] = (0.6, 0.95)
    ) -> None:
        super().__init__()
        least, most = bounds
        require(0 <= least < most <= 1, "bounds", bounds, "(least, most) in [0, 1]")
        require(least < mix < most, "mix", mix, f"a number between {least:g} and {most:g}")
        self.body, self.bounds = body, bounds
        self.place = nn.Parameter(torch.logit(torch.tensor((mix - least) / (most - least))))

    @property
    def mix(self) -> Tensor:
        """The weight ``v``."""
        least, most = self.bounds
        return least + (most - least) * self.place.sigmoid()

    def forward(self, x1: Tensor, x2: Tensor, *context: Any) -> Pair:
        """Return the coupled pair; autograd keeps what ``f`` computes."""
        v = self.mix
        return (1 - v) * self.body(x1, *context) + v * x2, x1

    def inverse(self, y1: Tensor, y2: Tensor, *context: Any) -> Pair:
        """Return the pair that `forward` has mapped to this one."""
        v = self.mix
        return y2, (y1 - (1 - v) * self.body(y2, *context)) / v


def reversible(x1: Tensor, x2: Tensor, couplings: Sequence[Coupling], *context: Any) -> Pair:
    """Return the pair after a chain of couplings, all called with the same context.

    The backward pass finds the input of each coupling again by its inverse, so that nothing but
    the last pair is kept, whatever the length of the chain; each ``f`` is evaluated once more.
    Gradients reach the pair, the tensors of the context and all parameters, as in autograd. An
    ``f`` must be a function of its arguments and parameters alone.

    Args:
        x1: first part.
        x2: second part, of the same shape.
        couplings: the chain; modules may be shared.
        context: further arguments of each ``f``: tensors, which stay in memory; modules, whose
            parameters get gradients too; or any objects.
    """
    modules = [*couplings, *(value for value in context if isinstance(value, nn.Module))]
    weights = list(dict.fromkeys(p for module in modules for p in module.parameters()))
    found: Pair = _Chain.apply(
        couplings, context, len(weights), *_leaves(context), *weights, x1, x2
    )
    return found


def _leaves(context: Iterable[Any]) -> list[Tensor]:
    return [value for value in context if isinstance(value, Tensor)]


def _filled(context: Iterable[Any], leaves: Iterable[Tensor]) -> list[Any]:
    """Return a context with tensors in the places marked by `_LEAF`."""
    new = iter(leaves)
    return [next(new) if value is _LEAF else value for value in context]


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, couplings: Sequence[Coupling], context: tuple[Any, ...], n: int, *tensors: Tensor
    ) -> Pair:
        *given, x1, x2 = tensors
        for coupling in couplings:
            x1, x2 = coupling(x1, x2, *context)
        leaves = given[: len(given) - n]
        # A pair that passes through unchanged must not be an input of the function.
        x1, x2 = (x.clone() if any(x is v for v in tensors) else x for x in (x1, x2))
        ctx.couplings = couplings
        ctx.context = [_LEAF if isinstance(value, Tensor) else value for value in context]
        ctx.weights = given[len(given) - n :]
        ctx.autocast = _autocast(x1)
        ctx.save_for_backward(x1, x2, *leaves)
        return x1, x2

    @staticmethod
    def backward(ctx: Any, g1: Tensor, g2: Tensor) -> tuple[Any, ...]:
        y1, y2, *leaves = ctx.saved_tensors
        sums = _Sums([*leaves, *ctx.weights], ctx.needs_input_grad[3:-2])
        for coupling in reversed(ctx.couplings):
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                x1 = y2.detach().requires_grad_()
                own = [v.detach().requires_grad_(v.is_floating_point()) for v in leaves]
                change, v = coupling.body(x1, *_filled(ctx.context, own)), coupling.mix
                x2 = ((y1 - (1 - v) * change) / v).detach()
                y = (1 - v) * change + v * x2
            through, *rest = torch.autograd.grad(
                y, [x1, *_asked(own), *_asked(ctx.weights)], g1.to(y.dtype), allow_unused=True
            )
            sums.add([*_asked(leaves, own), *_asked(ctx.weights)], rest)
            g1, g2 = (g2 if through is None else through + g2), v.detach() * g1
            y1, y2 = x1.detach(), x2
        return None, None, None, *sums.found, g1, g2


def _asked(tensors: Sequence[Tensor], like: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Return the tensors that require a gradient, or whose counterparts in ``like`` do."""
    return [t for t, v in zip(tensors, like or tensors, strict=True) if v.requires_grad]


class _Sums:
    """Sums of gradients, in the order of their tensors."""

    def __init__(self, tensors: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        self.place = {id(tensor): number for number, tensor in enumerate(tensors)}
        self.wanted = wanted
        self.found: list[Tensor | None] = [None] * len(tensors)

    def add(self, tensors: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
        """Add the gradients of some tensors."""
        for tensor, gradient in zip(tensors, gradients, strict=True):
            number = self.place[id(tensor)]
            if gradient is not None and self.wanted[number]:
                before = self.found[number]
                self.found[number] = gradient if before is None else before + gradient


def _autocast(x: Tensor) -> dict[str, Any]:
    """Return the present mixed precision, to be entered again in the backward pass."""
    kind = x.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return {"device_type": kind, "enabled": enabled, "dtype": dtype}
