"""Attention between the pixels of an image, for the U-Nets of IR-SDE and RDDM."""

import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.priors.networks.layers import ChannelNorm

HEADS = 4


class Attention(nn.Module):
    """Self-attention with four heads over all pixels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(channels, 3 * hidden, 1, bias=False)
        self.to_out: nn.Module = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Query, key and value (B, heads, channels of a head, pixels).
        q, k, v = self.to_qkv(x).flatten(2).unflatten(1, (3, HEADS, -1)).unbind(1)
        return self.to_out(self.mix(q, k, v).flatten(1, 2).unflatten(2, x.shape[2:]))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attended values of each pixel."""
        q, k, v = (part.transpose(2, 3) for part in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(2, 3)


class LinearAttention(Attention):
    """Attention without the matrix of all pairs of pixels: ``softmax(q) (softmax(k) v)``.

    "Efficient Attention: Attention with Linear Complexities", 2018, arXiv 1812.01243.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(channels, hidden)
        self.to_out = nn.Sequential(self.to_out, ChannelNorm(channels))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        context = k.softmax(3) @ (v / v.shape[3]).transpose(2, 3)
        return context.transpose(2, 3) @ (q.softmax(2) * q.shape[2] ** -0.5)


class Attend(nn.Module):
    """``x + attention(norm(x))``."""

    def __init__(self, channels: int, attention: nn.Module) -> None:
        super().__init__()
        self.fn = nn.ModuleDict({"norm": ChannelNorm(channels), "fn": attention})

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn["fn"](self.fn["norm"](x))
