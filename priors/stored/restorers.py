"""Trained restorers: shipped ones, one's own, and the authors' checkpoints.

The latter are recognised by their weights. Each family is one module with a `RestorerFamily`;
adding one is that module and a line in `FAMILIES`.
"""

from pathlib import Path
from typing import Any

from wellposed.errors import CheckpointError, UnknownNameError, require, unknown_name
from wellposed.priors.checkpoints import irsde, rddm, resshift
from wellposed.priors.checkpoints.restorer_family import RestorerFamily
from wellposed.priors.networks.vq import load_autoencoder
from wellposed.priors.restorer import Restorer
from wellposed.priors.stored.reading import REFUSED, SUFFIXES, read_state
from wellposed.priors.stored.registry import WEIGHTS
from wellposed.priors.stored.restorer_store import read_restorer
from wellposed.priors.stored.store import read_config

__all__ = [
    "FAMILIES",
    "RestorerFamily",
    "available_restorers",
    "load_autoencoder",
    "load_restorer",
]

RESTORERS = WEIGHTS / "restorers"

FAMILIES: tuple[RestorerFamily, ...] = (
    resshift.FAMILY,
    irsde.UNET,
    irsde.NAFNET,
    rddm.FAMILY,
)


def available_restorers() -> dict[str, str]:
    """Return the shipped restorers and one line about each."""
    lines = {}
    for folder in sorted(p.parent for p in RESTORERS.glob("*/config.json")):
        config = read_config(folder)
        larger = f", {config['upsample']} times larger" if config["upsample"] > 1 else ""
        kind = config["process"]["name"]
        lines[folder.name] = f"{config['channels']} channel(s){larger}, trained as {kind}"
    return lines


def load_restorer(source: str | Path, /, **options: Any) -> Restorer:
    """Load a trained restoration network.

    Args:
        source: a shipped restorer's name; a folder written by `wellposed train-restoration`; or a
            checkpoint file of ResShift, IR-SDE, Refusion or RDDM, recognised by its weights.
        options: what a checkpoint file does not tell, such as ``schedule``; see the family's
            ``build``. ResShift needs ``autoencoder``, the file of the one it was trained with.

    Raises:
        UnknownNameError: neither a shipped name nor a path; the nearest name is suggested.
        CheckpointError: unreadable or truncated, a pickle with code (never executed), of no known
            family, keys and shapes that do not fit, or non-finite weights.
        ArgumentError: an option that is unknown here, or an impossible value of one.
    """
    path = RESTORERS / source if str(source) in available_restorers() else Path(source)
    if path.is_file() or path.suffix in (*SUFFIXES, *REFUSED):
        return _from_file(path, options)
    if path.is_dir():
        require(not options, "options", options, "none, its config.json tells everything")
        return read_restorer(path)
    raise UnknownNameError(unknown_name("restorer", str(source), available_restorers()))


def _from_file(path: Path, options: dict[str, Any]) -> Restorer:
    state, where = read_state(path), f"path: {str(path)!r}"
    for family in FAMILIES:
        if family.matches(state):
            return family.build(state, where, options)
    raise CheckpointError(
        f"{where} holds weights of no known restoration network (keys such as "
        f"{', '.join(list(state)[:4])}), accepted: {'; '.join(f.name for f in FAMILIES)}"
    )
