"""The reverse diffusion of a prior, from any noise level, and samples of the prior."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from wellposed.checks import Seed
from wellposed.errors import require
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.priors.anchor import Degraded, degraded_of
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import Schedule
from wellposed.priors.skip import Skip
from wellposed.priors.transition import implied_noise, levels, starting_std, transition, variance


def times_between(schedule: Schedule, high: float, low: float, steps: int) -> list[float]:
    """Return ``steps`` decreasing times from one noise level to another, and 0.

    They are spaced as in Karras et al. (2022, arXiv 2206.00364, eq. 5), with exponent 7.

    Args:
        schedule: the schedule; levels above its largest level are reduced to it.
        high: the first level, as ``sigma_t / alpha_t``.
        low: the last level.
        steps: number of times before 0; one if ``high`` is not above ``low``.
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
    anchor: Tensor | float = 0.0,
) -> Tensor:
    """Return a clean image from ``x_t`` by DDIM (Song, Meng and Ermon 2021, arXiv 2010.02502).

    Args:
        denoise: ``(x_t, t) -> E[x_0 | x_t]``, called once for each time but the last.
        x_t: noisy image at ``times[0]``.
        schedule: schedule of the diffusion.
        times: decreasing times, ending in 0.
        eta: 0 follows the probability flow by Euler steps, 1 samples ``p(x_0 | x_t)`` by ancestral
            steps.
        noise: source of the fresh noise; not used if ``eta`` is 0.
        anchor: ``m`` of the diffusion.
    """
    for t, s in pairwise(times):
        x0 = denoise(x_t, t)
        if s == 0:
            break
        level = levels(schedule, t, s)
        z = noise.draw(x_t) if eta > 0 else torch.zeros_like(x_t)
        v = variance("markov", level, eta)
        x_t = transition(x0, implied_noise(x_t, x0, level, anchor), z, level, v, anchor)
    return x0


@torch.no_grad()
def restored(prior: Prior, condition: Degraded | Tensor, steps: int = 5, seed: Seed = 0) -> Tensor:
    """Return degraded images restored by DDIM, in public values.

    Args:
        prior: a prior with an anchor.
        condition: made by ``prior.degraded(image)``, or the anchor alone, see `Prior.denoise`.
        steps: network evaluations, at most the steps of the process.
        seed: seed of the initial noise.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> from wellposed.priors.sampling import restored
        >>> restorer = priors.load("irsde-deblur")
        >>> restored(restorer, restorer.degraded(torch.rand(1, 3, 16, 16)), steps=3).shape
        torch.Size([1, 3, 16, 16])
    """
    m, schedule = degraded_of(condition).anchor, prior.schedule
    times = schedule.times(min(steps, math.ceil(schedule.T)), "trailing").tolist()
    noise = ItemNoise(seed, [(n,) for n in range(len(m))])
    x_T = m + schedule.terminal_std * noise.draw(m)
    denoise = partial(prior.denoise, condition=condition)
    return prior.to_public(reverse(denoise, x_T, schedule, times, 0.0, noise, m))


@torch.no_grad()
def sample(  # noqa: PLR0913 - the options of a run are its signature
    prior: Prior,
    count: int,
    image_size: tuple[int, ...],
    *,
    steps: int = 50,
    eta: float = 0.0,
    spacing: str = "karras",
    seed: Seed = 0,
    device: torch.device | str = "cpu",
    skip: Skip | None = None,
) -> Tensor:
    """Return ``count`` samples of a prior, by DDIM (Song, Meng and Ermon 2021, arXiv 2010.02502).

    Args:
        prior: the prior; its channels must be known.
        count: number of samples; sample n does not depend on it.
        image_size: (H, W).
        steps: network evaluations.
        eta: 0 is deterministic, 1 is DDPM.
        spacing: spacing of the times, see `Schedule.times`.
        seed: seed of the samples.
        device: device of the prior.
        skip: leaves out the noisiest steps, whose result a Gaussian gives without network calls.

    Raises:
        ArgumentError: an invalid argument, or a prior whose channels are not known.

    Returns:
        Images (count, C, H, W) in public values.

    Example:
        >>> from wellposed import priors
        >>> from wellposed.priors.sampling import sample
        >>> sample(priors.load("natural"), count=2, image_size=(16, 16), steps=4, seed=0).shape
        torch.Size([2, 3, 16, 16])
    """
    require(prior.anchor is None, "prior", "a prior with an anchor", "a plain prior")
    accepted = "a prior with a known number of channels"
    require(prior.channels is not None, "prior", "any number of channels", accepted)
    require(isinstance(count, int) and count >= 1, "count", count, "an integer of at least 1")
    pair = len(image_size) == 2 and all(isinstance(n, int) and n >= 1 for n in image_size)
    require(pair, "image_size", image_size, "two positive integers (H, W)")
    schedule, noise = prior.schedule, ItemNoise(seed, [(n,) for n in range(count)])
    times = schedule.times(steps, spacing).tolist()
    dtype = torch.complex64 if prior.is_complex else torch.float32
    x = torch.zeros(count, prior.channels or 1, *image_size, dtype=dtype, device=device)
    x = starting_std(schedule, times[0]) * noise.draw(x)
    if skip is not None:
        top, times = times[0], skip.times(schedule, times)
        x = skip.jump(x, schedule, top, times[0])
    x0 = reverse(prior.denoise, x, schedule, times, eta, noise)
    return prior.to_public(x0)
