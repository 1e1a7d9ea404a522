"""Total variation of images and volumes, by ADMM, with the data as a constraint."""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, NonNegative, Positive
from wellposed.linalg import conjugate_gradient, per_item
from wellposed.noise import NoiseSource
from wellposed.solvers.base import State
from wellposed.solvers.data import squared_norm
from wellposed.solvers.estimates.base import PointEstimate
from wellposed.solvers.estimates.discrepancy import allowed_misfit, require_noise
from wellposed.solvers.plausible import brightness
from wellposed.solvers.problem import Problem

TINY = 1e-30
"""Brightness of zero data."""

GRADIENT_NORM2 = 4.0
"""``||D||^2`` of the differences along one axis."""


@dataclass(frozen=True, eq=False)
class SplitState(State):
    """State of ADMM.

    Attributes:
        d, u: what ``D x`` splits into, (B, axes, C, ...), and its scaled dual variable.
        v, w: what ``A x`` splits into, like y, and its scaled dual variable.
        norm2: ``||A||^2`` of each item, (B,).
        taken: what one iteration takes away of differences, (B,).
        allowed: misfit that the image may have, (B,); zero with a weight.
    """

    d: Tensor
    u: Tensor
    v: Tensor
    w: Tensor
    norm2: Tensor
    taken: Tensor
    allowed: Tensor


@dataclass(frozen=True, kw_only=True)
class TotalVariation(PointEstimate):
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

    steps: Count = 100
    weight: NonNegative | None = None
    threshold: Positive = 0.1
    cg_steps: Count = 5

    name: ClassVar[str] = "total-variation"
    linear_only: ClassVar[bool] = True
    uses_prior: ClassVar[bool] = False

    def check(self, problem: Problem) -> None:
        """Ask for a weight where the noise is unknown."""
        super().check(problem)
        if self.weight is None:
            require_noise(problem)

    def init(self, problem: Problem, noise: NoiseSource) -> SplitState:
        """Start from zero."""
        x, y = problem.zeros(), torch.zeros_like(problem.y)
        d = differences(x, problem)
        bright = brightness(problem.y, problem.known, problem.space).clamp(min=TINY)
        taken = (self.threshold * bright).to(x.real.dtype)
        norm2, none = squared_norm(problem), torch.zeros_like(taken)
        allowed = allowed_misfit(problem, norm2) if self.weight is None else none
        return SplitState(x, x, d, d, y, y, norm2, taken, allowed)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> SplitState:
        """Take one iteration of ADMM, with the penalties 1 of d and ``mu`` of v."""
        assert isinstance(state, SplitState)
        mu = per_item(GRADIENT_NORM2 * (state.d.ndim - 3) / state.norm2, state.x)

        def apply(x: Tensor) -> Tensor:
            return mu * problem.normal(x) + adjoint(differences(x, problem), problem)

        b = mu * problem.A_adjoint(state.v - state.w) + adjoint(state.d - state.u, problem)
        x = conjugate_gradient(apply, b, state.x, iterations=self.cg_steps, space=problem.space).x
        jump, measured = differences(x, problem) + state.u, problem.A(x) + state.w
        d = shrink(jump, state.taken)
        v = self._fitted(measured, mu, state, problem)
        return replace(state, x=x, x0=x, d=d, u=jump - d, v=v, w=measured - v)

    def _fitted(self, measured: Tensor, mu: Tensor, state: SplitState, problem: Problem) -> Tensor:
        """Return v: projected to the ball about y, or between y and what x gives."""
        gap = measured - problem.y
        if self.weight is None:
            length = problem.space.norm(gap).clamp(min=torch.finfo(gap.real.dtype).tiny)
            kept = (state.allowed / length).clamp(max=1)
        else:
            # The proximal map of ||v - y||^2 threshold / (2 weight norm2 mu).
            strength = state.taken / (self.weight * state.norm2) / mu.flatten()
            kept = 1 / (1 + strength)
        return problem.y + per_item(kept, gap) * gap


def differences(x: Tensor, problem: Problem) -> Tensor:
    """Return ``D x`` along all axes of (B, C, ...), (B, axes, C, ...)."""
    along = partial(problem.part.difference, x, circular=False)
    return torch.stack([along(axis) for axis in range(2 - x.ndim, 0)], 1)


def adjoint(d: Tensor, problem: Problem) -> Tensor:
    """Return ``D^H d``."""
    parts = zip(d.unbind(1), range(3 - d.ndim, 0), strict=True)
    back = [problem.part.difference_adjoint(v, axis, circular=False) for v, axis in parts]
    return sum(back[1:], start=back[0])


def shrink(d: Tensor, threshold: Tensor) -> Tensor:
    """Return vectors over the axes of d (B, axes, ...) shorter by a threshold (B,), 0 at least."""
    length = d.abs().square().sum(1, keepdim=True).sqrt()
    taken = per_item(threshold, length)
    return d * (1 - taken / length.clamp(min=taken))
