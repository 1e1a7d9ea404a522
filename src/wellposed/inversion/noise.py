"""Codes as the noise of solvers."""

import math

from torch import Tensor

from wellposed.errors import ShapeError
from wellposed.noise import ItemNoise


class CodeNoise:
    """A source whose first draw is given, mixed with fresh noise; the stream of a seed follows.

    Made by `Code.noise`.

    Args:
        first: standard noise (B, C, ...).
        seed: seed of the fresh draws.
        mix: share m of fresh noise z in the first draw ``sqrt(1 - m^2) first + m z``.
    """

    def __init__(self, first: Tensor, seed: int, mix: float) -> None:
        self._first, self._mix = first, mix
        # The identities of a solver's own items, so that at mix 1 it is the solver's own noise.
        self._fresh = ItemNoise(seed, [(0, b) for b in range(len(first))])

    @property
    def position(self) -> int:
        """How many draws were made; set to resume a run."""
        return self._fresh.position

    @position.setter
    def position(self, value: int) -> None:
        self._fresh.position = value

    def draw(self, like: Tensor) -> Tensor:
        """Return the next draw; see `NoiseSource.draw`."""
        start = self.position == 0
        fresh = self._fresh.draw(like)
        if not start:
            return fresh
        if like.shape != self._first.shape or like.is_complex() != self._first.is_complex():
            raise ShapeError(
                f"noise: a code of shape {tuple(self._first.shape)}, accepted: {tuple(like.shape)}"
            )
        kept = math.sqrt(1 - self._mix**2) * self._first.to(like.dtype).to(like.device)
        return kept + self._mix * fresh
