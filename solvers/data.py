"""The data term in units: projections, proximal solutions and draws from the likelihood."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, TypeGuard

import torch
from torch import Tensor

from wellposed.checks import Range
from wellposed.errors import warn
from wellposed.linalg import conjugate_gradient, largest_eigenvalue, per_item
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.operators.check import is_linear_operator
from wellposed.operators.physics import Forward
from wellposed.priors.transition import Levels
from wellposed.solvers.problem import Problem

if TYPE_CHECKING:
    from deepinv.physics import Physics

    from wellposed.operators.decomposable import Decomposable

NOISE_FREE = 0.01
"""Noise level assumed for noise-free data, in units: the published one of DAPS."""

LangevinRate = Annotated[float, Range(0, 2, "()")]
"""Step of `GaussianCoupling.langevin` times the largest curvature; stable below 2."""

REMAINING = 0.25
"""Share of the variance of the noise in x_t that is left in the clean estimate."""

EXACT, ROUGH = 1e-6, 1e-3
"""Relative residuals at which a proximal solution ends, ROUGH inside an iteration."""

ROUNDING = 8
"""Errors of eigenvalues, in units of the precision."""

LEAST_NOISE = 1e-6
"""Noise of the last image of a run, in units, against that of the data."""

PROXIMAL_STEPS = 100
"""Largest number of conjugate-gradient steps of a data term."""


def is_decomposable(operator: "Physics | None") -> "TypeGuard[Decomposable]":
    """Return whether an operator has a singular value decomposition."""
    # Importing Decomposable imports deepinv, which takes seconds.
    from wellposed.operators.decomposable import Decomposable

    return isinstance(operator, Decomposable)


def decomposed(problem: Problem) -> "Decomposable":
    """Return the operator of a problem that has a decomposition."""
    operator = problem.operator
    assert is_decomposable(operator)
    return operator


def spectrum(problem: Problem, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return three quantities of a ``Decomposable`` operator, broadcast over its coordinates.

    These are the singular values, 1 where unmeasured; the noise level of ``y`` in units; and
    whether a coordinate is measured, which without noise follows `A_dagger`.
    """
    operator = decomposed(problem)
    s = operator.singular_values.to(coordinates.real.dtype)
    sigma = per_item(problem.noise_sigma, coordinates)
    kept = (s > operator.cutoff * s.max()) | ((s > 0) & (sigma > 0))
    return torch.where(kept, s, 1), sigma, kept


def project(problem: Problem, x0: Tensor, iterations: int) -> Tensor:
    """Return ``x0 + A^+ (y - A x0)``, by CG on the normal equations started at ``x0``."""
    b, space = problem.back_projection, problem.space
    return conjugate_gradient(problem.normal, b, x0, iterations=iterations, space=space).x


def proximal(
    problem: Problem, x0: Tensor, weight: Tensor, iterations: int | None = None
) -> Tensor:
    """Return ``argmin_x ||A x - y||^2 + weight ||x - x0||^2``, for linear problems.

    With ``weight = sigma_y^2 / v`` this is the posterior mean for ``x ~ N(x0, v I)``; with weight
    0 it is the projection ``x0 + A^+ (y - A x0)``. A ``Decomposable`` operator gives it in closed
    form, and so does MRI along lines. Others use conjugate gradients to a relative residual of
    1e-6, with a warning if more than 1e-3 remains after `PROXIMAL_STEPS`. There is no warning for
    a projection: further steps would only fit components that the operator hardly measures.

    Args:
        problem: the problem, with ``y`` and ``A``.
        x0: images (B, ...), in units.
        weight: weight of each item, (B,), at least 0.
        iterations: conjugate-gradient steps at most, for a solution to 1e-3 without a warning.
    """
    operator = problem.operator
    if is_decomposable(operator):
        gap = operator.U_adjoint(problem.y - problem.A(x0))
        s, _, kept = spectrum(problem, gap)
        return x0 + operator.V(kept * s / (s.square() + per_item(weight, gap)) * gap)
    b = problem.back_projection - problem.normal(x0)
    return x0 + damped_inverse(problem, b, weight, iterations)


def noised(problem: Problem, sigma: Tensor, noise: NoiseSource) -> Problem:
    """Return the problem with noise of a level (B,) added to ``y``, where y is measured."""
    n = per_item(sigma, problem.y) * noise.draw(problem.y)
    restrict = getattr(problem.operator, "restrict", None)
    n = n if restrict is None else restrict(n)  # what is not measured has no noise
    return replace(problem, y=problem.y + n)


