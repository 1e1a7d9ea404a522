"""The test of MCGdiff: a mixture of 25 Gaussians, observed by a few noisy projections.

Cardoso, Janati El Idrissi, Le Corff and Moulines, "Monte Carlo guided diffusion for Bayesian
linear inverse problems", ICLR 2024, arXiv 2308.07983. The posterior is again a mixture.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.metrics import sliced_wasserstein
from wellposed.noise import MEASUREMENT, NoiseSource, item_generator
from wellposed.operators.matrix import MatrixOperator
from wellposed.priors.analytic import draw_components
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Prior, broadcast
from wellposed.priors.schedule import Schedule, Tabulated
from wellposed.solvers.base import Solver
from wellposed.validation.gaussian import BatchNoise, draw_samples

CELLS = tuple((d, measured) for d in (8, 80, 800) for measured in (1, 2, 4))
"""Dimensions and numbers of measurements ``(d, d_y)`` of the published grid."""


class UnitMixture(Prior):
    """``x_0 ~ sum_k w_k N(m_k, 1)``: `GaussianMixturePrior` of unit variances, for many pixels.

    Args:
        weights: (K,), positive; normalised here.
        means: (K, C, ...).
        schedule: DDPM's linear schedule by default.
    """

    def __init__(self, weights: Tensor, means: Tensor, schedule: Schedule | None = None) -> None:
        super().__init__(schedule or Tabulated.linear())
        require(bool((weights > 0).all()), "weights", "values <= 0", "positive values")
        self.weights = weights / weights.sum()
        self.means = means.flatten(1)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the exact ``E[x_0 | x_t]``; see `Prior.denoise`."""
        x, means = x_t.flatten(1), self.means.to(x_t)
        alpha, sigma = (broadcast(v, x) for v in self.schedule(t))
        gain = alpha / (alpha**2 + sigma**2)
        # The terms of |x - alpha m|^2 that differ between components.
        log_weight = gain * (x @ means.T - 0.5 * alpha * means.square().sum(1))
        weight = torch.softmax(self.weights.to(x).log() + log_weight, 1)
        return ((1 - gain * alpha) * (weight @ means) + gain * x).reshape(x_t.shape)

    def draw_noisy(self, like: Tensor, t: float, noise: NoiseSource) -> Tensor:
        """Return exact draws of ``x_t``, of the shape, dtype and device of ``like``."""
        alpha, sigma = (broadcast(v, like) for v in self.schedule(t))
        means = self.means.to(like)[draw_components(self.weights, like, noise)]
        # The sum of the unit variance and of the noise.
        return alpha * means.reshape(like.shape) + torch.hypot(alpha, sigma) * noise.draw(like)


@dataclass(frozen=True)
class MixtureProblem:
    """One problem of the test.

    Attributes:
        y: measurement (1, d_y).
        operator: a matrix with singular values uniform in [0, 1].
        prior: a mixture with means on a 5 x 5 lattice of step 8, repeated over the coordinates.
    """

    y: Tensor
    operator: MatrixOperator
    prior: UnitMixture

    def posterior_samples(self, count: int, rng: np.random.Generator) -> Tensor:
        """Return exact samples (count, d) of the posterior."""
        A, means = self.operator, self.prior.means
        variance = A.noise_std(self.y) ** 2
        gap = A.U_adjoint(self.y - means @ A.matrix.T)  # (K, d_y)
        s = A.singular_values
        power = s**2 + variance
        log_weight = self.prior.weights.log() - 0.5 * (gap**2 / power).sum(1)
        weights = torch.softmax(log_weight, 0).numpy()
        k = torch.from_numpy(rng.choice(len(weights), count, p=weights / weights.sum()))
        z = torch.from_numpy(rng.standard_normal((count, means.shape[1])))
        # Along the measured directions the unit variance shrinks to variance / power.
        shrunk = ((variance / power).sqrt() - 1) * (z @ A.right) + (s / power) * gap[k]
        return means[k] + z + shrunk @ A.right.T


def mixture_problem(d: int, measured: int, seed: int) -> MixtureProblem:
    """Return a random problem in float64.

    Args:
        d: number of unknowns, even.
        measured: number of noisy projections ``d_y``, at most ``d``.
        seed: seed of weights, operator, noise level (at most the largest singular value), truth
            and noise.
    """
    require(d >= 2 and d % 2 == 0, "d", d, "an even number")
    require(1 <= measured <= d, "measured", measured, f"a number from 1 to {d}")
    rng = item_generator(seed, (d, measured), MEASUREMENT)
    lattice = [(-8.0 * i, -8.0 * j) * (d // 2) for i in range(-2, 3) for j in range(-2, 3)]
    means = torch.tensor(lattice, dtype=torch.float64)
    weights = torch.from_numpy(rng.standard_normal(25) ** 2)
    U, _, Vt = np.linalg.svd(rng.standard_normal((measured, d)), full_matrices=False)
    s = np.sort(rng.uniform(size=measured))[::-1]
    sigma = float(rng.uniform() * s[0])
    operator = MatrixOperator(torch.from_numpy(U * s @ Vt), (1, 1, d), sigma)
    k = rng.choice(25, p=(weights / weights.sum()).numpy())
    truth = means[k] + torch.from_numpy(rng.standard_normal(d))
    y = operator.measure(truth.reshape(1, 1, 1, d), int(rng.integers(2**31)))
    return MixtureProblem(y, operator, UnitMixture(weights, means.reshape(25, 1, 1, d)))


def mixture_distances(
    solver: Solver | None,
    cell: tuple[int, int],
    problems: int = 20,
    num_samples: int = 2000,
    slices: int = 10_000,
) -> list[float]:
    """Return the sliced Wasserstein distance to exact samples on each problem of a cell.

    Args:
        solver: the solver; ``None`` uses a second set of exact samples: the floor.
        cell: ``(d, d_y)``, see `CELLS`.
        problems: number of problems; their seeds count from 0.
        num_samples: samples of the solver and of the posterior.
        slices: number of directions on which the sets are projected.
    """
    distances = []
    for seed in range(problems):
        problem = mixture_problem(*cell, seed)
        rng = item_generator(seed, (*cell, 1), MEASUREMENT)
        exact = problem.posterior_samples(num_samples, rng)
        if solver is None:
            samples = problem.posterior_samples(num_samples, rng)
        else:
            case = (problem.y, problem.operator, problem.prior)
            samples = draw_samples(solver, case, num_samples, BatchNoise(seed)).flatten(1)
        distances.append(float(sliced_wasserstein(samples, exact, slices, seed)))
    return distances


def half_width(values: list[float]) -> float:
    """Return 1.96 standard errors of the mean, as the published tables do."""
    return 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
