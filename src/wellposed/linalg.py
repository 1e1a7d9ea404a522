"""Batched linear algebra: per-item inner products and conjugate gradients.

Everything is computed per item of the leading axis: the result of an item does not depend on the
rest of its batch. Inner products are Hermitian, so the same code serves real and complex tensors.
If several processes hold parts of each item, a `Space` sums over all parts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import ShapeError, require


def as_real(x: Tensor) -> Tensor:
    """Return complex tensors as real tensors with a last axis of 2, and real tensors unchanged."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def like(x: Tensor, reference: Tensor) -> Tensor:
    """Undo `as_real` if ``reference`` is complex."""
    return torch.view_as_complex(x) if reference.is_complex() else x


def as_channels(x: Tensor) -> Tensor:
    """Return complex images (B, C, ...) as real ones (B, 2 C, ...), and real ones unchanged."""
    return torch.cat([x.real, x.imag], 1) if x.is_complex() else x


def from_channels(x: Tensor) -> Tensor:
    """Return the complex images (B, C, ...) of which `as_channels` made real ones."""
    return torch.complex(*x.chunk(2, 1))


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return Re <a, b> of each item, (B,), the inner product that Hermitian systems need.

    Example:
        >>> import torch
        >>> from wellposed.linalg import inner
        >>> inner(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(2, 2))
        tensor([3., 7.])
    """
    if a.is_complex() != b.is_complex():
        a, b = a.real, b.real
    return (as_real(a) * as_real(b)).flatten(1).sum(1)


def norm(a: Tensor) -> Tensor:
    """Return the Euclidean norm of each item, shape (B,).

    Example:
        >>> import torch
        >>> from wellposed.linalg import norm
        >>> norm(torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
        tensor([ 5., 10.])
    """
    length: Tensor = torch.linalg.vector_norm(as_real(a).flatten(1), dim=1)
    return length


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) values so that they broadcast over the items of ``like``.

    Example:
        >>> import torch
        >>> from wellposed.linalg import per_item
        >>> per_item(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 1, 1, 1])
    """
    return values.view(-1, *[1] * (like.ndim - 1))


def squares(a: Tensor) -> Tensor:
    """Return the sum of squares of each item, (B,), in double precision."""
    return as_real(a).flatten(1).double().square().sum(1)


def alone(values: Tensor) -> Tensor:
    """Return per-item numbers summed over all processes, if there is one process."""
    return values


@dataclass(frozen=True)
class Space:
    """The inner product of items that may be distributed over processes.

    Attributes:
        sum: function that sums this process's per-item numbers, (B,), over all processes.

    Example:
        >>> import torch
        >>> from wellposed.linalg import Space
        >>> Space().norm(torch.tensor([[3.0, 4.0]]))  # in one process
        tensor([5.])
    """

    sum: Callable[[Tensor], Tensor] = alone

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return Re <a, b> of each item, shape (B,)."""
        return self.sum(inner(a, b))

    def together(self, *numbers: Tensor) -> tuple[Tensor, ...]:
        """Return per-item numbers summed over all processes, by one exchange for all of them."""
        if self.sum is alone:
            return numbers
        found = self.sum(torch.stack([values.double() for values in numbers]))
        return tuple(v.to(own.dtype) for v, own in zip(found, numbers, strict=True))

    def norm(self, a: Tensor) -> Tensor:
        """Return the Euclidean norm of each item, shape (B,)."""
        own = norm(a)
        # In double precision the square of a single-precision number cannot overflow or underflow.
        return self.sum(own.double().square()).sqrt().to(own.dtype)

    def share(self, a: Tensor) -> Tensor:
        """Return the norm of this part over the norm of the whole item, (B,); 0 for zero items."""
        return norm(a) / _divisor(self.norm(a))

    def count(self, a: Tensor) -> int:
        """Return how many real numbers an item has."""
        own = as_real(a)[0].numel()
        if self.sum is alone:
            return own
        return int(self.sum(torch.tensor([own], device=a.device)))


WHOLE = Space()
"""The space of items that this process holds completely."""


def largest_eigenvalue(
    apply: Callable[[Tensor], Tensor],
    start: Tensor,
    iterations: int = 20,
    space: Space = WHOLE,
) -> Tensor:
    """Return the largest eigenvalue of a Hermitian map of each item, by power iterations.

    Args:
        apply: the map on tensors (B, ...), acting on each item alone.
        start: start vectors (B, ...), not orthogonal to the leading eigenvector.
        iterations: number of iterations; the estimate approaches the eigenvalue from below.
        space: the inner product, if processes hold parts of an item.

    Returns:
        Shape (B,); 0 where ``apply`` or ``start`` is zero.

    Example:
        >>> import torch
        >>> from wellposed.linalg import largest_eigenvalue
        >>> scale = torch.tensor([1.0, 2.0, 4.0])
        >>> largest_eigenvalue(lambda x: scale * x, torch.ones(1, 3))
        tensor([4.])
    """
    v, value = start, space.norm(start)
    for _ in range(iterations):
        v = apply(v / per_item(_divisor(value), v))
        value = space.norm(v)
    return value


@dataclass(frozen=True)
class CGResult:
    """Result of conjugate gradients.

    Attributes:
        x: the solution, of the shape of ``b``.
        residuals: ``||b - A x_k|| / ||b||`` for k = 0..iterations, (K + 1, B), from the
            recursion; relative to ``||b - A x_0||`` where ``b`` is zero.
        iterations: iterations of each item before it was frozen, (B,).
        converged: items that reached the tolerance or, without a tolerance, the rounding level,
            (B,).
        image: ``B x`` if ``apply`` returns ``B p`` beside ``A p``.

    Example:
        >>> import torch
        >>> from wellposed.linalg import conjugate_gradient
        >>> scale = torch.tensor([1.0, 2.0, 4.0])
        >>> found = conjugate_gradient(
        ...     lambda x: scale * x, torch.ones(1, 3), iterations=10, tolerance=1e-5
        ... )
        >>> found.iterations, found.converged
        (tensor([3]), tensor([True]))
    """

    x: Tensor
    residuals: Tensor
    iterations: Tensor
    converged: Tensor
    image: Tensor | None = None


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]],
    b: Tensor,
    x0: Tensor | None = None,
    *,
    iterations: int,
    tolerance: float | None = None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    space: Space = WHOLE,
) -> CGResult:
    """Solve ``apply(x) = b`` for a Hermitian positive (semi-)definite ``apply``, item by item.

    Hestenes and Stiefel (1952). Without a ``tolerance`` exactly ``iterations`` steps are taken, as
    in DDS, without device synchronisation. With a ``tolerance`` an item is frozen once
    ``||r|| <= tolerance ||b||``, and the call returns when all items are frozen.

    In both cases an item is also frozen once its residual reaches the rounding level,
    ``||r|| <= 4 eps (||b|| + ||A|| ||x||)``, beyond which further steps can only diverge, or when
    a curvature ``<p, A p>`` is not positive beyond rounding (breakdown). Data are scaled by a
    power of two before and after, so the result does not depend on their scale, 1e-12 or 1e6. NaN
    in the input gives NaN in the output.

    Args:
        apply: the operator on tensors (B, ...), acting on each item alone. It may return a pair,
            ``A p`` and ``B p`` with another linear map B; the result then has ``B x`` as well,
            without another application.
        b: right-hand sides (B, ...), real or complex; they must lie in the range of a singular
            operator, as ``A^H y`` does for ``A^H A``.
        x0: start, of the shape of ``b``; zero by default.
        iterations: exact number of steps, or the largest number with a ``tolerance``.
        tolerance: relative residual at which an item is frozen.
        preconditioner: an approximate inverse of ``apply``, up to a factor. It may be the result
            of a few iterations, as directions are conjugate by the formula of Polak and Ribiere.
        space: the inner product, if processes hold parts of an item.

    Raises:
        ArgumentError: ``iterations`` below 0 or ``tolerance`` not positive.
        ShapeError: ``x0`` or the operator's output differs from ``b`` in shape.

    Example:
        >>> import torch
        >>> from wellposed.linalg import conjugate_gradient
        >>> scale = torch.tensor([1.0, 2.0, 4.0])
        >>> conjugate_gradient(lambda x: scale * x, torch.ones(1, 3), iterations=3).x
        tensor([[1.0000, 0.5000, 0.2500]])
    """
    require_integer("iterations", iterations, 0)
    require(
        tolerance is None or tolerance > 0, "tolerance", tolerance, "None or a positive number"
    )
    if x0 is not None and x0.shape != b.shape:
        raise ShapeError(f"x0: got shape {tuple(x0.shape)}, accepted: {tuple(b.shape)} as b")
    r, image = b, None
    if x0 is not None:
        q, image = _checked(apply, x0)
        r = b - q
    scale = per_item(_power_of_two(b, r, space), b)
    shrink = 1 / scale  # exact for a power of two; complex products are faster than quotients
    b, r = b * shrink, r * shrink
    image = None if image is None else image * per_item(shrink.flatten(), image)
    x = torch.zeros_like(b) if x0 is None else x0 * shrink
    z = r if preconditioner is None else preconditioner(r)
    p = z
    lengths = inner(r, r), inner(r, z), inner(b, b), norm(x).double().square()
    rr, rz, bb, xx = space.together(*lengths)
    bb = _divisor(torch.where(bb > 0, bb, rr))
    eps, size = torch.finfo(b.dtype).eps, torch.zeros_like(rr)
    active, history = rr > 0, [rr]
    taken = torch.zeros_like(rr, dtype=torch.long)
    for step in range(iterations):
        if tolerance is not None:
            active = active & (rr > tolerance**2 * bb)
            if not bool(active.any()):
                break
        q, further = _checked(apply, p)
        pp, curvature = space.together(inner(p, p), inner(p, q))
        size = torch.maximum(size, curvature / _divisor(pp))  # approaches ||A|| from below
        active = active & ~(curvature <= eps * size * pp)
        alpha = torch.where(active, rz / torch.where(active, curvature, 1), 0)
        x = x.addcmul(per_item(alpha, x).to(x.dtype), p)
        if further is not None:
            gained = per_item(alpha, further).to(further.dtype) * further
            image = gained if image is None else image + gained
        before, r = r, r.addcmul(per_item(-alpha, r).to(r.dtype), q)
        remaining, xx = space.together(inner(r, r), norm(x).double().square())
        new = torch.where(active, remaining, rr)
        wanted = active if tolerance is None else active & (new > tolerance**2 * bb)
        # Nothing needs another direction in the end, and without a tolerance nobody looks before.
        last = step == iterations - 1 or (tolerance is not None and not bool(wanted.any()))
        z = r if preconditioner is None or last else preconditioner(r)
        overlap, along = new, new
        if preconditioner is not None:
            overlap, along = space.together(inner(r - before, z), inner(r, z))
        beta = torch.where(active, overlap / torch.where(active & (rz > 0), rz, 1), 0)
        p = z.addcmul(per_item(beta, p).to(p.dtype), p)
        taken, rr, rz = taken + active, new, along
        active = active & (rr > _rounding(eps, bb, size, xx))
        history.append(rr)
    rounding = _rounding(eps, bb, size, xx)
    done = rr <= (rounding if tolerance is None else tolerance**2 * bb)
    image = None if image is None else image * per_item(scale.flatten(), image)
    return CGResult(x * scale, (torch.stack(history) / bb).sqrt(), taken, done, image)


def _divisor(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1)


def _rounding(eps: float, bb: Tensor, size: Tensor, xx: Tensor) -> Tensor:
    """Return the square of ``4 eps (||b|| + ||A|| ||x||)``, the residual that rounding leaves.

    With 1 eps some singular systems stagnate above it and then diverge; 4 eps loses no accuracy.
    """
    return (4 * eps * (bb.sqrt() + size * xx.sqrt().to(size.dtype))).square()


def _checked(
    apply: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]], x: Tensor
) -> tuple[Tensor, Tensor | None]:
    applied = apply(x)
    out, further = applied if isinstance(applied, tuple) else (applied, None)
    if out.shape != x.shape:
        raise ShapeError(
            f"apply: maps shape {tuple(x.shape)} to {tuple(out.shape)}, accepted: a square system"
        )
    return out, further


def _power_of_two(a: Tensor, b: Tensor, space: Space) -> Tensor:
    """Return per item the power of two below the largest magnitude; 1 for zero items."""
    # For an item in parts the sum of their magnitudes serves as well.
    largest = space.sum(torch.maximum(*(t.detach().abs().flatten(1).amax(1) for t in (a, b))))
    return torch.exp2(torch.log2(torch.where(largest == 0, 1, largest)).floor())
