"""The step that most samplers share: denoise, correct, keep some noise, renew the rest.

For each pair of times t -> s::

    x0  = E[x_0 | x_t]                              one evaluation of the network
    x0' = x0 corrected by the data                  a `Correction`
    eps = (x_t - m - alpha_t (x0' - m)) / sigma_t   or the network's own, with x0
    x_s = m + alpha_s (x0' - m) + sqrt(sigma_s^2 - v) eps + sqrt(v) z,   z ~ N(0, I)

The samplers differ in three choices: the correction, the ``eps`` that is kept, and the variance
``v`` of the fresh noise. A correction is a value, so that other integrators can use it:
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
    """A noisy image and its estimate.

    Attributes:
        x_t: the noisy image, in units.
        x0: the clean estimate, ``E[x_0 | x_t]``.
        vjp: ``v -> J^T v`` with the Jacobian ``J`` of x0 with respect to x_t, if requested.
            Complex images are pairs of real numbers: ``J^T`` is the adjoint for ``Re <a, b>``.

    Example:
        >>> import torch
        >>> from wellposed.solvers.corrected import Estimate
        >>> x_t = torch.randn(1, 1, 8, 8)
        >>> found = Estimate(x_t, x0=0.5 * x_t, vjp=lambda v: 0.5 * v)
        >>> found.vjp(torch.ones_like(x_t)).mean()
        tensor(0.5000)
    """

    x_t: Tensor
    x0: Tensor
    vjp: Callable[[Tensor], Tensor]


def estimate(
    denoise: Callable[[Tensor], Tensor], x_t: Tensor, problem: Problem, differentiable: bool
) -> Estimate:
    """Return the estimate of ``denoise`` from ``x_t``, with one evaluation.

    Raises:
        ArgumentError: ``differentiable`` is requested and the prior cannot be differentiated.
    """
    with torch.set_grad_enabled(differentiable or torch.is_grad_enabled()):
        x = x_t.detach().requires_grad_() if differentiable else x_t
        x0 = denoise(x)
    if differentiable and not x0.requires_grad:
        raise ArgumentError(
            f"prior: {type(problem.prior).__name__} cannot be differentiated, accepted by this "
            "solver: a prior whose denoise keeps the graph"
        )

    def vjp(v: Tensor) -> Tensor:
        return torch.autograd.grad(x0, x, v, retain_graph=True)[0]

    return Estimate(x_t, x0.detach() if differentiable else x0, vjp)


@dataclass(frozen=True, kw_only=True)
class Correction(Scope, ABC):
    """A correction of the clean estimate by the data; fields are its settings.

    Example:
        >>> from wellposed import solvers
        >>> correction = solvers.MMPS(cg_steps=5).correction
        >>> correction.cg_steps, correction.differentiates
        (5, True)
        >>> solvers.MRSampler(order=2, correction=correction).steps  # it serves other samplers too
        20
    """

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Return ``x0'``, in units.

        Args:
            found: the noisy image and the estimate; differentiable if `differentiates`.
            level: schedule values at t and s.
            problem: the problem.
            noise: source of the noise of corrections that are draws, see ``solvers/spread.py``.
        """


@dataclass(frozen=True, kw_only=True)
class Corrected(Solver):
    """Base of the samplers with the step of this module.

    Attributes:
        keeps_network_noise: keep the network's ``eps`` instead of that implied by ``x0'``.

    Example:
        >>> from dataclasses import dataclass
        >>> from wellposed.priors.transition import variance
        >>> from wellposed.solvers.corrected import Corrected
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Ancestral(Corrected):
        ...     def fresh(self, level):
        ...         return variance("markov", level, 1.0)
        >>> Ancestral(steps=20).steps
        20
    """

    keeps_network_noise: ClassVar[bool] = False

    @property
    def correction(self) -> Correction | None:
        """The correction; ``None`` if the data act in another way."""
        return None

    @abstractmethod
    def fresh(self, level: Levels) -> Tensor:
        """Return the variance ``v`` of the fresh noise; see `variance`."""

    def check(self, problem: Problem) -> None:
        """Raise if the method or its correction cannot solve the problem."""
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
        x0 = self.correct(found, level, problem, noise)
        if s == 0:
            return State(x0, x0)
        return State(self.onwards(found, x0, self.draw(x0, s, noise), level, problem), x0)

    def used_correction(self) -> Correction | None:
        """Return the correction that is in use."""
        return self.correction

    def denoise(self, x_t: Tensor, t: float, problem: Problem) -> Tensor:
        """Return ``x0``, with one evaluation."""
        return problem.denoise(x_t, t)

    def estimate(self, x_t: Tensor, t: float, problem: Problem) -> Estimate:
        """Return the estimate, differentiable if the method or its correction requires it."""
        asks = self.differentiates or getattr(self.used_correction(), "differentiates", False)
        return estimate(lambda x: self.denoise(x, t, problem), x_t, problem, asks)

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Return ``x0'``."""
        correction = self.used_correction()
        return found.x0 if correction is None else correction.correct(found, level, problem, noise)

    def draw(self, like: Tensor, s: float, noise: NoiseSource) -> Tensor:
        """Return the fresh noise ``z``; the last step has none."""
        return noise.draw(like) if s > 0 else torch.zeros_like(like)

    def onwards(
        self, found: Estimate, x0: Tensor, z: Tensor, level: Levels, problem: Problem
    ) -> Tensor:
        """Return ``x_s`` from the estimate, the corrected ``x0`` and fresh noise ``z``."""
        m = problem.anchor
        eps = implied_noise(found.x_t, found.x0 if self.keeps_network_noise else x0, level, m)
        return transition(x0, eps, z, level, self.fresh(level), m)
