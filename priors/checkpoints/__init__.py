"""Checkpoints of the common diffusion codebases as priors, recognised by their weights.

The network's configuration is read off names and shapes. Each family is one module with a
`Family`; adding one is that module and a line in `FAMILIES`.
"""

from pathlib import Path
from typing import Any

from wellposed.errors import CheckpointError
from wellposed.priors.checkpoints import (
    adm,
    ddpm,
    deepinv_models,
    edm,
    irsde,
    lucidrains,
    rddm,
    resshift,
)
from wellposed.priors.checkpoints.family import Family

__all__ = ["FAMILIES", "Family", "identify"]

FAMILIES: tuple[Family, ...] = (
    resshift.FAMILY,  # before ADM, whose modules it has too
    irsde.UNET,
    irsde.NAFNET,
    lucidrains.FAMILY,  # before RDDM, whose modules it has too
    rddm.FAMILY,
    adm.FAMILY,
    ddpm.FAMILY,
    edm.FAMILY,
    deepinv_models.FAMILY,
)


def identify(state: dict[str, Any], path: str | Path) -> Family:
    """Return the family that a state dict belongs to.

    Raises:
        CheckpointError: it belongs to none; known families and some of the keys are named.
    """
    for family in FAMILIES:
        if family.matches(state):
            return family
    raise CheckpointError(
        f"path: the weights in {str(path)!r} are of no known family (keys such as "
        f"{', '.join(list(state)[:4])}), accepted: {'; '.join(f.name for f in FAMILIES)}"
    )
