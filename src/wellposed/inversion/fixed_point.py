"""Inversion of DDIM by fixed points."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.checks import Count, NonNegative
from wellposed.errors import warn
from wellposed.fixed_points import fixed_point
from wellposed.inversion.base import Found
from wellposed.inversion.chain import Chain
from wellposed.inversion.ddim import Euler


@dataclass(frozen=True, kw_only=True)
class FixedPoint(Euler):
    """The inverse of DDIM up to a tolerance, some calls a step.

    ``x_t`` solves ``x = M(x_s, e(x, t); s -> t)``, so that DDIM from ``x_t`` comes to ``x_s``. It
    is found by iterations from ``x_s``, each with the last ``memory`` steps mixed to the smallest
    residual (Anderson, 1965). An item stops by itself once its residual
    ``|M(x_s, e(x, t)) - x| / |x|`` is not above the tolerance. Items that do not get there are
    named in a warning: use more iterations or steps.

    Pan et al., "Effective Real Image Editing with Accelerated Iterative Diffusion Inversion",
    2023, arXiv 2309.04907. SPDInv asks the same of each step, to free the noise from the
    source's prompt, and descends along the gradient of the residual instead: Li et al., "Source
    Prompt Disentangled Inversion for Boosting Image Editability with Diffusion Models", 2024,
    arXiv 2403.11105.

    Args:
        iterations: most calls for one step.
        tolerance: relative residual at which an item stops; 0 uses all iterations.
        memory: earlier steps that are mixed; 1 is the plain iteration.
        steps, spacing, start: see `Inversion`.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> prior = priors.GaussianPrior(0.5, 0.1)
        >>> image = torch.rand(1, 1, 8, 8)
        >>> code = inversion.FixedPoint(steps=10, tolerance=1e-6).encode(image, prior)
        >>> bool(code.residual < 1e-6), bool(code.round_trip(image, prior) < 1e-4)
        (True, True)
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

        return fixed_point(
            step,
            x_s,
            iterations=self.iterations,
            tolerance=self.tolerance,
            memory=self.memory,
        )
