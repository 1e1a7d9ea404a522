"""The shipped priors, and priors trained with `wellposed train`, by name or folder."""

import json
from pathlib import Path

from wellposed.errors import ArgumentError, CheckpointError, require_choice
from wellposed.priors.prior import NetworkPrior
from wellposed.priors.schedule import Tabulated
from wellposed.priors.store import load_network

WEIGHTS = Path(__file__).parent / "weights"


def available() -> dict[str, str]:
    """Return the shipped priors and one line about each."""
    lines = {}
    for folder in sorted(p.parent for p in WEIGHTS.glob("*/config.json")):
        config = json.loads((folder / "config.json").read_text())
        kind = "complex" if config["complex"] else "real"
        channels = config["network"]["channels"] // (2 if config["complex"] else 1)
        steps = config["training"]["steps_done"]
        lines[folder.name] = f"{channels} {kind} channel(s), trained {steps} steps"
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
            "`wellposed train`; diffusers folders go to priors.DiffusersPrior.from_pretrained"
        )
    if not (folder / "config.json").is_file():
        folder = WEIGHTS / require_choice("prior", str(name), available())
    network, config = load_network(folder)
    try:
        channels = config["network"]["channels"] // (2 if config["complex"] else 1)
        schedules = {"linear": Tabulated.linear, "cosine": Tabulated.cosine}
        low, high = config["data_range"]
        return NetworkPrior(
            network,
            schedules[config["schedule"]["kind"]](config["schedule"]["T"]),
            config["prediction"],
            channels=channels,
            is_complex=config["complex"],
            data_range=(low, high),
        )
    except ArgumentError as error:
        raise CheckpointError(f"prior: config in {str(folder)!r}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"prior: config in {str(folder)!r} lacks or garbles {error}"
        ) from error
