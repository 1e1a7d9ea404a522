"""Batched linear algebra: per-item inner products and conjugate gradients.

Everything is per item of the leading axis: an item's answer does not depend on its batch-mates.
Inner products are Hermitian, so real and complex tensors go through the same code. Where processes
hold parts of each item, a `Space` takes them over all parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import ShapeError, require


def as_real(x: Tensor) -> Tensor:
    """Return complex tensors as real ones with a last axis of 2; real ones unchanged."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def like(x: Tensor, reference: Tensor) -> Tensor:
    """Undo `as_real` for a tensor of the kind of ``reference``."""
    return torch.view_as_complex(x) if reference.is_complex() else x


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return Re <a, b> of each item, shape (B,): real, as Hermitian systems need."""
    if a.is_complex() != b.is_complex():
        a, b = a.real, b.real
    return (as_real(a) * as_real(b)).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm of each item, shape (B,)."""
    length: Tensor = torch.linalg.vector_norm(as_real(a).flatten(1), dim=1)
    return length


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) values so that they broadcast over the items of ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))


def alone(values: Tensor) -> Tensor:
    """Return the sums over all processes of per-item numbers, where there is one process."""
    return values


@dataclass(frozen=True)
class Space:
    """The inner product of items of which this process may hold a part.

    Attributes:
        sum: returns the sums over all processes of per-item numbers of this one, (B,).
    """

    sum: Callable[[Tensor], Tensor] = alone

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return Re <a, b> of each item, shape (B,)."""
        return self.sum(inner(a, b))

    def norm(self, a: Tensor) -> Tensor:
        """Return the Euclidean norm of each item, shape (B,)."""
        own = norm(a)
        # In double precision, in which the square of no single number is lost.
        return self.sum(own.double().square()).sqrt().to(own.dtype)

    def share(self, a: Tensor) -> Tensor:
        """Return the norm of this part of each item over that of the whole, (B,); 0 of zero."""
        return norm(a) / _divisor(self.norm(a))

    def count(self, a: Tensor) -> int:
        """Return the real numbers of an item."""
        own = as_real(a)[0].numel()
        if self.sum is alone:
            return own
        return int(self.sum(torch.tensor([own], device=a.device)))


WHOLE = Space()
"""The space of items that this process holds alone."""


def largest_eigenvalue(
    apply: Callable[[Tensor], Tensor],
    start: Tensor,
    iterations: int = 20,
    space: Space = WHOLE,
) -> Tensor:
    """Return the largest eigenvalue of a Hermitian map of each item, by power iterations.

    Args:
        apply: the map on tensors (B, ...), acting on each item alone.
        start: not orthogonal to the leading eigenvector, (B, ...).
        iterations: their number; the estimate comes from below.
        space: gives the inner product, where processes hold parts of an item.

    Returns:
        Shape (B,); 0 where ``apply`` or ``start`` is zero.
    """
    v, value = start, space.norm(start)
    for _ in range(iterations):
        v = apply(v / per_item(_divisor(value), v))
        value = space.norm(v)
    return value


@dataclass(frozen=True)
class CGResult:
    """What conjugate gradients found.

    Attributes:
        x: the solution, shape of ``b``.
        residuals: ``||b - A x_k|| / ||b||`` for k = 0..iterations, shape (K + 1, B); as carried
            by the recursion. Relative to ``||b - A x_0||`` where ``b`` is zero.
        iterations: iterations each item took before it was frozen, shape (B,).
        converged: items that met the tolerance; without one, items whose residual came down to
            rounding. Shape (B,).
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
    space: Space = WHOLE,
) -> CGResult:
    """Solve ``apply(x) = b`` for a Hermitian positive (semi-)definite ``apply``, item by item.

    Hestenes and Stiefel (1952). Without ``tolerance`` exactly ``iterations`` steps are taken, as
    DDS prescribes, with no device synchronisation. With it, an item is frozen once
    ``||r|| <= tolerance ||b||`` and the call returns when all are. Either way an item is frozen,
    and keeps its iterate, once its residual is down to rounding,
    ``||r|| <= 4 eps (||b|| + ||A|| ||x||)`` (no iterate is better in this precision, and going
    on can only diverge), or when a curvature ``<p, A p>`` is not positive beyond rounding
    (breakdown). Data are scaled by a power of two before and after: the answer is the same for
    data of any scale, 1e-12 as 1e6. A NaN in gives NaN out.

    Args:
        apply: the operator on tensors (B, ...), acting on each item alone.
        b: right-hand sides, shape (B, ...), real or complex; in the range of a singular operator,
            as ``A^H y`` is for ``A^H A``.
        x0: warm start, shape of ``b``; zero by default.
        iterations: exact number of steps, or the largest one when ``tolerance`` is given.
        tolerance: relative residual at which an item is done.
        space: gives the inner product, where processes hold parts of an item.

    Raises:
        ArgumentError: ``iterations`` below 0 or ``tolerance`` not positive.
        ShapeError: ``x0`` or the operator's output differs from ``b`` in shape.
    """
    require_integer("iterations", iterations, 0)
    require(
        tolerance is None or tolerance > 0, "tolerance", tolerance, "None or a positive number"
    )
    if x0 is not None and x0.shape != b.shape:
        raise ShapeError(f"x0: got shape {tuple(x0.shape)}, accepted: that of b {tuple(b.shape)}")
    r = b if x0 is None else b - _checked(apply, x0)
    scale = per_item(_power_of_two(b, r, space), b)
    shrink = 1 / scale  # exact for a power of two, and complex products are faster than quotients
    b, r = b * shrink, r * shrink
    x = torch.zeros_like(b) if x0 is None else x0 * shrink
    p, rr, bb = r, space.inner(r, r), space.inner(b, b)
    bb = _divisor(torch.where(bb > 0, bb, rr))
    eps, size = torch.finfo(b.dtype).eps, torch.zeros_like(rr)
    active, history = rr > 0, [rr]
    taken = torch.zeros_like(rr, dtype=torch.long)
    for _ in range(iterations):
        if tolerance is not None:
            active = active & (rr > tolerance**2 * bb)
            if not bool(active.any()):
                break
        q = _checked(apply, p)
        pp, curvature = space.inner(p, p), space.inner(p, q)
        size = torch.maximum(size, curvature / _divisor(pp))  # from below to ||A||
        active = active & ~(curvature <= eps * size * pp)
        alpha = torch.where(active, rr / torch.where(active, curvature, 1), 0)
        x = x.addcmul(per_item(alpha, x).to(x.dtype), p)
        r = r.addcmul(per_item(-alpha, r).to(r.dtype), q)
        new = torch.where(active, space.inner(r, r), rr)
        beta = torch.where(active, new / torch.where(active, rr, 1), 0)
        p = r.addcmul(per_item(beta, p).to(p.dtype), p)
        taken, rr = taken + active, new
        active = active & (rr > _rounding(eps, bb, size, x, space))
        history.append(rr)
    rounding = _rounding(eps, bb, size, x, space)
    done = rr <= (rounding if tolerance is None else tolerance**2 * bb)
    return CGResult(x * scale, (torch.stack(history) / bb).sqrt(), taken, done)


def _divisor(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1)


def _rounding(eps: float, bb: Tensor, size: Tensor, x: Tensor, space: Space) -> Tensor:
    """Return the square of ``4 eps (||b|| + ||A|| ||x||)``, the residual that rounding leaves.

    At 1 eps one singular system in a few stagnates above it and then diverges; 4 loses nothing.
    """
    return (4 * eps * (bb.sqrt() + size * space.norm(x))).square()


def _checked(apply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    out = apply(x)
    if out.shape != x.shape:
        raise ShapeError(
            f"apply: maps shape {tuple(x.shape)} to {tuple(out.shape)}; a square system is needed"
        )
    return out


def _power_of_two(a: Tensor, b: Tensor, space: Space) -> Tensor:
    """Return per item the power of two below the largest magnitude; 1 for zero items."""
    # Of an item in parts the sum of theirs, which is as good.
    largest = space.sum(torch.maximum(*(t.detach().abs().flatten(1).amax(1) for t in (a, b))))
    return torch.exp2(torch.log2(torch.where(largest == 0, 1, largest)).floor())
