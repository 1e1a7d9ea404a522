"""The U-Net of denoising-diffusion-pytorch, from which those of IR-SDE and RDDM derive.

Its descendants differ in their blocks, attention and resampling, which subclasses make.
"""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.priors.networks.keys import State, count_after
from wellposed.priors.networks.layers import Sinusoids, embedding


@dataclass(frozen=True)
class UNetShape:
    """Shape of a U-Net.

    Attributes:
        channels: image channels of input and output.
        features: sinusoidal features of the label.
        widths: channels of the first convolution, then output channels of each level.
        last: kernel size of the last convolution.
    """

    channels: tuple[int, int]
    features: int
    widths: tuple[int, ...]
    last: int


def read_shape(state: State, ending: str = "final_conv") -> UNetShape:
    """Return the shape, inferred from the weights.

    Args:
        state: the state dict.
        ending: name of the last convolution.

    Raises:
        LookupError: a weight is missing.
    """
    first, last = state["init_conv.weight"], state[f"{ending}.weight"]
    downs = [f"downs.{i}.3" for i in range(count_after(state, "downs."))]
    unshuffled = [f"{down}.1" if f"{down}.1.weight" in state else down for down in downs]
    return UNetShape(
        channels=(first.shape[1], len(last)),
        features=state["time_mlp.1.weight"].shape[1],
        widths=(len(first), *(len(state[f"{down}.weight"]) for down in unshuffled)),
        last=last.shape[-1],
    )


class _DownLevel(nn.ModuleList):
    """Two residual blocks, attention, and the resampling to the next level.

    Returns the two outputs that the decoder uses, and the input of the next level.
    """

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, second, attend, resample = self
        early = first(x, time)
        late = attend(second(early, time))
        return early, late, resample(late)


class _UpLevel(nn.ModuleList):
    """As `_DownLevel`; each block also takes the last of ``skips``, if any, from the list."""

    def forward(self, x: Tensor, time: Tensor, skips: list[Tensor] | None) -> Tensor:
        first, second, attend, resample = self
        for block in (first, second):
            x = block(x if skips is None else torch.cat([x, skips.pop()], 1), time)
        return resample(attend(x))


class UNet(nn.Module, ABC):
    """A U-Net with two residual blocks and attention in each level.

    Args:
        shape: see `UNetShape`.
    """

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        widths, features, coarsest = shape.widths, shape.features, shape.widths[-1]
        self.init_conv = self.conv(shape.channels[0], widths[0], 7)
        self.time_mlp = nn.Sequential(
            Sinusoids(features),
            nn.Linear(features, 4 * features),
            nn.GELU(),
            nn.Linear(4 * features, 4 * features),
        )
        pairs = list(itertools.pairwise(widths))
        self.downs = nn.ModuleList(
            self._level(_DownLevel, i, fine, fine, self._down(fine, coarse, i + 1 == len(pairs)))
            for i, (fine, coarse) in enumerate(pairs)
        )
        self.mid_block1 = self.block(coarsest, coarsest)
        self.mid_attn = self.attention(coarsest, -1)
        self.mid_block2 = self.block(coarsest, coarsest)
        self.ups = self.decoder(skips=True)
        self.add_ending()

    @abstractmethod
    def block(self, channels: int, width: int) -> nn.Module:
        """Return a residual block; it is called with images and the embedded labels."""

    @abstractmethod
    def attention(self, width: int, level: int) -> nn.Module:
        """Return the attention of a level, its input added; level -1 is the middle."""

    @abstractmethod
    def conv(self, channels: int, width: int, kernel: int = 3) -> nn.Module:
        """Return the first convolution, or one between levels of the same size."""

    @abstractmethod
    def halve(self, fine: int, coarse: int) -> nn.Module:
        """Return the layer that halves images."""

    def add_ending(self) -> None:
        """Add the last block and convolution."""
        self.final_res_block, self.final_conv = self.ending(2 * self.shape.widths[0])

    def ending(self, channels: int) -> tuple[nn.Module, nn.Module]:
        """Return a last block and convolution."""
        shape, width = self.shape, self.shape.widths[0]
        conv = nn.Conv2d(width, shape.channels[1], shape.last, padding=shape.last // 2)
        return self.block(channels, width), conv

    def decoder(self, skips: bool) -> nn.ModuleList:
        """Return the levels of the decoder, with or without skip connections."""
        pairs = list(enumerate(itertools.pairwise(self.shape.widths)))[::-1]
        return nn.ModuleList(
            self._level(_UpLevel, i, coarse + fine * skips, coarse, self._up(coarse, fine, i == 0))
            for i, (fine, coarse) in pairs
        )

    def _level(
        self, kind: type[nn.ModuleList], i: int, channels: int, width: int, resample: nn.Module
    ) -> nn.ModuleList:
        blocks = (self.block(channels, width) for _ in range(2))
        return kind([*blocks, self.attention(width, i), resample])

    def _down(self, fine: int, coarse: int, last: bool) -> nn.Module:
        return self.conv(fine, coarse) if last else self.halve(fine, coarse)

    def _up(self, coarse: int, fine: int, last: bool) -> nn.Module:
        if last:
            return self.conv(coarse, fine)
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(coarse, fine, 3, padding=1))

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


def climb(
    levels: nn.ModuleList, x: Tensor, time: Tensor, skips: list[Tensor] | None = None
) -> Tensor:
    """Return features at full resolution; the levels remove their inputs from ``skips``."""
    for level in levels:
        x = level(x, time, skips)
    return x


def halving(fine: int, coarse: int) -> nn.Sequential:
    """Return a layer that gathers 2 x 2 pixels into channels, then mixes the channels."""
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * fine, coarse, 1))
