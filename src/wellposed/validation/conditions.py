"""What problems must have in common for one calibration of their uncertainty."""

from typing import TYPE_CHECKING

from torch import Tensor

from wellposed.priors.prior import Prior
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import measured_numbers
from wellposed.uncertainty import MEASURED, NOISE, Conditions

if TYPE_CHECKING:
    from deepinv.physics import Physics


def problem_conditions(
    y: Tensor, operator: "Physics", prior: Prior, weights: str | None = None
) -> Conditions:
    """Return the conditions ``about`` a problem, for `uncertainty.Conformal`.

    They are the prior, the kind of operator, the measured numbers per number of the image, and the
    noise level in the prior's units. Masks, coil maps and angles may differ.

    Args:
        y: measurement (B, ...).
        operator: its operator.
        prior: the prior.
        weights: fingerprint of the prior before it was fitted to the range of a scan.

    Raises:
        ArgumentError and subclasses: they are no problem, see `Problem.create`.
    """
    problem = Problem.create(y, operator, prior)
    image = problem.zeros()
    parts = image[0].numel() * (2 if image.is_complex() else 1)
    return {
        "prior": fingerprint(prior) if weights is None else weights,
        "operator": type(operator).__name__,
        MEASURED: float(measured_numbers(problem).mean()) / parts,
        NOISE: float(problem.noise_sigma.mean()),
    }
