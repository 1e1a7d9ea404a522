"""The network evaluations that a search may spend."""

import math
from dataclasses import dataclass

from wellposed.solvers.base import Solver


@dataclass
class Budget:
    """Network evaluations.

    Attributes:
        total, spent: those that may be spent, and those that are.
        rate: most that an image took per step; a guess until one is known.
        known: whether it is.
    """

    total: int
    rate: float
    spent: int = 0
    known: bool = False

    def expected(self, solver: Solver, images: int) -> int:
        """Return what settings will cost on some images."""
        return math.ceil(self.rate * solver.steps) * images

    def affords(self, solver: Solver, images: int) -> bool:
        """Tell whether settings can be tried on some images; the first cost what they cost."""
        return not self.spent or self.spent + self.expected(solver, images) <= self.total

    def spend(self, solver: Solver, cost: int) -> None:
        """Count the evaluations of an image."""
        rate = cost / solver.steps
        self.rate, self.known = max(rate, self.rate) if self.known else rate, True
        self.spent += cost
