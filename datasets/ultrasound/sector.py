"""The polar grid of a phased array, and its pulse."""

from dataclasses import dataclass
from math import ceil, log, pi, radians, sqrt

import torch
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import require

SOUND_MM_PER_US = 1.54
"""Speed of sound in soft tissue."""

FWHM = 2 * sqrt(2 * log(2))
"""Full width at half maximum of a Gaussian of standard deviation 1."""


@dataclass(frozen=True, kw_only=True)
class Sector:
    """Depth x beam samples of a phased array whose beams leave one point at equal angles.

    The defaults are for an apical view of the heart. RF frames on the grid are (B, 1, depths,
    beams); sample (i, j) is in the middle of its cell, at ``radii()[i]`` and ``angles()[j]``.

    Args:
        depths: samples along a beam.
        beams: number of beams.
        depth_mm: length of the beams.
        degrees: angle between the outer edges of the first and the last beam.
        centre_mhz: centre frequency of the pulse.
        bandwidth: full width of its spectrum at half maximum (-6 dB), over the centre frequency.
        beam_width: full width of a beam's sensitivity at half maximum, in beams.

    Raises:
        ArgumentError: a value is out of range, or there are too few depths for the pulse.

    Example:
        >>> from wellposed import datasets
        >>> sector = datasets.Sector(depths=1024, beams=64, depth_mm=140.0, degrees=75.0)
        >>> sector.radii().shape, sector.angles().shape
        (torch.Size([1024]), torch.Size([64]))
    """

    depths: int = 1024
    beams: int = 128
    depth_mm: float = 140.0
    degrees: float = 75.0
    centre_mhz: float = 1.7
    bandwidth: float = 0.6
    beam_width: float = 3.5

    def __post_init__(self) -> None:
        require_integer("depths", self.depths, 8)
        require_integer("beams", self.beams, 8)
        for name in ("depth_mm", "centre_mhz", "beam_width"):
            value = getattr(self, name)
            require(0 < value < float("inf"), name, value, "a positive number")
        require(0 < self.degrees < 180, "degrees", self.degrees, "a number in (0, 180)")
        require(0 < self.bandwidth < 2, "bandwidth", self.bandwidth, "a number in (0, 2)")
        highest = self.centre_mhz * (1 + self.bandwidth / 2)
        least = round(4 * highest * self.depth_mm / SOUND_MM_PER_US + 0.5)
        require(self.depths >= least, "depths", self.depths, f"at least {least} for this pulse")

    @property
    def step_mm(self) -> float:
        """Distance between samples along a beam."""
        return self.depth_mm / self.depths

    @property
    def step_radians(self) -> float:
        """Angle between beams."""
        return radians(self.degrees) / self.beams

    @property
    def sampling_mhz(self) -> float:
        """Sampling frequency: sound travels the distance between two samples twice."""
        return SOUND_MM_PER_US / (2 * self.step_mm)

    @property
    def pulse_width(self) -> float:
        """Full width at half maximum of the pulse's envelope, in samples."""
        std_us = sqrt(2 * log(2)) / (pi * self.bandwidth * self.centre_mhz)
        return FWHM * std_us * self.sampling_mhz

    def radii(self) -> Tensor:
        """Return the depths of the samples in mm, float32 (depths,)."""
        return (torch.arange(self.depths) + 0.5) * self.step_mm

    def angles(self) -> Tensor:
        """Return the angles of the beams in radians, 0 straight ahead, float32 (beams,)."""
        return (torch.arange(self.beams) + 0.5 - self.beams / 2) * self.step_radians

    def pulse(self, rate: int = 1) -> Tensor:
        """Return the pulse at an odd number of samples, a cosine under a Gaussian; peak 1.

        Args:
            rate: samples per sample of the grid.
        """
        std = rate * self.pulse_width / FWHM
        t = _around_zero(std)
        cycles = self.centre_mhz / self.sampling_mhz / rate
        return (2 * pi * cycles * t).cos() * (-0.5 * (t / std) ** 2).exp()

    def beam(self, width: float) -> Tensor:
        """Return a beam's Gaussian sensitivity at an odd number of beams, peak 1.

        Args:
            width: full width at half maximum, in beams.
        """
        std = width / FWHM
        return (-0.5 * (_around_zero(std) / std) ** 2).exp()


def _around_zero(std: float) -> Tensor:
    """Return the integers at which a Gaussian is above 1e-4 of its peak."""
    reach = ceil(4.3 * std)
    return torch.arange(-reach, reach + 1, dtype=torch.float32)
