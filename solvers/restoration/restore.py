"""Restoration of photographs of any size with a trained restorer."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from wellposed.checks import require_integer
from wellposed.reconstruction import Reconstruction

if TYPE_CHECKING:
    from deepinv.physics import Physics

    from wellposed.priors import Prior
    from wellposed.solvers.restoration.base import Restoration

TILE = 512
"""Side of the tiles of larger images, in pixels of the restored image."""


def default_sampler(restorer: "Prior") -> "type[Restoration]":
    """Return the sampler that suits how a restorer was trained.

    This is the MR Sampler for networks of IR-SDE, whose input is ``x_t - m``, ResShift's chain for
    networks with its scaled input, and RDDM for the others.
    """
    from wellposed.solvers import RDDM, MRSampler, ResShift

    kinds: dict[str, type[Restoration]] = {
        "difference": MRSampler,
        "latent": ResShift,
        "pixel": ResShift,
    }
    return RDDM if restorer.anchor is None else kinds.get(restorer.anchor.input, RDDM)


def default_steps(restorer: "Prior", sampler: "type[Restoration]") -> int:
    """Return a sampler's own number of steps, at most that of the process: ResShift's 15 or 4."""
    T = restorer.schedule.T
    return min(sampler.steps, T) if isinstance(T, int) else sampler.steps


def enlarged(image: Tensor, restorer: "Prior") -> Tensor:
    """Return degraded images enlarged to the restored size, bicubic, clipped to [0, 1]."""
    if restorer.anchor is None or restorer.upsample == 1:
        return image
    return restorer.anchor.enlarge(image).clamp(0, 1)


def restore(
    image: Tensor,
    restorer: "Prior",
    sampler: "Restoration",
    operator: "Physics | None" = None,
    num_samples: int = 1,
    seed: int | None = None,
    tile: int = TILE,
) -> Reconstruction:
    """Restore degraded images of any size.

    Images with a restored side above ``tile`` are processed in tiles, see `Patchwise`. Images
    whose sides do not fit the latents are padded by reflection at the right and at the bottom, and
    the result is cropped. Values are clipped to [0, 1].

    Args:
        image: degraded photographs (B, C, h, w) in [0, 1].
        restorer: the restorer.
        sampler: a restoration sampler.
        operator: the degradation, for data steps.
        num_samples: samples per image.
        seed: see `Solver.__call__`.
        tile: side of the tiles, at least 64.

    Raises:
        ArgumentError, ShapeError and others: see `Solver.__call__`.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> from wellposed.solvers import MRSampler
        >>> from wellposed.solvers.restoration.restore import restore
        >>> restorer = priors.load("irsde-deblur")
        >>> restore(torch.rand(1, 3, 13, 18), restorer, MRSampler(steps=3), seed=0).mean.shape
        torch.Size([1, 3, 13, 18])
    """
    from wellposed.priors import Patchwise
    from wellposed.priors.networks.layers import pad

    tile = require_integer("tile", tile, 64)
    scale, factor = restorer.upsample, restorer.factor
    height, width = (scale * n for n in image.shape[-2:])
    if max(height, width) > tile:
        restorer = Patchwise(restorer, tile, tile // 4)
    # Padded to the smallest size that gives whole latents after enlarging.
    image = pad(image, factor // math.gcd(factor, scale))
    result = sampler(image, operator, restorer, num_samples=num_samples, seed=seed)
    return replace(result, samples=result.samples[..., :height, :width].clamp(0, 1))
