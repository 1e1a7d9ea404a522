"""The authors' restoration checkpoints as restorers, recognised by their weights.

Each family is one module with a `RestorerFamily`; adding one is that module and a line in
`FAMILIES`.
"""

from pathlib import Path
from typing import Any

from wellposed.errors import CheckpointError
from wellposed.priors.checkpoints.reading import read_state
from wellposed.priors.restoration import irsde, rddm, resshift
from wellposed.priors.restoration.family import RestorerFamily
from wellposed.priors.restoration.vq import load_autoencoder
from wellposed.priors.restorer import Restorer

__all__ = ["FAMILIES", "RestorerFamily", "load_autoencoder", "load_restorer"]

FAMILIES: tuple[RestorerFamily, ...] = (
    resshift.FAMILY,
    irsde.UNET,
    irsde.NAFNET,
    rddm.FAMILY,
)


def load_restorer(source: str | Path, **options: Any) -> Restorer:
    """Load a trained restoration network.

    Args:
        source: a checkpoint file of ResShift, IR-SDE, Refusion or RDDM, recognised by its weights.
        options: what a checkpoint does not tell, such as ``schedule``; see the family's ``build``.
            ResShift needs ``autoencoder``, the file of the one it was trained with.

    Raises:
        CheckpointError: unreadable or truncated, a pickle with code (never executed), of no known
            family, keys and shapes that do not fit, or non-finite weights.
        ArgumentError: an option that is unknown here, or an impossible value of one.
    """
    state, where = read_state(source), f"path: {str(source)!r}"
    for family in FAMILIES:
        if family.matches(state):
            return family.build(state, where, options)
    raise CheckpointError(
        f"{where} holds weights of no known restoration network (keys such as "
        f"{', '.join(list(state)[:4])}), accepted: {'; '.join(f.name for f in FAMILIES)}"
    )
