"""The network of unrolled reconstruction: steps of DDIM with data steps, trained end to end."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.errors import ShapeError
from wellposed.linalg import as_channels, from_channels, largest_eigenvalue, per_item
from wellposed.operators import Decomposable, LinearOperator
from wellposed.priors.networks.conv_unet import BLOCKS, EMBEDDING, zeroed
from wellposed.reversible import Coupling, reversible

Look = Callable[[Tensor, int, Tensor, Tensor, "Fidelity"], Tensor]
"""``eps`` of an image, the step, its label, ``A^+ y`` and the data."""

ROUNDS = 10
"""Power iterations for ``||A||^2``."""

Mix = tuple[float, tuple[float, float]]
"""Initial ``v`` of a `Coupling`, and its bounds."""


@dataclass(frozen=True, eq=False)
class Fidelity:
    """What the data say of an image, for the network, which sees real channels.

    Attributes:
        y: measurement (B, ...).
        forward: ``A``.
        back: ``A^+``, or an approximation such as ``A^H / ||A||^2``.
        is_complex: whether images are complex; the network sees their two parts as channels.
    """

    y: Tensor
    forward: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    is_complex: bool = False

    @classmethod
    def of(cls, y: Tensor, operator: LinearOperator) -> "Fidelity":
        """Return the fidelity of a measurement; without a simple inverse, of ``A^H / ||A||^2``."""
        if isinstance(operator, Decomposable):
            return cls(y, operator.A, operator.A_dagger, operator.complex_image)
        start = operator.A_adjoint(y)
        norm2 = largest_eigenvalue(operator.A_adjoint_A, start, ROUNDS).clamp(min=1e-12)
        norm2 = per_item(norm2, start)

        def back(y: Tensor) -> Tensor:
            return operator.A_adjoint(y) / norm2

        return cls(y, operator.A, back, operator.complex_image)

    def start(self) -> Tensor:
        """Return ``A^+ y``."""
        return as_channels(self.back(self.y))

    def normal(self, x: Tensor) -> Tensor:
        """Return ``A^+ A x``."""
        return as_channels(self.back(self.forward(self._image(x))))

    def project(self, x: Tensor) -> Tensor:
        """Return ``x + A^+ (y - A x)``."""
        return x + as_channels(self.back(self.y - self.forward(self._image(x))))

    def _image(self, x: Tensor) -> Tensor:
        return from_channels(x) if self.is_complex else x


class _Block(nn.Module):
    """A residual block of the priors' network, which knows the step."""

    def __init__(self, channels: int, block: str) -> None:
        super().__init__()
        self.block = BLOCKS[block](channels)

    def forward(self, x: Tensor, label: Tensor, back: Tensor, data: Fidelity) -> Tensor:
        found: Tensor = self.block(x, label.expand(len(x), -1))
        return found


class _Injector(nn.Module):
    """Tells the features what the data say: ``h + unshuffle(conv[u, A^+ A u, A^+ y])``.

    ``u`` is an image made of the features, ``conv(shuffle(h))``.
    """

    def __init__(self, channels: int, image_channels: int, factor: int) -> None:
        super().__init__()
        self.factor, fine = factor, channels // factor**2
        self.show = nn.Conv2d(fine, image_channels, 1)
        self.tell = zeroed(nn.Conv2d(3 * image_channels, fine, 1))

    def forward(self, h: Tensor, label: Tensor, back: Tensor, data: Fidelity) -> Tensor:
        u = self.show(F.pixel_shuffle(h, self.factor))
        told = self.tell(torch.cat([u, data.normal(u), back], 1))
        return h + F.pixel_unshuffle(told, self.factor)


