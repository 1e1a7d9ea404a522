"""Posterior samplers: one file per method, one loop for all."""

from wellposed.solvers import sharding
from wellposed.solvers.base import Solver, State
from wellposed.solvers.daps import DAPS
from wellposed.solvers.ddim_projection import DDIMProjection
from wellposed.solvers.ddnm import DDNM
from wellposed.solvers.ddrm import DDRM
from wellposed.solvers.dds import DDS
from wellposed.solvers.dds_3d import DDS3D
from wellposed.solvers.dehazing import Dehazed, Dehazing, dehaze
from wellposed.solvers.diffpir import DiffPIR
from wellposed.solvers.diffusion_mbir import DiffusionMBIR
from wellposed.solvers.dps import DPS
from wellposed.solvers.flowchef import FlowChef
from wellposed.solvers.from_deepinv import as_reconstructor, from_deepinv
from wellposed.solvers.mmps import MMPS
from wellposed.solvers.mr_sampler import MRSampler
from wellposed.solvers.noisy_projection import NoisyProjection
from wellposed.solvers.pigdm import PiGDM
from wellposed.solvers.pnp_dm import PnPDM
from wellposed.solvers.problem import Problem
from wellposed.solvers.rddm import RDDM
from wellposed.solvers.red_diff import REDDiff
from wellposed.solvers.restoration import IRSDE, ResShift

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DDS",
    "DDS3D",
    "DPS",
    "IRSDE",
    "MMPS",
    "RDDM",
    "DDIMProjection",
    "Dehazed",
    "Dehazing",
    "DiffPIR",
    "DiffusionMBIR",
    "FlowChef",
    "NoisyProjection",
    "MRSampler",
    "PiGDM",
    "PnPDM",
    "Problem",
    "REDDiff",
    "ResShift",
    "Solver",
    "State",
    "as_reconstructor",
    "dehaze",
    "from_deepinv",
    "sharding",
]
