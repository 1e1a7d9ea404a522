"""Diffusion priors: schedules, networks, exact ones, and how to load them."""

from wellposed.priors.adapters import DenoiserPrior, Given, Rescheduled
from wellposed.priors.analytic import (
    Diagonal,
    Full,
    GaussianMixturePrior,
    GaussianPrior,
    Stationary,
)
from wellposed.priors.from_diffusers import DiffusersPrior
from wellposed.priors.latent import Latent
from wellposed.priors.loading import available, load
from wellposed.priors.network_prior import NetworkPrior
from wellposed.priors.patchwise import Patchwise
from wellposed.priors.prior import Prior
from wellposed.priors.product import Product
from wellposed.priors.proximal import NuclearNorm, Proximal, TotalVariation
from wellposed.priors.schedule import VE, Flow, Schedule, Tabulated
from wellposed.priors.slicewise import Slicewise

__all__ = [
    "VE",
    "DenoiserPrior",
    "Diagonal",
    "DiffusersPrior",
    "Flow",
    "Full",
    "GaussianMixturePrior",
    "GaussianPrior",
    "Given",
    "Latent",
    "NetworkPrior",
    "NuclearNorm",
    "Patchwise",
    "Prior",
    "Product",
    "Proximal",
    "Rescheduled",
    "Schedule",
    "Slicewise",
    "Stationary",
    "Tabulated",
    "TotalVariation",
    "available",
    "load",
]