class _Look(nn.Module):
    """The U-Net: ``eps`` of an image; its blocks and injectors are couplings.

    Blocks are shared by the steps, injectors are not. Down and up, every level is one chain of
    couplings, from equal halves to their mean, which alone is kept between levels.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], layers: int, steps: int, block: str, mix: Mix
    ) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        places = [*enumerate(widths), *enumerate(widths)]  # down, then up
        self.depth = len(widths)
        self.head = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairs)
        self.tail = zeroed(nn.Conv2d(widths[0], 4 * channels, 3, padding=1))
        self.blocks = nn.ModuleList(
            nn.ModuleList(Coupling(_Block(width, block), *mix) for _ in range(layers))
            for _, width in places
        )
        self.injectors = nn.ModuleList(
            nn.ModuleList(
                Coupling(_Injector(width, channels, 2 ** (level + 1)), *mix)
                for level, width in places
            )
            for _ in range(steps)
        )

    def chain(self, place: int, t: int) -> list[Coupling]:
        """Return the couplings of a level, down or up, in step ``t``."""
        own = self.injectors[t - 1]
        assert isinstance(own, nn.ModuleList)
        chain = [*self.blocks[place].children(), own[place]]
        return [coupling for coupling in chain if isinstance(coupling, Coupling)]

    def forward(self, x: Tensor, t: int, label: Tensor, back: Tensor, data: Fidelity) -> Tensor:
        """Return ``eps`` of images ``x`` (B, C, H, W) in step ``t``, counted from 1."""
        skips = list[Tensor]()
        h = self.head(F.pixel_unshuffle(x, 2))
        for level in range(self.depth):
            h = _mean(h, self.chain(level, t), label, back, data)
            if level < self.depth - 1:
                skips.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(self.depth)):
            if level < self.depth - 1:
                h = skips[level] + F.pixel_shuffle(self.grow[level](h), 2)
            h = _mean(h, self.chain(self.depth + level, t), label, back, data)
        return F.pixel_shuffle(self.tail(F.silu(h)), 2)


def _mean(h: Tensor, chain: Sequence[Coupling], *context: Any) -> Tensor:
    """Return the mean of the pair that a chain makes of equal halves."""
    x1, x2 = reversible(h, h, chain, *context)
    return (x1 + x2) / 2


class _Step(nn.Module):
    """``f_t``: estimate, data step, and DDIM to the next level."""

    def __init__(self, t: int) -> None:
        super().__init__()
        self.t = t

    def forward(
        self,
        x: Tensor,
        levels: Tensor,
        labels: Tensor,
        back: Tensor,
        data: Fidelity,
        look: Look,
    ) -> Tensor:
        now, later = levels[self.t], levels[self.t - 1]
        eps = look(x, self.t, labels[self.t - 1], back, data)
        x0 = data.project((x - (1 - now).sqrt() * eps) / now.sqrt())
        return later.sqrt() * x0 + (1 - later).sqrt() * eps


class UnrolledNetwork(nn.Module):
    r"""A few steps of DDIM with data steps, whose network and levels are learned end to end.

    For t = T, ..., 1, from ``x_T = sqrt(abar_T) A^+ y``::

        e     = network(x, A^+ A, A^+ y)
        x0    = (x - sqrt(1 - abar_t) e) / sqrt(abar_t)
        x0'   = x0 + A^+ (y - A x0)
        f_t x = sqrt(abar_{t-1}) x0' + sqrt(1 - abar_{t-1}) e,          abar_0 = 1

    each inside a `Coupling` ``(x1, x2) -> ((1 - v) f_t(x1) + v x2, x1)`` that starts from ``(x_T,
    h x_T)`` and ends in ``x1 + m x2``. Training keeps one step in memory, and of it one level of
    the U-Net. Images are scaled to about [0, 1] or [-1, 1]; zero stays zero.

    Reference: "Invertible Diffusion Models for Compressed Sensing", Chen et al., 2024,
    arXiv:2403.17006; its U-Net is that of Stable Diffusion, ours that of the shipped priors.

    Args:
        channels: real channels of the images, 2 if they are complex.
        widths: channels of each level; those of level i are divisible by ``4^(i + 1)``.
        layers: residual blocks per level, down and up.
        steps: T.
        block: kind of the blocks, see `ConvUNet`.
        bounds: of the couplings' ``v``, see `Coupling`.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (64, 128),
        layers: int = 2,
        steps: int = 3,
        block: str = "gated",
        bounds: tuple[float, float] = (0.6, 0.95),
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "channels": channels,
            "widths": list(widths),
            "layers": layers,
            "steps": steps,
            "block": block,
            "bounds": list(bounds),
        }
        self.stride, mix = 2 ** len(widths), (sum(bounds) / 2, (bounds[0], bounds[1]))
        self.alphas = nn.Parameter(torch.zeros(steps))
        self.labels = nn.Parameter(0.1 * torch.randn(steps, EMBEDDING))
        self.second, self.merge = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))
        self.look = _Look(channels, widths, layers, steps, block, mix)
        self.steps = nn.ModuleList(Coupling(_Step(t), *mix) for t in range(steps, 0, -1))

    @property
    def levels(self) -> Tensor:
        """``abar_0 = 1, ..., abar_T`` (T + 1,), products of learned factors."""
        factors = self.alphas.sigmoid()
        return torch.cat([torch.ones_like(factors[:1]), factors.cumprod(0)])

    def forward(self, data: Fidelity) -> Tensor:
        """Return the reconstruction (B, C, H, W); complex if the data are of complex images."""
        back, levels = data.start(), self.levels
        if any(side % self.stride for side in back.shape[-2:]):
            raise ShapeError(
                f"y: got images of {back.shape[-2]} x {back.shape[-1]}, accepted: sides that are "
                f"multiples of {self.stride}, the stride of the network"
            )
        x = levels[-1].sqrt() * back
        context = levels, self.labels, back, data, self.look
        x1, x2 = reversible(x, self.second * x, [*self.steps], *context)
        found = x1 + self.merge * x2
        return from_channels(found) if data.is_complex else found