def noised_weight(level: Levels, problem: Problem) -> Tensor:
    """Return the weight of x_s against data of the same noise, ``(alpha_s sigma_y / sigma_s)^2``.

    `proximal` with it takes over what the data show better than x_s, whose noise is ``sigma_s``;
    what is noisier in ``alpha_s y`` stays. It is 0 for noise-free data, (B,).
    """
    return (level.alpha_s / level.sigma_s.clamp(min=LEAST_NOISE) * problem.noise_sigma) ** 2


def damped_inverse(
    problem: Problem, b: Tensor, weight: Tensor, iterations: int | None = None
) -> Tensor:
    """Return ``(A^H A + weight)^-1 b``, by conjugate gradients if need be; see `proximal`."""
    w = per_item(weight, b)
    direct = exact_damped_inverse(problem, b, weight)
    if direct is not None:
        return direct
    found = conjugate_gradient(
        lambda d: problem.normal(d) + w * d,
        b,
        iterations=PROXIMAL_STEPS if iterations is None else iterations,
        tolerance=EXACT if iterations is None else ROUGH,
        preconditioner=problem.preconditioner(w),
        space=problem.space,
    )
    if iterations is None and bool(((found.residuals[-1] > 1e-3) & (weight > 0)).any()):
        warn(
            f"CG did not converge in {PROXIMAL_STEPS} steps (residual > 1e-3); increase the "
            "noise_sigma of the operator"
        )
    return found.x


def exact_damped_inverse(problem: Problem, b: Tensor, weight: Tensor) -> Tensor | None:
    """Return ``(A^H A + weight)^-1 b``, if the operator has its eigenvectors at hand."""

    def inverse(values: Tensor) -> Tensor:
        # Rounding errors of eigenvalues have no inverse.
        share = ROUNDING * torch.finfo(values.dtype).eps
        return 1 / (values + weight_of_at_least(share, weight, values))

    return problem.normal_function(inverse, b)


def weight_of_at_least(share: float, weight: Tensor, values: Tensor) -> Tensor:
    """Return weights (B,) of at least a share of the largest eigenvalue, as (1 or B, 1, ...)."""
    top = per_item(values.flatten(1).amax(1), values)
    return per_item(weight, values).clamp(min=share * top)


def pseudo_inverse(problem: Problem) -> Tensor:
    """Return the pseudo-inverse image of the measurement, in units, as a starting point."""
    if not problem.is_linear:
        image = _pseudo_inverse(problem.known, problem.y * problem.prior.scale)
        return problem.prior.to_units(image)
    return _pseudo_inverse(problem.known, problem.y)


def _pseudo_inverse(operator: Forward, y: Tensor) -> Tensor:
    ours = type(operator).__module__.startswith("wellposed.")
    if ours or not is_linear_operator(operator):
        return operator.A_dagger(y)
    # The pseudo-inverse of a foreign physics may change its settings; ours does not.
    b = operator.A_adjoint(y)
    return conjugate_gradient(operator.A_adjoint_A, b, iterations=100, tolerance=1e-5).x


def misfit_gradient(problem: Problem, x: Tensor) -> Tensor:
    """Return the gradient of ``||y - A(x)||^2 / 2``, by autograd if A is not linear."""
    if problem.is_linear:
        return problem.A_adjoint(problem.A(x) - problem.y)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = 0.5 * (problem.A(x) - problem.y).abs().square().sum()
        return torch.autograd.grad(loss, x)[0]


def noise_level(problem: Problem) -> Tensor:
    """Return the standard deviation of each item's noise in units, (B,); never 0."""
    sigma = problem.noise_sigma
    return torch.where(sigma > 0, sigma, NOISE_FREE)


def matched_weight(ratio: Tensor, problem: Problem) -> Tensor:
    """Return the Bayesian weight of the data, ``v / sigma_y^2``, of each item, (B,).

    It weighs the noise of the data against ``v``, the variance of the clean estimate, taken as
    the share `REMAINING` of the noise variance at t, ``ratio = sigma_t / alpha_t``.
    """
    return REMAINING * ratio**2 / noise_level(problem) ** 2


