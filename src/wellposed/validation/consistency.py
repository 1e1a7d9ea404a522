"""Convergence of a solver with the number of steps, and agreement of equivalent processes."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wellposed.errors import require
from wellposed.solvers.base import Solver
from wellposed.validation.gaussian import (
    PROCESSES,
    BatchNoise,
    draw_samples,
    gaussian_problem,
    process,
)

STEPS = (25, 50, 100, 200)


def mean_errors(
    solver: Solver, steps: Sequence[int] = STEPS, problems: int = 4, pairs: int = 64
) -> list[float]:
    """Return the error of the mean for each number of steps, in posterior standard deviations.

    Args:
        solver: the solver; its own number of steps is replaced.
        steps: numbers of steps.
        problems: Gaussian problems to average over.
        pairs: antithetic pairs of samples.
    """
    errors = []
    for count in steps:
        finer, squares = replace(solver, steps=count), []
        for seed in range(problems):
            y, operator, prior = gaussian_problem(process("vp"), seed)
            exact = prior.posterior(y, operator)
            noise = BatchNoise(seed, antithetic=True)
            samples = draw_samples(finer, (y, operator, prior), 2 * pairs, noise)[:, 0]
            error = samples.mean(0) - exact.mean[0]
            squares.append(float(error.square().sum() / exact.covariance().trace()))
        errors.append(math.sqrt(np.mean(squares)))
    return errors


def order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """Return the order of convergence: minus the slope of ``log error`` over ``log steps``.

    Raises:
        ArgumentError: fewer than two numbers of steps, or an error that is not positive.
    """
    require(len(steps) >= 2, "steps", list(steps), "two or more numbers")
    require(min(errors) > 0, "errors", list(errors), "positive numbers")
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def process_gap(solver: Solver, steps: int = 12, num_samples: int = 8) -> float:
    """Return the largest difference between the samples of equivalent VP, VE and flow priors."""
    few, results = replace(solver, steps=steps), []
    for name in PROCESSES:
        y, operator, prior = gaussian_problem(process(name), seed=3)
        results.append(few(y, operator, prior, num_samples=num_samples, seed=5).samples)
    return max(float((other - results[0]).abs().max()) for other in results[1:])
