"""Images whose differences or wavelet coefficients are few: ADMM with the data as a constraint."""

from abc import abstractmethod
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, eq=False)
class SplitState(State):
    """State of ADMM.

    Attributes:
        d, u: what ``D x`` splits into, (B, n, C, ...), and its scaled dual variable.
        v, w: what ``A x`` splits into, like y, and its scaled dual variable.
        norm2: ``||A||^2`` of each item, (B,).
        taken: what one iteration takes away of coefficients, (B,).
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
class Sparse(PointEstimate):
    r"""Base of the estimates with the least norm ``|D x|_1`` that noise lets them have.

    ADMM on ``v = A x`` and ``d = D x``, see `TotalVariation`. Subclasses choose D and the norm.
    """

    steps: Count = 100
    weight: NonNegative | None = None
    threshold: Positive = 0.1
    cg_steps: Count = 5

    linear_only: ClassVar[bool] = True
    uses_prior: ClassVar[bool] = False

    @abstractmethod
    def coefficients(self, x: Tensor, problem: Problem) -> Tensor:
        """Return ``D x`` of images (B, C, ...), (B, n, C, ...)."""

    @abstractmethod
    def adjoint(self, d: Tensor, problem: Problem) -> Tensor:
        """Return ``D^H d``."""

    def gram(self, x: Tensor, problem: Problem) -> Tensor:
        """Return ``D^H D x``."""
        return self.adjoint(self.coefficients(x, problem), problem)

    @abstractmethod
    def frame_norm2(self, problem: Problem) -> float:
        """Return about ``||D||^2``."""

    @abstractmethod
    def shrunk(self, d: Tensor, threshold: Tensor, problem: Problem) -> Tensor:
        """Return ``argmin_e threshold |e|_1 + ||e - d||^2 / 2``, with a threshold (B,)."""

    def check(self, problem: Problem) -> None:
        """Ask for a weight where the noise is unknown."""
        super().check(problem)
        if self.weight is None:
            require_noise(problem)

    def init(self, problem: Problem, noise: NoiseSource) -> SplitState:
        """Start from zero."""
        x, y = problem.zeros(), torch.zeros_like(problem.y)
        d = self.coefficients(x, problem)
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
        mu = self.frame_norm2(problem) / state.norm2
        data = per_item(mu, state.x) * problem.A_adjoint(state.v - state.w)
        b = data + self.adjoint(state.d - state.u, problem)
        x = self.solved(b, mu, state.x, problem)
        found, measured = self.coefficients(x, problem) + state.u, problem.A(x) + state.w
        d = self.shrunk(found, state.taken, problem)
        v = self._fitted(measured, mu, state, problem)
        return replace(state, x=x, x0=x, d=d, u=found - d, v=v, w=measured - v)

    def solved(self, b: Tensor, mu: Tensor, start: Tensor, problem: Problem) -> Tensor:
        """Return ``(mu A^H A + D^H D)^-1 b``, for mu (B,), by conjugate gradients."""
        mu = per_item(mu, b)

        def apply(x: Tensor) -> Tensor:
            return mu * problem.normal(x) + self.gram(x, problem)

        return conjugate_gradient(apply, b, start, iterations=self.cg_steps, space=problem.space).x

    def _fitted(self, measured: Tensor, mu: Tensor, state: SplitState, problem: Problem) -> Tensor:
        """Return v: projected to the ball about y, or between y and what x gives."""
        gap = measured - problem.y
        if self.weight is None:
            length = problem.space.norm(gap).clamp(min=torch.finfo(gap.real.dtype).tiny)
            kept = (state.allowed / length).clamp(max=1)
        else:
            # The proximal map of ||v - y||^2 threshold / (2 weight norm2 mu).
            strength = state.taken / (self.weight * state.norm2) / mu
            kept = 1 / (1 + strength)
        return problem.y + per_item(kept, gap) * gap
