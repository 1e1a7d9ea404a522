"""Checkpoints of ResShift: a U-Net with shifted-window attention, on the latents of a VQ code."""

import math
import re
from pathlib import Path

from torch import Tensor

from wellposed.errors import ArgumentError, CheckpointError, ShapeError, require
from wellposed.priors.adapters.autoencoder import Autoencoder, Latent
from wellposed.priors.anchor import Anchor, Degraded
from wellposed.priors.checkpoints.family import (
    Family,
    Options,
    check_options,
    load_network,
    schedule_option,
)
from wellposed.priors.checkpoints.reading import read_state
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks import vq
from wellposed.priors.networks.adm import ADMConfig
from wellposed.priors.networks.keys import State, count_after
from wellposed.priors.networks.resshift import ResShiftNetwork, SwinUNet
from wellposed.priors.networks.swin import SwinConfig
from wellposed.priors.prior import Prior
from wellposed.priors.processes import resshift
from wellposed.priors.schedule import Tabulated

OPTIONS = ("autoencoder", "steps", "schedule", "data_range")
STEPS = {15: 0.04, 4: 0.2}
"""The published numbers of steps, and the smallest noise of each."""
TABLE = "attn.relative_position_bias_table"
EXTRACTOR = "feature_extractor."
# Entries of the files that follow from the configuration.
DERIVED = ("attn.relative_position_index", "attn_mask")


class Inpainter(Latent):
    """ResShift's networks for inpainting: degraded images have the mask as a fourth channel.

    In public values the mask has the upper end of the range (1 for [0, 1]) where a pixel is
    unknown, and the lower end where it is known. Restored images have three channels.
    """

    def __init__(
        self, prior: Prior, autoencoder: Autoencoder, data_range: tuple[float, float]
    ) -> None:
        super().__init__(prior, autoencoder, data_range)
        self.channels = None

    def degraded(self, image: Tensor) -> Degraded:
        """Return the condition of images with a mask, (B, 4, H, W); otherwise `ShapeError`."""
        if image.shape[1] != 4:
            raise ShapeError(
                f"y: got {image.shape[1]} channels, accepted: 4, the colours and a mask that is "
                "1 at unknown pixels"
            )
        colours, whole = image[:, :3], Prior.to_units(self, image)
        return Degraded(super().degraded(colours).anchor, whole)


def matches(state: State) -> bool:
    """Return whether a state dict has the modules of ResShift's network."""
    return "input_blocks.0.0.weight" in state and any(key.endswith(TABLE) for key in state)


def read_config(state: State) -> ADMConfig:
    """Return the U-Net's configuration that names and shapes of weights tell.

    Raises:
        LookupError, ValueError: a weight is missing or has an invalid shape.
    """
    ups = [k for k in state if k.startswith("output_blocks.") and k.endswith(".conv.weight")]
    levels, stages = 1 + len(ups), count_after(state, "output_blocks.")
    if stages % levels:
        raise ValueError(f"{stages} output blocks on {levels} levels")
    each = stages // levels
    names = [f"input_blocks.{1 + level * each}.0.in_layers.2.weight" for level in range(levels)]
    widths = tuple(len(state[name]) for name in names)
    return ADMConfig(
        channels=(state["input_blocks.0.0.weight"].shape[1], len(state["out.2.weight"])),
        features=state["time_embed.0.weight"].shape[1],
        widths=widths,
        blocks=each - 1,
        attention=(False,) * levels,
        resampling="conv",
        scale_shift=len(state["middle_block.0.emb_layers.1.weight"]) == 2 * widths[-1],
        num_heads=1,
    )


