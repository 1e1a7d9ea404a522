"""Computed tomography."""

from wellposed.operators.ct.cone import ConeBeamCT
from wellposed.operators.ct.geometry import Detector, Geometry
from wellposed.operators.ct.joseph import Panel
from wellposed.operators.ct.operators import FanBeamCT, ParallelBeamCT, PlanarCT

__all__ = [
    "ConeBeamCT",
    "Detector",
    "FanBeamCT",
    "Geometry",
    "Panel",
    "ParallelBeamCT",
    "PlanarCT",
]
