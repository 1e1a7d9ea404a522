"""Inversion of DDIM by fixed points."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.checks import Count, NonNegative, Positive
from wellposed.errors import warn
from wellposed.inversion.base import Found
from wellposed.inversion.chain import Chain
from wellposed.inversion.ddim import Euler
from wellposed.linalg import as_real, like, norm, per_item


@dataclass(frozen=True, kw_only=True)
class FixedPoint(Euler):
    """The inverse of DDIM up to a tolerance, some calls a step.

    ``x_t`` solves ``x = M(x_s, e(x, t); s -> t)``, so that DDIM from ``x_t`` comes to ``x_s``. It
    is found by iterations from ``x_s``, each with the last ``memory`` steps mixed to the smallest
    residual (Anderson, 1965). An item stops by itself once its residual
    ``|M(x_s, e(x, t)) - x| / |x|`` is not above the tolerance. Items that do not get there are
    named in a warning: use more iterations or steps.

    Pan et al., "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion",
    2023, arXiv 2309.04907.

    Args:
        iterations: most calls for one step.
        tolerance: relative residual at which an item stops; 0 uses all iterations.
        memory: earlier steps that are mixed; 1 is the plain iteration.
        steps, spacing, start: see `Inversion`.
    """

    iterations: Count = 30
    tolerance: NonNegative = 1e-6
    memory: Count = 2

    def up(self, x_m: Tensor, chain: Chain) -> Found:
        x, worst = x_m, torch.zeros(len(x_m), dtype=torch.float64, device=x_m.device)
        for level in range(chain.top):
            x, residual = self._solve(x, chain, level)
            worst = torch.maximum(worst, residual)
        missed = (worst > max(self.tolerance, 1e-14)).nonzero().flatten().tolist()
        if missed and self.tolerance > 0:
            warn(
                f"FixedPoint: items {missed} did not converge, residual up to "
                f"{float(worst.max()):.2g} above {self.tolerance:g}; use more iterations or steps"
            )
        return Found((x,), worst)

    def _solve(self, x_s: Tensor, chain: Chain, level: int) -> tuple[Tensor, Tensor]:
        """Return the image at the next level, and its relative residual of each item."""
        shift, weight = chain.factors(level, level + 1)

        def step(x: Tensor) -> Tensor:
            return shift * x_s + weight * chain.look(x, level + 1).eps

        return fixed_point(step, x_s, self.iterations, self.tolerance, self.memory)


def fixed_point(
    step: Callable[[Tensor], Tensor],
    start: Tensor,
    iterations: Count,
    tolerance: Positive,
    memory: Count,
) -> tuple[Tensor, Tensor]:
    """Return ``x = step(x)`` of each item, and the relative residual of the last iterate, (B,)."""
    x, ahead = start, list[tuple[Tensor, Tensor]]()
    residual = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    for _ in range(iterations):
        found = step(x)
        gap = found - x
        active = residual > tolerance
        size = (norm(gap) / norm(found).clamp(min=1e-300)).double()
        residual = torch.where(active, size, residual)
        ahead = [*ahead, (found, gap)][-memory:]
        x = torch.where(per_item(active, x), _mixed(ahead), x)
        if not bool((residual > tolerance).any()):
            break
    return x, residual


def _mixed(ahead: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the mixture of iterates with weights of sum 1 whose gaps nearly cancel, by item."""
    found, gap = ahead[-1]
    if len(ahead) == 1:
        return found
    flat = as_real(gap).flatten(1)
    others = torch.stack([flat - as_real(g).flatten(1) for _, g in ahead[:-1]], 2)
    gram = others.mT @ others
    scale = gram.diagonal(dim1=1, dim2=2).amax(1).clamp(min=1e-300)[:, None, None]
    ridge = 1e-12 * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    weights = torch.linalg.solve(gram / scale + ridge, others.mT @ flat[..., None] / scale)
    steps = torch.stack([(as_real(found - f)).flatten(1) for f, _ in ahead[:-1]], 2)
    real = as_real(found)
    return like((real.flatten(1) - (steps @ weights)[..., 0]).reshape(real.shape), found)
