"""Distance of solvers from exact posteriors: problems with known posteriors, and their errors."""

from wellposed.validation.errors import PosteriorErrors
from wellposed.validation.gaussian import (
    PROCESSES,
    gaussian_errors,
    gaussian_problem,
    process,
)
from wellposed.validation.run import FULL, QUICK, Effort, measure
from wellposed.validation.settings import recorded_solvers

__all__ = [
    "FULL",
    "PROCESSES",
    "QUICK",
    "Effort",
    "PosteriorErrors",
    "gaussian_errors",
    "gaussian_problem",
    "measure",
    "process",
    "recorded_solvers",
]
