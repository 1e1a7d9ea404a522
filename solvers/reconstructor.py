"""Our solvers as deepinv's reconstruction models; imports deepinv."""

from typing import Any

from deepinv.models import Reconstructor
from deepinv.physics import Physics
from torch import Tensor

from wellposed.priors.prior import Prior
from wellposed.solvers.base import Solver


class SolverReconstructor(Reconstructor):
    """A solver and its prior as one model; made by `from_deepinv.as_reconstructor`."""

    def __init__(self, solver: Solver, prior: Prior, num_samples: int, seed: int | None) -> None:
        super().__init__()
        self.solver, self.prior = solver, prior
        self.num_samples, self.seed = num_samples, seed

    def forward(self, y: Tensor, physics: Physics, **kwargs: Any) -> Tensor:
        """Return the mean of the samples, (B, C, ...); ``kwargs`` are deepinv's, unused."""
        result = self.solver(y, physics, self.prior, num_samples=self.num_samples, seed=self.seed)
        return result.mean
