"""The U-Net of ADM (guided diffusion), with the published names of its weights."""

import copy
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.errors import ShapeError, require

GROUPS = 32


@dataclass(frozen=True)
class ADMConfig:
    """Configuration of an ADM network.

    Attributes:
        channels: image channels of input and output.
        features: sinusoidal features of the time label (``model_channels``).
        widths: channels of each level, the finest first.
        blocks: residual blocks per level.
        attention: whether each level has attention; the middle always has.
        resampling: resampling between levels: ``block`` (residual blocks), ``conv`` or ``plain``.
        scale_shift: the label scales and shifts the normalised features; otherwise it is added.
        num_classes: number of classes of a class-conditional network.
        num_head_channels: channels of an attention head.
        num_heads: number of attention heads, instead of ``num_head_channels``.
    """

    channels: tuple[int, int]
    features: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    resampling: str
    scale_shift: bool
    num_classes: int | None = None
    num_head_channels: int = 64
    num_heads: int | None = None

    def heads(self, width: int) -> int:
        """Return the number of attention heads; `ArgumentError` if they do not fit the width."""
        name = "num_head_channels" if self.num_heads is None else "num_heads"
        number = getattr(self, name)
        fits = isinstance(number, int) and number > 0 and width % number == 0
        require(fits, name, number, f"a divisor of the {width} channels of the attention")
        return width // number if self.num_heads is None else number


class _Norm(nn.GroupNorm):
    """Group normalisation, at least in float32."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        kind = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(kind), self.bias.to(kind)
        return F.group_norm(x.to(kind), GROUPS, weight, bias, self.eps).to(x.dtype)


def _resize(way: str | None) -> nn.Module:
    """Return the layer that halves or doubles the sides of images."""
    resizers = {"down": nn.AvgPool2d(2), "up": nn.Upsample(scale_factor=2), None: nn.Identity()}
    return resizers[way]


class _ResidualBlock(nn.Module):
    """``skip(x) + conv(silu(norm(conv(silu(norm(x)))) (1 + scale) + shift))``, and resampling."""

    def __init__(
        self, channels: int, width: int, config: ADMConfig, way: str | None = None
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            _Norm(channels), nn.SiLU(), nn.Conv2d(channels, width, 3, padding=1)
        )
        modulation = 2 * width if config.scale_shift else width
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.features, modulation))
        # The published network has dropout in third place, which is counted in the keys.
        self.out_layers = nn.Sequential(
            _Norm(width), nn.SiLU(), nn.Identity(), nn.Conv2d(width, width, 3, padding=1)
        )
        same = channels == width
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, width, 1)
        self.resize = _resize(way)
        self.scale_shift = config.scale_shift

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[2](self.resize(self.in_layers[:2](x)))
        modulation = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = modulation.chunk(2, 1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + modulation)
        return self.skip_connection(self.resize(x)) + self.out_layers[1:](h)


class _Attention(nn.Module):
    """Self-attention over all pixels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Query, key and value of a head are adjacent: the "legacy" order.
        qkv = self.qkv(self.norm(x.flatten(2))).unflatten(1, (self.heads, 3, -1))
        q, k, v = (part.transpose(2, 3) for part in qkv.unbind(2))
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        return x + self.proj_out(h).view_as(x)


