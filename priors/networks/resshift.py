"""The network of ResShift, with the published names of its weights."""

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn

from wellposed.errors import ShapeError
from wellposed.priors.anchor import Degraded
from wellposed.priors.networks.adm import ADMConfig, ADMUNet
from wellposed.priors.networks.layers import pad
from wellposed.priors.networks.swin import SwinConfig, SwinLayer


class SwinUNet(ADMUNet):
    """ADM's U-Net with a `SwinLayer` after the first block of each level, and in the middle.

    Args:
        config: configuration of the U-Net, without attention.
        swin: configurations of the layers: encoder, middle, decoder.
    """

    def __init__(self, config: ADMConfig, swin: list[SwinConfig]) -> None:
        super().__init__(config)
        levels, stages = len(config.widths), config.blocks + 1
        for level, width in enumerate(config.widths):
            first_down = self.input_blocks[1 + level * stages]
            first_up = self.output_blocks[(levels - 1 - level) * stages]
            for stage, place in ((first_down, level), (first_up, -1 - level)):
                cast(nn.ModuleList, stage).insert(1, SwinLayer(width, swin[place]))
        self.middle_block[1] = SwinLayer(config.widths[-1], swin[levels])


class ResShiftNetwork(nn.Module):
    """ResShift's network: a U-Net of scaled latents and features of the degraded image.

    "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting", 2023,
    arXiv 2307.12348.

    Args:
        unet: U-Net of latents and features, concatenated.
        features: channels of the degraded image, then those after each halving of its sides.
        multiple: the U-Net needs sides that are multiples of this number; others are padded by
            reflection.
    """

    def __init__(
        self, unet: SwinUNet, features: list[tuple[int, int, int]], multiple: int
    ) -> None:
        super().__init__()
        self.unet, self.multiple, self.halvings = unet, multiple, len(features)
        seen, latents = unet.config.channels
        self.image_channels = features[0][0] if features else seen - latents
        layers: list[nn.Module] = []
        for taken, width, returned in features:
            halve = nn.Sequential(OrderedDict(op=nn.Conv2d(width, returned, 3, 2, padding=1)))
            layers += [nn.Conv2d(taken, width, 3, padding=1), nn.SiLU(), halve]
        self.feature_extractor = nn.Sequential(*layers)

    def forward(self, seen: Tensor, label: Tensor, degraded: Degraded) -> Tensor:
        height, width = seen.shape[-2:]
        scale, sides = 2**self.halvings, tuple(degraded.image.shape[-2:])
        if sides != (height * scale, width * scale):
            raise ShapeError(
                f"condition: got a degraded image of sides {sides}, accepted: {scale} times the "
                f"sides of the latents, {height} x {width}"
            )
        image = pad(degraded.image, self.multiple * scale)
        x = torch.cat([pad(seen, self.multiple), self.feature_extractor(image)], 1)
        return self.unet(x, label)[..., :height, :width]
