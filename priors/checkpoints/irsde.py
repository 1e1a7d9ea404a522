"""Checkpoints of IR-SDE and Refusion: the conditional U-Net and NAFNet."""

from torch import nn

from wellposed.priors.anchor import Anchor
from wellposed.priors.checkpoints.family import (
    Family,
    Options,
    check_options,
    load_network,
    schedule_option,
)
from wellposed.priors.labels import Label
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks import nafnet
from wellposed.priors.networks import restoration_unet as unet
from wellposed.priors.networks.keys import State, image_pair, top_names
from wellposed.priors.networks.layers import Conditioned, Mode, Padded
from wellposed.priors.networks.nafnet import ConditionalNAFNet
from wellposed.priors.networks.restoration_unet import ResidualUNet
from wellposed.priors.processes import DenoisingProcess, MeanReverting

OPTIONS = ("schedule", "data_range")


def matches_unet(state: State) -> bool:
    """Return whether a state dict has the modules of IR-SDE's U-Net."""
    known = {"init_conv", "time_mlp", "downs", "mid_attn", "ups", "final_conv"}
    return known <= top_names(state) and "mid_block1.block1.norm.weight" not in state


def matches_nafnet(state: State) -> bool:
    """Return whether a state dict has the modules of the conditional NAFNet."""
    return {"intro", "time_mlp", "encoders", "middle_blks", "ending"} <= top_names(state)


def build_unet(state: State, where: str, options: Options) -> NetworkPrior:
    """Return IR-SDE's U-Net as a prior; for arguments and errors see `build_nafnet`.

    For denoising the default is ``DenoisingProcess(max_sigma=75, T=100)``. The U-Net of DA-CLIP is
    not supported: it is conditioned on a vision-language model.
    """

    def make(state: State) -> ResidualUNet:
        config = unet.read_config(state)
        _image_channels(config.channels)
        return ResidualUNet(config)

    network = load_network(make, state, where)
    levels = len(network.config.widths) - 1
    return _prior(network, network.config.channels, 2**levels, "reflect", (75.0, 100), options)


def build_nafnet(state: State, where: str, options: Options) -> NetworkPrior:
    """Return the conditional NAFNet of Refusion as a restorer, or as a prior for denoising.

    It predicts the noise of a mean-reverting process on images in [0, 1]. A network for denoising
    sees ``x_t`` alone, and is a plain prior.

    Args:
        state: the state dict.
        where: beginning of error messages, which names the file.
        options: settings that the weights do not determine: ``schedule``, by default that of
            deraining, ``MeanReverting(max_sigma=10)`` (also published: 30 for super-resolution
            and inpainting, 50 for Refusion), or of denoising,
            ``DenoisingProcess(max_sigma=70, T=1000)``; ``upsample``, 1 by default, the factor by
            which degraded images are enlarged; ``data_range``.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or an invalid value.
    """

    def make(state: State) -> ConditionalNAFNet:
        config = nafnet.read_config(state)
        _image_channels(config.channels)
        return ConditionalNAFNet(config)

    network = load_network(make, state, where)
    multiple = 2 ** len(network.config.encoders)
    return _prior(network, network.config.channels, multiple, "constant", (70.0, 1000), options)


def _image_channels(channels: tuple[int, int]) -> int:
    """Return the channels of the images of a network for restoration or for denoising."""
    taken, returned = channels
    return returned if taken == returned else image_pair(channels)


def _prior(
    network: nn.Module,
    channels: tuple[int, int],
    multiple: int,
    mode: Mode,
    denoising: tuple[float, int],
    options: Options,
) -> NetworkPrior:
    taken, returned = channels
    # The process runs on public values directly.
    data_range = options.get("data_range", (-1.0, 1.0))
    if taken == returned:
        check_options(options, *OPTIONS)
        schedule = schedule_option(options, lambda: DenoisingProcess(*denoising))
        plain = Padded(network, multiple, mode)
        return NetworkPrior(
            plain, schedule, label=Label(), channels=returned, data_range=data_range
        )
    check_options(options, *OPTIONS, "upsample")
    return NetworkPrior(
        Conditioned(network, multiple, mode),
        schedule_option(options, MeanReverting),
        anchor=Anchor("difference", options.get("upsample", 1)),
        channels=returned,
        data_range=data_range,
    )


UNET = Family("IR-SDE (U-Net)", matches_unet, build_unet)
NAFNET = Family("IR-SDE / Refusion (NAFNet)", matches_nafnet, build_nafnet)
