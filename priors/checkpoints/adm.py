"""Checkpoints of ADM (guided diffusion): FFHQ of DPS, ImageNet, LSUN, medical ones of DDS."""

from dataclasses import replace
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
from wellposed.priors.networks.adm import ADMConfig, ADMUNet
from wellposed.priors.networks.keys import State, count_after, image_channels, top_names

HEADS = ("num_head_channels", "num_heads")


def matches(state: State) -> bool:
    """Tell whether a state dict has the modules of ADM's U-Net."""
    return {"time_embed", "input_blocks", "middle_block", "output_blocks"} <= top_names(state)


def read_config(state: State) -> ADMConfig:
    """Return the configuration that names and shapes of weights tell.

    Raises:
        LookupError, ValueError: a weight that is missing or has an impossible shape.
    """
    resampling, levels = _resampling(state)
    # Each level has one stage more on the way up than it has residual blocks on the way down.
    stages = count_after(state, "output_blocks.")
    if stages % levels:
        raise ValueError(f"{stages} output blocks on {levels} levels")
    firsts = [1 + level * stages // levels for level in range(levels)]
    widths = tuple(len(state[f"input_blocks.{i}.0.in_layers.2.weight"]) for i in firsts)
    classes = state.get("label_emb.weight")
    return ADMConfig(
        channels=image_channels(state["input_blocks.0.0.weight"], state["out.2.weight"]),
        features=state["time_embed.0.weight"].shape[1],
        widths=widths,
        blocks=stages // levels - 1,
        attention=tuple(f"input_blocks.{i}.1.qkv.weight" in state for i in firsts),
        resampling=resampling,
        scale_shift=len(state["middle_block.0.emb_layers.1.weight"]) == 2 * widths[-1],
        num_classes=None if classes is None else len(classes),
    )


def _resampling(state: State) -> tuple[str, int]:
    """Return how the network resamples, and its number of levels: one more than it does so."""
    stages = range(count_after(state, "output_blocks."))
    layers = [f"output_blocks.{i}.{place}." for i in stages for place in (1, 2)]
    blocks = sum(f"{layer}in_layers.2.weight" in state for layer in layers)
    convs = sum(f"{layer}conv.weight" in state for layer in layers)
    if blocks or convs:
        return ("block", blocks + 1) if blocks else ("conv", convs + 1)
    # Average pooling has no weights: it leaves gaps in the numbers of the input blocks.
    names = [f"input_blocks.{i}." for i in stages]
    pools = sum(not any(key.startswith(name) for key in state) for name in names)
    return "plain", pools + 1


def build(state: State, where: str, options: dict[str, Any]) -> NetworkPrior:
    """Return an ADM checkpoint as a prior.

    By default: 1000 linear levels, or those of ``betas`` beside the weights, predicted noise,
    attention heads of 64 channels, as the checkpoints for FFHQ and ImageNet have. A learned
    variance is not used.

    Args:
        state: the state dict.
        where: how error messages begin, naming the file.
        options: ``schedule``, ``prediction``, ``data_range`` and ``is_complex`` of `ddpm_prior`;
            ``num_head_channels`` or ``num_heads`` of the attention, which weights do not tell.

    Raises:
        CheckpointError: weights that do not fit, or are not finite.
        ArgumentError: an unknown option, or heads that do not divide the channels.
    """
    check_options(options, *DDPM_OPTIONS, *HEADS)
    heads = {name: options[name] for name in HEADS if name in options}
    others = {name: value for name, value in options.items() if name not in heads}
    network = load_network(lambda s: ADMUNet(replace(read_config(s), **heads)), state, where)
    config = network.config
    others = {"schedule": schedule_beside(state), "num_classes": config.num_classes} | others
    return ddpm_prior(network, config.channels[0], **others)


FAMILY = Family("ADM / guided-diffusion", matches, build)
