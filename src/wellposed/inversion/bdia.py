"""BDIA: exact inversion of second order with one call a step."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Range
from wellposed.inversion.base import Found, Inversion, States
from wellposed.inversion.chain import Chain
from wellposed.linalg import as_real, like

Gamma = Annotated[float, Range(0, 1, "(]", "a number above 0 and at most 1")]


@dataclass(frozen=True, kw_only=True)
class BDIA(Inversion):
    """Bidirectional integration: exact, one call a step, and of second order at gamma = 1.

    With the change ``d(i -> j)`` of ``alpha D + sigma e`` from level i to j, D and e of ``z_i``::

        z_{i-1} = z_{i+1} - (1 - g) (z_{i+1} - z_i) - g d(i -> i+1) + d(i -> i-1)

    and upwards the same solved for ``z_{i+1}``. The first step upwards is plain DDIM. The code has
    the two noisiest states: from the first alone DDIM does not come back. At g = 1 changes are
    rounded to a grid on which sums of doubles are exact, so that no rounding adds up: the way back
    is the same to the last bit, and the image is kept to the grid's 1e-15 of the largest noise.

    Each step upwards multiplies by 1 / g: images overflow at the published g = 0.5, for which the
    authors sample in 10 steps. Encode with 1, at which the map is symmetric in time.

    Zhang, Niwa and Kleijn, "Exact Diffusion Inversion via Bi-directional Integration
    Approximation", 2023, arXiv 2307.10829.

    Args:
        gamma: g, above 0 and at most 1.
        steps, spacing, start: see `Inversion`.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> prior = priors.GaussianPrior(0.5, 0.1)
        >>> image = torch.rand(1, 1, 8, 8)
        >>> code = inversion.BDIA(steps=10).encode(image, prior)
        >>> torch.allclose(code.decode(prior), image, atol=1e-6), code.calls
        (True, 9)
    """

    gamma: Gamma = 1.0

    needs_signal: ClassVar[bool] = False

    def up(self, x_m: Tensor, chain: Chain) -> Found:
        exact = torch.zeros(len(x_m), dtype=torch.float64, device=x_m.device)
        if chain.top == 0:
            return Found((x_m,), exact)
        below, g = self.rounded(x_m, chain), self.gamma
        z = self.rounded(chain.place(chain.look(below, 0), 1), chain)
        for i in range(1, chain.top):
            look = chain.look(z, i)
            if g == 1:
                change = self.rounded(chain.along(look, i - 1, i + 1), chain)
                below, z = z, below + change
                continue
            ahead, back = chain.along(look, i, i + 1), chain.along(look, i, i - 1)
            below, z = z, (below - back - (1 - g) * z) / g + ahead
        return Found((z, below), exact)

    def down(self, states: States, chain: Chain) -> Tensor:
        if chain.top == 0:
            return states[0]
        above, z = states
        for i in range(chain.top - 1, 0, -1):
            above, z = z, self.step(above, z, chain, i)
        return z

    def step(self, above: Tensor, z: Tensor, chain: Chain, i: int) -> Tensor:
        """Return ``z_{i-1}`` from ``z_{i+1}`` and ``z_i``."""
        look, g = chain.look(z, i), self.gamma
        if g == 1:
            return above - self.rounded(chain.along(look, i - 1, i + 1), chain)
        ahead, back = chain.along(look, i, i + 1), chain.along(look, i, i - 1)
        return above - (1 - g) * (above - z) - g * ahead + back

    def rounded(self, x: Tensor, chain: Chain) -> Tensor:
        """Return multiples of the unit in the last place of 8 times the largest level."""
        if self.gamma < 1:
            return x
        largest = 8 * max(*chain.alpha, *chain.sigma)
        unit = 2.0 ** (math.ceil(math.log2(largest)) - 53)
        parts = as_real(x)
        return like((parts / unit).round() * unit, x)
