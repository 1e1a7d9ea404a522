"""Weights that mix two noises so that white noise stays white."""

import torch
from torch import Tensor

from wellposed.linalg import inner, norm


def slerp_weights(a: Tensor, b: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the weights of spherical interpolation of each item, two of shape (B,).

    ``sin((1 - s) w) / sin(w)`` and ``sin(s w) / sin(w)`` with the angle w between both; of nearly
    parallel or opposite ones the linear weights, divided by their norm for opposite ones.
    """
    cosine = inner(a, b) / (norm(a) * norm(b)).clamp(min=1e-300)
    angle = torch.arccos(cosine.clamp(-1, 1))
    linear = torch.full_like(angle, 1 - share), torch.full_like(angle, share)
    if share in (0, 1):
        return linear
    curved = angle.sin() > 1e-6
    safe = torch.where(curved, angle, 1.0)
    bent = [torch.sin(part * safe) / torch.sin(safe) for part in (1 - share, share)]
    return torch.where(curved, bent[0], linear[0]), torch.where(curved, bent[1], linear[1])
