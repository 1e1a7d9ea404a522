"""The U-Net of DDPM, with the published names of the weights of its PyTorch port."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.priors.networks.adm import GROUPS, check_sides, waves


@dataclass(frozen=True)
class DDPMConfig:
    """Configuration of a DDPM network.

    Attributes:
        channels: image channels of input and output.
        features: sinusoidal features of the time label, and channels of the first convolution.
        widths: channels of each level, the finest first.
        blocks: residual blocks per level.
        attention: whether each level has attention; the middle always has.
        shortcut: shortcut of blocks that change the channels, ``nin_shortcut`` (1 x 1) or
            ``conv_shortcut`` (3 x 3).
    """

    channels: tuple[int, int]
    features: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    shortcut: str = "nin_shortcut"


def group_norm(channels: int) -> nn.GroupNorm:
    """Return DDPM's normalisation of images with these channels."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class _ResidualBlock(nn.Module):
    """``shortcut(x) + conv(silu(norm(conv(silu(norm(x))) + time)))``."""

    def __init__(self, channels: int, width: int, config: DDPMConfig) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.temb_proj = nn.Linear(4 * config.features, width)
        self.norm2 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = config.shortcut if channels != width else None
        if self.shortcut:
            side = 3 if self.shortcut == "conv_shortcut" else 1
            self.add_module(self.shortcut, nn.Conv2d(channels, width, side, padding=side // 2))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        time = self.temb_proj(F.silu(embedding))[:, :, None, None]
        h = self.conv1(F.silu(self.norm1(x))) + time
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (getattr(self, self.shortcut)(x) if self.shortcut else x)


class Attention(nn.Module):
    """Self-attention over all pixels, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return x + self.proj_out(h.reshape(x.shape))


def downsample(width: int) -> nn.Module:
    """Return the convolution that halves the sides of images of ``width`` channels."""
    # Padded only at the right and at the bottom, as TensorFlow does for even sides.
    pad, conv = nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, stride=2)
    return nn.Sequential(OrderedDict(pad=pad, conv=conv))


def upsample(width: int) -> nn.Module:
    """Return the layers that double the sides of images of ``width`` channels."""
    conv = nn.Conv2d(width, width, 3, padding=1)
    return nn.Sequential(OrderedDict(resize=nn.Upsample(scale_factor=2), conv=conv))


class _Level(nn.Module):
    """The residual blocks of one resolution, optionally with attention after each."""

    def __init__(self, inputs: list[int], level: int, config: DDPMConfig) -> None:
        super().__init__()
        width, attention = config.widths[level], config.attention[level]
        self.block = nn.ModuleList(_ResidualBlock(c, width, config) for c in inputs)
        self.attn = nn.ModuleList(Attention(width) for _ in inputs if attention)

    def step(self, i: int, h: Tensor, embedding: Tensor) -> Tensor:
        h = self.block[i](h, embedding)
        return self.attn[i](h) if len(self.attn) else h


class _DownLevel(_Level):
    """Returns the output of each block, and the last one resampled to the next level if any."""

    def __init__(self, inputs: list[int], level: int, config: DDPMConfig) -> None:
        super().__init__(inputs, level, config)
        last = level == len(config.widths) - 1
        self.downsample = None if last else downsample(config.widths[level])

    def forward(self, h: Tensor, embedding: Tensor) -> list[Tensor]:
        outputs = []
        for i in range(len(self.block)):
            h = self.step(i, h, embedding)
            outputs.append(h)
        return outputs if self.downsample is None else [*outputs, self.downsample(h)]


class _UpLevel(_Level):
    """Each block also receives one output of the encoder, the last output first."""

    def __init__(self, inputs: list[int], level: int, config: DDPMConfig) -> None:
        super().__init__(inputs, level, config)
        self.upsample = upsample(config.widths[level]) if level > 0 else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor, outputs: list[Tensor]) -> Tensor:
        for i in range(len(self.block)):
            h = self.step(i, torch.cat([h, outputs.pop()], 1), embedding)
        return self.upsample(h)


class _Middle(nn.Module):
    def __init__(self, width: int, config: DDPMConfig) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(width, width, config)
        self.attn_1 = Attention(width)
        self.block_2 = _ResidualBlock(width, width, config)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h, embedding)), embedding)


class _TimeEmbedding(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.dense = nn.ModuleList(
            [nn.Linear(features, 4 * features), nn.Linear(4 * features, 4 * features)]
        )

    def forward(self, label: Tensor, dtype: torch.dtype) -> Tensor:
        half = self.features // 2
        cos, sin = waves(label, half, half - 1)
        return self.dense[1](F.silu(self.dense[0](torch.cat([sin, cos], 1).to(dtype))))


class DDPMUNet(nn.Module):
    """The U-Net of "Denoising Diffusion Probabilistic Models" (2020, arXiv 2006.11239).

    The keys of its state dict are those of the PyTorch port that DDIM, DDRM and RED-diff use.

    Args:
        config: see `DDPMConfig`.
    """

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        self.config = config
        taken, returned = config.channels
        self.temb = _TimeEmbedding(config.features)
        self.conv_in = nn.Conv2d(taken, config.features, 3, padding=1)
        widths, blocks, skips = config.widths, config.blocks, [config.features]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = [skips[-1]] + [width] * (blocks - 1)
            self.down.append(_DownLevel(inputs, level, config))
            skips += [width] * (blocks + (level < len(widths) - 1))
        self.mid = _Middle(widths[-1], config)
        for level, width in reversed(list(enumerate(widths))):
            below = widths[min(level + 1, len(widths) - 1)]
            inputs = [h + skips.pop() for h in [below] + [width] * blocks]
            self.up.insert(0, _UpLevel(inputs, level, config))
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], returned, 3, padding=1)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the prediction for images.

        Args:
            x: images (B, C, H, W) in [-1, 1]; every level but the last halves the sides.
            label: time labels (B,), 0 to 999.

        Raises:
            ShapeError: the sides cannot be halved so often.
        """
        check_sides(x, len(self.config.widths))
        embedding = self.temb(label, x.dtype)
        outputs = [self.conv_in(x)]
        for level in self.down:
            outputs += level(outputs[-1], embedding)
        h = self.mid(outputs[-1], embedding)
        for level in reversed(self.up):
            h = level(h, embedding, outputs)
        return self.conv_out(F.silu(self.norm_out(h)))
