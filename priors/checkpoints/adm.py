"""Checkpoints of ADM (guided diffusion): FFHQ of DPS, ImageNet, LSUN, medical images of DDS."""

from dataclasses import replace
from typing import Any

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
from wellposed.priors.networks.adm import ADMConfig, ADMUNet
from wellposed.priors.networks.keys import State, count_after, image_channels, top_names

HEADS = ("num_head_channels", "num_heads")


def matches(state: State) -> bool:
    """Return whether a state dict has the modules of ADM's U-Net."""
    return {"time_embed", "input_blocks", "middle_block", "output_blocks"} <= top_names(state)


def read_config(state: State) -> ADMConfig:
    """Return the configuration, inferred from the names and shapes of the weights.

    Raises:
        LookupError, ValueError: a weight is missing or has an invalid shape.
    """
    resampling, levels = _resampling(state)
    # Each level has one stage more in the decoder than residual blocks in the encoder.
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
    """Return the kind of resampling and the number of levels."""
    stages = range(count_after(state, "output_blocks."))
    layers = [f"output_blocks.{i}.{place}." for i in stages for place in (1, 2)]
    blocks = sum(f"{layer}in_layers.2.weight" in state for layer in layers)
    convs = sum(f"{layer}conv.weight" in state for layer in layers)
    if blocks or convs:
        return ("block", blocks + 1) if blocks else ("conv", convs + 1)
    # Average pooling has no weights, but leaves gaps in the numbers of the input blocks.
    names = [f"input_blocks.{i}." for i in stages]
    pools = sum(not any(key.startswith(name) for key in state) for name in names)
    return "plain", pools + 1


def build(state: State, where: str, options: Options) -> NetworkPrior:
    """Return an ADM checkpoint as a prior.

    Defaults are 1000 linear levels, or those of ``betas`` beside the weights, noise prediction and
    attention heads of 64 channels, as in the checkpoints for FFHQ and ImageNet. A learned variance
    is used by ``DPS(variance="learned")`` only.

    Args:
        state: the state dict.
        where: beginning of error messages, which names the file.
        options: those of `ddpm_prior`;
            ``num_head_channels`` or ``num_heads`` of the attention, which the weights do not
            determine.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or heads that do not divide the channels.
    """
    check_options(options, *DDPM_OPTIONS, *HEADS)
    heads: dict[str, Any] = {name: v for name, v in options.items() if name in HEADS}
    network = load_network(lambda s: ADMUNet(replace(read_config(s), **heads)), state, where)
    config = network.config
    schedule = schedule_beside(state)
    return ddpm_prior(network, config.channels[0], options, config.num_classes, schedule)


FAMILY = Family("ADM / guided-diffusion", matches, build)
