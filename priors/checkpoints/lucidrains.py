"""Checkpoints of denoising-diffusion-pytorch (lucidrains), in its layout of 2022."""

from typing import Any

from wellposed.priors.checkpoints.family import (
    DDPM_OPTIONS,
    Family,
    check_options,
    ddpm_prior,
    load_network,
    schedule_beside,
)
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.keys import State, image_channels
from wellposed.priors.networks.layers import Padded
from wellposed.priors.networks.restoration_unet import ResidualUNet, read_config

NORM, FIRST, LAST = "mid_block1.block1.norm.weight", "init_conv.weight", "final_conv.weight"


def matches(state: State) -> bool:
    """Tell whether a state dict is of this U-Net, which sees one image, unlike RDDM's."""
    if not {NORM, FIRST, LAST, "downs.0.3.weight"} <= state.keys():
        return False
    taken, returned = state[FIRST].shape[1], len(state[LAST])
    return returned in (taken, 2 * taken)


def build(state: State, where: str, options: dict[str, Any]) -> NetworkPrior:
    """Return a checkpoint of its trainer, ``model-N.pt``, as a prior.

    By default: the levels of the ``betas`` that the trainer keeps beside the weights, and
    predicted noise, as before 2023; later ones predict a velocity.

    Args:
        state: the state dict.
        where: how error messages begin, naming the file.
        options: ``schedule``, ``prediction``, ``label``, ``data_range`` and ``is_complex`` of
            `ddpm_prior`.

    Raises:
        CheckpointError: weights that do not fit, or are not finite.
        ArgumentError: an unknown option, or an impossible value of one.
    """
    check_options(options, *DDPM_OPTIONS)
    image_channels(state[FIRST], state[LAST])
    network = load_network(lambda s: ResidualUNet(read_config(s)), state, where)
    config = network.config
    padded = Padded(network, 2 ** (len(config.widths) - 2))
    return ddpm_prior(padded, config.channels[0], **{"schedule": schedule_beside(state)} | options)


FAMILY = Family("denoising-diffusion-pytorch", matches, build)
