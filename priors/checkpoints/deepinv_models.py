"""Checkpoints of deepinv's denoisers: DRUNet, which has no noise schedule of its own."""

from typing import Any

from torch import nn

from wellposed.priors.adapters.rescheduled import DenoiserPrior
from wellposed.priors.checkpoints.family import (
    Family,
    check_options,
    load_network,
)
from wellposed.priors.named_schedules import as_schedule
from wellposed.priors.networks.keys import State, count_after, top_names

LEVELS = (1, 2, 3)


def matches(state: State) -> bool:
    """Tell whether a state dict has the modules of DRUNet."""
    return {"m_head", "m_down1", "m_body", "m_up1", "m_tail"} <= top_names(state)


def make_network(state: State) -> nn.Module:
    """Return the DRUNet that a state dict is of, with other weights.

    Raises:
        LookupError, ValueError: a weight that is missing or has an impossible shape.
    """
    from deepinv.models import DRUNet

    head, blocks = state["m_head.weight"], count_after(state, "m_body.")
    return DRUNet(
        in_channels=head.shape[1] - 1,  # the last one is the map of the noise level
        out_channels=len(state["m_tail.weight"]),
        nc=(len(head), *(len(state[f"m_down{i}.{blocks}.weight"]) for i in LEVELS)),
        nb=blocks,
        dim=head.ndim - 2,
        pretrained=None,
    )


def build(state: State, where: str, options: dict[str, Any]) -> DenoiserPrior:
    """Return a DRUNet checkpoint as a prior on [0, 1] images.

    DRUNet of "Plug-and-Play Image Restoration with Deep Denoiser Prior" (2022, arXiv 2008.13751)
    as published and as deepinv trains it, in two or three dimensions: strided and transposed
    convolutions, ReLU.

    Args:
        state: the state dict.
        where: how error messages begin, naming the file.
        options: ``schedule`` and ``data_range`` of `DenoiserPrior`.

    Raises:
        CheckpointError: weights that do not fit, or are not finite.
        ArgumentError: an unknown option, or an impossible value of one.
    """
    check_options(options, "schedule", "data_range")
    network = load_network(make_network, state, where)
    if "schedule" in options:
        options = options | {"schedule": as_schedule(options["schedule"])}
    return DenoiserPrior(network, channels=len(state["m_tail.weight"]), **options)


FAMILY = Family("DRUNet", matches, build)
