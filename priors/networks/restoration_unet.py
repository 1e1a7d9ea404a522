"""The U-Nets of IR-SDE and RDDM, with the published names of their weights.

Both derive from one network; they differ in the fields of `UNetConfig`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.priors.networks.attention import Attend, Attention, LinearAttention
from wellposed.priors.networks.keys import State
from wellposed.priors.networks.layers import embedding
from wellposed.priors.networks.unet import UNet, UNetShape, climb, halving, read_shape

GROUPS = 8


@dataclass(frozen=True, kw_only=True)
class UNetConfig(UNetShape):
    """Configuration of a U-Net.

    Attributes:
        hidden: channels of the attention, in four heads.
        normalised: convolutions have standardised weights and biases and are followed by group
            normalisation (RDDM); IR-SDE has neither.
        full: the middle has attention between all pixels instead of linear attention.
        unshuffled: images are halved by gathering pixels, not by a strided convolution.
    """

    hidden: int
    normalised: bool
    full: bool
    unshuffled: bool = False


def read_config(state: State, ending: str = "final_conv") -> UNetConfig:
    """Return the configuration, inferred from the names and shapes of the weights.

    Args:
        state: the state dict.
        ending: name of the last convolution.

    Raises:
        LookupError: a weight is missing.
    """
    return UNetConfig(
        **vars(read_shape(state, ending)),
        hidden=len(state["downs.0.2.fn.fn.to_qkv.weight"]) // 3,
        normalised="mid_block1.block1.norm.weight" in state,
        full="mid_attn.fn.fn.to_out.weight" in state,
        unshuffled="downs.0.3.1.weight" in state,
    )


class _StandardisedConv(nn.Conv2d):
    """A convolution with weights standardised in each output channel."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * (variance + 1e-5).rsqrt()
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class _Block(nn.Module):
    """``silu(norm(conv(x)) (1 + scale) + shift)``."""

    def __init__(self, channels: int, width: int, normalised: bool) -> None:
        super().__init__()
        kind = _StandardisedConv if normalised else nn.Conv2d
        self.proj = kind(channels, width, 3, padding=1, bias=normalised)
        self.norm = nn.GroupNorm(GROUPS, width) if normalised else nn.Identity()

    def forward(
        self, x: Tensor, scale: Tensor | float = 0.0, shift: Tensor | float = 0.0
    ) -> Tensor:
        return F.silu(self.norm(self.proj(x)) * (1 + scale) + shift)


class _ResidualBlock(nn.Module):
    """Two convolutions, the first scaled and shifted by the label, and a shortcut."""

    def __init__(self, channels: int, width: int, config: UNetConfig) -> None:
        super().__init__()
        biased = config.normalised
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.features, 2 * width))
        self.block1 = _Block(channels, width, biased)
        self.block2 = _Block(width, width, biased)
        same = channels == width
        self.res_conv = nn.Identity() if same else nn.Conv2d(channels, width, 1, bias=biased)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.mlp(time)[:, :, None, None].chunk(2, 1)
        return self.block2(self.block1(x, scale, shift)) + self.res_conv(x)


class ResidualUNet(UNet):
    """The U-Net of IR-SDE (2023, arXiv 2301.11699) and of RDDM (2023, arXiv 2308.13712).

    Args:
        config: see `UNetConfig`.
    """

    def __init__(self, config: UNetConfig) -> None:
        self.config = config
        super().__init__(config)

    def block(self, channels: int, width: int) -> nn.Module:
        """Return a residual block, see `UNet`."""
        return _ResidualBlock(channels, width, self.config)

    def attention(self, width: int, level: int) -> nn.Module:
        """Return the attention of a level, see `UNet`."""
        kind = Attention if self.config.full and level == -1 else LinearAttention
        return Attend(width, kind(width, self.config.hidden))

    def conv(self, channels: int, width: int, kernel: int = 3) -> nn.Module:
        """Return a convolution, see `UNet`."""
        biased = self.config.normalised
        return nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=biased)

    def halve(self, fine: int, coarse: int) -> nn.Module:
        """Return the layer that halves images, see `UNet`."""
        if self.config.unshuffled:
            return halving(fine, coarse)
        return nn.Conv2d(fine, coarse, 4, 2, padding=1)


class SharedUNet(ResidualUNet):
    """RDDM's network of two heads on one encoder; the first head (residual) has no skips."""

    def add_ending(self) -> None:
        """Add the second decoder and both endings."""
        width = self.config.widths[0]
        self.ups_no_skip = self.decoder(skips=False)
        self.final_res_block_1, self.final_conv_1 = self.ending(width)
        self.final_res_block_2, self.final_conv_2 = self.ending(2 * width)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return both predictions (B, 2 C, H, W); see `ResidualUNet`."""
        time = embedding(self.time_mlp, label, x)
        x, skips = self.encode(self.init_conv(x), time)
        residual = self.final_res_block_1(climb(self.ups_no_skip, x, time), time)
        x = torch.cat([climb(self.ups, x, time, skips), skips.pop()], 1)
        second = self.final_conv_2(self.final_res_block_2(x, time))
        return torch.cat([self.final_conv_1(residual), second], 1)
