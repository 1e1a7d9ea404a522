"""Saving and loading of priors: ``config.json``, float16 ``model.safetensors``, model card."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from wellposed.errors import CheckpointError, require
from wellposed.priors.adapters.autoencoder import DiffusersAutoencoder, Latent
from wellposed.priors.adapters.channelwise import Channelwise
from wellposed.priors.anchor import Anchor
from wellposed.priors.checkpoints.diffusers_files import load_autoencoder
from wellposed.priors.checkpoints.state import check_fit, load_strictly
from wellposed.priors.labels import LogNoiseLabel
from wellposed.priors.named_schedules import SCHEDULES
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.conv_unet import ConvUNet, RestorationUNet
from wellposed.priors.networks.unrolled import UnrolledNetwork
from wellposed.priors.prior import Images
from wellposed.priors.schedule import Schedule
from wellposed.priors.stored.card import model_card
from wellposed.priors.stored.config import Config, read_config
from wellposed.writing import replacing, write_text

Network = ConvUNet | RestorationUNet | UnrolledNetwork
"""What `wellposed train` trains."""

MOST_CHANNELS = 2**16
"""Of a network, and layers."""

AUTOENCODER = "autoencoder"
"""Subfolder of a latent prior's autoencoder."""


def make_network(config: Config) -> Network:
    """Return the network of a config, with random weights."""
    if "unrolled" in config:
        return UnrolledNetwork(**config["network"])
    kind = RestorationUNet if "process" in config else ConvUNet
    return kind(**config["network"])


def build_prior(
    network: nn.Module, config: Config, autoencoder: DiffusersAutoencoder | None = None
) -> NetworkPrior | Latent | Channelwise:
    """Return the prior that a config describes.

    Args:
        network: a network with EDM's label of the noise-to-signal ratio.
        config: see `Config`.
        autoencoder: autoencoder of a latent prior.
    """
    anchor = Anchor(config["input"], config["upsample"]) if "process" in config else None
    low, high, ranges = _ranges(config["data_range"])
    images: Images = {
        "channels": config["channels"],
        "is_complex": config.get("complex", False),
        "data_range": (low, high),
    }
    schedule = _schedule(config)
    prior = NetworkPrior(
        network,
        schedule,
        config["prediction"],
        LogNoiseLabel(schedule),
        config.get("sigma_data"),
        anchor=anchor,
        **(images if autoencoder is None else {"data_range": (-1.0, 1.0)}),
    )
    prior.is_signal = config.get("training", {}).get("companding", 0) > 0
    if ranges:
        return Channelwise(prior, ranges)
    return prior if autoencoder is None else Latent(prior, autoencoder, (low, high))


def _ranges(stored: Any) -> tuple[float, float, list[tuple[float, float]]]:
    """Return the range of a config, and those of single channels, if it has them."""
    if isinstance(stored[0], list):
        return -1.0, 1.0, [(low, high) for low, high in stored]
    low, high = stored
    return low, high, []


def _schedule(config: Config) -> Schedule:
    if "process" not in config:
        return SCHEDULES[config["schedule"]]()
    process = dict(config["process"])
    return SCHEDULES[process.pop("name")](**process)


def save_prior(
    folder: Path,
    network: nn.Module,
    config: Config,
    autoencoder: DiffusersAutoencoder | None = None,
) -> None:
    """Write weights (float16), config, model card and autoencoder; existing files are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().half().contiguous().cpu() for k, v in network.state_dict().items()}
    # `save_file` makes files that only their owner can read.
    with replacing(folder / "model.safetensors", "out") as part:
        part.write_bytes(save(state))
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n", "out")
    write_text(folder / "README.md", model_card(config), "out")
    if autoencoder is not None and not (folder / AUTOENCODER).is_dir():
        autoencoder.model.save_pretrained(folder / AUTOENCODER)


def load_prior(folder: Path) -> NetworkPrior | Latent | Channelwise:
    """Return the prior of a folder written by `save_prior`, in float32.

    Raises:
        CheckpointError: see `load_network`; or the folder holds an unrolled network.
    """
    network, config = load_network(folder)
    if isinstance(network, UnrolledNetwork):
        raise CheckpointError(
            f"prior: {str(folder)!r} holds an unrolled network, accepted: a prior; use it with "
            "solvers.Unrolled"
        )
    with _told(folder):
        autoencoder = read_autoencoder(folder / AUTOENCODER) if config.get("latent") else None
        prior = build_prior(network, config, autoencoder)
        channels = config["channels"] * (2 if prior.is_complex else 1)
        channels = channels if autoencoder is None else autoencoder.latent_channels
        fits = network.settings["channels"] == channels
        require(fits, "channels", channels, "as many real channels as the network has")
    return prior


def load_network(folder: Path) -> tuple[Network, Config]:
    """Return the network of a folder written by `save_prior`, in float32, and its config.

    Raises:
        CheckpointError: a file is missing, truncated or corrupt, keys or shapes do not match, or
            weights are not finite.
    """
    where = f"prior: {str(folder)!r}"
    with _told(folder):
        config = read_config(folder)
        state = load_file(folder / "model.safetensors")
        with torch.device("meta"):  # takes no memory, whatever the config asks for
            check_fit(make_network(_plausible(config)).state_dict(), state, where)
        network = make_network(config)
    load_strictly(network, {k: v.float() for k, v in state.items()}, where)
    return network, config


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn errors of reading into a `CheckpointError` that names the folder."""
    where = f"prior: {str(folder)!r}"
    try:
        yield
    except (LookupError, AttributeError) as error:
        raise CheckpointError(f"{where}: missing or invalid in config.json: {error}") from error
    except (OSError, SafetensorError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{where}: cannot load: {error}") from error


def _plausible(config: Config) -> Config:
    """Return a config, or raise where its network is larger than any.

    Raises:
        ValueError: a number, or a list, in it is.
    """
    for name, value in dict(config["network"]).items():
        for number in (value, *value) if isinstance(value, list) else (value,):
            size = len(number) if isinstance(number, list) else number
            if isinstance(size, int) and abs(size) > MOST_CHANNELS:
                raise ValueError(f"network: {name} of {size}")
    return config


def read_autoencoder(folder: Path) -> DiffusersAutoencoder:
    """Return the autoencoder in a folder written by diffusers, with the scaling of its config.

    For a ``VQModel`` the scaling is 1, as in ResShift, regardless of its config.

    Raises:
        CheckpointError: no such folder, another kind of model, or weights that do not fit.
    """
    model = load_autoencoder(folder)
    if type(model).__name__ == "VQModel":
        return DiffusersAutoencoder(model)
    return DiffusersAutoencoder.from_config(model)
