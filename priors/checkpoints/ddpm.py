"""Checkpoints of DDPM's PyTorch port: CelebA-HQ, LSUN and CIFAR of DDRM and RED-diff."""

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
from wellposed.priors.networks.ddpm import DDPMConfig, DDPMUNet
from wellposed.priors.networks.keys import State, count_after, image_channels, top_names


def matches(state: State) -> bool:
    """Return whether a state dict has the modules of DDPM's U-Net."""
    return {"temb", "conv_in", "down", "mid", "up"} <= top_names(state)


def read_config(state: State) -> DDPMConfig:
    """Return the configuration, inferred from the names and shapes of the weights.

    Raises:
        LookupError, ValueError: a weight is missing or has an invalid shape.
    """
    levels = range(count_after(state, "down."))
    wide = any(".conv_shortcut." in key for key in state)
    return DDPMConfig(
        channels=image_channels(state["conv_in.weight"], state["conv_out.weight"]),
        features=state["temb.dense.0.weight"].shape[1],
        widths=tuple(len(state[f"down.{i}.block.0.conv1.weight"]) for i in levels),
        blocks=count_after(state, "down.0.block."),
        attention=tuple(f"down.{i}.attn.0.q.weight" in state for i in levels),
        shortcut="conv_shortcut" if wide else "nin_shortcut",
    )


def build(state: State, where: str, options: Options) -> NetworkPrior:
    """Return a DDPM checkpoint as a prior: 1000 linear levels and predicted noise by default.

    Args:
        state: the state dict.
        where: beginning of error messages, which names the file.
        options: ``schedule``, ``prediction``, ``data_range`` and ``is_complex`` of `ddpm_prior`.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or an invalid value.
    """
    check_options(options, *DDPM_OPTIONS)
    network = load_network(lambda s: DDPMUNet(read_config(s)), state, where)
    options = {"schedule": schedule_beside(state)} | options
    return ddpm_prior(network, network.config.channels[0], options)


FAMILY = Family("DDPM", matches, build)
