"""RF frames of a beating heart, without haze."""

from math import pi, sin

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.datasets.ultrasound.sector import Sector
from wellposed.datasets.ultrasound.simulation.heart import BASE, Heart, draw_heart
from wellposed.datasets.ultrasound.simulation.scatterers import Scatterers, echoes, lay, spread

PER_CELL = 20.0
"""Scatterers per resolution cell, enough for fully developed speckle."""

LEAFLET_POINTS = 200
LEAFLET_DB = -2.0

NOISE_DB = (-60.0, -50.0)
"""Range of the largest root mean square of the electronic noise, relative to the largest echo."""

NOISE_RISE_DB = 12.0
"""Increase of the noise by the time gain from the probe to the last sample."""


def render_beat(
    sector: Sector, frames: int | None, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return RF, cavity and myocardium of a random heart, (frames, 1, depths, beams) each.

    Args:
        sector: the grid.
        frames: frames per beat, from end-diastole; ``None`` for one frame at a random phase.
        rng: source of all random numbers.

    Returns:
        RF with largest magnitude 1, and two boolean masks.
    """
    heart, points = draw_heart(rng), spread(sector, PER_CELL, rng)
    noise_db = rng.uniform(*NOISE_DB)
    leaflets = torch.from_numpy(rng.standard_normal((2, 4, LEAFLET_POINTS), np.float32))
    phases = [rng.random()] if frames is None else [n / frames for n in range(frames)]
    level, blood = heart.level(points.radius, points.angle)
    place = heart.frame(points.radius, points.angle)
    rendered = []
    for phase in phases:
        radius, angle = heart.polar(*heart.moved(*place, phase))
        fresh = torch.from_numpy(rng.standard_normal(len(blood), np.float32))
        amplitude = torch.where(blood > 0.5, fresh, points.amplitude)  # blood streams
        gain = 10 ** ((level + heart.gain(radius, angle)) / 20)
        here = Scatterers(radius, angle, amplitude * gain)
        rf = echoes(here.join(valves(heart, leaflets, phase)), sector)
        rendered.append((rf, *regions(heart, place, here, sector)))
    rf, cavity, myocardium = (torch.cat(parts) for parts in zip(*rendered, strict=True))
    noise = torch.cat([electronic_noise(sector, rng) for _ in phases])
    rf = rf + 10 ** (noise_db / 20) * rf.abs().max() * noise
    return rf / rf.abs().max(), cavity, myocardium


def valves(heart: Heart, leaflets: Tensor, phase: float) -> Scatterers:
    """Return the two leaflets of each valve between ventricles and atria.

    Args:
        heart: the heart.
        leaflets: standard normal (2, 4, N): amplitudes, and distances of points from the middle of
            each leaflet.
        phase: phase of the beat; valves are open in diastole.
    """
    opening = 0.15 + 1.05 * max(0.0, sin(pi * (phase % 1 - 0.4) / 0.6))
    along = torch.linspace(0, 1, leaflets.shape[-1])
    right, _, _, left = heart.chambers
    ends = []
    for chamber in (left, right):
        base = BASE * left.semi[1]
        v = (base - chamber.centre[1]) / chamber.semi[1]
        half = chamber.semi[0] * max(0.2, 1 - v**2) ** 0.5
        for side in (-1, 1):
            p = chamber.centre[0] + side * half * (1 - along * np.cos(opening))
            ends.append((p, base - half * along * sin(opening)))
    p, q = (torch.stack(parts) for parts in zip(*ends, strict=True))
    p, q = heart.moved(p, q + 0.4 * leaflets[1], phase)
    radius, angle = heart.polar(p.flatten(), q.flatten())
    gain = 10 ** ((LEAFLET_DB + heart.gain(radius, angle)) / 20)
    return Scatterers(radius, angle, leaflets[0].flatten() * gain)


def regions(
    heart: Heart, place: tuple[Tensor, Tensor], here: Scatterers, sector: Sector
) -> tuple[Tensor, Tensor]:
    """Return masks (1, 1, depths, beams): well inside the left ventricle's blood and its wall.

    Args:
        heart: the heart.
        place: (p, q) of scatterers at end-diastole.
        here: their present positions.
        sector: the grid.
    """
    ventricle, (p, q) = heart.ventricle, heart.outlined(*place)
    d = ventricle.outside(p, q)
    above = q < 0.5 * ventricle.semi[1]  # the leaflets are below
    cavity = above & (d < -3)
    wall = above & (d > 0.2 * ventricle.wall) & (d < 0.8 * ventricle.wall)
    row = here.radius / sector.step_mm - 0.5
    column = here.angle / sector.step_radians + sector.beams / 2 - 0.5

    def density(label: Tensor) -> Tensor:
        counts = lay(row, column, label.to(p), (sector.depths, sector.beams))[None, None]
        return F.avg_pool2d(counts, (15, 5), 1, (7, 2))

    most = 0.95 * density(torch.ones_like(p))
    return density(cavity) > most, density(wall) > most


def electronic_noise(sector: Sector, rng: np.random.Generator) -> Tensor:
    """Return noise (1, 1, depths, beams) in the pulse's band, with unit variance at the end."""
    pulse = sector.pulse()
    pulse = (pulse / pulse.norm()).view(1, 1, -1, 1)
    white = rng.standard_normal((1, 1, sector.depths, sector.beams), np.float32)
    noise = F.conv2d(torch.from_numpy(white), pulse, padding=(pulse.shape[2] // 2, 0))
    rise = NOISE_RISE_DB * (sector.radii() / sector.depth_mm - 1)
    return noise * 10 ** (rise[:, None] / 20)
