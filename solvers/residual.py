"""The data misfit of a reconstruction, relative to the expected noise."""

import torch
from torch import Tensor

from wellposed.noise import ItemNoise
from wellposed.solvers.problem import Problem


def misfit(problem: Problem, u: Tensor, measured: Tensor | None) -> Tensor:
    """Return the data misfit of each item over its expected norm, (B,).

    It is ``||A x - y|| / (sigma sqrt(m))``, about 1 for a posterior sample, or
    ``||A x - y|| / ||y||`` for noise-free items, and NaN if the operator is unknown.

    Args:
        problem: the problem, with ``A``, ``y`` and the noise levels.
        u: images in units.
        measured: ``m`` of each item, from `noisy_numbers`, or one number for the whole batch.
    """
    if problem.operator is None:
        return torch.full((len(u),), torch.nan, dtype=u.real.dtype, device=u.device)
    space, sigma = problem.space, problem.noise_sigma
    distance = space.norm(problem.A(u) - problem.y)
    expected = sigma if measured is None else sigma * measured.sqrt().to(sigma)
    if bool((sigma > 0).all()):
        return distance / expected
    # In linear problems the measurement of the prior's centre is subtracted from problem.y.
    offset = problem.A_centre / problem.prior.scale if problem.is_linear else 0.0
    whole = space.norm(problem.y + offset).clamp(min=torch.finfo(sigma.dtype).tiny)
    return distance / torch.where(sigma > 0, expected, whole)


def measured_numbers(problem: Problem) -> Tensor:
    """Return how many real numbers of each item were measured, over all parts, (B,), float64."""
    operator, y = problem.known, problem.y
    if hasattr(operator, "restrict"):
        measured = operator.restrict(torch.ones_like(y)) != 0
    elif problem.is_linear:
        # The mask of a foreign operator: entries that no image reaches and where y is 0.
        probe = ItemNoise(0, [(0,)]).draw(y[:1]).expand_as(y)
        measured = (problem.A(problem.A_adjoint(probe)) != 0) | (y != 0)
    else:
        measured = torch.ones_like(y, dtype=torch.bool)
    return problem.space.sum(measured.flatten(1).sum(1).double()) * (2 if y.is_complex() else 1)


def noisy_numbers(problem: Problem) -> Tensor | None:
    """Return `measured_numbers`, 0 for items without noise; ``None`` if no item has noise."""
    noisy = problem.noise_sigma > 0
    return measured_numbers(problem) * noisy if bool(noisy.any()) else None
