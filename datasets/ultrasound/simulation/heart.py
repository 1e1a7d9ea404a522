"""A beating heart in the apical four-chamber view: echogenicity, regions and motion.

Positions are in mm in the heart's frame: q along the left ventricle from its apex (negative) to
the base, and p across, both from the centre of the ventricle. Properties belong to material points
at end-diastole; `Heart.moved` returns their positions during a beat.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOOD, MUSCLE, AROUND, CHEST, SURFACE = -45.0, -6.0, -24.0, -9.0, 6.0
"""Echo levels of tissues in dB, and the additional level of surfaces that face the beam."""

BASE = 0.72
"""Border of ventricle and atrium, from the centre in units of the long semi-axis."""

IRREGULAR = np.array([3.0, 1.5, 1.5])[:, None, None]
"""Standard deviation of the echogenicity in dB and of outlines across and along in mm."""

EDGE_MM = 0.4
"""Width of the transition between tissues."""


@dataclass(frozen=True)
class Chamber:
    """An ellipse of blood with a wall, in the heart's frame, mm."""

    centre: tuple[float, float]
    semi: tuple[float, float]
    wall: float

    def relative(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return (p, q) from the centre in units of the semi-axes."""
        return (p - self.centre[0]) / self.semi[0], (q - self.centre[1]) / self.semi[1]

    def outside(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the distance from the blood's edge along a ray from the centre, < 0 inside."""
        rho = torch.hypot(*self.relative(p, q)).clamp(min=1e-3)
        return (1 - 1 / rho) * torch.hypot(p - self.centre[0], q - self.centre[1])


@dataclass(frozen=True)
class Heart:
    """One person's heart and chest; see `draw_heart`.

    Attributes:
        place: centre of the left ventricle: mm beside the middle beam, and from the probe.
        tilt: tilt of its long axis, radians.
        chambers: right ventricle, right atrium, left atrium, left ventricle.
        contraction: fraction of the ventricle's area that a beat ejects.
        layers: depths of fasciae in the chest wall in mm; the last is the end of the wall.
        irregular: smooth random variation of the echogenicity in dB and of outlines in mm, (1, 3,
            n, n) over 200 mm.
        slope: attenuation that the time gain does not compensate, dB / mm.
        shadows: angles in radians beyond which ribs and lung block the beam, left and right.
    """

    place: tuple[float, float]
    tilt: float
    chambers: tuple[Chamber, Chamber, Chamber, Chamber]
    contraction: float
    layers: tuple[float, ...]
    irregular: Tensor
    slope: float
    shadows: tuple[float, float]

    @property
    def ventricle(self) -> Chamber:
        """The left ventricle."""
        return self.chambers[-1]

    def frame(self, radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Return (p, q) of positions given by the distance from the probe in mm and radians."""
        x, z = radius * angle.sin() - self.place[0], radius * angle.cos() - self.place[1]
        return x * cos(self.tilt) - z * sin(self.tilt), x * sin(self.tilt) + z * cos(self.tilt)

    def polar(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return (radius, angle) of positions in the heart's frame."""
        x = p * cos(self.tilt) + q * sin(self.tilt) + self.place[0]
        z = q * cos(self.tilt) - p * sin(self.tilt) + self.place[1]
        return torch.hypot(x, z), torch.atan2(x, z)

    def moved(self, p: Tensor, q: Tensor, phase: float) -> tuple[Tensor, Tensor]:
        """Return the position of a point at a phase of the beat, 0 to 1 from end-diastole.

        The motion preserves areas about the ventricle's centre, ``rho'^2 = rho^2 - k`` outside the
        blood, so that walls thicken as they contract. The base moves towards the apex, which is
        fixed. Points far from the ventricle and the chest wall do not move.
        """
        k = self.contraction * squeeze(phase)
        rho = torch.hypot(*self.ventricle.relative(p, q)).clamp(min=1e-3)
        reach = (-((rho - 1).clamp(min=0) ** 2) / 0.3).exp()
        reach = reach * torch.sigmoid(self.polar(p, q)[0] - self.layers[-1] - 3)
        factor = (1 - k * reach / rho.clamp(min=1) ** 2).sqrt()
        shift = self.ventricle.semi[1] * (1 - (1 - k) ** 0.5) * reach
        return p * factor, q * factor - shift

    def level(self, radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Return the echogenicity in dB, and the fraction of blood from 0 to 1."""
        p, q = self.frame(radius, angle)
        facing = self._facing(p, q, angle)
        varied = self._irregular(p, q)[0]
        p, q = self.outlined(p, q)
        level, blood = torch.full_like(p, AROUND), torch.zeros_like(p)
        epicardium = torch.full_like(p, torch.inf)
        for chamber in self.chambers:
            d = chamber.outside(p, q)
            here = torch.ones_like(p)
            if chamber is self.ventricle:  # it ends at the atrium
                here = torch.sigmoid((BASE * chamber.semi[1] - q) / EDGE_MM)
            epicardium = torch.minimum(epicardium, d - chamber.wall)
            wall = here * torch.sigmoid((chamber.wall - d) / EDGE_MM)
            rim = SURFACE * facing**4 * (-(((d - 0.8) / 0.8) ** 2)).exp()
            level = torch.lerp(level, MUSCLE - 5 * (1 - facing) + rim, wall)
            cavity = here * torch.sigmoid(-d / EDGE_MM)
            level = level + cavity * (BLOOD - level)
            blood = blood * (1 - wall) + cavity
        pericardium = (-(((epicardium - 1.2) / 0.9) ** 2)).exp()
        level = torch.lerp(level, MUSCLE + SURFACE * facing**2, pericardium)
        return self._chest(level, radius, angle) + varied, blood

    def outlined(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions at which to evaluate the ellipses, for irregular outlines."""
        _, across, along = self._irregular(p, q)
        return p + across, q + along

    def _facing(self, p: Tensor, q: Tensor, angle: Tensor) -> Tensor:
        """Return the cosine between the beam and the ventricle's normal, from 0 to 1."""
        (u, v), (a, b) = self.ventricle.relative(p, q), self.ventricle.semi
        u, v, beam = u / a, v / b, angle + self.tilt
        return (u * beam.sin() + v * beam.cos()).abs() / torch.hypot(u, v).clamp(min=1e-6)

    def _chest(self, level: Tensor, radius: Tensor, angle: Tensor) -> Tensor:
        """Return the level with the chest wall: fat and muscle between bright fasciae."""
        depth = radius * angle.cos() ** 0.5  # layers bend towards the probe
        end = self.layers[-1]
        level = level + torch.sigmoid((end - depth) / EDGE_MM) * (CHEST - level)
        for place in self.layers:
            level = level + SURFACE * (-(((depth - place) / 0.5) ** 2)).exp()
        return level

    def _irregular(self, p: Tensor, q: Tensor) -> Tensor:
        """Return the smooth random variation (3, N) at positions."""
        places = (torch.stack([p, q], -1) / 100).view(1, 1, -1, 2)
        varied = F.grid_sample(self.irregular, places, "bicubic", "reflection", align_corners=True)
        return varied[0, :, 0]

    def gain(self, radius: Tensor, angle: Tensor) -> Tensor:
        """Return the change in dB on the way to a position and back."""
        left, right = self.shadows
        lost = torch.sigmoid((angle - right) / 0.04) + torch.sigmoid((left - angle) / 0.04)
        return self.slope * (radius - self.place[1]) - 16 * lost * (radius / 15).clamp(max=1)


def squeeze(phase: float) -> float:
    """Return the contraction of the heart: 0 at end-diastole, 1 at end-systole (phase .35)."""
    phase = phase % 1
    half = phase / 0.7 if phase < 0.35 else 0.5 + (phase - 0.35) / 1.3
    return (1 - cos(2 * pi * half)) / 2


def draw_heart(rng: np.random.Generator) -> Heart:
    """Return a random heart, with realistic variation of sizes and positions."""
    u = rng.uniform
    a, b, wall = u(16, 24), u(32, 40), u(8, 12)
    base, atrium, right, right_atrium = BASE * b, u(15, 20), u(10, 15), u(13, 18)
    chambers = (
        Chamber((-(a + wall + 0.3 * right), 0.15 * b), (right, 0.68 * b), 3.5),
        Chamber((-(0.75 * a + right_atrium), base + 0.9 * right_atrium), (right_atrium,) * 2, 2.5),
        Chamber((0.1 * a, base + 0.85 * atrium), (u(0.8, 0.95) * a, atrium), 2.5),
        Chamber((0.0, 0.0), (a, b), wall),
    )
    end = u(9, 16)
    lost = [u(0.45, 0.9), u(0.45, 0.9)]
    return Heart(
        place=(u(-6, 10), end + u(6, 12) + wall + b),
        tilt=u(-0.25, 0.25),
        chambers=chambers,
        contraction=u(0.3, 0.45),
        layers=(*np.sort(u(2, end, 2)).tolist(), end),
        irregular=torch.from_numpy(rng.normal(0, IRREGULAR, (1, 3, 12, 12))).float(),
        slope=u(-0.12, 0.03),
        shadows=(-lost[0], lost[1]),
    )
