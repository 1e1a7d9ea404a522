"""A measured problem, scaled so that priors of images in about [0, 1] fit it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed import operators
from wellposed.cli.settings import InputOptions
from wellposed.errors import require
from wellposed.operators.base import LinearOperator
from wellposed.units import Units

BRIGHT = 0.998
"""Quantile of a plain image that becomes 1, as priors expect."""


@dataclass(frozen=True, eq=False)
class ScanTask:
    """A measured problem, scaled so that the image lies in about [0, 1].

    Attributes:
        y: measurement (1, ...).
        operator: what measured it.
        truth: the file's own image, or that of all data, (1, 1, ...), or None.
        units: what the image's values are in the file.
        crop: (h, w) of the image that is written, or None for all of it.
    """

    y: Tensor
    operator: LinearOperator
    truth: Tensor | None
    units: Units
    crop: tuple[int, int] | None = None


def assembled(
    y: Tensor, operator: LinearOperator, truth: Tensor | None, units: Units, o: InputOptions
) -> ScanTask:
    """Return slices (D, K, ...) as the volume that they are, or the only one as an image."""
    if not o.volume:
        return ScanTask(y, operator, truth, units)
    whole = None if truth is None else truth.transpose(0, 1)[None]
    stacked = operators.Stacked(operator, len(y))
    return ScanTask(y.transpose(0, 1)[None].contiguous(), stacked, whole, units)


def brightness(images: Tensor) -> float:
    """Return the value of plain images that becomes 1."""
    values = images.abs().flatten()
    values = values[:: max(1, len(values) // 1_000_000)]
    bright = float(torch.quantile(values, BRIGHT))
    require(bright > 0, "input", "only zeros", "a measurement")
    return bright
