"""Populations of weighted particles: effective size, resampling, and their share of a batch.

The particles of an item are the rows ``p * items + b`` of a tensor, for all particles p of item b;
weights are (P, B).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.solvers.problem import Problem


def effective_size(log_weights: Tensor) -> Tensor:
    """Return ``1 / sum w^2`` of normalised weights, (B,), from their logarithms, (P, B)."""
    return 1 / torch.softmax(log_weights, 0).square().sum(0)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Return the logarithm of the mean weight of each item, (B,)."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def systematic(log_weights: Tensor, u: Tensor) -> Tensor:
    """Return the ancestors (P, B) of systematic resampling, in ascending order.

    Particle p has ``floor(P w_p)`` or one more descendants, on average ``P w_p``. Equal weights
    give the identity.

    Args:
        log_weights: (P, B), up to a constant of each item.
        u: one number from 0 to 1 of each item, (B,).
    """
    count = len(log_weights)
    ends = count * torch.softmax(log_weights, 0).cumsum(0)
    places = torch.arange(count).to(u)[:, None] + u
    found: Tensor = torch.searchsorted(ends.T.contiguous(), places.T.contiguous(), right=True)
    return found.T.clamp(max=count - 1)  # rounding may leave the last end below the last place


def gather(values: Tensor, ancestors: Tensor) -> Tensor:
    """Return the rows of the ancestors (P, B); ``values`` are rows (P * B, ...)."""
    items = torch.arange(ancestors.shape[1], device=ancestors.device)
    found: Tensor = values.unflatten(0, ancestors.shape)[ancestors, items]
    return found.flatten(0, 1)


@dataclass(frozen=True)
class Population:
    """The particles of all items of a problem.

    Attributes:
        problem: the problem of B items.
        particles: particles P of each item.
        chunk: particles that are computed together if there is one item.
    """

    problem: Problem
    particles: int
    chunk: int

    def parts(self) -> Iterator[tuple[slice, Problem]]:
        """Yield rows of the population and a problem with one item for each of them.

        With more than one item these are the particles with one number, because an operator may
        have parameters for each item.
        """
        items = len(self.problem.y)
        size = self.chunk if items == 1 else 1
        for start in range(0, self.particles, size):
            stop = min(start + size, self.particles)
            part = self.problem.repeated(stop - start) if items == 1 else self.problem
            yield slice(start * items, stop * items), part

    def zeros(self) -> Tensor:
        """Return a zero image for every particle, (P * B, ...)."""
        zeros = self.problem.zeros()
        return zeros.new_zeros(self.particles * len(zeros), *zeros.shape[1:])
