"""Echoes of point scatterers, which form speckle."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.datasets.ultrasound.sector import Sector
from wellposed.errors import require

RATE = 2
"""Oversampling along the depth for placing scatterers."""


@dataclass(frozen=True, eq=False)
class Scatterers:
    """Points on a sector.

    Attributes:
        radius: distance from the probe in mm, (N,).
        angle: in radians, (N,).
        amplitude: strength of the echo, (N,).
    """

    radius: Tensor
    angle: Tensor
    amplitude: Tensor

    def join(self, other: "Scatterers") -> "Scatterers":
        """Return the points of both."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Scatterers(*(torch.cat(pair) for pair in pairs))


def spread(
    sector: Sector, per_cell: float, rng: np.random.Generator, beam_width: float | None = None
) -> Scatterers:
    """Return scatterers over a sector and slightly beyond, with normally distributed amplitudes.

    Args:
        sector: the grid.
        per_cell: mean number per resolution cell, pulse width x beam width, both at half maximum.
            2 give an envelope signal-to-noise ratio of 1.37, 30 give 1.87.
        rng: source of number, positions and amplitudes.
        beam_width: beam width of the cell; by default that of the sector.
    """
    require(per_cell > 0, "per_cell", per_cell, "a positive number")
    beam_width = beam_width or sector.beam_width
    rows = sector.depths + 2 * sector.pulse_width
    columns = sector.beams + 4 * beam_width
    count = rng.poisson(per_cell * rows * columns / (sector.pulse_width * beam_width))
    row = rng.random(count, np.float32) * rows
    column = (rng.random(count, np.float32) - 0.5) * columns
    amplitude = rng.standard_normal(count, np.float32)
    return Scatterers(
        torch.from_numpy(row) * sector.step_mm,
        torch.from_numpy(column) * sector.step_radians,
        torch.from_numpy(amplitude),
    )


def echoes(points: Scatterers, sector: Sector, beam_width: float | None = None) -> Tensor:
    """Return the RF frame of some scatterers, (1, 1, depths, beams).

    Each adds the pulse along the depth times the sensitivity over the beams. A constant
    sensitivity is a good approximation on a polar grid, far from the probe.

    Args:
        points: the scatterers.
        sector: the grid.
        beam_width: full width at half maximum in beams; by default that of the sector.
    """
    pulse, beam = sector.pulse(RATE), sector.beam(beam_width or sector.beam_width)
    above, beside = len(pulse) // 2, len(beam) // 2
    row = RATE * (points.radius / sector.step_mm - 0.5) + above
    column = points.angle / sector.step_radians + sector.beams / 2 - 0.5 + beside
    shape = (RATE * (sector.depths - 1) + 1 + 2 * above, sector.beams + 2 * beside)
    field = lay(row, column, points.amplitude, shape)[None, None]
    # The narrow direction first, which leaves fewer samples for the other.
    field = F.conv2d(field, beam.view(1, 1, 1, -1))
    return F.conv2d(field, pulse.view(1, 1, -1, 1), stride=(RATE, 1))


def lay(row: Tensor, column: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a grid on which each value is distributed over the four nearest samples.

    Args:
        row: row positions in samples, (N,); points outside the grid are ignored.
        column: column positions in samples, (N,).
        values: values, (N,).
        shape: shape of the grid.
    """
    height, width = shape
    grid = values.new_zeros(height * width)
    top, left = row.floor(), column.floor()
    for i, down in ((top, 1 - (row - top)), (top + 1, row - top)):
        for j, along in ((left, 1 - (column - left)), (left + 1, column - left)):
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            index = torch.where(inside, i * width + j, 0).long()
            grid.index_add_(0, index, torch.where(inside, down * along * values, 0))
    return grid.view(height, width)
