"""Diffusion priors: schedules, networks, exact ones, and how to load them."""

from wellposed.priors.analytic import (
    Diagonal,
    Full,
    GaussianMixturePrior,
    GaussianPrior,
    Stationary,
)
from wellposed.priors.from_diffusers import DiffusersPrior
from wellposed.priors.prior import DenoiserPrior, NetworkPrior, Prior, Rescheduled
from wellposed.priors.schedule import VE, Flow, Schedule, Tabulated
from wellposed.priors.shipped import available, load

__all__ = [
    "VE",
    "DenoiserPrior",
    "Diagonal",
    "DiffusersPrior",
    "Flow",
    "Full",
    "GaussianMixturePrior",
    "GaussianPrior",
    "NetworkPrior",
    "Prior",
    "Rescheduled",
    "Schedule",
    "Stationary",
    "Tabulated",
    "available",
    "load",
]
