"""RF-inversion: flows controlled towards a noise, and back towards the image."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Fraction, NonNegative, Seed
from wellposed.inversion.base import Found, Inversion, States
from wellposed.inversion.chain import Chain, Look
from wellposed.noise import ItemNoise


@dataclass(frozen=True, kw_only=True)
class RFInversion(Inversion):
    """Upwards a flow is pulled to a noise z, downwards to the image; one call a step, not exact.

    With D and e that the prior finds in ``x_t``, an Euler step of the flow goes upwards along::

        D <- (1 - gamma) D + gamma (x_t - sigma_t z) / alpha_t,   e <- (1 - gamma) e + gamma z

    and downwards, while the noise-to-signal ratio is above ``until``, along::

        D <- (1 - eta) D + eta x_0,   e <- (1 - eta) e + eta (x_t - alpha_t x_0) / sigma_t

    These are the controlled velocities of the paper, in the endpoints ``D`` and ``e`` of a
    straight path, which serve for every schedule. gamma = 1 ends at z and says nothing of the
    image; gamma = 0 and eta = 0 are DDIM. eta = 1 down to ``until = 0`` returns the image under
    any target: between, eta trades faithfulness for the edit. The last step is that to ``x_0``.

    Rout et al., "Semantic Image Inversion and Editing using Rectified Stochastic Differential
    Equations", 2024, arXiv 2410.10792.

    Args:
        gamma: pull towards the noise.
        eta: pull towards the image.
        until: noise-to-signal ratio below which the image does not pull any more; of a flow 3 is
            its first quarter.
        seed: seed of z.
        steps, spacing, start: see `Inversion`.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> source = priors.GaussianPrior(0.3, 0.1, priors.Flow())
        >>> target = priors.GaussianPrior(0.6, 0.1, priors.Flow())
        >>> method = inversion.RFInversion(steps=10, eta=0.9, until=3.0)
        >>> method.edit(torch.rand(1, 1, 8, 8), source, target).shape
        torch.Size([1, 1, 8, 8])
    """

    gamma: Fraction = 0.5
    eta: Fraction = 0.9
    until: NonNegative = 3.0
    seed: Seed = 0

    needs_signal: ClassVar[bool] = False

    def up(self, x_m: Tensor, chain: Chain) -> Found:
        x, z = x_m, ItemNoise(self.seed, [(b,) for b in range(len(x_m))]).draw(x_m)
        for level in range(chain.top):
            straight = Look((x - chain.sigma[level] * z) / chain.alpha[level], z)
            look = _between(chain.look(x, level), straight, self.gamma)
            x = chain.place(look, level + 1)
        unknown = torch.full((len(x),), torch.nan, device=x.device, dtype=torch.float64)
        return Found((x, x_m / chain.alpha[0]), unknown)

    def down(self, states: States, chain: Chain) -> Tensor:
        x, x0 = states
        for level in range(chain.top, -1, -1):
            look, alpha, sigma = chain.look(x, level), chain.alpha[level], chain.sigma[level]
            if sigma > self.until * alpha:
                look = _between(look, Look(x0, (x - alpha * x0) / sigma), self.eta)
            x = chain.place(look, level - 1) if level else look.x0
        return x

    def clean(self, x: Tensor, chain: Chain) -> Tensor:
        return x


def _between(found: Look, pull: Look, share: float) -> Look:
    """Return the mixture of what the prior finds and where the control pulls."""
    x0 = (1 - share) * found.x0 + share * pull.x0
    return Look(x0, (1 - share) * found.eps + share * pull.eps)
