"""The autoencoders of ResShift, VQ-f4 and VQ-f8, with the published names of their weights."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.priors.networks.ddpm import Attention, downsample, group_norm, upsample
from wellposed.priors.networks.keys import State, count_after, top_names

CHUNK = 4096
"""Number of latent pixels compared with all codes at once: 128 MiB of float32."""


@dataclass(frozen=True)
class VQConfig:
    """Configuration of an autoencoder.

    Attributes:
        channels: image channels.
        widths: channels of each level, the finest first.
        blocks: residual blocks of each level of the encoder; the decoder has one more.
        coded: channels between encoder and code.
        codes: number of codes, and channels of each code and of the latents.
    """

    channels: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    coded: int
    codes: tuple[int, int]


def read_config(state: State) -> VQConfig:
    """Return the configuration, inferred from the names and shapes of the weights.

    Raises:
        LookupError: a weight is missing.
    """
    levels = range(count_after(state, "encoder.down."))
    codes, latents = state["quantize.embedding.weight"].shape
    return VQConfig(
        channels=state["encoder.conv_in.weight"].shape[1],
        widths=tuple(len(state[f"encoder.down.{i}.block.0.conv1.weight"]) for i in levels),
        blocks=tuple(count_after(state, f"encoder.down.{i}.block.") for i in levels),
        coded=len(state["encoder.conv_out.weight"]),
        codes=(codes, latents),
    )


class _ResidualBlock(nn.Module):
    """``shortcut(x) + conv(silu(norm(conv(silu(norm(x))))))``."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm2 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if channels != width:
            self.nin_shortcut = nn.Conv2d(channels, width, 1)
        self.same = channels == width

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.same else self.nin_shortcut(x))


class _Level(nn.Module):
    """Residual blocks, and a named resampling to the next level, if there is one."""

    def __init__(
        self, channels: int, width: int, blocks: int, name: str, resample: nn.Module | None
    ) -> None:
        super().__init__()
        inputs = [channels] + [width] * (blocks - 1)
        self.block = nn.Sequential(*(_ResidualBlock(c, width) for c in inputs))
        self.resample = name if resample is not None else None
        if resample is not None:
            self.add_module(name, resample)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block(x)
        return getattr(self, self.resample)(h) if self.resample else h


class _Coder(nn.Module):
    """The common part of encoder and decoder: both ends, and the coarsest blocks."""

    def __init__(self, taken: int, first: int, coarsest: int, last: int, returned: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(taken, first, 3, padding=1)
        self.mid = nn.Sequential(
            OrderedDict(
                block_1=_ResidualBlock(coarsest, coarsest),
                attn_1=Attention(coarsest),
                block_2=_ResidualBlock(coarsest, coarsest),
            )
        )
        self.norm_out = group_norm(last)
        self.conv_out = nn.Conv2d(last, returned, 3, padding=1)

    def end(self, h: Tensor) -> Tensor:
        return self.conv_out(F.silu(self.norm_out(h)))


class _Encoder(_Coder):
    def __init__(self, config: VQConfig) -> None:
        widths, coarsest = config.widths, config.widths[-1]
        super().__init__(config.channels, widths[0], coarsest, coarsest, config.coded)
        self.down = nn.ModuleList()
        for i, (width, blocks) in enumerate(zip(widths, config.blocks, strict=True)):
            last = i == len(widths) - 1
            resample = None if last else downsample(width)
            channels = widths[max(i - 1, 0)]
            self.down.append(_Level(channels, width, blocks, "downsample", resample))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.end(self.mid(h))


class _Decoder(_Coder):
    def __init__(self, config: VQConfig) -> None:
        widths, coarsest = config.widths, config.widths[-1]
        super().__init__(config.coded, coarsest, coarsest, widths[0], config.channels)
        self.up = nn.ModuleList()
        for i, (width, blocks) in enumerate(zip(widths, config.blocks, strict=True)):
            resample = upsample(width) if i else None
            channels = widths[min(i + 1, len(widths) - 1)]
            self.up.append(_Level(channels, width, blocks + 1, "upsample", resample))

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.end(h)


class Codebook(nn.Module):
    """Rounds latents (B, c, h, w) to the nearest of its codes.

    Args:
        codes: number of codes.
        channels: channels of a code.
    """

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)

    def forward(self, z: Tensor) -> Tensor:
        codes, pixels = self.embedding.weight, z.movedim(1, -1)
        # The squared distance without the term that is equal for all codes.
        squares = codes.square().sum(1)
        parts = pixels.reshape(-1, z.shape[1]).split(CHUNK)
        index = torch.cat([(squares - 2 * part @ codes.T).argmin(1) for part in parts])
        return codes[index].view(pixels.shape).movedim(-1, 1)


class VQAutoencoder(nn.Module):
    """An autoencoder of images in [-1, 1] whose decoder rounds latents to a codebook.

    "Taming Transformers for High-Resolution Image Synthesis", 2020, arXiv 2012.09841; "High-
    Resolution Image Synthesis with Latent Diffusion Models", 2021, arXiv 2112.10752. As in
    ResShift, encoding does not round latents.

    Args:
        config: see `VQConfig`.
    """

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        codes, latents = config.codes
        self.factor = 2 ** (len(config.widths) - 1)
        self.image_channels, self.latent_channels = config.channels, latents
        self.encoder, self.decoder = _Encoder(config), _Decoder(config)
        self.quantize = Codebook(codes, latents)
        self.quant_conv = nn.Conv2d(config.coded, latents, 1)
        self.post_quant_conv = nn.Conv2d(latents, config.coded, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents (B, c, H / factor, W / factor) of images (B, C, H, W)."""
        weight = self.quant_conv.weight
        return self.quant_conv(self.encoder(x.to(weight.dtype))).to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents; gradients pass the codebook unchanged."""
        latents = z.to(self.quant_conv.weight.dtype)
        rounded = latents + (self.quantize(latents) - latents).detach()
        return self.decoder(self.post_quant_conv(rounded)).to(z.dtype)


def matches(state: State) -> bool:
    """Return whether a state dict has the modules of a VQ autoencoder."""
    parts = {"encoder", "decoder", "quantize", "quant_conv", "post_quant_conv"}
    return parts <= top_names(state)
