"""Load a prior from anything: a shipped name, a folder, a checkpoint file, a hub id."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellposed.errors import CheckpointError, UnknownNameError, require, unknown_name
from wellposed.priors.checkpoints import identify
from wellposed.priors.checkpoints.diffusers import load_diffusers
from wellposed.priors.checkpoints.diffusers_files import HUB_ID
from wellposed.priors.checkpoints.family import check_options
from wellposed.priors.prior import Prior
from wellposed.priors.stored.reading import REFUSED, SUFFIXES, read_state
from wellposed.priors.stored.store import RESTORER, load_prior, read_config

WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class Checkpoint:
    """A prior and the family its checkpoint was recognised as."""

    family: str
    prior: Prior


def available() -> dict[str, str]:
    """Return the shipped priors and one line about each."""
    lines = {}
    for folder in sorted(p.parent for p in WEIGHTS.glob("*/config.json")):
        config = read_config(folder)
        kind = "complex" if config["complex"] else "real"
        steps = config["training"]["steps_done"]
        lines[folder.name] = f"{config['channels']} {kind} channel(s), trained {steps} steps"
    return lines


def load(source: str | Path, /, **options: Any) -> Prior:
    """Load a prior.

    Args:
        source: a shipped prior's name; a folder written by `wellposed train` or by diffusers; a
            checkpoint file of guided-diffusion (ADM), DDPM, EDM or deepinv, recognised by its
            weights; or a Hugging Face hub id of a diffusers model.
        options: what a checkpoint does not tell, where its family's default is wrong:
            ``data_range`` and ``is_complex``, for files also ``schedule`` and what the family's
            ``build`` lists.

    Raises:
        UnknownNameError: neither a shipped name, a path nor a hub id; the nearest is suggested.
        CheckpointError: unreadable or truncated, a pickle with code (never executed), of no known
            family, keys and shapes that do not fit, or non-finite weights.
        ArgumentError: an option that is unknown here, or an impossible value of one.
    """
    return read_checkpoint(source, **options).prior


def read_checkpoint(source: str | Path, /, **options: Any) -> Checkpoint:
    """Load a prior and tell its checkpoint's family; see `load`."""
    path = WEIGHTS / source if str(source) in available() else Path(source)
    if path.is_file() or path.suffix in (*SUFFIXES, *REFUSED):
        state = read_state(path)
        _refuse_restorer(path, state)
        family = identify(state, path)
        return Checkpoint(family.name, family.build(state, f"path: {str(path)!r}", options))
    if path.is_dir() and _is_ours(path):
        require(not options, "options", options, "none, its config.json tells everything")
        return Checkpoint("wellposed", load_prior(path))
    if path.is_dir() or (isinstance(source, str) and HUB_ID.fullmatch(source)):
        check_options(options, "data_range", "is_complex")
        return Checkpoint("diffusers", load_diffusers(source, **options))
    _refuse_restorer(source)
    raise UnknownNameError(unknown_name("prior", str(source), available()))


def _refuse_restorer(source: str | Path, state: dict[str, Any] | None = None) -> None:
    """Raise where a shipped name, or the weights of a file, are those of a restorer."""
    from wellposed.priors.stored.restorers import (  # it builds on this
        FAMILIES,
        available_restorers,
    )

    is_one = (
        str(source) in available_restorers()
        if state is None
        else any(family.matches(state) for family in FAMILIES)
    )
    if is_one:
        raise CheckpointError(f"source: {str(source)!r} {RESTORER}")


def _is_ours(folder: Path) -> bool:
    """Tell a folder of `wellposed train` from one of diffusers."""
    if (folder / "model_index.json").is_file():
        return False
    if not (folder / "config.json").is_file():
        return (folder / "model.safetensors").is_file()
    try:
        return "_class_name" not in read_config(folder)
    except (OSError, TypeError, ValueError):  # unreadable: the message that names our own files
        return True
