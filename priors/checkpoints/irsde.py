"""Checkpoints of IR-SDE and Refusion: the conditional U-Net and NAFNet."""

from wellposed.priors.anchor import Anchor
from wellposed.priors.checkpoints.family import (
    Family,
    Options,
    check_options,
    load_network,
    schedule_option,
)
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks import nafnet
from wellposed.priors.networks import restoration_unet as unet
from wellposed.priors.networks.keys import State, image_pair, top_names
from wellposed.priors.networks.layers import Conditioned
from wellposed.priors.networks.nafnet import ConditionalNAFNet
from wellposed.priors.networks.restoration_unet import ResidualUNet
from wellposed.priors.processes import MeanReverting

OPTIONS = ("schedule", "upsample", "data_range")


def matches_unet(state: State) -> bool:
    """Return whether a state dict has the modules of IR-SDE's U-Net."""
    known = {"init_conv", "time_mlp", "downs", "mid_attn", "ups", "final_conv"}
    return known <= top_names(state) and "mid_block1.block1.norm.weight" not in state


def matches_nafnet(state: State) -> bool:
    """Return whether a state dict has the modules of the conditional NAFNet."""
    return {"intro", "time_mlp", "encoders", "middle_blks", "ending"} <= top_names(state)


def build_unet(state: State, where: str, options: Options) -> NetworkPrior:
    """Return IR-SDE's U-Net as a restorer; for arguments and errors see `build_nafnet`.

    The U-Net of DA-CLIP is not supported: it is conditioned on a vision-language model.
    """

    def make(state: State) -> ResidualUNet:
        config = unet.read_config(state)
        image_pair(config.channels)
        return ResidualUNet(config)

    network = load_network(make, state, where)
    config = network.config
    levels = len(config.widths) - 1
    return _restorer(Conditioned(network, 2**levels), config.channels[1], options)


def build_nafnet(state: State, where: str, options: Options) -> NetworkPrior:
    """Return the conditional NAFNet of Refusion as a restorer.

    It predicts the noise of a mean-reverting process on images in [0, 1].

    Args:
        state: the state dict.
        where: beginning of error messages, which names the file.
        options: settings that the weights do not determine: ``schedule``, by default that of
            deraining, ``MeanReverting(max_sigma=10)`` (also published: 30 for super-resolution
            and inpainting, 50 for Refusion and 70 for denoising); ``upsample``, 1 by default, the
            factor by which degraded images are enlarged; ``data_range``.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or an invalid value.
    """

    def make(state: State) -> ConditionalNAFNet:
        config = nafnet.read_config(state)
        image_pair(config.channels)
        return ConditionalNAFNet(config)

    network = load_network(make, state, where)
    multiple, channels = 2 ** len(network.config.encoders), network.config.channels[1]
    return _restorer(Conditioned(network, multiple, "constant"), channels, options)


def _restorer(network: Conditioned, channels: int, options: Options) -> NetworkPrior:
    check_options(options, *OPTIONS)
    return NetworkPrior(
        network,
        schedule_option(options, MeanReverting),
        anchor=Anchor("difference", options.get("upsample", 1)),
        channels=channels,
        # The process runs on public values directly.
        data_range=options.get("data_range", (-1.0, 1.0)),
    )


UNET = Family("IR-SDE (U-Net)", matches_unet, build_unet)
NAFNET = Family("IR-SDE / Refusion (NAFNet)", matches_nafnet, build_nafnet)
