"""The shipped priors, and priors trained with `wellposed train`, by name or folder."""

import json
from pathlib import Path

from wellposed.errors import CheckpointError, require_choice
from wellposed.priors.network_prior import NetworkPrior
from wellposed.priors.store import load_prior

WEIGHTS = Path(__file__).parent / "weights"


def available() -> dict[str, str]:
    """Return the shipped priors and one line about each."""
    lines = {}
    for folder in sorted(p.parent for p in WEIGHTS.glob("*/config.json")):
        config = json.loads((folder / "config.json").read_text())
        kind = "complex" if config["complex"] else "real"
        steps = config["training"]["steps_done"]
        lines[folder.name] = f"{config['channels']} {kind} channel(s), trained {steps} steps"
    return lines


def load(name: str | Path) -> NetworkPrior:
    """Load a shipped prior by name, or one made by `wellposed train` from its folder.

    Raises:
        UnknownNameError: neither a shipped name nor a folder; the nearest name is suggested.
        CheckpointError: damaged or unfitting files.
    """
    folder = WEIGHTS / str(name) if str(name) in available() else Path(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"prior: {str(folder)!r} holds no config.json, accepted: a folder written by "
            "`wellposed train`; other checkpoints go to priors.load_checkpoint"
        )
    if not (folder / "config.json").is_file():
        folder = WEIGHTS / require_choice("prior", str(name), available())
    return load_prior(folder)
