"""DDNM: the denoising diffusion null-space model (Wang, Yu and Zhang 2023), with noise."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, Fraction
from wellposed.errors import require
from wellposed.linalg import per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, levels, share_of_image, variance
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected
from wellposed.solvers.data import (
    damped_inverse,
    decomposed,
    is_decomposable,
    proximal,
    spectrum,
)
from wellposed.solvers.problem import Problem
from wellposed.solvers.time_travel import travel_back, walk


@dataclass(frozen=True, kw_only=True)
class DDNM(Corrected):
    r"""DDNM: range from the data, null space from the prior; noise in y counts as fresh noise.

    For each pair of times t -> s, with fresh noise of variance ``v = eta^2 sigma_s^2``::

        x0  = E[x_0 | x_t]
        x0' = x0 + Lambda A^+ (y - A x0)
        x_s = alpha_s x0' + sqrt(sigma_s^2 - v) eps' + n,             eps' implied by x0'

    ``x0'`` enters ``x_s`` with the weight ``a`` and contributes noise of covariance
    ``a^2 sigma_y^2 Lambda (A^+ A^+^T) Lambda``. ``Lambda`` is as close to 1 as possible without
    exceeding ``v``, and ``n`` supplies the rest of ``v``. In the coordinates of a ``Decomposable``
    operator ``lambda_i = min(1, s_i sqrt(v) / (a sigma_y))``, as published. Other operators use a
    smooth version by conjugate gradients: ``Lambda = (A^T A + delta^2)^-1 A^T A`` with
    ``delta = a sigma_y / sqrt(v)``, and the rest of ``v`` is noise with the exact covariance,

        n = sqrt(v) (z + delta^2 (A^T A + delta^2)^-1 (sqrt(3) z' - z) / 2).

    The published scalar ``Lambda`` for these operators adds too much noise at small singular
    values. Without noise in y, ``Lambda = 1`` and the result satisfies ``A x = y``.

    A step starts from the mean of x_0, and measured components are taken from the data, not
    weighted against the prior: on Gaussian problems the variance of the samples is .49 of the
    exact one (docs/posterior.md), and on blurred fields noise of y in weak components enters the
    image.

    Reference: "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model", ICLR
    2023, arXiv 2212.00490, where it is called "DDNM+".

    Args:
        steps: 100 as published.
        eta: share of fresh noise.
        travel_length, travel_repeats: time travel: every ``travel_length`` steps are repeated
            ``travel_repeats`` times, with noise added in between; 1 is no time travel.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.SuperResolution((3, 16, 16), factor=2)  # without noise: A x = y
        >>> x = torch.rand(1, 3, 16, 16)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> result = solvers.DDNM(steps=10)(operator.A(x), operator, prior, seed=0)
        >>> torch.allclose(operator.A(result.mean), operator.A(x), atol=1e-4)
        True
    """

    steps: Count = 100
    eta: Fraction = 0.85
    travel_length: Count = 1
    travel_repeats: Count = 1

    name: ClassVar[str] = "ddnm"
    linear_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.travel_repeats == 1 or self.travel_length < self.steps
        accepted = f"a number of steps below steps = {self.steps}"
        require(fits, "travel_length", self.travel_length, accepted)

    def check(self, problem: Problem) -> None:
        """Raise for noisy data without fresh noise, as the noise of the data is part of it."""
        super().check(problem)
        noisy = bool((problem.noise_sigma > 0).any())
        require(self.eta > 0 or not noisy, "eta", self.eta, "a positive number for noisy y")

    def times(self, problem: Problem) -> list[float]:
        """Return the times of the run; with time travel they go up between stretches."""
        return walk(super().times(problem), self.travel_length, self.travel_repeats)

    def fresh(self, level: Levels) -> Tensor:
        """The share ``eta^2`` of the noise variance."""
        return variance("fresh", level, self.eta)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, set the range, re-noise; or travel back."""
        if s > t:
            return travel_back(state, t, s, problem, noise)
        level = levels(problem.prior.schedule, t, s)
        found = self.estimate(state.x, t, problem)
        z = self.draw(found.x0, s, noise)
        v = self.fresh(level)
        budget = v.sqrt() / share_of_image(level, v)  # sqrt(v) / a
        if is_decomposable(problem.operator):
            x0, z = by_coordinates(found.x0, z, budget, problem)
        else:
            x0, z = by_gradients(found.x0, z, budget, problem, noise)
        return State(x0 if s == 0 else self.onwards(found, x0, z, level, problem), x0)


def by_coordinates(
    x0: Tensor, z: Tensor, budget: Tensor, problem: Problem
) -> tuple[Tensor, Tensor]:
    """Return ``x0'`` and ``n / sqrt(v)``, in the operator's singular coordinates.

    Args:
        x0: the clean estimate.
        z: standard normal noise.
        budget: largest standard deviation of the noise from y in ``x0'``, ``sqrt(v) / a``.
        problem: a problem with a ``Decomposable`` operator.
    """
    operator = decomposed(problem)
    x0_i = operator.V_adjoint(x0)
    s_i, sigma_y, kept = spectrum(problem, x0_i)
    share = torch.where(sigma_y > budget * s_i, budget * s_i / sigma_y, 1)  # lambda_i
    gain = torch.where(kept, share / s_i, 0)
    x0 = x0 + operator.V(gain * (operator.U_adjoint(problem.y) - s_i * x0_i))
    brought = gain * sigma_y / budget if budget > 0 else torch.zeros_like(gain)
    rest = (1 - brought.square()).clamp(min=0).sqrt()
    return x0, z + operator.V((rest - 1) * operator.V_adjoint(z))


def by_gradients(
    x0: Tensor, z: Tensor, budget: Tensor, problem: Problem, noise: NoiseSource
) -> tuple[Tensor, Tensor]:
    """Return ``x0'`` and ``n / sqrt(v)`` by conjugate gradients; see `by_coordinates`."""
    if budget == 0:  # the last step, which may only use noise-free data
        sigma = problem.noise_sigma
        noisy = per_item(sigma > 0, x0)
        if bool(noisy.all()):
            return x0, z
        return torch.where(noisy, x0, proximal(problem, x0, torch.zeros_like(sigma))), z
    damping = (problem.noise_sigma / budget).square()
    x0 = proximal(problem, x0, damping)
    b = per_item(damping, x0) * (math.sqrt(3) * noise.draw(x0) - z) / 2
    return x0, z + damped_inverse(problem, b, damping)
