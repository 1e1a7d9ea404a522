"""Populations of weighted particles: effective size, resampling, and their share of a batch.

The particles of an item are the rows ``p * items + b`` of a tensor, for all particles p of item b;
weights are (P, B).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wellposed.linalg import as_real, like
from wellposed.noise import NoiseSource
from wellposed.solvers.problem import Problem
from wellposed.solvers.sampler import State

ALWAYS = 2.0
"""A share of the particles that the effective size does not reach."""


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


def drawn(noise: NoiseSource, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return three numbers for every slot, (P * B, 3), and noise like the images x.

    The numbers are drawn in every step: positions of draws do not depend on the data.
    """
    flat = as_real(x).flatten(1)
    both = noise.draw(flat.new_empty(len(flat), flat.shape[1] + 3))
    return both[:, :3].double(), like(both[:, 3:].reshape(as_real(x).shape).contiguous(), x)


@dataclass(frozen=True, eq=False)
class ParticleState(State):
    """State of a population of P particles for each of B items, with particles first.

    Attributes:
        corrected: ``E[x_0 | x_t, y]`` of each particle, (P * B, C, ...).
        log_psi: twist of each particle, (P * B,).
        spread, products: isotropic part of the variance of x_0 given x_t, (P * B,), and its
            products with k directions (P * B, k, n), none if it is isotropic.
        log_weights: logarithms of the weights since the last resampling, (P * B,).
        log_evidence: logarithm of the evidence up to the last resampling, (B,).
        ess: effective sample sizes after the last steps, (steps, B).
    """

    corrected: Tensor
    log_psi: Tensor
    spread: Tensor
    products: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    ess: Tensor

    def selected(self, ancestors: Tensor) -> "ParticleState":
        """Return the state with the particles of these numbers, (P, B); weights stay."""
        names = ("x", "x0", "corrected", "log_psi", "spread", "products")
        return replace(self, **{name: gather(getattr(self, name), ancestors) for name in names})

    def resampled(self, u: Tensor, threshold: float) -> "ParticleState":
        """Return the state after resampling of all items of too small an effective size.

        Args:
            u: one uniform number of each item, (B,).
            threshold: share of the particles below which an effective size is too small.
        """
        weights = self.log_weights.unflatten(0, (-1, len(u)))
        low = effective_size(weights) < threshold * len(weights)
        same = torch.arange(len(weights), device=u.device)[:, None]
        state = self.selected(torch.where(low, systematic(weights, u), same))
        left = torch.where(low, 0, weights).flatten()
        gained = torch.where(low, log_mean_exp(weights), 0)
        return replace(state, log_weights=left, log_evidence=self.log_evidence + gained)


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
