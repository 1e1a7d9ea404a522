"""Draws of x_0 given x_t and y, in place of its mean: what a step of finite length must carry.

A transition to ``x_s`` is exact if it starts from a draw of x_0 given x_t and y. With
``x_0 ~ N(x0, V)`` given x_t, and a correction that is its mean given y as well,

    x0' = x0 + V A^H (A V A^H + sigma_y^2)^-1 (y - A x0),

the correction of ``x0 + u`` by ``y + sigma_y n`` is a draw, for ``u ~ N(0, V)`` and
``n ~ N(0, 1)`` ("Gaussian sampling by local perturbations", Papandreou and Yuille, NeurIPS 2010).
The mean alone leaves ``c^2 Cov[x_0 | x_t, y]`` out of every step, c being the share of x_0 in x_s:
samples are too narrow, by an amount that falls only with the number of steps.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.linalg import WHOLE, Space, as_real, like, per_item
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.priors.transition import Levels
from wellposed.solvers.corrected import Estimate
from wellposed.solvers.data import noise_level, noised, proximal
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import measured_numbers

LEAST = 0.01
"""Smallest variance of x_0 given x_t over `unit_variance`."""


def unit_variance(level: Levels) -> Tensor:
    """Return the variance of x_0 given x_t for data of variance 1, without the network."""
    return level.sigma_t**2 / (level.alpha_t**2 + level.sigma_t**2)


def perturbed(
    found: Estimate, u: Tensor, problem: Problem, sigma: Tensor, noise: NoiseSource
) -> tuple[Estimate, Problem]:
    """Return estimate and problem whose correction is a draw; see the module.

    Args:
        found: the estimate.
        u: a draw of ``N(0, V)``.
        problem: the problem.
        sigma: noise level of the data that the correction assumes, (B,).
        noise: source of the noise of the data.
    """
    return found._replace(x0=found.x0 + u), noised(problem, sigma, noise)


def tweedie_draw(
    found: Estimate, z: Tensor, level: Levels, steps: int, space: Space = WHOLE
) -> Tensor:
    """Return ``V^(1/2) z`` with Tweedie's covariance ``V = (sigma_t^2 / alpha_t) J``.

    It takes ``steps`` vector-Jacobian products, two of which are exact to about 1 % of the total
    variance; one gives the same variance to every pixel.

    Args:
        found: the estimate, differentiable.
        z: standard normal noise.
        level: schedule values at t, with ``alpha_t > 0``.
        steps: steps of Lanczos's method.
        space: the inner product of images.
    """
    return level.sigma_t / level.alpha_t.sqrt() * root(found.vjp, z, steps, space)


def isotropic_draw(
    found: Estimate,
    rho2: Tensor,
    problem: Problem,
    noise: NoiseSource,
    iterations: int | None = None,
) -> Tensor:
    """Return a draw of x_0 given x_t and y for ``V = rho^2``, without gradients.

    Args:
        found: the estimate.
        rho2: variance of a pixel of each item, (B,).
        problem: the problem; noise-free data have the noise of `noise_level`.
        noise: source of the noise.
        iterations: conjugate-gradient steps at most, see `proximal`.
    """
    x0, sigma = found.x0, noise_level(problem)
    u = per_item(rho2.sqrt(), x0) * noise.draw(x0)
    seen, measured = perturbed(found, u, problem, sigma, noise)
    return proximal(measured, seen.x0, sigma**2 / rho2, iterations)


def variance_of_residual(found: Estimate, level: Levels, problem: Problem) -> Tensor:
    """Return the variance of a pixel of x_0 given x_t that the residual shows, (B,).

    ``||y - A x0||^2`` has the mean ``m sigma_y^2 + rho^2 ||A||_F^2`` for m measured numbers, if
    x_t is drawn given y. It is at most ``r^2 = (sigma_t / alpha_t)^2``, and at least a hundredth
    of `unit_variance`.
    """
    most = float((level.sigma_t / level.alpha_t) ** 2)
    gap, m = problem.space.norm(problem.y - problem.A(found.x0)), measured_numbers(problem)
    zeros = problem.zeros()
    probe = signs(zeros[:1], problem.part.start).expand_as(zeros)
    gain = problem.space.norm(problem.A(probe)).square()
    excess = gap.square() - m.to(gap) * problem.noise_sigma**2
    least = LEAST * float(unit_variance(level))
    return (excess / torch.where(gain > 0, gain, 1)).clamp(least, most)


def signs(x: Tensor, first_slice: int = 0) -> Tensor:
    """Return random images of signs, always the same, for complex images in both parts.

    ``||A s||^2`` of such an image is about ``||A||_F^2``.
    """
    noise = ItemNoise(0, [(n,) for n in range(len(x))], first_slice=first_slice)
    return like(noise.draw(as_real(x)).sign(), x)


def root(apply: Callable[[Tensor], Tensor], z: Tensor, steps: int, space: Space = WHOLE) -> Tensor:
    """Return ``M^(1/2) z`` of a Hermitian map M of each item, by Lanczos's method.

    Negative eigenvalues, which the Jacobian of a network may have, count as zero.

    Args:
        apply: the map on tensors (B, ...), acting on each item alone.
        z: (B, ...), not zero.
        steps: applications of the map.
        space: the inner product, if processes hold parts of an item.
    """
    length, basis = space.norm(z), []
    q, T = z / per_item(length, z), z.new_zeros(len(z), steps, steps, dtype=torch.float64)
    for k in range(steps):
        basis.append(q)
        w = apply(q)
        T[:, k, k] = space.inner(q, w).double()
        for p in basis:  # against all vectors: the map is only nearly Hermitian
            w = w - per_item(space.inner(p, w), w) * p
        beta = space.norm(w)
        if k + 1 < steps:
            T[:, k, k + 1] = T[:, k + 1, k] = beta.double()
        q = w / per_item(torch.where(beta > 0, beta, 1), w)
    values, vectors = torch.linalg.eigh(T)
    first = (vectors * values.clamp(min=0).sqrt()[:, None] * vectors[:, :1]).sum(2)
    weights = (length.double()[:, None] * first).to(z.real.dtype)
    return torch.stack([per_item(weights[:, k], z) * p for k, p in enumerate(basis)]).sum(0)
