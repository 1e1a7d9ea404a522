"""Save and load priors: ``config.json`` beside float16 ``model.safetensors``, and a model card."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from wellposed.errors import CheckpointError, require
from wellposed.priors.labels import LogNoiseLabel
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.conv_unet import ConvUNet
from wellposed.priors.schedule import VE, Flow, Schedule, Tabulated
from wellposed.priors.stored.card import model_card
from wellposed.priors.stored.state import load_strictly

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": Tabulated.linear,
    "cosine": Tabulated.cosine,
    "ve": VE,
    "flow": Flow,
}


RESTORER = "is a restorer of degraded images, accepted: a prior; see priors.load_restorer"


def build_prior(network: nn.Module, config: dict[str, Any]) -> NetworkPrior:
    """Return the prior that a config describes.

    Args:
        network: a network that takes EDM's label and scaled input.
        config: ``schedule``, ``prediction``, ``sigma_data``, ``channels``, ``complex`` and
            ``data_range``; ``training`` if there is one.
    """
    schedule = SCHEDULES[config["schedule"]]()
    low, high = config["data_range"]
    prior = NetworkPrior(
        network,
        schedule,
        config["prediction"],
        LogNoiseLabel(schedule),
        config["sigma_data"],
        channels=config["channels"],
        is_complex=config["complex"],
        data_range=(low, high),
    )
    prior.is_signal = config.get("training", {}).get("companding", 0) > 0
    return prior


def save_prior(folder: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write a prior's weights, config and model card; see `save_model`."""
    save_model(folder, network, config, model_card(config))


def save_model(folder: Path, network: nn.Module, config: dict[str, Any], card: str) -> None:
    """Write weights (float16), config and model card into ``folder``, replacing older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().half().contiguous().cpu() for k, v in network.state_dict().items()}
    # `save_file` leaves files that only their owner can read, and a killed run half of one.
    (folder / "model.part").write_bytes(save(state))
    (folder / "model.part").replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "README.md").write_text(card)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a folder written by `save_prior`."""
    return dict(json.loads((folder / "config.json").read_text()))


def load_prior(folder: Path) -> NetworkPrior:
    """Return the prior of a folder written by `save_prior`, in float32.

    Raises:
        CheckpointError: a file is missing, truncated or garbled, keys or shapes do not match, or
            weights are not finite.
    """
    where = f"prior: {str(folder)!r}"
    try:
        config = read_config(folder)
        if "process" in config:
            raise CheckpointError(f"{where} {RESTORER}")
        state = load_file(folder / "model.safetensors")
        network = ConvUNet(**config["network"])
        prior = build_prior(network, config)
        channels = config["channels"] * (2 if config["complex"] else 1)
        fits = network.settings["channels"] == channels
        require(fits, "channels", channels, "as many real ones as the network has")
    except (LookupError, AttributeError) as error:
        raise CheckpointError(f"{where}: config lacks or garbles {error}") from error
    except (OSError, SafetensorError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{where}: cannot load: {error}") from error
    load_strictly(network, {k: v.float() for k, v in state.items()}, where)
    return prior
