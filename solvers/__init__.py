"""Posterior samplers: one file per method, one loop for all."""

from wellposed.solvers.base import Solver, State
from wellposed.solvers.ddim_projection import DDIMProjection
from wellposed.solvers.dds import DDS
from wellposed.solvers.dps import DPS
from wellposed.solvers.problem import Problem
from wellposed.solvers.red_diff import REDDiff

__all__ = ["DDS", "DPS", "DDIMProjection", "REDDiff", "Problem", "Solver", "State"]
