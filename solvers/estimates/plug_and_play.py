"""Plug-and-play estimates: the prior's denoiser as a proximal map, at falling noise levels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, NonNegative, Positive
from wellposed.fixed_points import accelerated
from wellposed.linalg import per_item
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.parallel.part import Part
from wellposed.solvers.base import State
from wellposed.solvers.data import noise_level, proximal
from wellposed.solvers.descent import gradient_step
from wellposed.solvers.estimates.base import PointEstimate, denoised_at
from wellposed.solvers.problem import Problem

SLICE_STEPS = 30
"""Iterations of the proximal map of total variation between slices."""

GRADIENT_STEPS = 5
"""Gradient steps that stand for a proximal solution where the measurement is not linear."""


@dataclass(frozen=True, kw_only=True)
class PlugAndPlay(PointEstimate):
    """Base of the estimates that alternate the data and a denoiser.

    The denoiser is used at levels from ``start`` down to the noise level of the data, equidistant
    on a logarithmic scale and chosen for each item.

    Args:
        steps: iterations, each with one evaluation of the network.
        start: first noise level, ``sigma / alpha`` in the prior's units (an image spans -1 to 1).
        lambda_: weight of the prior; larger values smooth more.
        z_weight: weight of the total variation between the slices of a volume, for priors of
            images (`priors.Slicewise`): the inverse of a typical difference in the prior's units.
        cg_steps: conjugate-gradient steps at most of a fit, where it has no closed form.
    """

    steps: Count = 30
    start: Positive = 0.4
    lambda_: Positive = 0.23
    z_weight: NonNegative = 0.0
    cg_steps: Count = 60

    def level(self, left: float, problem: Problem) -> Tensor:
        """Return the noise level of each item, (B,), with so many iterations left."""
        low = image_noise(problem).clamp(min=problem.prior.schedule.min_ratio)
        high = low.clamp(min=self.start)
        done = (self.steps - left) / max(self.steps - 1, 1)
        return high * (low / high) ** done

    def fit(self, x: Tensor, level: Tensor, problem: Problem) -> Tensor:
        """Return ``argmin_z ||A z - y||^2 / sigma_y^2 + lambda ||z - x||^2 / level^2``."""
        weight = (self.lambda_ * (noise_level(problem) / level) ** 2).to(x.real.dtype)
        if problem.is_linear:
            return proximal(problem, x, weight, self.cg_steps)
        # Each step may move as far as one of many: the weights of steps in a row add up.
        for _ in range(GRADIENT_STEPS):
            x = gradient_step(x, GRADIENT_STEPS * weight, problem)
        return x

    def denoise(self, x: Tensor, level: Tensor, problem: Problem) -> Tensor:
        """Return the denoised image, with total variation between the slices of a volume."""
        denoised = denoised_at(x, level, problem)
        if self.z_weight == 0 or x.ndim != 5:
            return denoised
        return between_slices(denoised, self.z_weight * level**2, problem.part)


def between_slices(x: Tensor, weight: Tensor, part: Part) -> Tensor:
    """Return ``argmin_z ||z - x||^2 / 2 + weight ||D z||_1`` with differences D along z.

    By accelerated projected gradients on the dual; Beck and Teboulle, "Fast gradient-based
    algorithms for constrained total variation image denoising and deblurring problems", 2009,
    doi 10.1109/TIP.2009.2028250.

    Args:
        x: volumes (B, C, D, H, W).
        weight: of each item, (B,).
        part: what this process holds of a volume.
    """
    bound, axis = per_item(weight.to(x.real.dtype), x), -3

    def ascend(q: Tensor) -> Tensor:
        z = x - part.difference_adjoint(q, axis, circular=False)
        ascended = q + part.difference(z, axis, circular=False) / 4
        return ascended / (ascended.abs() / bound).clamp(min=1)

    dual = accelerated(ascend, torch.zeros_like(x), SLICE_STEPS)
    return x - part.difference_adjoint(dual, axis, circular=False)


def image_noise(problem: Problem) -> Tensor:
    """Return the noise of what is measured, as noise of an image, (B,), in units.

    It is ``sigma_y / |A|`` with ``|A|^2 = tr (A^H A)^2 / tr A^H A``, the mean eigenvalue of a
    measured direction, found from one random image; 1 if A is not linear. Directions that are not
    measured do not count: pixels that are missing do not make the others noisier.
    """
    level = noise_level(problem).double()
    if not problem.is_linear:
        return level
    z = ItemNoise(0, [(0,)], first_slice=problem.part.start).draw(problem.zeros()[:1])
    z = z.expand(problem.image_shape)
    seen, space = problem.normal(z), problem.space
    mean = space.inner(seen, seen).double() / space.inner(z, seen).double()
    return level / torch.where(mean > 0, mean, 1).sqrt()


@dataclass(frozen=True, kw_only=True)
class HQS(PlugAndPlay):
    r"""Plug-and-play half-quadratic splitting: a sharp estimate in few evaluations, no samples.

    For noise levels ``s`` from ``start`` down to ``sigma_y``, with the prior's denoiser ``D``::

        z = argmin_z  ||A z - y||^2 / (2 sigma_y^2) + lambda ||z - x||^2 / (2 s^2)
        x = D(z, s)

    In volumes with a prior of images, total variation between slices may follow (``z_weight``).
    Where the measurement is not linear, z comes from gradient steps. Noise-free data are fitted
    as if they had noise of .01 in the prior's units.

    Reference: "Plug-and-Play Image Restoration with Deep Denoiser Prior", TPAMI 2021,
    arXiv 2008.13751, eq. 6 and 7, with its ``lambda = .23``.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Blur(operators.uniform_kernel(3), (3, 16, 16), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> result = solvers.HQS(steps=10)(y, operator, prior)
        >>> result.mean.shape, result.nfe
        (torch.Size([1, 3, 16, 16]), 10)
    """

    name: ClassVar[str] = "hqs"

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Fit the data, denoise."""
        level = self.level(t, problem)
        x = self.denoise(self.fit(state.x, level, problem), level, problem)
        return State(x, x)


@dataclass(frozen=True, eq=False)
class SplitState(State):
    """State of ADMM.

    Attributes:
        u: the scaled dual variable, an image in units.
    """

    u: Tensor


@dataclass(frozen=True, kw_only=True)
class PnPADMM(PlugAndPlay):
    r"""Plug-and-play ADMM: half-quadratic splitting with a dual variable that drives consensus.

    For noise levels ``s`` from ``start`` down to ``sigma_y``, with the prior's denoiser ``D``::

        z = argmin_z  ||A z - y||^2 / (2 sigma_y^2) + lambda ||z - (x - u)||^2 / (2 s^2)
        x = D(z + u, s)
        u = (s' / s)^2 (u + z - x)

    The scaled dual variable is divided by the penalty ``lambda / s^2``, which the factor of u
    adapts to the next level ``s'``. At a constant level and with lambda = 1 a Gaussian prior gives
    the posterior mode.

    Reference: "Plug-and-Play Priors for Model Based Reconstruction", GlobalSIP 2013; with falling
    levels "Plug-and-Play ADMM for Image Restoration", arXiv 1605.01710.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Inpainting(operators.random_mask(16, 16, 0.5), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> solvers.PnPADMM(steps=10)(y, operator, prior).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    name: ClassVar[str] = "pnp-admm"

    def init(self, problem: Problem, noise: NoiseSource) -> SplitState:
        """Start without a dual variable."""
        x = super().init(problem, noise).x
        return SplitState(x, x, torch.zeros_like(x))

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> SplitState:
        """Fit the data, denoise, add up the difference."""
        assert isinstance(state, SplitState)
        level, after = self.level(t, problem), self.level(max(s, 1.0), problem)
        z = self.fit(state.x - state.u, level, problem)
        x = self.denoise(z + state.u, level, problem)
        shrink = per_item(((after / level) ** 2).to(x.real.dtype), x)
        return SplitState(x, x, shrink * (state.u + z - x))
