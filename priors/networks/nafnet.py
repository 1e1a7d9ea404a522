"""The network of Refusion: a time-conditional NAFNet, with the published names of its weights."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.priors.networks.keys import State, count_after
from wellposed.priors.networks.layers import ChannelNorm, Sinusoids, embedding


@dataclass(frozen=True)
class NAFConfig:
    """Configuration of a conditional NAFNet.

    Attributes:
        channels: image channels of input and output.
        width: channels of the finest level; each coarser level has twice as many.
        encoders: blocks of each level of the encoder, the finest first.
        middle: blocks of the middle.
        decoders: blocks of each level of the decoder, the coarsest first.
    """

    channels: tuple[int, int]
    width: int
    encoders: tuple[int, ...]
    middle: int
    decoders: tuple[int, ...]


def read_config(state: State) -> NAFConfig:
    """Return the configuration from the names of the weights; LookupError if one is missing."""
    first, last = state["intro.weight"], state["ending.weight"]

    def blocks(side: str) -> tuple[int, ...]:
        levels = range(count_after(state, f"{side}."))
        return tuple(count_after(state, f"{side}.{i}.") for i in levels)

    middle = count_after(state, "middle_blks.")
    channels = (first.shape[1], len(last))
    return NAFConfig(channels, len(first), blocks("encoders"), middle, blocks("decoders"))


class _Gate(nn.Module):
    """The product of the first and second half of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return first * second


class _Block(nn.Module):
    """A gated depthwise convolution with channel attention, then a gated layer per pixel."""

    def __init__(self, width: int, embedded: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(_Gate(), nn.Linear(embedded // 2, 4 * width))
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.conv1 = nn.Conv2d(width, 2 * width, 1)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1))
        self.conv3 = nn.Conv2d(width, width, 1)
        self.conv4 = nn.Conv2d(width, 2 * width, 1)
        self.conv5 = nn.Conv2d(width, width, 1)
        self.gate = _Gate()
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale, late_shift, late_scale = self.mlp(time)[:, :, None, None].chunk(4, 1)
        h = self.norm1(x) * (1 + scale) + shift
        h = self.gate(self.conv2(self.conv1(h)))
        x = x + self.beta * self.conv3(h * self.sca(h))
        h = self.norm2(x) * (1 + late_scale) + late_shift
        return x + self.gamma * self.conv5(self.gate(self.conv4(h)))


class _Stage(nn.ModuleList):
    """A sequence of blocks."""

    def __init__(self, blocks: int, width: int, embedded: int) -> None:
        super().__init__(_Block(width, embedded) for _ in range(blocks))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for block in self:
            x = block(x, time)
        return x


class ConditionalNAFNet(nn.Module):
    """NAFNet whose blocks are all conditioned on the time, as the network of a diffusion.

    "Refusion: Enabling Large-Size Realistic Image Restoration with Latent-Space Diffusion
    Models", 2023, arXiv 2304.08291; "Simple Baselines for Image Restoration", 2022, arXiv
    2204.04676.

    Args:
        config: see `NAFConfig`.
    """

    def __init__(self, config: NAFConfig) -> None:
        super().__init__()
        self.config = config
        width, embedded = config.width, 4 * config.width
        self.time_mlp = nn.Sequential(
            Sinusoids(width),
            nn.Linear(width, 2 * embedded),
            _Gate(),
            nn.Linear(embedded, embedded),
        )
        widths = [width * 2**level for level in range(len(config.encoders) + 1)]
        pairs = list(itertools.pairwise(widths))
        self.intro = nn.Conv2d(config.channels[0], width, 3, padding=1)
        self.encoders = nn.ModuleList(
            _Stage(count, fine, embedded)
            for count, fine in zip(config.encoders, widths[:-1], strict=True)
        )
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in pairs)
        self.middle_blks = _Stage(config.middle, widths[-1], embedded)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(coarse, 4 * fine, 1, bias=False), nn.PixelShuffle(2))
            for fine, coarse in reversed(pairs)
        )
        self.decoders = nn.ModuleList(
            _Stage(count, fine, embedded)
            for count, fine in zip(config.decoders, widths[-2::-1], strict=True)
        )
        self.ending = nn.Conv2d(width, config.channels[1], 3, padding=1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the prediction for ``x`` (B, C, H, W) at labels (B,).

        Sides must be multiples of 2^levels.
        """
        time, skips = embedding(self.time_mlp, label, x), []
        x = self.intro(x)
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x, time)
            skips.append(x)
            x = down(x)
        x = self.middle_blks(x, time)
        for decoder, up in zip(self.decoders, self.ups, strict=True):
            x = decoder(up(x) + skips.pop(), time)
        return self.ending(x)