def read_swin(state: State, name: str) -> SwinConfig:
    """Return the configuration of the layer ``name``; LookupError if a weight is missing.

    Windows are shifted in the blocks for which the file has an attention mask.
    """
    places, heads = state[f"{name}.blocks.0.{TABLE}"].shape
    window, blocks = (math.isqrt(places) + 1) // 2, range(count_after(state, f"{name}.blocks."))
    return SwinConfig(
        width=len(state[f"{name}.patch_embed.proj.weight"]),
        hidden=len(state[f"{name}.blocks.0.mlp.fc1.weight"]),
        heads=heads,
        window=window,
        shifts=tuple(window // 2 * (f"{name}.blocks.{i}.attn_mask" in state) for i in blocks),
    )


def make_network(state: State) -> ResShiftNetwork:
    """Return the network of a state dict, without its weights.

    Raises:
        LookupError, ValueError: see `read_config`; also for a file without masks, see `read_swin`.
    """
    if not any(key.endswith("attn_mask") for key in state):
        raise LookupError("attn_mask, which marks the blocks with shifted windows")
    config = read_config(state)
    levels, each = len(config.widths), config.blocks + 1
    down = [f"input_blocks.{1 + level * each}.1" for level in range(levels)]
    up = [f"output_blocks.{level * each}.1" for level in range(levels)]
    swin = [read_swin(state, name) for name in (*down, "middle_block.1", *up)]
    firsts = range(0, count_after(state, EXTRACTOR), 3)
    convs = [
        (state[f"{EXTRACTOR}{i}.weight"], state[f"{EXTRACTOR}{i + 2}.op.weight"]) for i in firsts
    ]
    features = [(first.shape[1], len(first), len(second)) for first, second in convs]
    multiple = swin[0].window * 2 ** (levels - 1)
    return ResShiftNetwork(SwinUNet(config, swin), features, multiple)


def build(state: State, where: str, options: Options) -> Latent:
    """Return ResShift's network as a restorer of images in [0, 1].

    Super-resolution by 2 or 4 and restoration of faces are distinguished by the sizes of the
    network and its autoencoder. A network for inpainting becomes an `Inpainter`.

    Args:
        state: the state dict.
        where: beginning of error messages, which names the file.
        options: ``autoencoder`` (required), the file of the VQ-f4 or VQ-f8 that the network was
            trained with, or an `Autoencoder`; ``steps``, 15 or 4, by default taken from the file
            name (``_s15``, ``_s4``), or ``schedule`` instead; ``data_range``.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or an invalid value.
    """
    check_options(options, *OPTIONS)
    schedule = schedule_option(options, lambda: _schedule(options.get("steps"), where))
    network = load_network(lambda _: make_network(state), _renamed(state), where)
    autoencoder = _autoencoder(options.get("autoencoder"), network.unet.config.channels[1])
    upsample, rest = divmod(autoencoder.factor, 2**network.halvings)
    fits, got = rest == 0 and upsample > 0, f"latents {autoencoder.factor} times smaller"
    accepted = f"latents at least {2**network.halvings} times smaller, as for this network"
    require(fits, "autoencoder", got, accepted)
    anchor, latents = Anchor("latent", upsample), (-1.0, 1.0)
    prior = NetworkPrior(network, schedule, "sample", anchor=anchor, data_range=latents)
    kind = Inpainter if network.image_channels == 4 else Latent
    return kind(prior, autoencoder, options.get("data_range", (0.0, 1.0)))


def _renamed(state: State) -> State:
    """Return the weights under the names of `ResShiftNetwork`."""
    kept = {k: v for k, v in state.items() if not k.endswith(DERIVED)}
    return {k if k.startswith(EXTRACTOR) else f"unet.{k}": v for k, v in kept.items()}


def _schedule(steps: int | None, where: str) -> Tabulated:
    """Return the published schedule of a number of steps, by default that in the file name."""
    named = re.search(r"_s(15|4)(?!\d)", where)
    steps = int(named[1]) if steps is None and named else steps
    if steps not in STEPS:
        accepted = "15 or 4; the weights do not determine it"
        raise ArgumentError(f"steps: got {steps!r}, accepted: {accepted}")
    return resshift(steps, min_noise=STEPS[steps])


def _autoencoder(source: Autoencoder | str | Path | None, latents: int) -> Autoencoder:
    """Return an autoencoder, loaded if ``source`` is a file."""
    if isinstance(source, (str, Path)):
        state, where = read_state(source), f"autoencoder: {str(source)!r}"
        if not vq.matches(state):
            raise CheckpointError(f"{where} is not one of ResShift's, accepted: VQ-f4 or VQ-f8")
        source = load_network(lambda s: vq.VQAutoencoder(vq.read_config(s)), state, where)
    found = getattr(source, "latent_channels", None)
    accepted = f"an Autoencoder with {latents} latent channels, or the file of ResShift's VQ model"
    if source is None or found != latents:
        got = source if found is None else found
        raise ArgumentError(f"autoencoder: got {got!r}, accepted: {accepted}")
    return source


FAMILY = Family("ResShift", matches, build)
