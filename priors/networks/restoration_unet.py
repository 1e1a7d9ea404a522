"""The U-Nets of IR-SDE and RDDM, with the published names of their weights.

Both derive from one network; they differ in the fields of `UNetConfig`.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.priors.networks.attention import Attend, Attention, LinearAttention
from wellposed.priors.networks.keys import State, count_after
from wellposed.priors.networks.layers import Sinusoids, embedding

GROUPS = 8


@dataclass(frozen=True)
class UNetConfig:
    """Configuration of a U-Net.

    Attributes:
        channels: image channels of input and output.
        features: sinusoidal features of the label.
        widths: channels of the first convolution, then output channels of each level.
        hidden: channels of the attention, in four heads.
        normalised: convolutions have standardised weights and biases and are followed by group
            normalisation (RDDM); IR-SDE has neither.
        full: the middle has attention between all pixels instead of linear attention.
        last: kernel size of the last convolution.
    """

    channels: tuple[int, int]
    features: int
    widths: tuple[int, ...]
    hidden: int
    normalised: bool
    full: bool
    last: int


def read_config(state: State, ending: str = "final_conv") -> UNetConfig:
    """Return the configuration, inferred from the names and shapes of the weights.

    Args:
        state: the state dict.
        ending: name of the last convolution.

    Raises:
        LookupError: a weight is missing.
    """
    first, last = state["init_conv.weight"], state[f"{ending}.weight"]
    levels = range(count_after(state, "downs."))
    return UNetConfig(
        channels=(first.shape[1], len(last)),
        features=state["time_mlp.1.weight"].shape[1],
        widths=(len(first), *(len(state[f"downs.{i}.3.weight"]) for i in levels)),
        hidden=len(state["downs.0.2.fn.fn.to_qkv.weight"]) // 3,
        normalised="mid_block1.block1.norm.weight" in state,
        full="mid_attn.fn.fn.to_out.weight" in state,
        last=last.shape[-1],
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


class _Level(nn.ModuleList):
    """Two residual blocks, attention, and the resampling to the next level."""

    def __init__(self, channels: int, width: int, resample: nn.Module, config: UNetConfig) -> None:
        blocks = (_ResidualBlock(channels, width, config) for _ in range(2))
        attend = Attend(width, LinearAttention(width, config.hidden))
        super().__init__([*blocks, attend, resample])


class _DownLevel(_Level):
    """Returns the two outputs that the decoder uses, and the input of the next level."""

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, second, attend, resample = self
        early = first(x, time)
        late = attend(second(early, time))
        return early, late, resample(late)


class _UpLevel(_Level):
    """Each block also receives the last of ``skips``, if any, and removes it from the list."""

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor] | None) -> Tensor:
        first, second, attend, resample = self
        for block in (first, second):
            x = block(x if skips is None else torch.cat([x, skips.pop()], 1), time)
        return resample(attend(x))


class ResidualUNet(nn.Module):
    """The U-Net of IR-SDE (2023, arXiv 2301.11699) and of RDDM (2023, arXiv 2308.13712).

    Args:
        config: see `UNetConfig`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, features, coarsest = config.widths, config.features, config.widths[-1]
        self.init_conv = nn.Conv2d(
            config.channels[0], widths[0], 7, padding=3, bias=config.normalised
        )
        self.time_mlp = nn.Sequential(
            Sinusoids(features),
            nn.Linear(features, 4 * features),
            nn.GELU(),
            nn.Linear(4 * features, 4 * features),
        )
        pairs = list(itertools.pairwise(widths))
        self.downs = nn.ModuleList(
            _DownLevel(fine, fine, self._down(fine, coarse, last=i == len(pairs)), config)
            for i, (fine, coarse) in enumerate(pairs, 1)
        )
        attention = (Attention if config.full else LinearAttention)(coarsest, config.hidden)
        self.mid_block1 = _ResidualBlock(coarsest, coarsest, config)
        self.mid_attn = Attend(coarsest, attention)
        self.mid_block2 = _ResidualBlock(coarsest, coarsest, config)
        self.ups = self._decoder(skips=True)
        self._add_ending()

    def _add_ending(self) -> None:
        self.final_res_block, self.final_conv = self._ending(2 * self.config.widths[0])

    def _ending(self, channels: int) -> tuple[nn.Module, nn.Module]:
        config, width = self.config, self.config.widths[0]
        conv = nn.Conv2d(width, config.channels[1], config.last, padding=config.last // 2)
        return _ResidualBlock(channels, width, config), conv

    def _decoder(self, skips: bool) -> nn.ModuleList:
        """Return the levels of the decoder, with or without skip connections."""
        pairs = list(itertools.pairwise(self.config.widths))[::-1]
        return nn.ModuleList(
            _UpLevel(
                coarse + fine * skips,
                coarse,
                self._up(coarse, fine, last=i == len(pairs)),
                self.config,
            )
            for i, (fine, coarse) in enumerate(pairs, 1)
        )

    def _down(self, fine: int, coarse: int, last: bool) -> nn.Module:
        return self._conv(fine, coarse) if last else nn.Conv2d(fine, coarse, 4, 2, padding=1)

    def _up(self, coarse: int, fine: int, last: bool) -> nn.Module:
        if last:
            return self._conv(coarse, fine)
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(coarse, fine, 3, padding=1))

    def _conv(self, channels: int, width: int) -> nn.Module:
        return nn.Conv2d(channels, width, 3, padding=1, bias=self.config.normalised)

    def encode(self, x: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the coarsest features, and those for the skip connections, finest first."""
        skips = [x]
        for level in self.downs:
            early, late, x = level(x, time)
            skips += [early, late]
        return self.mid_block2(self.mid_attn(self.mid_block1(x, time)), time), skips

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the prediction for ``x`` (B, C, H, W) at labels (B,).

        Sides must be multiples of 2^(levels - 1).
        """
        time = embedding(self.time_mlp, label, x)
        x, skips = self.encode(self.init_conv(x), time)
        x = climb(self.ups, x, time, skips)
        return self.final_conv(self.final_res_block(torch.cat([x, skips.pop()], 1), time))


class SharedUNet(ResidualUNet):
    """RDDM's network of two heads on one encoder; the first head (residual) has no skips."""

    def _add_ending(self) -> None:
        width = self.config.widths[0]
        self.ups_no_skip = self._decoder(skips=False)
        self.final_res_block_1, self.final_conv_1 = self._ending(width)
        self.final_res_block_2, self.final_conv_2 = self._ending(2 * width)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return both predictions (B, 2 C, H, W); see `ResidualUNet`."""
        time = embedding(self.time_mlp, label, x)
        x, skips = self.encode(self.init_conv(x), time)
        residual = self.final_res_block_1(climb(self.ups_no_skip, x, time), time)
        x = torch.cat([climb(self.ups, x, time, skips), skips.pop()], 1)
        second = self.final_conv_2(self.final_res_block_2(x, time))
        return torch.cat([self.final_conv_1(residual), second], 1)


def climb(
    levels: nn.ModuleList, x: Tensor, time: Tensor, skips: list[Tensor] | None = None
) -> Tensor:
    """Return features at full resolution; the levels remove their inputs from ``skips``."""
    for level in levels:
        x = level(x, time, skips)
    return x
