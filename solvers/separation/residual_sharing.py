"""Sums of companded images: what is left over is shared out where the sum is linear."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, is_positive, require
from wellposed.noise import NoiseSource
from wellposed.operators.companding import compand, expand
from wellposed.priors.transition import implied_noise, levels, transition, variance
from wellposed.solvers.base import State
from wellposed.solvers.problem import Problem
from wellposed.solvers.separation.warm_start import WarmStart


@dataclass(frozen=True, kw_only=True)
class ResidualSharing(WarmStart):
    r"""Denoise the blocks of a companded sum, share the misfit by their variances, re-noise.

    For each pair of times t -> s, with ``E = C^-1`` and the weights w_k of the sum::

        x0_k = E[x_k | x_t],   s_t = sigma_t / alpha_t
        r_k^2 = s_t^2 rms_k^2 / (s_t^2 + rms_k^2),  times the size of block k's unit squared
        v_k  = (w_k r_k E'(x0_k))^2
        x0_k <- C(E(x0_k) + v_k / (w_k sum_j v_j) (E(y) - sum_j w_j E(x0_j)))
        x_s  = alpha_s x0 + sigma_s (sqrt(1 - zeta) eps + sqrt(zeta) z),  eps implied by x0

    r_k is what a Gaussian of that root mean square is unsure of at this noise; linear values are
    unsure of it times the slope E'. So this is one Gauss-Newton step of the posterior mean, exact
    per pixel, and the sum of linear values fits the data whatever the slopes. Steps along the
    gradient of the companded misfit, as `NoisyProjection` takes, are unstable where two large
    values cancel: there its derivative is as large as they are over their sum. The steps are those
    of `DiffPIR`, its proximal solution replaced by this one.

    Args:
        steps: of the whole schedule; those above ``start`` are left out.
        rms: of the blocks in units, one for each.
        zeta: share of fresh noise in the variance, 0 (deterministic) to 1.
        start: see `WarmStart`.
    """

    steps: int = 50
    spacing: str = "geometric"
    rms: tuple[float, ...] = (0.3, 0.2)
    zeta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        several = isinstance(self.rms, Sequence) and len(self.rms) > 0
        usable = several and all(map(is_positive, self.rms))
        require(usable, "rms", self.rms, "positive numbers, one for each block")
        require(0 <= self.zeta <= 1, "zeta", self.zeta, "0 <= zeta <= 1")

    def check(self, problem: Problem) -> None:
        """Refuse what is not a companded sum of images seen as they are, and other rms."""
        # Loading these loads deepinv, which takes seconds.
        from wellposed.operators.companded import Companded
        from wellposed.operators.image.inpainting import Denoising
        from wellposed.operators.superposition import Superposition

        operator = problem.operator
        total = operator.operator if isinstance(operator, Companded) else None
        blocks = total.operators if isinstance(total, Superposition) else []
        plain = len(blocks) > 0 and all(type(block) is Denoising for block in blocks)
        if not (plain and operator.compressed_data):
            raise ArgumentError(
                f"operator: got {type(operator).__name__}, accepted by ResidualSharing: a "
                "Companded Superposition of Denoising operators"
            )
        require(len(self.rms) == len(blocks), "rms", self.rms, f"{len(blocks)} numbers")
        super().check(problem)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, share what is left over, re-noise."""
        level = levels(problem.prior.schedule, t, s)
        x0 = self.shared(problem.denoise(state.x, t), level.sigma_t / level.alpha_t, problem)
        if s == 0:
            return State(x0, x0)
        eps = implied_noise(state.x, x0, level)
        v = variance("fresh", level, math.sqrt(self.zeta))
        return State(transition(x0, eps, noise.draw(x0), level, v), x0)

    def shared(self, x0: Tensor, level: Tensor, problem: Problem) -> Tensor:
        """Return estimates in units whose sum fits the data, see the class."""
        companded: Any = problem.operator
        mu, total = companded.mu, companded.operator
        blocks = total.split(problem.to_public(x0))
        linear = [expand(block, mu) for block in blocks]
        # Written so that an infinite level, of pure noise, leaves rms^2.
        unsure = [r**2 / (1 + r**2 / level**2) for r in self.rms]
        unit = problem.to_public(torch.ones_like(x0)) - problem.to_public(torch.zeros_like(x0))
        units = [block.square() for block in total.split(unit)]
        shares = [
            w**2 * r2 * scale2 * slope(block, mu) ** 2
            for w, r2, scale2, block in zip(total.weights, unsure, units, blocks, strict=True)
        ]
        y = expand(problem.y * problem.prior.scale, mu)
        gap = y - sum(w * x for w, x in zip(total.weights, linear, strict=True))
        gap = gap / sum(shares)
        fitted = [x + v / w * gap for w, x, v in zip(total.weights, linear, shares, strict=True)]
        return problem.prior.to_units(compand(torch.cat(fitted, 1), mu))


def slope(v: Tensor, mu: float) -> Tensor:
    """Return the derivative of `expand`, ``ln(1 + mu) / mu (1 + mu)^|v|``; constant beyond 1."""
    return math.log1p(mu) / mu * torch.exp(math.log1p(mu) * v.abs().clamp(max=1))
