"""Checkpoints of EDM: DDPM++, NCSN++ and ADM networks as Karras et al. train and deepinv has them.

"Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv 2206.00364.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.errors import require
from wellposed.priors.checkpoints.family import (
    Family,
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


class _Call(nn.Module):
    """Gives deepinv's network the call ``network(x, label[, class])``, without preconditioning."""

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network, self.num_classes = network, num_classes

    def forward(self, x: Tensor, label: Tensor, *classes: Tensor) -> Tensor:
        # The class behind the last is none: EDM then gives no class, all zeros.
        count = self.num_classes
        one_hot = [F.one_hot(c, count + 1)[:, :count].to(x.dtype) for c in classes]
        return self.network.forward_unet(x, label, *one_hot)  # type: ignore[operator]


def matches(state: State) -> bool:
    """Tell whether a state dict has the modules of EDM's networks."""
    return {"map_layer0", "map_layer1", "enc", "dec"} <= top_names(state)


def read_config(state: State) -> dict[str, Any]:
    """Return the arguments of deepinv's network that names and shapes of weights tell.

    Raises:
        LookupError, ValueError: a weight that is missing or has an impossible shape.
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
        raise ValueError(f"{width} is no multiple of {channels} channels")
    return width // channels


def _columns(state: State, key: str) -> int:
    return state[key].shape[1] if key in state else 0


def make_network(state: State) -> nn.Module:
    """Return deepinv's network that a state dict is of, with other weights.

    Raises:
        LookupError, ValueError: see `read_config`.
    """
    from deepinv.models import ADMUNet, NCSNpp

    config = read_config(state)
    if _is_adm(state):
        return ADMUNet(**config, pretrained=None)
    kind = "ncsn" if "map_noise.freqs" in state else "ddpm"
    return NCSNpp(kind, **config, pretrained=None)


def build(state: State, where: str, options: Mapping[str, Any]) -> NetworkPrior:
    """Return an EDM checkpoint as a prior: preconditioned, variance exploding up to 80.

    What the weights do not tell is EDM's: images in [-1, 1], preconditioned for a ``sigma_data``
    of 0.5, as deepinv's published weights are too. A network that deepinv trained on [0, 1] images
    needs ``data_range=(-1, 1)`` and its ``pixel_std`` as ``sigma_data``. The checkpoints named
    ``baseline`` in EDM's release have another preconditioning, and networks of fewer than 128
    channels other groups in their normalisation than deepinv gives them; neither shows in the
    weights. Augmentation is off.

    Args:
        state: the state dict.
        where: how error messages begin, naming the file.
        options: ``schedule`` (a `Schedule`), ``data_range``, ``is_complex`` (two real channels
            stand for one complex one) and ``sigma_data``.

    Raises:
        CheckpointError: weights that do not fit, or are not finite.
        ArgumentError: an unknown option, or an impossible value of one.
    """
    check_options(options, *OPTIONS)
    schedule = schedule_option(options, VE)
    network, config = load_network(make_network, state, where), read_config(state)
    taken, returned, classes = config["in_channels"], config["out_channels"], config["label_dim"]
    require(taken == returned, "channels", (taken, returned), "as many out as in")
    is_complex = bool(options.get("is_complex", False))
    even = not is_complex or taken % 2 == 0
    require(even, "is_complex", f"True and {taken} channels", "an even number of them")
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
