"""The reverse diffusion of a prior alone, from any noise level down to the clean image."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from wellposed.noise import NoiseSource
from wellposed.priors.schedule import Schedule
from wellposed.solvers.transition import implied_noise, levels, transition, variance


def times_between(schedule: Schedule, high: float, low: float, steps: int) -> list[float]:
    """Return ``steps`` decreasing times from one noise level to another, and 0.

    Spaced as Karras et al. (2022, arXiv 2206.00364, eq. 5) space them, "poly-7" by default.

    Args:
        schedule: whose times; levels above its largest one become that.
        high: the first level, as ``sigma_t / alpha_t``.
        low: the last one.
        steps: number of times before 0; one where ``high`` is not above ``low``.
    """
    power, high = 1 / schedule.karras_rho, min(high, float(schedule.ratio(schedule.T)))
    steps = steps if high > low else 1
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    ratios = (high**power + ramp * (low**power - high**power)) ** schedule.karras_rho
    return [*schedule.time_at(ratios).tolist(), 0.0]


def reverse(
    denoise: Callable[[Tensor, float], Tensor],
    x_t: Tensor,
    schedule: Schedule,
    times: list[float],
    eta: float,
    noise: NoiseSource,
) -> Tensor:
    """Return a clean image from ``x_t`` by DDIM (Song, Meng and Ermon 2021, arXiv 2010.02502).

    Args:
        denoise: ``(x_t, t) -> E[x_0 | x_t]``, called once for each time but the last.
        x_t: noisy image at ``times[0]``.
        schedule: of the diffusion.
        times: decreasing, ending in 0.
        eta: 0 follows the probability flow by Euler steps, 1 draws from ``p(x_0 | x_t)`` by
            ancestral steps.
        noise: drawn from where ``eta`` is not 0.
    """
    for t, s in pairwise(times):
        x0 = denoise(x_t, t)
        if s == 0:
            break
        level = levels(schedule, t, s)
        z = noise.draw(x_t) if eta > 0 else torch.zeros_like(x_t)
        v = variance("markov", level, eta)
        x_t = transition(x0, implied_noise(x_t, x0, level), z, level, v)
    return x0
