"""Two unknowns from their sum: both are Gaussian, so the joint posterior is known.

The toy problem of structured noise: a smooth signal ``x ~ N(0, K_4)`` and a rougher disturbance
``h ~ N(0, K_1 / 2)`` on a line of 32 points, measured as ``y = x + h`` with little noise. ``K_L``
is the squared exponential of length L. Solvers do not use that ``p(x, h | y)`` is Gaussian, so
their errors indicate how far they can be trusted on other problems.
"""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import ArgumentError
from wellposed.noise import ItemNoise
from wellposed.operators.image.inpainting import Denoising
from wellposed.operators.superposition import Superposition
from wellposed.priors.adapters.product import Product
from wellposed.priors.analytic import GaussianPrior
from wellposed.priors.covariance import Full
from wellposed.priors.schedule import VE, Schedule
from wellposed.solvers.base import Solver
from wellposed.solvers.dps import DPS
from wellposed.solvers.mmps import MMPS
from wellposed.solvers.pigdm import PiGDM
from wellposed.solvers.problem import Problem
from wellposed.solvers.separation.noisy_projection import NoisyProjection
from wellposed.validation.errors import average, compare
from wellposed.validation.gaussian import BatchNoise, process
from wellposed.validation.settings import capped, recorded_solvers

POINTS, NOISE = 32, 0.1
LENGTHS, VARIANCES = (4.0, 1.0), (1.0, 0.5)
SuperpositionProblem = tuple[Tensor, Superposition, Product]


def squared_exponential(length: float, variance: float, points: int = POINTS) -> Tensor:
    """Return the covariance ``variance exp(-(i - j)^2 / (2 length^2))``, (points, points)."""
    i = torch.arange(points, dtype=torch.float64)
    kernel = torch.exp(-((i[:, None] - i) ** 2) / (2 * length**2))
    # The covariance is singular to rounding.
    return variance * (kernel + 1e-4 * torch.eye(points, dtype=torch.float64))


def superposition_problem(schedule: Schedule, problems: int = 1) -> SuperpositionProblem:
    """Return ``(y, operator, prior)`` in float64, with two blocks (1, 1, 32) and y per problem."""
    covariances = map(squared_exponential, LENGTHS, VARIANCES)
    blocks = [GaussianPrior(0.0, Full(C), schedule) for C in covariances]
    prior = Product(blocks, channels=(1, 1))
    operator = Superposition([Denoising((1, 1, POINTS))] * 2, noise_sigma=NOISE)
    noise = ItemNoise(0, [(i,) for i in range(problems)])
    z = torch.zeros(problems, 1, 1, POINTS, dtype=torch.float64)
    truth = torch.cat([block.draw(noise.draw(z)) for block in blocks], 1)
    return operator.measure(truth), operator, prior


def exact_posterior(problem: SuperpositionProblem) -> tuple[Tensor, Tensor]:
    """Return the means (problems, 2 n) and the covariance (2 n, 2 n) of the joint posteriors."""
    y, operator, prior = problem
    covariance = torch.block_diag(*map(squared_exponential, LENGTHS, VARIANCES))
    exact = GaussianPrior(0.0, Full(covariance), prior.schedule).posterior(y, operator)
    return exact.mean.flatten(1), exact.covariance()


def superposition_errors(
    solver: Solver, schedule: Schedule | None = None, problems: int = 4, pairs: int = 50
) -> dict[str, float]:
    """Return a solver's errors on the toy, averaged over problems, which run as one batch.

    Args:
        solver: the solver.
        schedule: DDPM's linear schedule by default.
        problems: number of problems.
        pairs: antithetic pairs of samples per problem, whose mean is free of sampling error for
            solvers that are linear in their noise.

    Returns:
        The fields of `PosteriorErrors` for both blocks together. For the signal alone,
        ``signal_mean``, the error of the mean over the norm of the exact mean, and
        ``signal_spread``, the trace of the covariance over the exact trace.
    """
    y, operator, prior = superposition_problem(schedule or process("vp"), problems)
    means, covariance = exact_posterior((y, operator, prior))
    repeated, noise = y.repeat(2 * pairs, 1, 1, 1), BatchNoise(0, antithetic=True)
    samples = solver(repeated, operator, prior, noise=noise).samples[0]
    each = samples.reshape(2 * pairs, problems, -1).transpose(0, 1)
    joint = [compare(one, mean, covariance) for one, mean in zip(each, means, strict=True)]
    signal, exact = each[..., :POINTS], means[:, :POINTS]
    spread = signal.var(1).sum(1).mean() / covariance.diagonal()[:POINTS].sum()
    gap = signal.mean(1) - exact
    own = {"signal_mean": float(gap.norm() / exact.norm()), "signal_spread": float(spread)}
    return asdict(average(joint)) | own


def superposition_solvers(budget: int = 100) -> dict[str, Solver]:
    """Return the zero-shot solvers measured on the toy, with at most ``budget`` steps."""
    several = {name: capped(solver, budget) for name, solver in recorded_solvers().items()}
    case = superposition_problem(process("vp"))
    return {name: solver for name, solver in several.items() if _accepts(solver, case)}


def _accepts(solver: Solver, case: SuperpositionProblem) -> bool:
    try:
        solver.check(Problem.create(*case))
    except ArgumentError:
        return False
    return True


def published_toy() -> dict[str, dict[str, float]]:
    """Return the errors of guidance by 600 steps of the published process, by method.

    ``std(t)^2 = (25^(2t) - 1) / (2 ln 25)`` (Stevens et al., arXiv 2302.05290) is, except for the
    smallest t, uniform in log noise from .032 to 9.85.
    """
    long: dict[str, Any] = {"steps": 600, "spacing": "geometric"}
    methods = {
        "exact covariance": MMPS(cg_steps=10, **long),
        # The published .1 refers to coordinates with alpha = 1; zeta here refers to others.
        "DPS": DPS(zeta=0.02, **long),
        "PiGDM": PiGDM(guidance="score", **long),
        "projection": NoisyProjection(**long),
    }
    return {name: superposition_errors(m, VE(9.85, 0.032)) for name, m in methods.items()}
