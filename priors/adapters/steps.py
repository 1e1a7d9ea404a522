"""Guidance that depends on the steps of the sampler: CFG++, and reflection by a weaker prior."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from wellposed.checks import Checked, Count, Fraction, Items, NonNegative, Range
from wellposed.errors import require
from wellposed.fixed_points import fixed_point
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Adapter, Prior, broadcast
from wellposed.priors.schedule import Schedule

Times = Annotated[
    Sequence[float] | Tensor,
    Items(Range(0, 1e9, "[]", "a time, a number of at least 0"), tensors=True),
]


class Steps:
    """The times of a run, by which each of them has a next lower one."""

    def __init__(self, times: Sequence[float] | Tensor) -> None:
        self.times = torch.as_tensor(times, dtype=torch.float64).flatten().cpu().sort().values

    def below(self, t: Tensor) -> Tensor:
        """Return the largest of the times below ``t``, or 0."""
        place = torch.searchsorted(self.times, t.cpu() * (1 - 1e-9)) - 1
        lower = self.times[place.clamp(min=0)]
        return torch.where(place >= 0, lower, 0.0).to(t.device)


class CFGPlusPlus(Checked):
    """The guidance of CFG++ as a weight by time: ``w(t) = l / (1 - r_s / r_t)``.

    CFG++ keeps the unconditional noise: ``x_s = alpha_s D_l + sigma_s e_0``. With this weight,
    where r = sigma / alpha and s is the next time of the run, a plain step is the same, at equal
    cost. So it serves every sampler, and its inversion by `inversion.DDIM` at the target. At the
    last step w = l. Chung, Kim, Park, Nam and Ye, "CFG++: Manifold-constrained Classifier Free
    Guidance for Diffusion Models", 2024, arXiv 2406.08070.

    Args:
        scale: l, from 0 to 1; 0.6 is about as strong as a weight of 7.5.
        schedule: the prior's schedule.
        times: times of the run, e.g. ``schedule.times(50)``.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> schedule = priors.Tabulated.linear()
        >>> weight = priors.CFGPlusPlus(0.6, schedule, schedule.times(50))
        >>> [round(float(weight(torch.tensor(t))), 2) for t in (981.0, 501.0, 1.0)]
        [3.37, 5.83, 0.6]
    """

    def __init__(self, scale: Fraction, schedule: Schedule, times: Times) -> None:
        self.scale, self.schedule, self.steps = float(scale), schedule, Steps(times)

    def __call__(self, t: Tensor) -> Tensor:
        """Return the weight at times."""
        above, below = self.schedule.ratio(t), self.schedule.ratio(self.steps.below(t))
        return self.scale / (1 - below / above)


class Reflected(Adapter):
    """A prior whose steps start from images reflected by a strong and a weak prior (W2SD).

    Before the step from t to s the image goes down to s by the strong prior and up again by the
    weak one; what the strong one knows better remains. At the last step there is no reflection.
    The estimate is such that a DDIM step from ``x_t`` is the step from the reflected image ``x'``:
    ``D = D(x') + (sigma_s / sigma_t) (x' - x_t) / (alpha_s - alpha_t sigma_s / sigma_t)``. Pairs:
    guided or not, large or small, of averaged weights or not.

    Bai et al., "Weak-to-Strong Diffusion with Reflection", 2025, arXiv 2502.00473, take a single
    iteration, after which even equal priors do not return to ``x_t``; solved they do.

    Args:
        prior: the prior of the steps.
        weak: the weak prior, of the same schedule.
        times: times of the run.
        strong: the strong prior, by default ``prior``.
        iterations: most calls of the weak prior; 1 as published.
        tolerance: relative residual at which the way up is accepted.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> strong, weak = priors.GaussianPrior(0.5, 0.1), priors.GaussianPrior(0.5, 0.2)
        >>> times = strong.schedule.times(10)
        >>> prior = priors.Reflected(strong, weak, times)
        >>> prior.denoise(torch.randn(1, 1, 8, 8), times[5]).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        prior: Prior,
        weak: Prior,
        times: Times,
        strong: Prior | None = None,
        iterations: Count = 10,
        tolerance: NonNegative = 1e-6,
    ) -> None:
        super().__init__(prior)
        self.weak, self.strong, self.steps = (
            weak,
            prior if strong is None else strong,
            Steps(times),
        )
        self.iterations, self.tolerance = iterations, float(tolerance)
        plain = all(p.anchor is None and p.is_affine for p in (prior, weak, self.strong))
        require(plain, "prior", "a restorer or latent prior", "plain priors in the same units")

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the estimate by which a step starts from the reflected image."""
        times = torch.as_tensor(t, dtype=torch.float64).flatten()
        require(bool((times == times[0]).all()), "t", t, "one time for all items")
        t, s = times[0], self.steps.below(times[0])
        if s == 0:
            return self.prior.denoise(x_t, t, condition)
        alpha_t, sigma_t, alpha_s, sigma_s = (
            broadcast(v, x_t) for time in (t, s) for v in self.schedule(time)
        )
        keep = sigma_s / sigma_t
        share = alpha_s - alpha_t * keep
        x_s = keep * x_t + share * self.strong.denoise(x_t, t, condition)

        def up(x: Tensor) -> Tensor:
            eps = (x - alpha_t * self.weak.denoise(x, t, condition)) / sigma_t
            return alpha_t / alpha_s * x_s + (sigma_t - alpha_t / alpha_s * sigma_s) * eps

        limits = {"iterations": self.iterations, "memory": 1 if self.iterations == 1 else 3}
        back = fixed_point(up, x_s, tolerance=self.tolerance, **limits).x
        return self.prior.denoise(back, t, condition) + keep / share * (back - x_t)
