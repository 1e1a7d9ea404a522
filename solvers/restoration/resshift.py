"""ResShift: restoration by residual shifting (Yue, Wang and Loy 2023)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from wellposed.checks import Count
from wellposed.priors.transition import Levels, variance
from wellposed.solvers.problem import Problem
from wellposed.solvers.restoration.base import Restoration, has_range


@dataclass(frozen=True, kw_only=True)
class ResShift(Restoration):
    r"""ResShift: the ancestral chain of residual shifting, 15 or 4 steps.

    With ``alpha = 1 - eta`` and ``sigma = kappa sqrt(eta)``, for each pair of times t -> s::

        x0  = E[x_0 | x_t, m]
        x_s = q x_t + (1 - q) x0 + kappa sqrt(q (eta_t - eta_s)) z,    q = eta_s / eta_t

    This is the transition with the variance rule "shift". On other processes the rule has the
    right marginal distributions, but couples neighbouring times in another way.

    Reference: "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual
    Shifting", NeurIPS 2023, arXiv 2307.12348.

    Args:
        clip: clip estimates to [-1, 1] units, as published; complex and latent images are not
            clipped.

    Example:
        >>> import torch
        >>> from wellposed import priors, solvers
        >>> restorer = priors.load("resshift-x4")
        >>> small = torch.rand(1, 3, 8, 8)
        >>> solvers.ResShift(steps=4)(small, None, restorer, seed=0).mean.shape
        torch.Size([1, 3, 32, 32])
    """

    steps: Count = 15
    clip: bool = True

    name: ClassVar[str] = "resshift"

    def denoise(self, x_t: Tensor, t: float, problem: Problem) -> Tensor:
        """Return the estimate, clipped if ``clip`` and the images have a range."""
        x0 = problem.denoise(x_t, t)
        return x0.clamp(-1, 1) if self.clip and has_range(problem) else x0

    def fresh(self, level: Levels) -> Tensor:
        """The chain's variance."""
        return variance("shift", level)
