"""Edit-friendly inversion: the corrections of a DDPM chain."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Fraction, Seed
from wellposed.inversion.base import Found, Inversion, States
from wellposed.inversion.chain import Chain
from wellposed.noise import ItemNoise
from wellposed.priors.transition import Levels, variance


@dataclass(frozen=True, kw_only=True)
class EditFriendly(Inversion):
    """Independent noisy images at all levels, and the corrections between them: exact.

    ``x_t = alpha_t x_0 + sigma_t w_t`` with independent ``w_t``. Of each step the code keeps
    ``k_t = x_s - mu_t(x_t)`` with the mean ``mu_t = alpha_s D + sqrt(sigma_s^2 - v) e`` of a step
    of DDPM, the last one to ``x_0`` included; decoding adds them. They are stored as they are, not
    divided by ``sqrt(v)``, and the last one is not set to 0 as published, which left some percent
    of noise. They are not white, on purpose: they hold the image. Memory: one image for each step.

    Huberman-Spiegelglas, Kulikov and Michaeli, "An Edit Friendly DDPM Noise Space: Inversion and
    Manipulations", 2023, arXiv 2304.06140.

    Args:
        eta: 1 is DDPM, 0 has no fresh noise; see `priors.transition.variance`.
        seed: seed of the ``w_t``.
        steps, spacing, start: see `Inversion`; the published ``skip`` is a ``start``.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> source, target = priors.GaussianPrior(0.3, 0.1), priors.GaussianPrior(0.6, 0.1)
        >>> image = torch.rand(1, 1, 8, 8)
        >>> edited = inversion.EditFriendly(steps=10, start=2.0).edit(image, source, target)
        >>> bool((edited > image).all())  # towards the target's mean
        True
    """

    eta: Fraction = 1.0
    seed: Seed = 0

    needs_signal: ClassVar[bool] = False

    def up(self, x_m: Tensor, chain: Chain) -> Found:
        noise, x0 = ItemNoise(self.seed, [(b,) for b in range(len(x_m))]), x_m / chain.alpha[0]
        placed = [
            chain.alpha[i] * x0 + chain.sigma[i] * noise.draw(x0) for i in range(chain.top + 1)
        ]
        kept = [placed[-1]]
        for i in range(chain.top, -1, -1):
            below = placed[i - 1] if i else x0
            kept.append(below - self.mean(placed[i], chain, i))
        return Found(tuple(kept), torch.zeros(len(x0), dtype=torch.float64, device=x0.device))

    def down(self, states: States, chain: Chain) -> Tensor:
        x, *corrections = states
        for i, k in zip(range(chain.top, -1, -1), corrections, strict=True):
            x = self.mean(x, chain, i) + k
        return x

    def clean(self, x: Tensor, chain: Chain) -> Tensor:
        return x

    def mean(self, x: Tensor, chain: Chain, level: int) -> Tensor:
        """Return the mean ``mu_t`` of the step to the next lower level, 0 of the lowest."""
        look = chain.look(x, level)
        if level == 0:
            return look.x0
        pairs = [(chain.alpha[n], chain.sigma[n]) for n in (level, level - 1)]
        ends = Levels(*torch.tensor(pairs, dtype=torch.float64).flatten())
        fresh = float(variance("markov", ends, self.eta))
        kept = math.sqrt(max(chain.sigma[level - 1] ** 2 - fresh, 0.0))
        return chain.alpha[level - 1] * look.x0 + kept * look.eps
