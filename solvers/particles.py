"""Weighted particles of one item: effective size, resampling, their state."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.linalg import as_real, like
from wellposed.noise import NoiseSource
from wellposed.solvers.problem import Problem
from wellposed.solvers.sampler import State

ALWAYS = 2.0
"""Threshold above any effective size: always resample."""


def effective_size(log_weights: Tensor) -> Tensor:
    """Return ``1 / sum w^2`` of normalised weights from their logarithms, (P, ...), over P."""
    return 1 / torch.softmax(log_weights, 0).square().sum(0)


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """Return the logarithm of the mean weight, over the first axis."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def systematic(log_weights: Tensor, u: Tensor) -> Tensor:
    """Return the ancestors (P,) of systematic resampling, in ascending order.

    Particle p has ``floor(P w_p)`` or one more descendants, on average ``P w_p``. Equal weights
    give the identity.

    Args:
        log_weights: (P,), up to a constant.
        u: a number from 0 to 1.
    """
    count = len(log_weights)
    ends = count * torch.softmax(log_weights, 0).cumsum(0)
    found = torch.searchsorted(ends, torch.arange(count).to(u) + u, right=True)
    return found.clamp(max=count - 1)  # rounding may leave the last end below the last place


def drawn(noise: NoiseSource, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return three numbers for every particle, (P, 3), and noise like the images x.

    The numbers are drawn in every step: positions of draws do not depend on the data.
    """
    flat = as_real(x).flatten(1)
    both = noise.draw(flat.new_empty(len(flat), flat.shape[1] + 3))
    return both[:, :3].double(), like(both[:, 3:].reshape(as_real(x).shape).contiguous(), x)


def each_item(problem: Problem) -> list[Problem]:
    """Return the problem of each item alone."""
    if len(problem.y) == 1:
        return [problem]
    item = getattr(problem.operator, "item", None)
    name = type(problem.operator).__name__
    accepted = f"1 item at a time, as {name} does not give the operator of an item"
    require(callable(item), "y", f"{len(problem.y)} items", accepted)
    assert callable(item)
    shape = torch.Size((1, *problem.image_shape[1:]))
    return [
        replace(problem, y=problem.y[b : b + 1], operator=item(b), image_shape=shape)
        for b in range(len(problem.y))
    ]


@dataclass(frozen=True, eq=False)
class ParticleState(State):
    """State of the P particles of an item.

    Attributes:
        corrected: ``E[x_0 | x_t, y]`` of each particle, (P, C, ...).
        log_psi: twist of each particle, (P,).
        variance: variance of a pixel of x_0 given x_t along directions without products, (P,).
        products: products of the covariance of x_0 given x_t with k directions, (P, k, n); k = 0
            if it is isotropic.
        log_weights: logarithms of the weights since the last resampling, (P,).
        log_evidence: logarithm of the evidence up to the last resampling, (1,).
        ess: effective sample sizes after the last steps, (steps, 1).
    """

    corrected: Tensor
    log_psi: Tensor
    variance: Tensor
    products: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    ess: Tensor

    def selected(self, ancestors: Tensor) -> "ParticleState":
        """Return the state with the particles of these numbers, (P,); weights stay."""
        names = ("x", "x0", "corrected", "log_psi", "variance", "products")
        return replace(self, **{name: getattr(self, name)[ancestors] for name in names})

    def resampled(self, u: Tensor, threshold: float) -> "ParticleState":
        """Return the state after resampling, or as it is if the effective size is large enough.

        Args:
            u: a uniform number.
            threshold: share of the particles below which the effective size is too small.
        """
        weights = self.log_weights
        if effective_size(weights) >= threshold * len(weights):
            return self
        evidence = self.log_evidence + log_mean_exp(weights)
        state = self.selected(systematic(weights, u))
        return replace(state, log_weights=torch.zeros_like(weights), log_evidence=evidence)
