"""Restorers of `wellposed train-restoration`: their network, and how they are saved and loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wellposed.errors import CheckpointError
from wellposed.priors.adapters.autoencoder import Codec
from wellposed.priors.checkpoints.diffusers_files import load_autoencoder
from wellposed.priors.labels import LogNoiseLabel
from wellposed.priors.networks.conv_unet import ConvUNet
from wellposed.priors.processes import MeanReverting, rddm, resshift
from wellposed.priors.restorer import Degraded, Restorer
from wellposed.priors.schedule import Schedule
from wellposed.priors.stored.restorer_card import restorer_card
from wellposed.priors.stored.state import load_strictly
from wellposed.priors.stored.store import read_config, save_model

PROCESSES: dict[str, Callable[..., Schedule]] = {
    "resshift": resshift,
    "ir-sde": MeanReverting,
    "rddm": rddm,
}

AUTOENCODER = "autoencoder"
"""Folder of a latent restorer's autoencoder, inside its own."""


class _Part(ConvUNet):
    """The U-Net of the priors with other outputs than inputs."""

    def __init__(self, inputs: int, outputs: int, widths: tuple[int, ...], layers: int) -> None:
        super().__init__(inputs, widths, layers)
        self.tail = nn.Conv2d(widths[0], outputs * self.factor**2, 3, padding=1)
        for parameter in self.tail.parameters():  # nothing is predicted at first
            nn.init.zeros_(parameter)
        self.to(memory_format=torch.channels_last)


class RestorationUNet(nn.Module):
    """The U-Net of the shipped priors for restorers: it sees ``x_t`` and ``m``, stacked.

    Args:
        channels: real channels of the images, or latents.
        widths: see `ConvUNet`.
        layers: likewise.
        heads: predictions it makes, stacked along the channels.
        networks: U-Nets that make them: one all, or one each.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 192),
        layers: int = 2,
        heads: int = 1,
        networks: int = 1,
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": channels,
            "widths": list(widths),
            "layers": layers,
            "heads": heads,
            "networks": networks,
        }
        outputs = channels * heads // networks
        self.parts = nn.ModuleList(
            _Part(2 * channels, outputs, widths, layers) for _ in range(networks)
        )

    def forward(self, seen: Tensor, label: Tensor, degraded: Degraded) -> Tensor:
        """Return the predictions (B, heads C, H, W); see `Restorer`."""
        x = torch.cat([seen, degraded.anchor], 1)
        return torch.cat([part(x, label) for part in self.parts], 1)


def build_restorer(
    network: nn.Module, config: dict[str, Any], codec: Codec | None = None
) -> Restorer:
    """Return the restorer that a config describes.

    Args:
        network: a network that takes EDM's label of the noise-to-signal ratio.
        config: ``process`` (its ``name``, and arguments), ``predicts``, ``sees``, ``upsample``,
            ``channels`` and ``data_range``, see `Restorer`.
        codec: the autoencoder of a latent one.
    """
    process = dict(config["process"])
    schedule = PROCESSES[process.pop("name")](**process)
    low, high = config["data_range"]
    return Restorer(
        network,
        schedule,
        config["predicts"],
        config["sees"],
        LogNoiseLabel(schedule),
        config["upsample"],
        codec,
        channels=config["channels"],
        data_range=(low, high),
    )


def save_restorer(
    folder: Path, network: nn.Module, config: dict[str, Any], codec: Codec | None = None
) -> None:
    """Write weights (float16), config, card and autoencoder into a folder, see `save_model`."""
    save_model(folder, network, config, restorer_card(config))
    if codec is not None and not (folder / AUTOENCODER).is_dir():
        codec.autoencoder.save_pretrained(folder / AUTOENCODER)


def read_restorer(folder: Path) -> Restorer:
    """Return the restorer of a folder written by `save_restorer`, in float32.

    Raises:
        CheckpointError: a file is missing, truncated or garbled, keys or shapes do not match, or
            weights are not finite.
    """
    where = f"restorer: {str(folder)!r}"
    try:
        config = read_config(folder)
        if "schedule" in config:
            raise CheckpointError(f"{where} is a prior, accepted: a restorer; see priors.load")
        state = load_file(folder / "model.safetensors")
        network = RestorationUNet(**config["network"])
        codec = load_codec(folder / AUTOENCODER) if config["latent"] else None
        restorer = build_restorer(network, config, codec)
    except (LookupError, AttributeError) as error:
        raise CheckpointError(f"{where}: config lacks or garbles {error}") from error
    except (OSError, SafetensorError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{where}: cannot load: {error}") from error
    load_strictly(network, {k: v.float() for k, v in state.items()}, where)
    return restorer


def load_codec(folder: Path) -> Codec:
    """Return the autoencoder in a folder that diffusers wrote, with its config's scaling.

    ``VQModel`` has none that ResShift uses: 1 there, whatever its config names.

    Raises:
        CheckpointError: no such folder, another kind of model, or weights that do not fit.
    """
    model = load_autoencoder(folder)
    if type(model).__name__ == "VQModel":
        return Codec(model)
    shift = model.config.get("shift_factor") or 0.0
    return Codec(model, model.config.scaling_factor, shift)
