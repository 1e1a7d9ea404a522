"""Fixed points of maps on batches, and iterations towards them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wellposed.linalg import as_real, like, norm, per_item


class FixedPoint(NamedTuple):
    """A fixed point, and its relative residual ``|f(x) - x| / |f(x)|`` of each item, (B,)."""

    x: Tensor
    residual: Tensor


def fixed_point(
    step: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    iterations: int,
    tolerance: float,
    memory: int = 1,
) -> FixedPoint:
    """Return ``x = step(x)`` of each item by iterations from a start.

    Each iterate is the mixture of the last ones whose residuals nearly cancel; Anderson,
    "Iterative Procedures for Nonlinear Integral Equations", 1965.

    Args:
        step: the map on tensors (B, ...), acting on each item alone.
        start: first iterate (B, ...), real or complex.
        iterations: most calls of ``step``.
        tolerance: relative residual at which an item stops.
        memory: iterates that are mixed; 1 is the plain iteration.
    """
    x, ahead = start, list[tuple[Tensor, Tensor]]()
    residual = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    for _ in range(iterations):
        found = step(x)
        gap = found - x
        active = residual > tolerance
        size = (norm(gap) / norm(found).clamp(min=1e-300)).double()
        residual = torch.where(active, size, residual)
        ahead = [*ahead, (found, gap)][-memory:]
        x = torch.where(per_item(active, x), _mixed(ahead), x)
        if not bool((residual > tolerance).any()):
            break
    return FixedPoint(x, residual)


def accelerated(advance: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Return the last of some proximal gradient steps, each from a point beyond the last one.

    Nesterov's acceleration, as in FISTA: Beck and Teboulle, "A fast iterative
    shrinkage-thresholding algorithm for linear inverse problems", 2009, doi 10.1137/080716542.

    Args:
        advance: the plain step.
        start: first iterate.
        steps: number of steps.
    """
    x, point, momentum = start, start, 1.0
    for _ in range(steps):
        found = advance(point)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        point = found + (momentum - 1) / following * (found - x)
        x, momentum = found, following
    return x


def _mixed(ahead: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the mixture of iterates with weights of sum 1 whose gaps nearly cancel, by item."""
    found, gap = ahead[-1]
    if len(ahead) == 1:
        return found
    last = as_real(gap).flatten(1)
    others = torch.stack([last - as_real(g).flatten(1) for _, g in ahead[:-1]], 2)
    gram = others.mT @ others
    scale = gram.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-300)[:, None, None]
    ridge = 1e-12 * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram / scale + ridge, others.mT @ last[..., None] / scale)
    steps = torch.stack([as_real(found - f).flatten(1) for f, _ in ahead[:-1]], 2)
    real = as_real(found)
    return like((real.flatten(1) - (steps @ weights)[..., 0]).reshape(real.shape), found)
