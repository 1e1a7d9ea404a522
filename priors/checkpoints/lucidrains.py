"""Checkpoints of denoising-diffusion-pytorch (lucidrains), in all its layouts since 2022."""

import torch
from torch import Tensor, nn

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
from wellposed.priors.networks.lucidrains_unet import PixelUNet, read_pixel_config
from wellposed.priors.networks.restoration_unet import ResidualUNet, read_config
from wellposed.priors.networks.unet import UNet

FIRST, LAST = "init_conv.weight", "final_conv.weight"
OLD = ("mid_block1.block1.norm.weight", "downs.0.2.fn.fn.to_qkv.weight")
NEW = ("mid_block1.block1.proj.weight", "downs.0.2.to_qkv.weight", "mid_attn.norm.g")
GATHERED = "downs.0.3.1.weight"
"""Weight of the layer that gathers pixels, since November 2022; RDDM's U-Net is older."""


class SelfConditioned(nn.Module):
    """A network that also takes an earlier estimate; zeros, as in half of its training.

    "Analog Bits", 2022, arXiv 2208.04202.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the prediction for ``x`` (B, C, H, W) at labels (B,)."""
        predicted: Tensor = self.network(torch.cat([torch.zeros_like(x), x], 1), label)
        return predicted


def matches(state: State) -> bool:
    """Return whether a state dict is of this U-Net.

    Its input in the layout that it shares with RDDM is one image.
    """
    keys = state.keys()
    if not {FIRST, LAST} <= keys or not ({*OLD} <= keys or {*NEW} <= keys):
        return False
    taken, returned = state[FIRST].shape[1], len(state[LAST])
    return {*NEW} <= keys or GATHERED in state or returned in (taken, 2 * taken)


def build(state: State, where: str, options: Options) -> NetworkPrior:
    """Return a checkpoint of its trainer, ``model-N.pt``, as a prior.

    Defaults are the levels of the ``betas`` and the prediction of the ``loss_weight`` that the
    trainer stores beside the weights. Without them they are those of its time: noise and linear
    betas, since version 1.8 a velocity and the sigmoid schedule. Files of the versions 1.7.1 to
    1.7.4, of June 2023, have the names of older ones and are misread.

    Args:
        state: the state dict.
        where: beginning of error messages, which names the file.
        options: those of `ddpm_prior`.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or an invalid value.
    """
    check_options(options, *DDPM_OPTIONS)
    new = {*NEW} <= state.keys()
    network: UNet = load_network(_pixel_unet if new else _residual_unet, state, where)
    taken, returned = network.shape.channels
    twice = taken == 2 * returned
    usual = _prediction_beside(state) or ("velocity" if new else "noise")
    schedule = "sigmoid" if new and "betas" not in state else schedule_beside(state)
    padded = Padded(network, 2 ** (len(network.shape.widths) - 2))
    return ddpm_prior(
        SelfConditioned(padded) if twice else padded,
        taken // 2 if twice else taken,
        {"prediction": usual, **options},
        schedule=schedule,
    )


def _pixel_unet(state: State) -> UNet:
    return PixelUNet(read_pixel_config(_checked(state)))


def _residual_unet(state: State) -> UNet:
    return ResidualUNet(read_config(_checked(state)))


def _checked(state: State) -> State:
    """Return a state dict whose channels are those of an image, or of an image and an estimate."""
    first, last = state[FIRST], state[LAST]
    if first.shape[1] != 2 * len(last):
        image_channels(first, last)
    return state


def _prediction_beside(state: State) -> str | None:
    """Return the prediction that the trainer weighted its loss for, if it is stored.

    At levels with more noise than signal the weight is 1 for noise, the signal-to-noise ratio r
    for the clean image and r / (1 + r) for a velocity, clipped or not ("Efficient Diffusion
    Training via Min-SNR Weighting Strategy", 2023, arXiv 2303.09556).
    """
    if not {"loss_weight", "alphas_cumprod"} <= state.keys():
        return None
    signal = state["alphas_cumprod"].double()
    noisy, ratio = signal < 0.5, signal / (1 - signal)
    expected = {"noise": torch.ones_like(ratio), "sample": ratio, "velocity": signal}
    weight = state["loss_weight"].double()
    errors = {k: float((weight - v)[noisy].abs().sum()) for k, v in expected.items()}
    return min(errors, key=errors.__getitem__)


FAMILY = Family("denoising-diffusion-pytorch", matches, build)
