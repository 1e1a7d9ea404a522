"""The projector of a scan: as much of its matrix as memory allows, and the rest computed."""

import logging
from pathlib import Path

from wellposed.operators.ct.computed import ComputedWeights
from wellposed.operators.ct.geometry import Geometry
from wellposed.operators.ct.planned import PlannedProjector, Weights
from wellposed.operators.ct.stored import StoredWeights, matrix_bytes
from wellposed.operators.ct.symmetry import make_plan

logger = logging.getLogger(__name__)

LARGEST = 2**35
"""Bytes of a matrix and its transpose beyond which 32-bit indices do not suffice."""


def make_projector(
    geometry: Geometry, memory: float, cache: Path | None = None
) -> PlannedProjector:
    """Return a projector that stores its weights if they fit into ``memory`` bytes.

    Otherwise it stores those of the first angles, and computes the others at each product.

    Args:
        geometry: the scan.
        memory: largest number of bytes of the stored matrix and its transpose.
        cache: folder in which the matrix is kept, if any.
    """
    plan, memory = make_plan(geometry), min(memory, LARGEST)
    if matrix_bytes(geometry, plan) <= memory:
        return PlannedProjector(
            geometry, plan, [StoredWeights(geometry, plan.rows, plan.angles, cache)]
        )
    plan = make_plan(geometry, halves=False)
    needed, count = matrix_bytes(geometry, plan), len(plan.angles)
    stored = min(int(memory / needed * count), count - 1)
    weights: list[Weights] = [ComputedWeights(geometry, plan.angles[stored:])]
    if stored:
        first = StoredWeights(geometry, plan.rows, plan.angles[:stored], cache)
        weights.insert(0, first)
    logger.info(
        "the matrix of this scan needs %.3g GB and memory allows %.3g GB: the weights of %d of %d "
        "angles are computed at each product, which takes several times as long",
        needed / 1e9,
        memory / 1e9,
        count - stored,
        count,
    )
    return PlannedProjector(geometry, plan, weights)
