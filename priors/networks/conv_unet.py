"""The network of the shipped priors: a convolutional U-Net for images of any size."""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.errors import ShapeError
from wellposed.priors.anchor import Degraded

EMBEDDING = 128


class _NoiseEmbedding(nn.Module):
    """Fourier features of the noise label, then two linear layers."""

    def __init__(self, frequencies: int = 16) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(
            nn.Linear(2 * frequencies, EMBEDDING),
            nn.SiLU(),
            nn.Linear(EMBEDDING, EMBEDDING),
            nn.SiLU(),
        )

    def forward(self, label: Tensor) -> Tensor:
        octaves = torch.linspace(-2, 3, self.frequencies, dtype=label.dtype, device=label.device)
        phase = 2 * torch.pi * label[:, None] * 2**octaves
        features = torch.cat([phase.cos(), phase.sin()], 1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


def _normalised(x: Tensor) -> Tensor:
    """Normalise over the channels of each position, not over the image as a group norm would.

    What the network does to a pixel then does not depend on the size of the image.
    """
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)


class _ResidualBlock(nn.Module):
    """``x + conv(silu(conv(norm(x) (1 + scale) + shift)))``, scale and shift from the label."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(EMBEDDING, 2 * channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, 1)
        h = torch.addcmul(shift, _normalised(x), 1 + scale)
        return x + self.second(F.silu(self.first(h)))


class _GatedBlock(nn.Module):
    """Two residual steps whose only nonlinearity is a product of halves of the channels.

    ``x + out(gate(filter(widen(h))))`` with 3 x 3 filters of single channels, then
    ``x + mixed(gate(mix(h)))``; ``h = norm(x) (1 + scale) + shift``, set by the noise. All but the
    filters are 1 x 1: a third of the plain block's multiplications. After NAFNet's, "Simple
    Baselines for Image Restoration", 2022, arXiv 2204.04676, but for its
    global attention.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.modulation = nn.Linear(EMBEDDING, 4 * channels)
        self.widen = nn.Conv2d(channels, wide, 1)
        self.filter = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))
        self.mix = nn.Conv2d(channels, wide, 1)
        self.mixed = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        parts = self.modulation(embedding)[:, :, None, None].chunk(4, 1)
        h = torch.addcmul(parts[1], _normalised(x), 1 + parts[0])
        x = x + self.out(_gated(self.filter(self.widen(h))))
        h = torch.addcmul(parts[3], _normalised(x), 1 + parts[2])
        return x + self.mixed(_gated(self.mix(h)))


def _gated(x: Tensor) -> Tensor:
    """Return the product of the first and the second half of the channels."""
    first, second = x.chunk(2, 1)
    return first * second


BLOCKS = {"plain": _ResidualBlock, "gated": _GatedBlock}


class _Stage(nn.ModuleList):
    """A sequence of residual blocks."""

    def __init__(self, channels: int, layers: int, block: str) -> None:
        super().__init__(BLOCKS[block](channels) for _ in range(layers))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding)
        return x


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution with zero weights, so that its block starts as the identity."""
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class ConvUNet(nn.Module):
    """A U-Net of small convolutions on pixel-unshuffled images, without attention.

    All operations are local, so a pixel is treated equally in images of any size. Working on
    ``factor x factor`` unshuffled pixels makes an evaluation about ``factor^2`` times cheaper than
    with the same widths at full resolution. Images are padded by reflection to the next multiple
    of the network's stride and cropped afterwards.

    Args:
        channels: real image channels (2 for complex images).
        widths: channels of each resolution level.
        layers: residual blocks per level, in the encoder and in the decoder.
        factor: pixel-unshuffle factor.
        block: kind of the residual blocks: ``plain`` of two 3 x 3 convolutions, or
            ``gated``, a third as dear, of which more fit into the same time.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: tuple[int, ...] = (64, 128, 256),
        layers: int = 2,
        factor: int = 2,
        block: str = "plain",
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "channels": channels,
            "widths": list(widths),
            "layers": layers,
            "factor": factor,
            "block": block,
        }
        self.factor = factor
        self.stride = factor * 2 ** (len(widths) - 1)
        pixels, pairs = channels * factor**2, list(itertools.pairwise(widths))
        self.embedding = _NoiseEmbedding()
        self.head = nn.Conv2d(pixels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Stage(w, layers, block) for w in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.up = nn.ModuleList(_Stage(w, layers, block) for w in widths)
        self.tail = zeroed(nn.Conv2d(widths[0], pixels, 3, padding=1))
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the prediction for images ``x`` (B, C, H, W) at noise labels ``label`` (B,)."""
        height, width = x.shape[-2:]
        pad = (0, -width % self.stride, 0, -height % self.stride)
        if pad[1] >= width or pad[3] >= height:
            raise ShapeError(
                f"x: got images of {height} x {width}, accepted: sides that reflection can pad to "
                f"a multiple of {self.stride}, e.g. all above {self.stride // 2}"
            )
        padded = F.pad(x, pad, mode="reflect") if any(pad) else x
        h = F.pixel_unshuffle(padded, self.factor).contiguous(memory_format=torch.channels_last)
        out = self._unet(h, self.embedding(label))
        return F.pixel_shuffle(out, self.factor)[..., :height, :width]

    def _unet(self, h: Tensor, embedding: Tensor) -> Tensor:
        h, levels, skips = self.head(h), len(self.down), []
        for level in range(levels):
            h = self.down[level](h, embedding)
            if level < levels - 1:
                skips.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(levels)):
            if level < levels - 1:
                h = skips[level] + F.pixel_shuffle(self.grow[level](h), 2)
            h = self.up[level](h, embedding)
        return self.tail(F.silu(h))


class _Part(ConvUNet):
    """The U-Net of the priors with different numbers of input and output channels."""

    def __init__(
        self, inputs: int, outputs: int, widths: tuple[int, ...], layers: int, block: str
    ) -> None:
        super().__init__(inputs, widths, layers, block=block)
        self.tail = zeroed(nn.Conv2d(widths[0], outputs * self.factor**2, 3, padding=1))
        self.to(memory_format=torch.channels_last)


class RestorationUNet(nn.Module):
    """The U-Net of the shipped restorers; its input is ``x_t`` and ``m``, stacked.

    Args:
        channels: real channels of the images or latents.
        widths: see `ConvUNet`.
        layers: see `ConvUNet`.
        heads: number of predictions, stacked along the channels.
        networks: number of U-Nets: one for all predictions, or one for each.
        block: see `ConvUNet`.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 192),
        layers: int = 2,
        heads: int = 1,
        networks: int = 1,
        block: str = "plain",
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": channels,
            "widths": list(widths),
            "layers": layers,
            "heads": heads,
            "networks": networks,
            "block": block,
        }
        outputs = channels * heads // networks
        self.parts = nn.ModuleList(
            _Part(2 * channels, outputs, widths, layers, block) for _ in range(networks)
        )

    def forward(self, seen: Tensor, label: Tensor, degraded: Degraded) -> Tensor:
        """Return the predictions (B, heads C, H, W); see `NetworkPrior`."""
        x = torch.cat([seen, degraded.anchor], 1)
        return torch.cat([part(x, label) for part in self.parts], 1)


def parameters_in_millions(network: nn.Module) -> float:
    """Return the number of parameters, in millions."""
    return sum(p.numel() for p in network.parameters()) / 1e6
