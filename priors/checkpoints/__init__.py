"""Checkpoints of the common diffusion codebases as priors, recognised by their weights.

The network's configuration is inferred from names and shapes. Each family is one module with a
`Family`; a new family needs that module and a line in `FAMILIES`.
"""

from pathlib import Path

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
from wellposed.priors.networks.keys import State

__all__ = ["FAMILIES", "Family", "identify"]

FAMILIES: tuple[Family, ...] = (
    resshift.FAMILY,  # before ADM, as it also has ADM's modules
    lucidrains.FAMILY,  # before IR-SDE and RDDM, which have the same modules
    irsde.UNET,
    irsde.NAFNET,
    rddm.FAMILY,
    adm.FAMILY,
    ddpm.FAMILY,
    edm.FAMILY,
    deepinv_models.FAMILY,
)


def identify(state: State, path: str | Path) -> Family:
    """Return the family of a state dict.

    Raises:
        CheckpointError: no known family; names the families and some of the keys.
    """
    for family in FAMILIES:
        if family.matches(state):
            return family
    raise CheckpointError(
        f"path: the weights in {str(path)!r} belong to no known family (keys such as "
        f"{', '.join(list(state)[:4])}), accepted: {'; '.join(f.name for f in FAMILIES)}"
    )
