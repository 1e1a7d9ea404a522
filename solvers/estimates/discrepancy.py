"""The discrepancy principle: an estimate fits the data as well as their noise lets it."""

import torch
from torch import Tensor

from wellposed.errors import ArgumentError
from wellposed.linalg import conjugate_gradient, per_item
from wellposed.solvers.data import PROXIMAL_STEPS, is_decomposable, proximal
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import measured_numbers

TOLERANCE = 1e-5
"""Relative residual of a least-squares solution."""

LEAST_WEIGHT = 1e-6
"""Weight over ``||A||^2`` that leaves the misfit about as small as it can be."""

MARGIN = 1.1
"""Misfit over the least one that is asked of data which noise of their level does not explain."""


def require_noise(problem: Problem) -> None:
    """Raise `ArgumentError` if the operator states no noise level."""
    if not bool((problem.noise_sigma > 0).all()):
        raise ArgumentError(
            "weight: got None, accepted for data without a noise level: a number; or state "
            "noise_sigma of the operator (--noise-sigma on the command line)"
        )


def allowed_misfit(problem: Problem, norm2: Tensor) -> Tensor:
    """Return the misfit that an estimate of each item should have, (B,).

    It is ``sqrt(m) sigma_y``, the expected norm of the noise. Where no image fits the data so
    well, as the operator or the noise level is wrong, it is the least misfit with some margin:
    fitting them as closely as possible would amplify what is wrong. ``norm2`` is ``||A||^2`` of
    each item.
    """
    expected = problem.noise_sigma * measured_numbers(problem).sqrt().to(problem.noise_sigma)
    x = least_squares(problem, LEAST_WEIGHT * norm2, problem.zeros())
    return torch.maximum(expected, MARGIN * problem.space.norm(problem.A(x) - problem.y))


def least_squares(problem: Problem, weight: Tensor, start: Tensor) -> Tensor:
    """Return ``argmin_x ||A x - y||^2 + weight ||x||^2``; the last solution is a good start."""
    if is_decomposable(problem.operator):
        return proximal(problem, problem.zeros(), weight)
    found = conjugate_gradient(
        lambda x: problem.normal(x) + per_item(weight, x) * x,
        problem.back_projection,
        start,
        iterations=PROXIMAL_STEPS,
        tolerance=TOLERANCE,
        space=problem.space,
    )
    return found.x
