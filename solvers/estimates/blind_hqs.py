"""Image and unknown parameter of the operator, found in turn at falling noise levels."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

import torch
from torch import Tensor

from wellposed.checks import Count, Positive, Range, Steps, Whole
from wellposed.errors import ArgumentError, require
from wellposed.fixed_points import accelerated
from wellposed.linalg import largest_eigenvalue, per_item, squares
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.priors.adapters.product import Product
from wellposed.priors.prior import Prior
from wellposed.solvers.base import Solver, State
from wellposed.solvers.data import REMAINING, noise_level, proximal
from wellposed.solvers.estimates.base import denoised_at
from wellposed.solvers.estimates.plug_and_play import HQS
from wellposed.solvers.problem import Problem

if TYPE_CHECKING:
    from wellposed.operators.base import LinearOperator
    from wellposed.operators.bilinear import Bilinear

IMAGE_STD = 0.5
"""Assumed standard deviation of images in units, which span -1 to 1."""

POWER_STEPS, MARGIN = 30, 1.05
"""Power iterations for the curvature of a fit, and what covers that they end below it."""


@dataclass(frozen=True, eq=False)
class BlindState(State):
    """State of `BlindHQS`; x is the image in units, x0 image and mean parameter together.

    Attributes:
        parameter: the latest parameter, in public values (B, P, H, W).
        mean: running mean of the parameters.
        misfit: running mean of how far the denoised images are from explaining the data, (B,).
        best: the mean parameter of the best start before this one.
        least: its misfit, (B,).
    """

    parameter: Tensor
    mean: Tensor
    misfit: Tensor
    best: Tensor
    least: Tensor

    def with_the_best(self) -> "BlindState":
        """Return the state that keeps the better one of its start and the best, by item."""
        better = self.misfit < self.least
        best = torch.where(per_item(better, self.best), self.mean, self.best)
        return replace(self, best=best, least=torch.where(better, self.misfit, self.least))


@dataclass(frozen=True, kw_only=True)
class BlindHQS(Solver):
    r"""Blind deconvolution and the like: the parameter of an operator is found with the image.

    For ``y = A(theta) x + n`` with a `Bilinear` operator and a `Product` of two priors. At noise
    levels ``s`` from ``start`` down to ``stop``, with the denoiser ``D`` of the image's prior::

        d     = D(x + s z, s),   z ~ N(0, I)
        theta = argmin  ||A(theta) d - y||^2 / (2 (sigma_y^2 + v)) - log p(theta)
        x     = argmin  ||A(theta) x - y||^2 / (2 sigma_y^2) + ||x - d||^2 / (2 v)

    with ``v = 1 / (4 / s^2 + 16)``, the variance of the error of d. Then theta is the mean over
    the last steps. Of several starts, with other noise, the one whose ``A(theta) d`` is closest to
    y is kept, and `HQS` finds the image.

    The noise hides from D what the data have lost, so that d has the edges of sharp images, and
    theta is what lies between d and y. Without it, or at low levels, d takes over the blur, and
    theta becomes the identity. The fit of theta, by FISTA, is exact for a `GaussianPrior` and for
    `Proximal` priors. Shifts that the data cannot tell are undone, `Bilinear.centred`.

    Reference: the alternation within one reverse diffusion is that of "Fast Diffusion EM: a
    diffusion model for blind inverse problems with application to deconvolution", Laroche,
    Almansa and Coupete, WACV 2024, arXiv 2309.00287. Departures: theta is fitted down to ``stop``
    only, to `Bilinear.prefiltered` values, and averaged; several starts; the image ends with HQS.

    Args:
        steps: steps of a start, each with one evaluation of the image's prior.
        starts: number of starts.
        image_steps: steps of HQS with the final parameter.
        start, stop: noise levels ``sigma / alpha`` between which the parameter is found, in units.
        averaging: weight of the latest step in the running means.
        fit_steps: proximal gradient steps of a fit of the parameter.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.BlindBlur((1, 16, 16), kernel_size=5, noise_sigma=0.01)
        >>> kernel = operator.canvas(operators.gaussian_kernel(1.0, size=5)).float()
        >>> y = operator.measure(torch.cat([torch.rand(1, 1, 16, 16), kernel], 1), seed=0)
        >>> simplex = priors.Simplex(kernel[0, 0])
        >>> kernels = priors.Proximal(simplex, data_range=(-0.1, 0.1), channels=1)
        >>> prior = priors.Product([priors.GaussianPrior(0.5, 0.1), kernels], channels=[1, 1])
        >>> result = solvers.BlindHQS(steps=5, starts=1)(y, operator, prior, seed=0)
        >>> image, kernel = operator.split(result.mean)
        >>> round(float(kernel.sum()), 4)
        1.0
    """

    steps: Steps = 60
    starts: Annotated[int, Whole(1, 1000)] = 4
    image_steps: Steps = 20
    start: Positive = 2.0
    stop: Positive = 0.3
    averaging: Annotated[float, Range(0, 1, "(]")] = 0.1
    fit_steps: Count = 50

    name: ClassVar[str] = "blind-hqs"
    operators: ClassVar[tuple[str, ...]] = ("Bilinear",)

    def __post_init__(self) -> None:
        """Raise if the levels do not fall."""
        super().__post_init__()
        require(self.stop <= self.start, "stop", self.stop, f"at most start, {self.start}")

    def check(self, problem: Problem) -> None:
        """Ask for a prior of the image and one of the parameter."""
        super().check(problem)
        prior, sizes = problem.prior, _bilinear(problem).channels
        if not isinstance(prior, Product) or prior.sizes != sizes:
            raise ArgumentError(
                f"prior: got {type(prior).__name__}, accepted by BlindHQS: a priors.Product of a "
                f"prior of images and one of parameters, with {sizes} channels"
            )

    def times(self, problem: Problem) -> list[float]:
        """Return the numbers of steps that are left; the last one is that of the image."""
        return [float(left) for left in range(self.starts * self.steps + 1, -1, -1)]

    def init(self, problem: Problem, noise: NoiseSource) -> BlindState:
        """Start from the mean of the parameter's prior, and the image that follows from it."""
        blind, prior = _bilinear(problem), _blocks(problem)[1]
        unknown = blind.split(problem.zeros())[1]
        mean = prior.denoise(prior.to_units(unknown), prior.schedule.T)
        theta = blind.normalised(prior.to_public(mean))
        given = imaging(problem, theta)
        x = self._image(given.zeros(), self.start, given)
        none = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return BlindState(
            x, _joined(x, theta, problem), theta, theta, none, theta, none + torch.inf
        )

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> BlindState:
        """Denoise, fit the parameter, fit the image; at the end the image alone."""
        assert isinstance(state, BlindState)
        left = int(t) - 1
        if left == 0:
            return self._end(state, problem, noise)
        if left % self.steps == 0 and left < self.starts * self.steps:
            kept = state.with_the_best()
            state = replace(self.init(problem, noise), best=kept.best, least=kept.least)
        return self._learn(state, (left - 1) % self.steps, problem, noise)

    def _learn(
        self, state: BlindState, left: int, problem: Problem, noise: NoiseSource
    ) -> BlindState:
        """Denoise, fit the parameter, fit the image; ``left`` steps follow in this start."""
        done = 1 - left / max(self.steps - 1, 1)
        level, blind = self.start * (self.stop / self.start) ** done, _bilinear(problem)
        image = replace(problem, prior=_blocks(problem)[0])
        levels = torch.full((len(state.x),), level, dtype=torch.float64, device=state.x.device)
        d = denoised_at(state.x + level * noise.draw(state.x), levels, image)
        theta, misfit = self._parameter(image.to_public(d), state.parameter, level, problem)
        d, theta = blind.centred(d, theta)
        x = self._image(d, level, imaging(problem, theta))
        mean = state.mean.lerp(theta, self.averaging)
        return replace(
            state,
            x=x,
            x0=_joined(x, mean, problem),
            parameter=theta,
            mean=mean,
            misfit=state.misfit.lerp(misfit, self.averaging),
        )

    def _end(self, state: BlindState, problem: Problem, noise: NoiseSource) -> BlindState:
        """Find the image with the best parameter, by HQS."""
        best = _bilinear(problem).normalised(state.with_the_best().best)
        given, solver = imaging(problem, best), HQS(steps=self.image_steps)
        found = solver.init(given, noise)
        for t, s in pairwise(solver.times(given)):
            found = solver.step(found, t, s, given, noise)
        return replace(state, x=found.x, x0=_joined(found.x, best, problem), best=best)

    def finish(self, state: State) -> Tensor:
        """Return image and parameter."""
        return state.x0

    def _image(self, d: Tensor, level: float, given: Problem) -> Tensor:
        """Return ``argmin_x ||A x - y||^2 / sigma_y^2 + ||x - d||^2 / v``, in units."""
        weight = noise_level(given) ** 2 / spread(level)
        return proximal(given, d, weight.to(d.real.dtype))

    def _parameter(
        self, image: Tensor, start: Tensor, level: float, problem: Problem
    ) -> tuple[Tensor, Tensor]:
        """Return the most probable parameter of a public image, and its misfit."""
        blind, (images, prior) = _bilinear(problem), _blocks(problem)
        A = blind.given_image(blind.prefiltered(image))
        y = blind.prefiltered(problem.y * problem.prior.scale)
        error = noise_level(problem) * problem.prior.scale
        total = (error**2 + spread(level) * images.scale**2).sqrt()
        theta = blind.normalised(most_probable(A, y, total, prior, start, self.fit_steps))
        return theta, squares(A.A(theta) - y)


