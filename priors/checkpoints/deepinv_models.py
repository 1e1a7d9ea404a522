"""Checkpoints of deepinv's denoisers: DRUNet, which has no noise schedule."""

from torch import nn

from wellposed.priors.adapters.rescheduled import DenoiserPrior
from wellposed.priors.checkpoints.family import (
    Family,
    Options,
    check_options,
    load_network,
    schedule_option,
)
from wellposed.priors.named_schedules import as_schedule
from wellposed.priors.networks.keys import State, count_after, top_names
from wellposed.priors.schedule import VE

LEVELS = (1, 2, 3)


def matches(state: State) -> bool:
    """Return whether a state dict has the modules of DRUNet."""
    return {"m_head", "m_down1", "m_body", "m_up1", "m_tail"} <= top_names(state)


def make_network(state: State) -> nn.Module:
    """Return the DRUNet of a state dict, without its weights.

    Raises:
        LookupError, ValueError: a weight is missing or has an invalid shape.
    """
    from deepinv.models import DRUNet

    head, blocks = state["m_head.weight"], count_after(state, "m_body.")
    network: nn.Module = DRUNet(
        in_channels=head.shape[1] - 1,  # the last channel is the map of the noise level
        out_channels=len(state["m_tail.weight"]),
        nc=(len(head), *(len(state[f"m_down{i}.{blocks}.weight"]) for i in LEVELS)),
        nb=blocks,
        dim=head.ndim - 2,
        pretrained=None,
    )
    return network


def build(state: State, where: str, options: Options) -> DenoiserPrior:
    """Return a DRUNet checkpoint as a prior on [0, 1] images.

    This is the DRUNet of "Plug-and-Play Image Restoration with Deep Denoiser Prior" (2022,
    arXiv 2008.13751), as published and as trained by deepinv, in two or three dimensions, with
    strided and transposed convolutions and ReLU.

    Args:
        state: the state dict.
        where: beginning of error messages, which names the file.
        options: ``schedule`` and ``data_range`` of `DenoiserPrior`.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or an invalid value.
    """
    check_options(options, "schedule", "data_range")
    network = load_network(make_network, state, where)
    if "schedule" in options:
        options = options | {"schedule": as_schedule(options["schedule"])}
    return DenoiserPrior(
        network,
        schedule_option(options, lambda: VE(sigma_max=50.0)),
        options.get("data_range", (0.0, 1.0)),
        channels=len(state["m_tail.weight"]),
    )


FAMILY = Family("DRUNet", matches, build)
