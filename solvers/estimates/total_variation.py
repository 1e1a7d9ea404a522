"""Total variation of images and volumes."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.linalg import per_item
from wellposed.solvers.estimates.sparse import Sparse
from wellposed.solvers.problem import Problem

GRADIENT_NORM2 = 4.0
"""``||D||^2`` of the differences along one axis."""

ARRAYS = 12
"""Arrays of an iteration for each axis, of the size of ``x``."""


@dataclass(frozen=True, kw_only=True)
class TotalVariation(Sparse):
    r"""The image of least total variation that fits the data as well as their noise lets it.

    Isotropic, with ``|D x|`` the magnitude over all axes, and over both parts of complex images::

        min_x  sum |D x|   subject to   ||A x - y|| <= sqrt(m) sigma_y          weight None
        min_x  ||A x - y||^2 / 2 + weight ||A||^2 sum |D x|                     with a weight

    ADMM on ``v = A x`` and ``d = D x``; each step has one warm-started solution for x by
    conjugate gradients. Needs no prior.

    Reference: "An Augmented Lagrangian Approach to the Constrained Optimization Formulation of
    Imaging Inverse Problems", Afonso, Bioucas-Dias and Figueiredo, IEEE TIP 2011,
    arXiv 0912.3481 (C-SALSA).

    Args:
        steps: iterations of ADMM.
        weight: of the total variation over ``||A||^2``; None takes the constraint.
        threshold: what one iteration takes away of differences, over the brightness of the
            least-squares image. It decides how fast ADMM converges, not where to.
        cg_steps: conjugate-gradient steps of an iteration.

    Example:
        >>> import torch
        >>> from wellposed import operators, solvers
        >>> operator = operators.Inpainting(operators.random_mask(16, 16, 0.5), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> result = solvers.TotalVariation(steps=50)(y, operator)  # needs no prior
        >>> result.mean.shape, round(float(result.residual), 1)  # the misfit is that of the noise
        (torch.Size([1, 3, 16, 16]), 1.0)
    """

    name: ClassVar[str] = "total-variation"

    @property
    def volume_arrays(self) -> int:
        """Largest number of arrays of the size of ``x`` in the solver."""
        return super().volume_arrays + ARRAYS * 3

    def coefficients(self, x: Tensor, problem: Problem) -> Tensor:
        """Return the differences along all axes, (B, axes, C, ...)."""
        along = partial(problem.part.difference, x, circular=False)
        return torch.stack([along(axis) for axis in range(2 - x.ndim, 0)], 1)

    def adjoint(self, d: Tensor, problem: Problem) -> Tensor:
        """Return ``D^H d``."""
        parts = zip(d.unbind(1), range(3 - d.ndim, 0), strict=True)
        back = [problem.part.difference_adjoint(v, axis, circular=False) for v, axis in parts]
        return sum(back[1:], start=back[0])

    def frame_norm2(self, problem: Problem) -> float:
        """Return a bound of ``||D||^2``."""
        return GRADIENT_NORM2 * (len(problem.image_shape) - 2)

    def shrunk(self, d: Tensor, threshold: Tensor, problem: Problem) -> Tensor:
        """Return vectors over the axes shorter by the threshold, 0 at least."""
        length = d.abs().square().sum(1, keepdim=True).sqrt()
        taken = per_item(threshold, length)
        return d * (1 - taken / length.clamp(min=taken))
