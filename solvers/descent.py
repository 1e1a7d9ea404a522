"""Descent of the data misfit by gradients, for measurements that need not be linear."""

import torch
from torch import Tensor

from wellposed.linalg import inner, per_item
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import measured_numbers


def gradient_step(x0: Tensor, weight: Tensor, problem: Problem) -> Tensor:
    """Return the best ``x = x0 + tau g`` for ``||y - A(x)||^2 + weight ||x - x0||^2``.

    ``g = A'^T (y - A(x0))`` is the descent direction at ``x0``, with the derivative ``A'``
    there, and ``tau = ||g||^2 / (||A' g||^2 + weight ||g||^2)`` of each item.
    """
    g, space = _gap(problem, x0)[1], problem.space
    along = _along(problem, x0, g)
    square, moved = space.together(inner(g, g), inner(along, along))
    objective = moved + weight * square
    tau = torch.where(objective > 0, square / objective, 0)
    return x0 + per_item(tau, x0) * g


def descend(problem: Problem, x: Tensor, steps: int) -> Tensor:
    """Return ``x`` after steps of conjugate gradients on ``||y - A(x)||^2``, from ``x`` on.

    An item stops when its misfit is that of the noise, ``m sigma_y^2`` for m measured numbers.
    For linear problems this is CG on the normal equations, which moves ``x`` only where the data
    ask for it. For others it is the method of Polak and Ribiere with the step that is best for the
    linearised measurement, halved whenever the misfit has grown.
    """
    space, count = problem.space, problem.once(measured_numbers).to(x.real)
    enough = problem.noise_sigma**2 * count
    gap, g = _gap(problem, x)
    misfit, d, trust = space.inner(gap, gap), g, torch.ones_like(enough)
    for _ in range(steps):
        going = misfit > enough
        if not bool(going.any()):
            break
        along = _along(problem, x, d)
        products = inner(along, along), inner(g, g), inner(g, d)
        curvature, square, slope = space.together(*products)
        going = going & (curvature > 0)
        tau = torch.where(going, trust * slope / curvature, 0)
        trial = x + per_item(tau, x) * d
        gap, ahead = _gap(problem, trial)
        found = space.inner(gap, gap)
        better = going & (found < misfit)
        beta = space.inner(ahead, ahead - g) / torch.where(square > 0, square, 1)
        beta = torch.where(better, beta.clamp(min=0), 0)
        moved = per_item(better, x)
        x, g = torch.where(moved, trial, x), torch.where(moved, ahead, g)
        d = g + per_item(beta, d) * d
        misfit = torch.where(better, found, misfit)
        trust = torch.where(better, (2 * trust).clamp(max=1), trust / 2)
    return x


def _gap(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``y - A(x)`` and ``A'^T (y - A(x))``, with the derivative ``A'`` at ``x``."""
    if problem.is_linear:
        gap = problem.y - problem.A(x)
        return gap, problem.A_adjoint(gap)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        measured = problem.A(x)
    gap = problem.y - measured.detach()
    return gap, torch.autograd.grad(measured, x, gap)[0]


def _along(problem: Problem, x: Tensor, d: Tensor) -> Tensor:
    """Return ``A' d`` at ``x``."""
    if problem.is_linear:
        return problem.A(d)
    # By a finite difference: attention in decoders has no forward-mode derivative.
    space, small = problem.space, torch.finfo(d.dtype).eps ** (1 / 3)
    reach = small * (1 + space.norm(x)) / space.norm(d).clamp(min=1e-12)
    ahead, behind = (problem.A(x + sign * per_item(reach, d) * d) for sign in (1, -1))
    return (ahead - behind) / (2 * per_item(reach, ahead))
