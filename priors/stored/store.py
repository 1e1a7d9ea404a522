"""Save and load priors: ``config.json`` beside float16 ``model.safetensors``, and a model card."""

import json
from pathlib import Path
from typing import Any, Required, TypedDict

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from wellposed.errors import CheckpointError, require
from wellposed.priors.adapters.autoencoder import DiffusersAutoencoder, Latent
from wellposed.priors.anchor import Anchor
from wellposed.priors.checkpoints.diffusers_files import load_autoencoder
from wellposed.priors.checkpoints.state import load_strictly
from wellposed.priors.labels import LogNoiseLabel
from wellposed.priors.named_schedules import SCHEDULES
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.conv_unet import ConvUNet, RestorationUNet
from wellposed.priors.schedule import Schedule
from wellposed.priors.stored.card import model_card

AUTOENCODER = "autoencoder"
"""Folder of a latent prior's autoencoder, inside its own."""

RENAMED = {"predicts": "prediction", "sees": "input"}
"""Names in the ``config.json`` of restorers that older versions wrote, and their names now."""


class Config(TypedDict, total=False):
    """What ``config.json`` tells of a network that `wellposed train` has trained.

    Attributes:
        network: arguments of a `ConvUNet`, of a `RestorationUNet` with an anchor.
        schedule: name of a plain prior's, one of `SCHEDULES`.
        process: ``name`` of a restorer's process, one of `SCHEDULES`, and its arguments. Its
            presence tells a restorer, a prior with an anchor.
        prediction: see `NetworkPrior`.
        sigma_data: see `NetworkPrior`.
        input: see `Anchor`.
        upsample: see `Anchor`.
        channels: of the images.
        complex: whether images are.
        data_range: public values of -1 and 1.
        latent: whether it runs in the latents of an autoencoder, in the folder `AUTOENCODER`.
        training: settings and record of the training, for the model card.
    """

    network: Required[dict[str, Any]]
    schedule: str
    process: dict[str, Any]
    prediction: Required[str]
    sigma_data: float | None
    input: str
    upsample: int
    channels: Required[int]
    complex: bool
    data_range: Required[list[float]]
    latent: bool
    training: dict[str, Any]


def make_network(config: Config) -> ConvUNet | RestorationUNet:
    """Return the network of a config, with random weights."""
    kind = RestorationUNet if "process" in config else ConvUNet
    return kind(**config["network"])


def build_prior(
    network: nn.Module, config: Config, autoencoder: DiffusersAutoencoder | None = None
) -> NetworkPrior | Latent:
    """Return the prior that a config describes.

    Args:
        network: a network that takes EDM's label of the noise-to-signal ratio.
        config: see `Config`.
        autoencoder: that of a latent prior.
    """
    anchor = Anchor(config["input"], config["upsample"]) if "process" in config else None
    low, high = config["data_range"]
    images: dict[str, Any] = {
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
    return prior if autoencoder is None else Latent(prior, autoencoder, (low, high))


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
    """Write weights (float16), config, model card and autoencoder, replacing older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().half().contiguous().cpu() for k, v in network.state_dict().items()}
    # `save_file` leaves files that only their owner can read, and a killed run half of one.
    (folder / "model.part").write_bytes(save(state))
    (folder / "model.part").replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "README.md").write_text(model_card(config))
    if autoencoder is not None and not (folder / AUTOENCODER).is_dir():
        autoencoder.model.save_pretrained(folder / AUTOENCODER)


def read_config(folder: Path) -> Config:
    """Return the config of a folder written by `save_prior`, in this version or an older one."""
    content: Any = dict(json.loads((folder / "config.json").read_text()))
    return {RENAMED.get(name, name): value for name, value in content.items()}  # type: ignore


def load_prior(folder: Path) -> NetworkPrior | Latent:
    """Return the prior of a folder written by `save_prior`, in float32.

    Raises:
        CheckpointError: a file is missing, truncated or garbled, keys or shapes do not match, or
            weights are not finite.
    """
    where = f"prior: {str(folder)!r}"
    try:
        config = read_config(folder)
        state = load_file(folder / "model.safetensors")
        network = make_network(config)
        autoencoder = read_autoencoder(folder / AUTOENCODER) if config.get("latent") else None
        prior = build_prior(network, config, autoencoder)
        channels = config["channels"] * (2 if prior.is_complex else 1)
        channels = channels if autoencoder is None else autoencoder.latent_channels
        fits = network.settings["channels"] == channels
        require(fits, "channels", channels, "as many real ones as the network has")
    except (LookupError, AttributeError) as error:
        raise CheckpointError(f"{where}: config lacks or garbles {error}") from error
    except (OSError, SafetensorError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{where}: cannot load: {error}") from error
    load_strictly(network, {k: v.float() for k, v in state.items()}, where)
    return prior


def read_autoencoder(folder: Path) -> DiffusersAutoencoder:
    """Return the autoencoder in a folder that diffusers wrote, with its config's scaling.

    ``VQModel`` has none that ResShift uses: 1 there, whatever its config names.

    Raises:
        CheckpointError: no such folder, another kind of model, or weights that do not fit.
    """
    model = load_autoencoder(folder)
    if type(model).__name__ == "VQModel":
        return DiffusersAutoencoder(model)
    return DiffusersAutoencoder.from_config(model)
