"""Proximal solutions ``argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - z||^2``."""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.errors import ShapeError, require
from wellposed.linalg import conjugate_gradient, per_item

TINY = 1e-12
"""Least weight of the data for a preconditioner."""


def as_weight(gamma: float | Tensor, like: Tensor) -> Tensor:
    """Return ``gamma``, one number or one per item, broadcastable to ``like``.

    Raises:
        ArgumentError: a weight is negative or not finite, or there are neither 1 nor B weights.
    """
    accepted = f"a finite number of at least 0, or one for each of the {len(like)} items"
    require(isinstance(gamma, (int, float, Tensor)), "gamma", gamma, accepted)
    weight = torch.as_tensor(gamma, dtype=like.real.dtype, device=like.device)
    fits = weight.shape in ((), (len(like),))
    require(fits and bool(((weight >= 0) & weight.isfinite()).all()), "gamma", gamma, accepted)
    return per_item(weight, like) if weight.ndim else weight


def require_items(z: Tensor, y: Tensor) -> None:
    """Raise `ShapeError` unless ``y`` has one measurement, or one for each of the images ``z``."""
    if len(y) not in (1, len(z)):
        raise ShapeError(f"y: got {len(y)} items, accepted: 1, or {len(z)} as for z")


def proximal_by_cg(
    normal: Callable[[Tensor], Tensor],
    back: Tensor,
    z: Tensor,
    gamma: float | Tensor,
    preconditioner: Callable[[Tensor], Callable[[Tensor], Tensor] | None],
) -> Tensor:
    """Return the proximal solution by conjugate gradients, for operators without closed form.

    The equation is solved for the correction d, ``x = z + d`` with
    ``(1 + gamma A^H A) d = gamma (A^H y - A^H A z)``, so that the tolerance, 1e-6 within 100
    iterations, is relative to d.

    Args:
        normal: ``A^H A`` on images (B, ...).
        back: the back-projection ``A^H y``, of the shape of ``z`` or for one item.
        z: centre, shape (B, ...).
        gamma: weight of the data, at least 0, one number or one per item.
        preconditioner: gives about ``(A^H A + weight)^-1`` for a weight, or None.
    """
    require_items(z, back)
    weight = as_weight(gamma, z)
    b = weight * (back - normal(z))
    d = conjugate_gradient(
        lambda x: x + weight * normal(x),
        b,
        iterations=100,
        tolerance=1e-6,
        preconditioner=preconditioner(1 / weight.clamp(min=TINY)),
    ).x
    return z + d
