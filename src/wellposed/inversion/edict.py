"""EDICT: exact inversion by two coupled states."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from wellposed.checks import Range
from wellposed.inversion.base import Found, Inversion, States
from wellposed.inversion.chain import Chain

Mixing = Annotated[float, Range(0, 1, "(]", "a number above 0 and at most 1")]


@dataclass(frozen=True, kw_only=True)
class EDICT(Inversion):
    """Two states, each moved by the noise found in the other: exact, two calls a step.

    Downwards, with M of `inversion.chain` and the label of the noisier level::

        x <- M(x, e(y)),  y <- M(y, e(x)),  x <- p x + (1 - p) y,  y <- p y + (1 - p) x

    and upwards each line inverted in reverse order. On every second step from the noisiest, y
    moves first. Upwards the difference of the states grows by ``p^-2`` a step, which the round
    trip does not show: with the published p = 0.93 at 200 steps x_T is wrong 9600 times. Here
    ``p = mixing^(50 / steps)``, so that the growth does not depend on the steps.

    Wallace, Gokul and Naik, "EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022,
    arXiv 2211.12446; the alternation is in their code alone.

    Args:
        mixing: p at 50 steps.
        alternate: whether y moves first on every second step.
        steps, spacing, start: see `Inversion`.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> prior = priors.GaussianPrior(0.5, 0.1)
        >>> image = torch.rand(1, 1, 8, 8)
        >>> code = inversion.EDICT(steps=10).encode(image, prior)
        >>> torch.allclose(code.decode(prior), image, atol=1e-6), len(code.states)
        (True, 2)
    """

    mixing: Mixing = 0.93
    alternate: bool = True

    @property
    def p(self) -> float:
        """The mixing of one step."""
        return float(self.mixing ** (50 / self.steps))

    def up(self, x_m: Tensor, chain: Chain) -> Found:
        x, y, p = x_m, x_m, self.p
        for level in range(chain.top):
            y = (y - (1 - p) * x) / p
            x = (x - (1 - p) * y) / p
            last, first = (x, y) if self._swapped(chain, level) else (y, x)
            last = self._back(last, first, chain, level)
            first = self._back(first, last, chain, level)
            x, y = (last, first) if self._swapped(chain, level) else (first, last)
        return Found((x, y), torch.zeros(len(x), dtype=torch.float64, device=x.device))

    def down(self, states: States, chain: Chain) -> Tensor:
        return self.down_both(states, chain)[0]

    def down_both(self, states: States, chain: Chain) -> tuple[Tensor, Tensor]:
        """Return both states at the lowest level; they are equal only for the own image."""
        (x, y), p = states, self.p
        for level in range(chain.top - 1, -1, -1):
            swapped = self._swapped(chain, level)
            first, last = (y, x) if swapped else (x, y)
            first = self._move(first, last, chain, level)
            last = self._move(last, first, chain, level)
            x, y = (last, first) if swapped else (first, last)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
        return x, y

    def _swapped(self, chain: Chain, level: int) -> bool:
        """Return whether y moves first between a level and the next; counted from the noisiest."""
        return self.alternate and (chain.top - 1 - level) % 2 == 1

    def _move(self, x: Tensor, other: Tensor, chain: Chain, level: int) -> Tensor:
        """Return ``x`` moved down to a level, by the noise of the other state."""
        a, b = chain.factors(level + 1, level)
        return a * x + b * chain.look(other, level + 1).eps

    def _back(self, x: Tensor, other: Tensor, chain: Chain, level: int) -> Tensor:
        """Return the inverse of `_move`."""
        a, b = chain.factors(level + 1, level)
        return (x - b * chain.look(other, level + 1).eps) / a
