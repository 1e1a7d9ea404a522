"""Batched linear algebra: per-item inner products and conjugate gradients.

Everything is per item of the leading axis: an item's answer does not depend on its batch-mates.
Inner products are Hermitian, so real and complex tensors go through the same code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import ShapeError, require


def as_real(x: Tensor) -> Tensor:
    """Return complex tensors as real ones with a last axis of 2; real ones unchanged."""
    return torch.view_as_real(x) if x.is_complex() else x


def like(x: Tensor, reference: Tensor) -> Tensor:
    """Undo `as_real` for a tensor of the kind of ``reference``."""
    return torch.view_as_complex(x) if reference.is_complex() else x


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return Re <a, b> of each item, shape (B,): real, as Hermitian systems need."""
    return (a.conj() * b).real.flatten(1).sum(1) if a.is_complex() else (a * b).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm of each item, shape (B,)."""
    return torch.linalg.vector_norm(a.flatten(1), dim=1)


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) values so that they broadcast over the items of ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class CGResult:
    """What conjugate gradients found.

    Attributes:
        x: the solution, shape of ``b``.
        residuals: ``||b - A x_k|| / ||b||`` for k = 0..iterations, shape (K + 1, B); as carried
            by the recursion.
        iterations: iterations each item took before it was frozen, shape (B,).
        converged: items that met the tolerance or whose residual vanished, shape (B,).
    """

    x: Tensor
    residuals: Tensor
    iterations: Tensor
    converged: Tensor


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    x0: Tensor | None = None,
    *,
    iterations: int,
    tolerance: float | None = None,
) -> CGResult:
    """Solve ``apply(x) = b`` for a Hermitian positive (semi-)definite ``apply``, item by item.

    Hestenes and Stiefel (1952). Without ``tolerance`` exactly ``iterations`` steps are taken, as
    DDS prescribes, with no device synchronisation. With it, an item is frozen once
    ``||r|| <= tolerance ||b||`` and the call returns when all are. An item is also frozen when
    its residual is zero or a curvature is not positive (breakdown), so it keeps its best iterate.
    Data are scaled by a power of two before and after: the answer is the same for data of any
    scale, 1e-12 as 1e6.

    Args:
        apply: the operator on tensors (B, ...), acting on each item alone.
        b: right-hand sides, shape (B, ...), real or complex.
        x0: warm start, shape of ``b``; zero by default.
        iterations: exact number of steps, or the largest one when ``tolerance`` is given.
        tolerance: relative residual at which an item is done.

    Raises:
        ArgumentError: ``iterations`` below 0 or ``tolerance`` not positive.
        ShapeError: ``x0`` or the operator's output differs from ``b`` in shape.
    """
    require(isinstance(iterations, int) and iterations >= 0, "iterations", iterations, ">= 0")
    require(
        tolerance is None or tolerance > 0, "tolerance", tolerance, "None or a positive number"
    )
    if x0 is not None and x0.shape != b.shape:
        raise ShapeError(f"x0: got shape {tuple(x0.shape)}, accepted: that of b {tuple(b.shape)}")
    scale = per_item(_power_of_two(b, x0), b)
    b = b / scale
    x = torch.zeros_like(b) if x0 is None else x0 / scale
    r = b.clone() if x0 is None else b - _checked(apply, x)
    p, rr, bb = r, inner(r, r), inner(b, b)
    bb = torch.where(bb > 0, bb, torch.ones_like(bb))
    active, history = rr > 0, [rr]
    taken = torch.zeros_like(rr, dtype=torch.long)
    for _ in range(iterations):
        if tolerance is not None:
            active = active & (rr > tolerance**2 * bb)
            if not bool(active.any()):
                break
        q = _checked(apply, p)
        curvature = inner(p, q)
        active = active & (curvature > 0)
        alpha = torch.where(active, rr / curvature, 0.0)
        x = x + per_item(alpha, x) * p
        r = r - per_item(alpha, r) * q
        new = torch.where(active, inner(r, r), rr)
        beta = torch.where(active, new / rr, 0.0)
        p = torch.where(per_item(active, p), r + per_item(beta, p) * p, p)
        taken, rr = taken + active, new
        active = active & (rr > 0)
        history.append(rr)
    done = rr == 0 if tolerance is None else rr <= tolerance**2 * bb
    return CGResult(x * scale, (torch.stack(history) / bb).sqrt(), taken, done)


def _checked(apply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    out = apply(x)
    if out.shape != x.shape:
        raise ShapeError(
            f"apply: maps shape {tuple(x.shape)} to {tuple(out.shape)}; a square system is needed"
        )
    return out


def _power_of_two(b: Tensor, x0: Tensor | None) -> Tensor:
    """Return per item the power of two nearest to the largest magnitude; 1 for zero items."""
    largest = b.abs().flatten(1).amax(1)
    if x0 is not None:
        largest = torch.where(largest > 0, largest, x0.abs().flatten(1).amax(1))
    exponent = torch.log2(torch.where(largest > 0, largest, 1.0)).round()
    return torch.exp2(exponent)
