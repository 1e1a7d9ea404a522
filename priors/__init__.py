"""Diffusion priors: schedules, networks, exact ones, and how to load them."""

from wellposed.priors.adapters import DenoiserPrior, Given, Rescheduled
from wellposed.priors.analytic import (
    Diagonal,
    Full,
    GaussianMixturePrior,
    GaussianPrior,
    Stationary,
)
from wellposed.priors.codec import Codec
from wellposed.priors.from_diffusers import DiffusersPrior
from wellposed.priors.latent import Latent
from wellposed.priors.loading import available, load
from wellposed.priors.mean_reverting import MeanReverting, rddm, rddm_from_ddim, resshift
from wellposed.priors.network_prior import NetworkPrior
from wellposed.priors.patchwise import Patchwise, tiled
from wellposed.priors.prior import Prior
from wellposed.priors.product import Product
from wellposed.priors.proximal import NuclearNorm, Proximal, TotalVariation
from wellposed.priors.restoration import available_restorers, load_restorer
from wellposed.priors.restorer import Degraded, Restorer
from wellposed.priors.schedule import VE, Flow, Schedule, Tabulated
from wellposed.priors.slicewise import Slicewise

__all__ = [
    "VE",
    "Codec",
    "Degraded",
    "DenoiserPrior",
    "Diagonal",
    "DiffusersPrior",
    "Flow",
    "Full",
    "GaussianMixturePrior",
    "GaussianPrior",
    "Given",
    "Latent",
    "MeanReverting",
    "NetworkPrior",
    "NuclearNorm",
    "Patchwise",
    "Prior",
    "Product",
    "Proximal",
    "Rescheduled",
    "Restorer",
    "Schedule",
    "Slicewise",
    "Stationary",
    "Tabulated",
    "TotalVariation",
    "available",
    "available_restorers",
    "load",
    "load_restorer",
    "rddm",
    "rddm_from_ddim",
    "resshift",
    "tiled",
]
