"""Haze: late echoes from reverberation in front of the heart.

Reverberation in the chest wall superimposes echoes of the near field on deeper regions. These
echoes are sparse and out of focus: Byram and Shu, "Pseudononlinear ultrasound simulation approach
for reverberation clutter", 2016, doi 10.1117/1.JMI.3.4.046005, measured an envelope
signal-to-noise ratio of 1.40, which 2 scatterers per resolution cell have, and exponentially
distributed delays with mean 5 mm. Haze covers the near half and fades with depth: Fatemi et al.,
"Studying the origin of reverberation clutter in echocardiography", 2019,
doi 10.1016/j.ultrasmedbio.2019.01.010.
"""

from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.datasets.ultrasound.sector import FWHM, Sector
from wellposed.datasets.ultrasound.simulation.scatterers import Scatterers, echoes, spread

PER_CELL = 2.0
BEAMS = (3.0, 5.0)
"""Range of the lateral width of the sensitivity, in beams; 1.5 for tissue."""

PATHS_PER_CELL = 0.5
"""Paths per resolution cell in `repeat_tissue`, for a realistic decorrelation of clutter."""

DELAY_MM = 5.0
FADING_MM = (35.0, 60.0)
"""Depth over which haze falls to 1 / e."""

LAYERS_MM = (6.0, 18.0)
"""Range of the depths of the reflecting layers."""

ORDERS = 6
BOUNCE = 0.55
"""Amplitude factor of one more round trip."""

BAND_POINTS = 500
BAND_DB = 6.0
"""Scatterers per order of a layer's echo, and their level above those of the veil."""


def simulate_haze(sector: Sector, rng: np.random.Generator) -> Tensor:
    """Return haze (1, 1, depths, beams) with root mean square 1.

    It consists of a veil of sparse scatterers, which rises behind the chest wall, fades with depth
    and covers a part of the sector, and of bands from two to four layers at multiples of their
    depths, which become weaker with the order and are smeared by late arrivals.
    """
    beam_width = FWHM * rng.uniform(*BEAMS)
    points = spread(sector, PER_CELL, rng, beam_width)
    for layer in rng.uniform(*LAYERS_MM, rng.integers(2, 5)):
        points = points.join(_bands(float(layer), sector, rng))
    weight = _fading(points.radius, rng) * _lobes(points.angle, sector, rng)
    points = Scatterers(points.radius, points.angle, points.amplitude * weight)
    haze = echoes(points, sector, beam_width)
    return haze / haze.square().mean().sqrt()


def repeat_tissue(tissue: Tensor, sector: Sector, rng: np.random.Generator) -> Tensor:
    """Return haze made from the tissue: its echoes repeated later and out of focus.

    The echo of every scatterer is repeated at exponentially distributed distances behind it, and
    again after a reflection at a layer in the chest wall. The haze moves with the tissue.

    Args:
        tissue: RF (frames, 1, depths, beams).
        sector: its grid.
        rng: source of the random paths, the same in all frames.

    Returns:
        Haze of the shape of ``tissue``, with root mean square 1 over all frames.
    """
    reach = ceil(8 * DELAY_MM / sector.step_mm)
    mean = DELAY_MM / sector.step_mm
    hits = rng.random((reach, sector.beams)) < PATHS_PER_CELL / sector.pulse_width
    strength = rng.standard_normal(hits.shape) * np.exp(-0.5 * np.arange(reach) / mean)[:, None]
    paths = torch.from_numpy((hits * strength).astype(np.float32))
    late = round(rng.uniform(*LAYERS_MM) / sector.step_mm)
    paths = F.pad(paths, (0, 0, 0, late)) + BOUNCE * F.pad(paths, (0, 0, late, 0))
    length = sector.depths + len(paths)
    spectrum = torch.fft.rfft(tissue, length, dim=-2) * torch.fft.rfft(paths, length, dim=0)
    haze = torch.fft.irfft(spectrum, length, dim=-2)[..., : sector.depths, :]
    beam = sector.beam(FWHM * rng.uniform(*BEAMS)).view(1, 1, 1, -1)
    haze = F.conv2d(haze, beam, padding=(0, beam.shape[-1] // 2))
    haze = haze * _fading(sector.radii(), rng)[:, None]
    return haze / haze.square().mean().sqrt()


def _bands(layer: float, sector: Sector, rng: np.random.Generator) -> Scatterers:
    """Return scatterers at multiples of a layer's depth, an exponential delay behind each."""
    shape = (ORDERS, BAND_POINTS)
    order = np.arange(1, ORDERS + 1)[:, None]
    radius = order * layer + rng.exponential(DELAY_MM, shape) * np.sqrt(order) / 2
    angle = rng.uniform(-0.6, 0.6, shape) * sector.beams * sector.step_radians
    amplitude = rng.standard_normal(shape) * BOUNCE ** (order - 1) * 10 ** (BAND_DB / 20)
    values = (radius, angle, amplitude)
    return Scatterers(*(torch.from_numpy(v.ravel().astype(np.float32)) for v in values))


def _fading(radius: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the amplitude over the depth in mm, which rises and then decays exponentially."""
    start, over = rng.uniform(6, 20), rng.uniform(*FADING_MM)
    return torch.sigmoid((radius - start) / 4) * (-radius / over).exp()


def _lobes(angle: Tensor, sector: Sector, rng: np.random.Generator) -> Tensor:
    """Return the amplitude over the beams: two smooth lobes over a floor."""
    u = angle / (sector.beams * sector.step_radians)
    centre, width = rng.uniform(-0.5, 0.5, 2), rng.uniform(0.12, 0.35, 2)
    lobes: list[Tensor] = [
        (-0.5 * ((u - c) / w) ** 2).exp() for c, w in zip(centre, width, strict=True)
    ]
    return 0.2 + lobes[0] + lobes[1]
