"""Times of the MR Sampler."""

import numpy as np
import torch
from torch import Tensor

from wellposed.priors.schedule import Schedule

GRIDS = ("linspace", "linear-lambda", "karras-n", "karras-t", "leading", "trailing")
RHO = 7.0


def grid(schedule: Schedule, steps: int, spacing: str, published: bool = False) -> Tensor:
    """Return the ``steps + 1`` decreasing times of a published grid, the last one being 0.

    Times are integers if the schedule is discrete: "leading" has multiples of
    ``T // (steps + 1)`` and "karras-t" goes to time 1. The grids in ``sigma / alpha`` go down to
    the ratio of ``t = 0``, or, if this is 0, to the smallest ratio of the schedule and then to 0.

    Args:
        schedule: the schedule.
        steps: number of steps.
        spacing: one of `GRIDS`.
        published: keep the last times of "trailing" and "karras-t" instead of 0, and let the
            grids in ``sigma / alpha`` be linear between the integer times of a discrete schedule.
    """
    T, left = schedule.T, torch.arange(steps, -1, -1, dtype=torch.float64)
    whole = isinstance(T, int)
    if spacing == "linspace":
        times = T * left / steps
    elif spacing == "leading":
        size = T // (steps + 1) if whole else T / (steps + 1)
        times = (size or T / (steps + 1)) * left
    elif spacing == "trailing":
        times = T * (left + 1) / (steps + 1)
    elif spacing == "karras-t":
        last = 1.0 if whole else float(schedule.time_at(schedule.min_ratio))
        times = _rho(T, last, 1 - left / steps)
    else:
        times = _by_ratio(schedule, steps, spacing, published)
    ends_early = published and spacing in ("trailing", "karras-t")
    return torch.cat([times[:-1].clamp(max=T), times[-1:] if ends_early else times.new_zeros(1)])


def _by_ratio(schedule: Schedule, steps: int, spacing: str, published: bool) -> Tensor:
    """Return times spaced in ``sigma / alpha``: geometrically, or as Karras et al. do."""
    low, high = float(schedule.ratio(0.0)), float(schedule.ratio(schedule.T))
    if low == 0:
        return schedule.times(steps, "karras" if spacing == "karras-n" else "geometric")
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    ratios = _rho(high, low, u) if spacing == "karras-n" else high * (low / high) ** u
    if not published or not isinstance(schedule.T, int):
        return schedule.time_at(ratios)
    times = torch.arange(schedule.T + 1, dtype=torch.float64)
    table = schedule.ratio(times)
    if spacing == "linear-lambda":
        ratios, table = ratios.log(), table.log()
    return torch.from_numpy(np.interp(ratios, table, times))


def _rho(high: float, low: float, u: Tensor) -> Tensor:
    power = 1 / RHO
    ratios: Tensor = (high**power + u * (low**power - high**power)) ** RHO
    return ratios
