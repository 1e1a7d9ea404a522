"""Samples of a prior itself, without a measurement."""

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.noise import ItemNoise
from wellposed.priors.prior import Prior
from wellposed.solvers.reverse import reverse
from wellposed.solvers.transition import starting_std


@torch.no_grad()
def sample(
    prior: Prior,
    count: int,
    image_size: tuple[int, ...],
    *,
    steps: int = 50,
    eta: float = 0.0,
    spacing: str = "karras",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return ``count`` samples of a prior, by DDIM (Song, Meng and Ermon 2021, arXiv 2010.02502).

    Args:
        prior: the prior; its channels must be known.
        count: number of samples; each is the same in any number of them.
        image_size: (H, W).
        steps: network evaluations.
        eta: 0 is deterministic, 1 is DDPM.
        spacing: of the steps, see `Schedule.times`.
        seed: decides the samples.
        device: where the prior lives.

    Raises:
        ArgumentError: an impossible argument, or a prior of any number of channels.

    Returns:
        Images (count, C, H, W) in public values.
    """
    require(prior.channels is not None, "prior", "any number of channels", "a known number")
    require(isinstance(count, int) and count >= 1, "count", count, "an integer of at least 1")
    pair = len(image_size) == 2 and all(isinstance(n, int) and n >= 1 for n in image_size)
    require(pair, "image_size", image_size, "two positive integers (H, W)")
    schedule, noise = prior.schedule, ItemNoise(seed, [(n,) for n in range(count)])
    times = schedule.times(steps, spacing).tolist()
    dtype = torch.complex64 if prior.is_complex else torch.float32
    x = torch.zeros(count, prior.channels or 1, *image_size, dtype=dtype, device=device)
    x = starting_std(schedule, times[0]) * noise.draw(x)
    x0 = reverse(prior.denoise, x, schedule, times, eta, noise)
    return x0 * prior.scale + prior.centre
