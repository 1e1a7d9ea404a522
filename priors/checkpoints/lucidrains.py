"""Checkpoints of denoising-diffusion-pytorch (lucidrains), in its layout of 2022."""

from wellposed.priors.checkpoints.family import (
    DDPM_OPTIONS,
    Family,
    Options,
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
    """Return whether a state dict is of this U-Net, whose input is one image, unlike RDDM's."""
    if not {NORM, FIRST, LAST, "downs.0.3.weight"} <= state.keys():
        return False
    taken, returned = state[FIRST].shape[1], len(state[LAST])
    return returned in (taken, 2 * taken)


def build(state: State, where: str, options: Options) -> NetworkPrior:
    """Return a checkpoint of its trainer, ``model-N.pt``, as a prior.

    Defaults are the levels of the ``betas`` that the trainer stores beside the weights, and noise
    prediction, as before 2023; later checkpoints predict a velocity.

    Args:
        state: the state dict.
        where: beginning of error messages, which names the file.
        options: those of `ddpm_prior`.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or an invalid value.
    """
    check_options(options, *DDPM_OPTIONS)
    image_channels(state[FIRST], state[LAST])
    network = load_network(lambda s: ResidualUNet(read_config(s)), state, where)
    config = network.config
    padded = Padded(network, 2 ** (len(config.widths) - 2))
    return ddpm_prior(padded, config.channels[0], options, schedule=schedule_beside(state))


FAMILY = Family("denoising-diffusion-pytorch", matches, build)
