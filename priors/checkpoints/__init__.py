"""Everybody's checkpoints as priors.

`load_checkpoint` recognises a file by the names and shapes of its weights; the network's
configuration is read off them. Each family is one module with a `Family`; adding one is that
module and a line in `FAMILIES`.
"""

from pathlib import Path
from typing import Any

from wellposed.errors import CheckpointError
from wellposed.priors.checkpoints import adm, ddpm
from wellposed.priors.checkpoints.family import Family
from wellposed.priors.checkpoints.reading import read_state
from wellposed.priors.prior import Prior

__all__ = ["FAMILIES", "Family", "identify", "load_checkpoint"]

FAMILIES: tuple[Family, ...] = (adm.FAMILY, ddpm.FAMILY)


def identify(state: dict[str, Any], path: str | Path) -> Family:
    """Return the family that a state dict belongs to.

    Raises:
        CheckpointError: none; names the known families and some of the keys found.
    """
    for family in FAMILIES:
        if family.matches(state):
            return family
    raise CheckpointError(
        f"path: the weights in {str(path)!r} are of no known family (keys such as "
        f"{', '.join(list(state)[:4])}), accepted: {'; '.join(f.name for f in FAMILIES)}"
    )


def load_checkpoint(path: str | Path, **options: Any) -> Prior:
    """Load a checkpoint file or folder of any known family as a prior.

    Args:
        path: a ``.safetensors``, ``.pt``, ``.pth`` or ``.ckpt`` file, a folder of
            `wellposed train` or of diffusers, or a hub id.
        options: what the weights do not tell, where the family's default is wrong:
            ``schedule``, ``prediction``, ``data_range``, ``is_complex``.

    Raises:
        CheckpointError: unreadable or truncated, a pickle with code (never executed), of no known
            family, keys and shapes that do not fit, or non-finite weights.
    """
    state = read_state(path)
    return identify(state, path).build(state, f"path: {str(path)!r}", options)
