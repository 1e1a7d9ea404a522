"""DDIM inversion: one call a step, not exact."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from wellposed.checks import Choice
from wellposed.inversion.base import Found, Inversion, States
from wellposed.inversion.chain import Chain


@dataclass(frozen=True, kw_only=True)
class Euler(Inversion):
    """Base of the inversions that come down by DDIM: ``x_s = alpha_s D + sigma_s e`` at x_t."""

    def down(self, states: States, chain: Chain) -> Tensor:
        x = states[0]
        for level in range(chain.top, 0, -1):
            x = chain.place(chain.look(x, level), level - 1)
        return x


@dataclass(frozen=True, kw_only=True)
class DDIM(Euler):
    """Inversion by DDIM steps upwards; neither exact nor of more than first order.

    From s to the noisier t: ``x_t = M(x_s, e; s -> t)`` with ``e = e(x_s, s)`` at the source, or
    ``e(x_s, t)``, the noise of the image at s found with the label of t, at the target. The latter
    is the first iterate of `FixedPoint`, and what most published codes do. Decoding is DDIM.

    Song, Meng and Ermon, "Denoising Diffusion Implicit Models", 2021, arXiv 2010.02502; at the
    target: Hertz et al., "Prompt-to-Prompt Image Editing", 2022, arXiv 2208.01626.

    Args:
        at: ``source`` or ``target``.
        steps, spacing, start: see `Inversion`.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> prior = priors.GaussianPrior(0.5, 0.1)
        >>> image = torch.rand(1, 1, 8, 8)
        >>> code = inversion.DDIM(steps=50).encode(image, prior)
        >>> bool(code.round_trip(image, prior) < 0.1)  # not exact
        True
    """

    at: Annotated[str, Choice("source", "target")] = "source"

    def up(self, x_m: Tensor, chain: Chain) -> Found:
        x = x_m
        for level in range(chain.top):
            shift, weight = chain.factors(level, level + 1)
            eps = chain.look(x, level if self.at == "source" else level + 1).eps
            x = shift * x + weight * eps
        return Found((x,), torch.full((len(x),), torch.nan, device=x.device, dtype=torch.float64))
