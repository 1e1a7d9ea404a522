"""The discrepancy principle: an estimate fits the data as well as their noise lets it."""

from torch import Tensor

from wellposed.errors import ArgumentError
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import measured_numbers


def allowed_misfit(problem: Problem) -> Tensor:
    """Return ``sqrt(m) sigma_y`` of each item, the expected norm of its noise, (B,).

    Raises:
        ArgumentError: the operator states no noise level.
    """
    sigma = problem.noise_sigma
    if not bool((sigma > 0).all()):
        raise ArgumentError(
            "weight: got None, accepted for data without a noise level: a number; or state the "
            "noise with noise_sigma=... of the operator"
        )
    return sigma * measured_numbers(problem).sqrt().to(sigma)