class _Stage(nn.ModuleList):
    """A sequence of layers; the residual blocks also receive the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, _ResidualBlock) else layer(x)
        return x


class ADMUNet(nn.Module):
    """The U-Net of "Diffusion Models Beat GANs on Image Synthesis" (2021, arXiv 2105.05233).

    It extends DDPM's U-Net by attention at several resolutions, residual blocks that resample, and
    adaptive group normalisation. The keys of its state dict are those of guided-diffusion.

    Args:
        config: see `ADMConfig`.

    Raises:
        ArgumentError: attention heads that do not divide the channels.
    """

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.config = config
        features, finest, coarsest = config.features, config.widths[0], config.widths[-1]
        taken, returned = config.channels
        self.time_embed = nn.Sequential(
            nn.Linear(features, 4 * features), nn.SiLU(), nn.Linear(4 * features, 4 * features)
        )
        if config.num_classes is not None:
            self.label_emb = nn.Embedding(config.num_classes, 4 * features)
        self.input_blocks = nn.ModuleList([_Stage([nn.Conv2d(taken, finest, 3, padding=1)])])
        skips = self._add_encoder()
        middle = _Attention(coarsest, config.heads(coarsest))
        before, after = (_ResidualBlock(coarsest, coarsest, config) for _ in range(2))
        self.middle_block = _Stage([before, middle, after])
        self.output_blocks = nn.ModuleList()
        self._add_decoder(skips)
        last = nn.Conv2d(finest, returned, 3, padding=1)
        self.out = nn.Sequential(_Norm(finest), nn.SiLU(), last)

    def _add_encoder(self) -> list[int]:
        """Append the stages of the encoder; return the output channels of each."""
        widths, outputs = self.config.widths, [self.config.widths[0]]
        for level, width in enumerate(widths):
            for _ in range(self.config.blocks):
                self.input_blocks.append(_Stage(self._layers(outputs[-1], level)))
                outputs.append(width)
            if level < len(widths) - 1:
                self.input_blocks.append(_Stage([self._resampler(width, "down")]))
                outputs.append(width)
        return outputs

    def _add_decoder(self, skips: list[int]) -> None:
        """Append the stages of the decoder; each also receives the output of an encoder stage."""
        widths, width = self.config.widths, self.config.widths[-1]
        for level in reversed(range(len(widths))):
            for i in range(self.config.blocks + 1):
                layers = self._layers(width + skips.pop(), level)
                width = widths[level]
                if level > 0 and i == self.config.blocks:
                    layers.append(self._resampler(width, "up"))
                self.output_blocks.append(_Stage(layers))

    def _layers(self, channels: int, level: int) -> list[nn.Module]:
        width = self.config.widths[level]
        block = _ResidualBlock(channels, width, self.config)
        if not self.config.attention[level]:
            return [block]
        return [block, _Attention(width, self.config.heads(width))]

    def _resampler(self, width: int, way: str) -> nn.Module:
        if self.config.resampling == "block":
            return _ResidualBlock(width, width, self.config, way)
        if self.config.resampling == "plain":
            return _resize(way)
        if way == "down":
            return nn.Sequential(OrderedDict(op=nn.Conv2d(width, width, 3, 2, padding=1)))
        conv = nn.Conv2d(width, width, 3, padding=1)
        return nn.Sequential(OrderedDict(resize=_resize(way), conv=conv))

    def forward(self, x: Tensor, label: Tensor, classes: Tensor | None = None) -> Tensor:
        """Return the prediction for images.

        Args:
            x: images (B, C, H, W) in [-1, 1]; every level but the last halves the sides.
            label: time labels (B,), 0 to 999.
            classes: integers (B,), for a class-conditional network.

        Raises:
            ShapeError: the sides cannot be halved so often.
        """
        check_sides(x, len(self.config.widths))
        half = self.config.features // 2
        embedding = self.time_embed(torch.cat(waves(label, half, half), 1).to(x.dtype))
        if classes is not None:
            embedding = embedding + self.label_emb(classes)
        h, outputs = x, []
        for stage in self.input_blocks:
            h = stage(h, embedding)
            outputs.append(h)
        h = self.middle_block(h, embedding)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, outputs.pop()], 1), embedding)
        return self.out(h)


def waves(label: Tensor, count: int, divisor: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines (B, count) of labels (B,) at frequencies 1 to about 1e-4."""
    exponents = torch.arange(count, dtype=label.dtype, device=label.device) / divisor
    phases = label[:, None] * 1e4**-exponents
    return phases.cos(), phases.sin()


def check_sides(x: Tensor, levels: int) -> None:
    """Raise `ShapeError` unless the sides of images can be halved ``levels - 1`` times."""
    stride, (height, width) = 2 ** (levels - 1), x.shape[-2:]
    if height % stride or width % stride:
        raise ShapeError(
            f"x: got images of {height} x {width}, accepted: sides that are multiples of "
            f"{stride}, as this network halves them {levels - 1} times"
        )


def heads_of(network: nn.Module) -> tuple[int, ...]:
    """Return the number of heads of each of a network's attentions of this kind."""
    return tuple(part.heads for part in network.modules() if isinstance(part, _Attention))


def with_heads(
    network: nn.Module, num_head_channels: int = 64, num_heads: int | None = None
) -> nn.Module | None:
    """Return a network of the same weights with other attention heads, see `ADMConfig`.

    Or None where they do not divide the channels.
    """
    shared = {id(t): t for t in (*network.parameters(), *network.buffers())}
    other = copy.deepcopy(network, shared)
    for part in other.modules():
        if isinstance(part, _Attention):
            channels = part.proj_out.in_channels
            divisor = num_head_channels if num_heads is None else num_heads
            if channels % divisor:
                return None
            part.heads = channels // divisor if num_heads is None else num_heads
    return other
