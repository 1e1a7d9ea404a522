"""RIVAL: the noises of an edited chain with the statistics of the inverted one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.checks import NonNegative
from wellposed.errors import ShapeError
from wellposed.inversion.base import Found, Inversion, States
from wellposed.inversion.chain import Chain, Look


def adain(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return images shifted and scaled to a mean and a deviation of each channel.

    Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance
    Normalization", 2017, arXiv 1703.06868.

    Args:
        x: (B, C, ...), real or complex; noises, latents or images.
        mean: mean of each channel, (B, C, 1, ...), see `channel_statistics`.
        std: deviation of each channel, likewise.

    Raises:
        ShapeError: statistics of other items or channels.
    """
    wanted = (*x.shape[:2], *[1] * (x.ndim - 2))
    for name, value in (("mean", mean), ("std", std)):
        if tuple(value.shape) != wanted:
            raise ShapeError(f"{name}: got shape {tuple(value.shape)}, accepted: {wanted}")
    own_mean, own_std = channel_statistics(x)
    return (x - own_mean) * (std / own_std.clamp(min=1e-30)) + mean


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel of images (B, C, ...), both (B, C, 1, ...).

    The deviation of complex channels is that of their parts together,
    ``sqrt(mean |x - mean|^2)``.
    """
    axes = tuple(range(2, x.ndim))
    mean = x.mean(axes, keepdim=True)
    return mean, (x - mean).abs().square().mean(axes, keepdim=True).sqrt()


@dataclass(frozen=True, kw_only=True)
class RIVAL(Inversion):
    """DDIM with the means and deviations of the inverted chain's noises, channel by channel.

    The code keeps mean and deviation of each channel of the noises ``e(x_t)`` that the source
    finds on its path of DDIM upwards. Downwards, while the noise-to-signal ratio is above
    ``until``, the target's noises get them: ``e <- adain(e, mean_t, std_t)``, and
    ``D = (x_t - sigma_t e) / alpha_t``. This holds colours and contrast, which a strong guidance
    changes. One call a step; as exact as `DDIM`. The published attention to the source's chain is
    not part of it, as priors have none in general.

    Zhang et al., "Real-World Image Variation by Aligning Diffusion Inversion Chain", 2023, arXiv
    2305.18729.

    Args:
        until: noise-to-signal ratio below which the noises stay as they are; the published label
            600 of Stable Diffusion is 2.3.
        steps, spacing, start: see `Inversion`.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> source, target = priors.GaussianPrior(0.3, 0.1), priors.GaussianPrior(0.6, 0.1)
        >>> image = torch.rand(1, 3, 8, 8)
        >>> inversion.RIVAL(steps=10).edit(image, source, target).shape
        torch.Size([1, 3, 8, 8])
    """

    until: NonNegative = 2.3

    def up(self, x_m: Tensor, chain: Chain) -> Found:
        x, kept = x_m, list[Tensor]()
        for level in range(chain.top + 1):
            eps = chain.look(x, level).eps
            kept += reversed(channel_statistics(eps))
            if level < chain.top:
                shift, weight = chain.factors(level, level + 1)
                x = shift * x + weight * eps
        unknown = torch.full((len(x),), torch.nan, device=x.device, dtype=torch.float64)
        return Found((x, *reversed(kept)), unknown)

    def down(self, states: States, chain: Chain) -> Tensor:
        x, *kept = states
        for level, mean, std in zip(range(chain.top, 0, -1), kept[::2], kept[1::2], strict=False):
            look, alpha, sigma = chain.look(x, level), chain.alpha[level], chain.sigma[level]
            if sigma > self.until * alpha:
                eps = adain(look.eps, mean, std)
                look = Look((x - sigma * eps) / alpha, eps)
            x = chain.place(look, level - 1)
        return x
