"""MMPS: moment matching posterior sampling (Rozet et al. 2024), or TMPD (Boys et al. 2023)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, Fraction, PositiveOrInfinite, Whole
from wellposed.linalg import conjugate_gradient, per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, variance
from wellposed.solvers.corrected import Corrected, Correction, Estimate
from wellposed.solvers.data import REMAINING, ROUGH, noise_level, weight_of_at_least
from wellposed.solvers.dds import DataSteps
from wellposed.solvers.problem import Problem
from wellposed.solvers.spread import isotropic_draw, perturbed, tweedie_draw, unit_variance

ISOTROPIC_SHARE = 0.1
"""Variance of x_0 over that of the noise in x_t, as preconditioners take it."""

LEAST_SHARE = 1e-4
"""Least ``sigma_y^2 / s`` over ``||A||^2`` in closed form, where differences have few digits."""

ISOTROPIC_STEPS = 20
"""Conjugate-gradient steps inside a preconditioner; none of them calls the network."""

MOST = 2.0
"""Misfit of the corrected estimate over that of the estimate, above which V is isotropic.

The exact correction lowers the misfit. Few CG steps may raise it a little; a network's Jacobian
that is far from symmetric can throw a sample to any distance.
"""


@dataclass(frozen=True, kw_only=True)
class MomentMatching(Correction):
    """``x0' = x0 + V A^T CG( sigma_y^2 I + A V A^T,  y - A x0 )``, see `MMPS`.

    Args:
        cg_steps: conjugate-gradient steps, started at zero.
        isotropic_above, preconditioned, spread_steps: see `MMPS`.
    """

    cg_steps: Count = 3
    isotropic_above: PositiveOrInfinite = math.inf
    preconditioned: bool = False
    spread_steps: Annotated[int, Whole(0, 100)] = 0

    linear_only: ClassVar[bool] = True
    differentiates: ClassVar[bool] = True

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Return the estimate of ``E[x_0 | x_t, y]``, or a draw of x_0 given them."""
        # At alpha_t = 0 the Jacobian is zero and gives no information on the covariance.
        if level.alpha_t == 0:
            return found.x0
        if level.sigma_t > self.isotropic_above * level.alpha_t:
            return self._isotropic(found, level, problem, noise)
        if self.spread_steps > 0:
            z = noise.draw(found.x0)
            u = tweedie_draw(found, z, level, self.spread_steps, problem.space)
            found, problem = perturbed(found, u, problem, problem.noise_sigma, noise)
        gap = problem.y - problem.A(found.x0)
        corrected = found.x0 + self._shift(found, gap, level, problem)
        size = problem.space.norm
        apart = size(problem.y - problem.A(corrected)) > MOST * size(gap)
        if not bool(apart.any()):
            return corrected
        other = DataSteps().correct(found, level, problem, noise)
        return torch.where(per_item(apart, other), other, corrected)

    def _isotropic(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        if self.spread_steps == 0:
            return DataSteps().correct(found, level, problem, noise)
        # A draw with the variance of the data steps, which grows with the noise in x_t without
        # bound, would be wider than images are.
        rho2 = REMAINING * unit_variance(level).to(problem.noise_sigma)
        return isotropic_draw(found, rho2.expand(len(found.x0)), problem, noise)

    def _shift(self, found: Estimate, gap: Tensor, level: Levels, problem: Problem) -> Tensor:
        """Return ``V A^T v`` of Tweedie's covariance, for ``gap = y - A x0``."""
        sigma2 = per_item(problem.noise_sigma**2, problem.y)

        def spread(v: Tensor) -> Tensor:
            return level.sigma_t**2 / level.alpha_t * found.vjp(problem.A_adjoint(v))  # V A^T v

        def apply(v: Tensor) -> tuple[Tensor, Tensor]:
            u = spread(v)
            return sigma2 * v + problem.A(u), u

        solved = conjugate_gradient(
            apply,
            gap,
            iterations=self.cg_steps,
            preconditioner=_isotropic(level, problem) if self.preconditioned else None,
            space=problem.space,
        )
        assert solved.image is not None  # the sum of the products of all steps
        return solved.image


def _isotropic(level: Levels, problem: Problem) -> Callable[[Tensor], Tensor]:
    """Return a multiple of the inverse of ``sigma_y^2 I + s A A^H``, with a variance s of pixels.

    Operators with eigenvectors at hand give it in closed form (Woodbury), with
    ``w = sigma_y^2 / s``: ``w (w I + A A^H)^-1 v = v - A (w I + A^H A)^-1 A^H v``.
    """
    variance = ISOTROPIC_SHARE * (level.sigma_t / level.alpha_t) ** 2
    weight = noise_level(problem) ** 2 / variance

    def inverse(values: Tensor) -> Tensor:
        w = weight_of_at_least(LEAST_SHARE, weight, values)
        # A^H v has nothing where A is zero; 1 / w there would only raise its rounding errors.
        return torch.where(values > 0, 1 / (values + w), 0)

    def apply(v: Tensor) -> Tensor:
        return per_item(weight, v) * v + problem.A(problem.A_adjoint(v))

    def solve(v: Tensor) -> Tensor:
        inside = problem.normal_function(inverse, problem.A_adjoint(v))
        if inside is not None:
            return v - problem.A(inside)
        steps, space = ISOTROPIC_STEPS, problem.space
        return conjugate_gradient(apply, v, iterations=steps, tolerance=ROUGH, space=space).x

    return solve


@dataclass(frozen=True, kw_only=True)
class MMPS(Corrected):
    r"""MMPS: moment matching with the covariance of x_0 given x_t from the network's Jacobian J.

    For each pair of times t -> s, with Tweedie's second moment::

        x0  = E[x_0 | x_t],   V = Cov[x_0 | x_t] = (sigma_t^2 / alpha_t) J
        v   = CG( sigma_y^2 I + A V A^T,  y - A x0 )
        x0' = x0 + V A^T v                                          approximates E[x_0 | x_t, y]
        x_s = DDIM step from (x_t, x0'), eta

    With ``spread_steps=2`` x0' is a draw of x_0 given x_t and y instead of its mean: x0 and y are
    perturbed before the correction, by ``V^(1/2) z`` and by noise of the data (see
    `wellposed.solvers.spread`). The published method takes the mean, and its samples are too
    narrow, the more the fewer the steps (docs/posterior.md).

    ``J`` is symmetric for an exact denoiser and is applied as ``J^T``: one network evaluation and
    one vector-Jacobian product for each CG step. Exact for Gaussian data, up to the step size and
    the convergence of CG.

    Where the Jacobian is so far from symmetric that a correction doubles the misfit, as happens
    with networks at high noise, V is isotropic in this step; the published method may diverge.

    At high noise the products change little. ``isotropic_above=0.8`` takes V as a multiple of the
    identity there, as `DDS` does with its matched weight. With ``preconditioned=True`` and
    ``cg_steps=2`` a sample then takes about twice the time of `DDS`. MRI and CT come out better
    than with the published settings, motion blurs worse (docs/moment_matching.md).

    Reference: "Learning Diffusion Priors from Observations by Expectation Maximization", NeurIPS
    2024, arXiv 2405.13712. "Tweedie Moment Projected Diffusions for Inverse Problems", 2023,
    arXiv 2310.06721, has the same approximation, with a diagonal shortcut that is not used here.

    Args:
        steps: network evaluations.
        eta: DDIM's eta: 0 is deterministic, 1 is DDPM.
        cg_steps: conjugate-gradient steps, started at zero; a few suffice for images.
        isotropic_above: noise level, ``sigma_t / alpha_t``, above which V is isotropic; infinity
            as published.
        preconditioned: precondition CG by the system of an isotropic V, which needs no network.
            CT, whose rays overlap, then needs 2 or 3 steps instead of 10.
        spread_steps: Jacobian products for the spread of x_0, 0 as published for its mean.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Inpainting(operators.random_mask(16, 16, 0.5), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> result = solvers.MMPS(steps=10)(y, operator, prior, num_samples=4, seed=0)
        >>> result.mean.shape, result.std.shape
        (torch.Size([1, 3, 16, 16]), torch.Size([1, 3, 16, 16]))
    """

    steps: Count = 100
    eta: Fraction = 1.0
    cg_steps: Count = 3
    isotropic_above: PositiveOrInfinite = math.inf
    preconditioned: bool = False
    spread_steps: Annotated[int, Whole(0, 100)] = 0

    name: ClassVar[str] = "mmps"
    linear_only: ClassVar[bool] = True
    differentiates: ClassVar[bool] = True

    @property
    def correction(self) -> MomentMatching:
        """The moment matching."""
        return MomentMatching(
            cg_steps=self.cg_steps,
            isotropic_above=self.isotropic_above,
            preconditioned=self.preconditioned,
            spread_steps=self.spread_steps,
        )

    def fresh(self, level: Levels) -> Tensor:
        """DDIM's variance."""
        return variance("markov", level, self.eta)
