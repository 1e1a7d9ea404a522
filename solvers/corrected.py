"""The one step that most samplers share: denoise, correct, keep noise, renew the rest.

For each pair of times t -> s::

    x0  = E[x_0 | x_t]                              one evaluation of the network
    x0' = x0 corrected by the data                  a `Correction`
    eps = (x_t - m - alpha_t (x0' - m)) / sigma_t   or that of x0, the network's own
    x_s = m + alpha_s (x0' - m) + sqrt(sigma_s^2 - v) eps + sqrt(v) z,   z ~ N(0, I)

Three choices tell the samplers apart: the correction, which ``eps`` is kept, and the variance
``v`` of the fresh noise. A correction is a value of its own, so that other integrators take it:
``MRSampler(order=2, correction=MMPS().correction)``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from wellposed.checks import check_fields
from wellposed.errors import ArgumentError
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, implied_noise, levels, transition
from wellposed.solvers.base import Solver, State
from wellposed.solvers.problem import Problem
from wellposed.solvers.scope import Scope


class Estimate(NamedTuple):
    """What a network makes of a noisy image.

    Attributes:
        x_t: the noisy image, in units.
        x0: the clean one, ``E[x_0 | x_t]``.
        vjp: ``v -> J^T v`` with the Jacobian ``J`` of x0 in x_t, for what asks for it. Complex
            images count as pairs of real numbers: ``J^T`` is the adjoint for ``Re <a, b>``.
    """

    x_t: Tensor
    x0: Tensor
    vjp: Callable[[Tensor], Tensor]


def estimate(
    denoise: Callable[[Tensor], Tensor], x_t: Tensor, problem: Problem, differentiable: bool
) -> Estimate:
    """Return what ``denoise`` makes of ``x_t``, by one evaluation.

    Raises:
        ArgumentError: the prior cannot be differentiated where that is asked for.
    """
    with torch.set_grad_enabled(differentiable or torch.is_grad_enabled()):
        x = x_t.detach().requires_grad_() if differentiable else x_t
        x0 = denoise(x)
    if differentiable and not x0.requires_grad:
        raise ArgumentError(
            f"prior: {type(problem.prior).__name__} cannot be differentiated, accepted by such "
            "solvers: one whose denoise keeps the graph"
        )

    def vjp(v: Tensor) -> Tensor:
        return torch.autograd.grad(x0, x, v, retain_graph=True)[0]

    return Estimate(x_t, x0.detach() if differentiable else x0, vjp)


@dataclass(frozen=True, kw_only=True)
class Correction(Scope, ABC):
    """How the data correct an estimate of the clean image; fields are its settings."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def correct(self, found: Estimate, level: Levels, problem: Problem) -> Tensor:
        """Return ``x0'``, in units.

        Args:
            found: the noisy image and the estimate; differentiable if `differentiates`.
            level: schedule values at t and s.
            problem: the problem.
        """


@dataclass(frozen=True, kw_only=True)
class Corrected(Solver):
    """Base of the samplers whose step is that of this module.

    Attributes:
        keeps_network_noise: keep the network's ``eps``, not the one that ``x0'`` implies.
    """

    keeps_network_noise: ClassVar[bool] = False

    @property
    def correction(self) -> Correction | None:
        """The correction, None where the data act otherwise."""
        return None

    @abstractmethod
    def fresh(self, level: Levels) -> Tensor:
        """Return the variance ``v`` of the fresh noise, see `variance`."""

    def check(self, problem: Problem) -> None:
        """Raise if the method or its correction cannot solve this problem."""
        super().check(problem)
        correction = self.used_correction()
        if correction is not None:
            correction.check(problem)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, correct, renew the noise."""
        level = levels(problem.prior.schedule, t, s)
        found = self.estimate(state.x, t, problem)
        x0 = self.correct(found, level, problem)
        if s == 0:
            return State(x0, x0)
        return State(self.onwards(found, x0, self.draw(x0, s, noise), level, problem), x0)

    def used_correction(self) -> Correction | None:
        """Return the correction that is in use."""
        return self.correction

    def denoise(self, x_t: Tensor, t: float, problem: Problem) -> Tensor:
        """Return ``x0``, by one evaluation."""
        return problem.denoise(x_t, t)

    def estimate(self, x_t: Tensor, t: float, problem: Problem) -> Estimate:
        """Return ``x0``, differentiable where the method or its correction asks for it."""
        asks = self.differentiates or getattr(self.used_correction(), "differentiates", False)
        return estimate(lambda x: self.denoise(x, t, problem), x_t, problem, asks)

    def correct(self, found: Estimate, level: Levels, problem: Problem) -> Tensor:
        """Return ``x0'``."""
        correction = self.used_correction()
        return found.x0 if correction is None else correction.correct(found, level, problem)

    def draw(self, like: Tensor, s: float, noise: NoiseSource) -> Tensor:
        """Return the fresh noise ``z``, of which the last step has none."""
        return noise.draw(like) if s > 0 else torch.zeros_like(like)

    def onwards(
        self, found: Estimate, x0: Tensor, z: Tensor, level: Levels, problem: Problem
    ) -> Tensor:
        """Return ``x_s`` of the estimate, its correction ``x0`` and fresh noise ``z``."""
        m = problem.anchor
        eps = implied_noise(found.x_t, found.x0 if self.keeps_network_noise else x0, level, m)
        return transition(x0, eps, z, level, self.fresh(level), m)