def squared_norm(problem: Problem, iterations: int = 20) -> Tensor:
    """Return ``||A||^2`` of each item, shape (B,), by power iterations; 1 if A is not linear."""
    if not problem.is_linear:
        return torch.ones_like(problem.noise_sigma)
    # Unlike y, noise always has a component along the leading singular vector.
    start = problem.zeros()
    noise = ItemNoise(0, [(0,)], first_slice=problem.part.start)
    start = start + noise.draw(start[:1])
    value = largest_eigenvalue(problem.normal, start, iterations, problem.space)
    return torch.where(value > 0, value, 1)


@dataclass(frozen=True)
class GaussianCoupling:
    """The density ``exp(-||y - A z||^2 / (2 sigma^2) - ||z - centre||^2 / (2 rho^2))`` of z.

    Attributes:
        problem: the problem, with ``y`` and ``A``.
        sigma: noise level of the data in units, (B,).
        centre: centre of the Gaussian, an image in units.
        rho: standard deviation about the centre, in units.
    """

    problem: Problem
    sigma: Tensor
    centre: Tensor
    rho: float

    def draw(self, noise: NoiseSource) -> Tensor:
        """Return an exact sample for a linear operator: perturb centre and data, then solve.

        "Gaussian sampling by local perturbations" (Papandreou and Yuille, NeurIPS 2010).
        """
        z = self.centre + self.rho * noise.draw(self.centre)
        measured = noised(self.problem, self.sigma, noise)
        return proximal(measured, z, (self.sigma / self.rho) ** 2)

    def langevin(
        self, z: Tensor, noise: NoiseSource, steps: int, learning_rate: float, norm2: Tensor
    ) -> Tensor:
        """Return ``z`` after unadjusted Langevin steps, biased by about ``learning_rate / 2``.

        An operator with eigenvectors at hand takes all steps at once: in these coordinates they
        are autoregressions, Gaussian after any number of steps, with known mean and covariance.

        Args:
            z: start.
            noise: source of the noise.
            steps: number of steps.
            learning_rate: step times the largest curvature ``norm2 / sigma^2 + 1 / rho^2``;
                stable below 2.
            norm2: ``||A||^2`` of each item, from `squared_norm`.
        """
        length = learning_rate / (norm2 / self.sigma**2 + 1 / self.rho**2)
        xi = noise.draw(z)
        at_once = self._langevin_at_once(z, xi, steps, length) if self.problem.is_linear else None
        if at_once is not None:
            return at_once
        h, weight = per_item(length, z), per_item(self.sigma**-2, z)
        for step in range(steps):
            xi = noise.draw(z) if step > 0 else xi
            gradient = weight * misfit_gradient(self.problem, z)
            gradient = gradient + (z - self.centre) / self.rho**2
            z = z - h * gradient + (2 * h).sqrt() * xi
        return z

    def _langevin_at_once(
        self, z: Tensor, xi: Tensor, steps: int, length: Tensor
    ) -> Tensor | None:
        """Return ``z`` after all steps, if the operator has its eigenvectors at hand.

        Each coordinate follows ``x <- x - rate (x - target) + sqrt(2 rate / curvature) noise``;
        the noise of all steps adds up to ``xi`` times its standard deviation.
        """

        def curvature(values: Tensor) -> Tensor:
            return values / per_item(self.sigma, values).square() + 1 / self.rho**2

        def rate(values: Tensor) -> Tensor:
            return per_item(length, values).double() * curvature(values)

        def left(values: Tensor) -> Tensor:
            kept: Tensor = (1 - rate(values)) ** steps
            return kept.to(values.dtype)

        def moved(values: Tensor) -> Tensor:
            data = per_item(self.sigma, values).square() * curvature(values)
            return (1 - left(values)) / data

        def spread(values: Tensor) -> Tensor:
            r = rate(values)
            grown = -torch.expm1(2 * steps * (1 - r).abs().log())  # 1 - left^2, also for small r
            return (2 * grown / (curvature(values) * (2 - r))).sqrt().to(values.dtype)

        start = self.problem.normal_function(left, z - self.centre)
        if start is None:
            return None
        gap = self.problem.back_projection - self.problem.normal(self.centre)
        data = self.problem.normal_function(moved, gap)
        noise = self.problem.normal_function(spread, xi)
        assert data is not None and noise is not None
        return self.centre + start + data + noise
