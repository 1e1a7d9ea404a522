"""Checkpoints of EDM: the DDPM++, NCSN++ and ADM networks of Karras et al. and of deepinv.

"Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv 2206.00364.
"""

import re
from typing import TypedDict

import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.errors import require
from wellposed.priors.checkpoints.family import (
    Family,
    Options,
    check_options,
    load_network,
    schedule_option,
)
from wellposed.priors.labels import LogNoiseLabel
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.keys import State, count_after, top_names
from wellposed.priors.schedule import VE

OPTIONS = ("schedule", "data_range", "is_complex", "sigma_data")
SIDE = re.compile(r"enc\.(\d+)x\1_")


class EDMConfig(TypedDict):
    """Arguments of deepinv's networks."""

    img_resolution: int
    in_channels: int
    out_channels: int
    label_dim: int
    augment_dim: int
    model_channels: int
    channel_mult: list[int]
    channel_mult_emb: int
    num_blocks: int
    attn_resolutions: list[int]


class _Call(nn.Module):
    """Gives deepinv's network the call ``network(x, label[, class])``, without preconditioning."""

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network, self.num_classes = network, num_classes

    def forward(self, x: Tensor, label: Tensor, *classes: Tensor) -> Tensor:
        # The class behind the last is none: EDM then gives no class, all zeros.
        count = self.num_classes
        one_hot = [F.one_hot(c, count + 1)[:, :count].to(x.dtype) for c in classes]
        out: Tensor = self.network.forward_unet(x, label, *one_hot)  # type: ignore[operator]
        return out


def matches(state: State) -> bool:
    """Return whether a state dict has the modules of EDM's networks."""
    return {"map_layer0", "map_layer1", "enc", "dec"} <= top_names(state)


def read_config(state: State) -> EDMConfig:
    """Return the arguments of deepinv's network, inferred from names and shapes of the weights.

    Raises:
        LookupError, ValueError: a weight is missing or has an invalid shape.
    """
    found = (SIDE.match(key) for key in state)
    sides = sorted({int(match[1]) for match in found if match}, reverse=True)
    levels = [f"enc.{side}x{side}_" for side in sides]
    embedded, features = state["map_layer0.weight"].shape
    # NCSN++ has twice as many Fourier features as channels.
    channels = features // 2 if "map_noise.freqs" in state else features
    last = "out_conv" if _is_adm(state) else f"dec.{sides[0]}x{sides[0]}_aux_conv"
    return {
        "img_resolution": sides[0],
        "in_channels": state[f"{levels[0]}conv.weight"].shape[1],
        "out_channels": len(state[f"{last}.weight"]),
        "label_dim": _columns(state, "map_label.weight"),
        "augment_dim": _columns(state, "map_augment.weight"),
        "model_channels": channels,
        "channel_mult": [_times(len(state[f"{k}block0.conv0.weight"]), channels) for k in levels],
        "channel_mult_emb": _times(embedded, channels),
        "num_blocks": count_after(state, f"{levels[0]}block"),
        "attn_resolutions": [
            side
            for side, level in zip(sides, levels, strict=True)
            if f"{level}block0.qkv.weight" in state
        ],
    }


def _is_adm(state: State) -> bool:
    return "out_conv.weight" in state


def _times(width: int, channels: int) -> int:
    if channels < 1 or width < 1 or width % channels:
        raise ValueError(f"{width} is not a multiple of {channels} channels")
    return width // channels


def _columns(state: State, key: str) -> int:
    return state[key].shape[1] if key in state else 0


def make_network(state: State) -> nn.Module:
    """Return deepinv's network of a state dict, without its weights.

    Raises:
        LookupError, ValueError: see `read_config`.
    """
    from deepinv.models import ADMUNet, NCSNpp

    config = read_config(state)
    kind = "ncsn" if "map_noise.freqs" in state else "ddpm"
    network: nn.Module = (
        ADMUNet(**config, pretrained=None)
        if _is_adm(state)
        else NCSNpp(kind, **config, pretrained=None)
    )
    return network


def build(state: State, where: str, options: Options) -> NetworkPrior:
    """Return an EDM checkpoint as a prior: preconditioned, variance exploding up to 80.

    Settings that the weights do not determine are those of EDM and of deepinv's published weights:
    images in [-1, 1] and a ``sigma_data`` of 0.5. A network that deepinv trained on [0, 1] images
    needs ``data_range=(-1, 1)`` and its ``pixel_std`` as ``sigma_data``. Two cases cannot be
    recognised from the weights and are misread: checkpoints named ``baseline`` in EDM's release,
    which have another preconditioning, and networks of fewer than 128 channels, which have other
    normalisation groups than deepinv's. Augmentation is off.

    Args:
        state: the state dict.
        where: beginning of error messages, which names the file.
        options: ``schedule`` (a `Schedule`), ``data_range``, ``is_complex`` (two real channels
            represent one complex channel) and ``sigma_data``.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or an invalid value.
    """
    check_options(options, *OPTIONS)
    schedule = schedule_option(options, VE)
    network, config = load_network(make_network, state, where), read_config(state)
    taken, returned, classes = config["in_channels"], config["out_channels"], config["label_dim"]
    require(taken == returned, "channels", (taken, returned), "as many channels out as in")
    is_complex = bool(options.get("is_complex", False))
    even = not is_complex or taken % 2 == 0
    require(even, "is_complex", f"True and {taken} channels", "an even number of channels")
    prior = NetworkPrior(
        _Call(network, classes),
        schedule,
        "edm",
        LogNoiseLabel(schedule),
        float(options.get("sigma_data", 0.5)),
        classes or None,
        channels=taken // 2 if is_complex else taken,
        is_complex=is_complex,
        data_range=options.get("data_range", (-1.0, 1.0) if is_complex else (0.0, 1.0)),
    )
    prior.null_class = classes or None
    return prior


FAMILY = Family("EDM / deepinv NCSN++ and ADM", matches, build)
