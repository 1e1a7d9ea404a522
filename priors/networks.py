"""The U-Net of the shipped priors: convolutional, any image size, any number of channels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.errors import ShapeError


class UnshuffledUNet(nn.Module):
    """A diffusers `UNet2DModel` without attention on pixel-unshuffled images.

    Working on ``factor x factor`` unshuffled pixels makes each evaluation about ``factor^2`` times
    cheaper than the same widths at full resolution. Images of any size are padded by reflection to
    the next multiple of the network's stride and cropped afterwards.

    Args:
        channels: real image channels (2 for complex images).
        widths: channels of each resolution level.
        layers: residual blocks per level.
        factor: pixel-unshuffle factor.
    """

    def __init__(
        self,
        channels: int = 2,
        widths: tuple[int, ...] = (64, 128, 192),
        layers: int = 1,
        factor: int = 2,
    ) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.settings: dict[str, Any] = {
            "channels": channels,
            "widths": list(widths),
            "layers": layers,
            "factor": factor,
        }
        self.factor = factor
        self.stride = factor * 2 ** (len(widths) - 1)
        self.unet: Any = UNet2DModel(
            in_channels=channels * factor**2,
            out_channels=channels * factor**2,
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
            add_attention=False,
            norm_num_groups=16,
        )

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the prediction for images ``x`` (B, C, H, W) at time labels ``label`` (B,)."""
        height, width = x.shape[-2:]
        pad = (0, -width % self.stride, 0, -height % self.stride)
        if pad[1] >= width or pad[3] >= height:
            raise ShapeError(
                f"x: got images of {height} x {width}, accepted: sides that reflection pads to a "
                f"multiple of {self.stride}, above {self.stride // 2} for certain"
            )
        padded = F.pad(x, pad, mode="reflect") if any(pad) else x
        out = self.unet(F.pixel_unshuffle(padded, self.factor), label, return_dict=False)[0]
        return F.pixel_shuffle(out, self.factor)[..., :height, :width]


def parameters_in_millions(network: nn.Module) -> float:
    """Return the number of parameters, in millions."""
    return sum(p.numel() for p in network.parameters()) / 1e6


def finite_state(state: dict[str, Tensor]) -> bool:
    """Tell whether every floating-point tensor of a state dict is finite."""
    return all(bool(torch.isfinite(v).all()) for v in state.values() if v.is_floating_point())