def spread(level: float) -> float:
    """Return the variance of the error of a denoised image: a share of what is possible."""
    return REMAINING / (1 / level**2 + 1 / IMAGE_STD**2)


def most_probable(
    A: "LinearOperator", y: Tensor, sigma: Tensor, prior: Prior, start: Tensor, steps: int
) -> Tensor:
    """Return ``argmin_x ||A x - y||^2 / (2 sigma^2) - log p(x)``, in public values.

    FISTA, see `accelerated`, whose proximal map of ``-log p`` is the denoiser of the prior at the
    level ``sigma / |A|``. Where the prior's schedule begins above
    that level, sigma counts as larger.

    Args:
        A: linear operator.
        y: measurements.
        sigma: noise of each item, (B,).
        prior: prior whose denoiser is a proximal map.
        start: where to start, (B, ...).
        steps: number of steps.
    """
    z = ItemNoise(0, [(0,)]).draw(start[:1]).expand(start.shape)
    norm2 = MARGIN * largest_eigenvalue(A.A_adjoint_A, z, POWER_STEPS).clamp(min=1e-30)
    level = sigma / norm2.sqrt().to(sigma)
    low = prior.schedule.min_ratio * prior.scale
    level = level.clamp(low, float(prior.schedule.ratio(prior.schedule.T)) * prior.scale)
    back = A.A_adjoint(y)

    def advance(x: Tensor) -> Tensor:
        gradient = A.A_adjoint_A(x) - back
        found: Tensor = prior(x - gradient / per_item(norm2, gradient), level)
        return found

    return accelerated(advance, start, steps)


def imaging(problem: Problem, parameter: Tensor) -> Problem:
    """Return the linear problem of the image that a parameter (B, P, H, W) leaves."""
    prior = _blocks(problem)[0]
    shape = torch.Size((len(parameter), _bilinear(problem).channels[0], *parameter.shape[2:]))
    operator = _bilinear(problem).given_parameter(parameter)
    given = replace(problem, operator=operator, prior=prior, image_shape=shape, is_linear=True)
    y = problem.y * problem.prior.scale
    return replace(given, y=(y - given.A_centre) / prior.scale)


def _joined(x: Tensor, theta: Tensor, problem: Problem) -> Tensor:
    """Return an image in units and a parameter in public values as one, in units."""
    image = _blocks(problem)[0].to_public(x)
    joined: Tensor = problem.prior.to_units(_bilinear(problem).join(image, theta))
    return joined


def _bilinear(problem: Problem) -> "Bilinear":
    return cast("Bilinear", problem.operator)


def _blocks(problem: Problem) -> list[Prior]:
    """Return the priors of the image and of the parameter."""
    return list(cast(Product, problem.prior).priors)
