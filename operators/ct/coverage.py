"""Which rays a circular scan measures, how often, and how much each datum counts for that.

A ray is seen a second time from the other side: in a fan the one at the angle gamma from the
central ray of the view theta is that at -gamma of the view ``theta + 180 degrees - 2 gamma``.
Scans over 180 degrees and the fan angle (short scans), and detectors that see little more than
half of the object (half fans), measure some rays twice and others once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

WEDGE = 4.0
"""A gap this many times as large as usual ones, and as those beside it, was not measured."""


@dataclass(frozen=True)
class Coverage:
    """The rays of a scan: views, and a detector from one edge to the other.

    Args:
        angles: of the views, in degrees.
        edges: places of the detector's two edges. Of a fan they are angles from the central ray in
            radians; of parallel beams lengths along the detector.
        is_parallel: whether the rays of a view are parallel.
    """

    angles: tuple[float, ...]
    edges: tuple[float, float]
    is_parallel: bool = False

    @cached_property
    def span(self) -> float:
        """Angle after which the same views come again, in radians.

        Half a turn for parallel beams, unless they are seen from both sides and the detector does
        not see as far to the left as to the right.
        """
        left, right = self.edges
        one_sided = not self.is_parallel or abs(left + right) > 1e-9 * (right - left)
        both = bool((_gaps(self.angles, 2 * math.pi)[1] < math.pi - 1e-9).all())
        return 2 * math.pi if one_sided and (both or not self.is_parallel) else math.pi

    def unseen(self, offset: float, bin_size: float) -> tuple[int, int]:
        """Return how many bins the detector lacks to the left and to the right to be symmetric.

        Rays there are seen from the other side alone, but filtered data reach beyond the detector
        to the pixels that such rays meet.
        """
        if self.span < 2 * math.pi:
            return 0, 0
        lack = math.ceil(2 * abs(offset) / bin_size - 1e-9)
        return (lack, 0) if offset > 0 else (0, lack)

    @property
    def from_all_sides(self) -> bool:
        """Whether no wedge of views is missing, see `WEDGE`."""
        return not bool(self._wedges.any())

    @cached_property
    def view_weights(self) -> Tensor:
        """The angle each view stands for, in radians, float64 (views,): half the gap to each side.

        Together pi for rays from all sides. Beside a wedge that was not measured a view counts as
        if the gap was the usual one.
        """
        _, gaps, order = self._gaps
        gaps = torch.where(self._wedges, self._usual, gaps)
        weights = torch.empty_like(gaps)
        weights[order] = (gaps + gaps.roll(1)) / 2
        # Over its full turn a fan sees every ray twice.
        return weights * (math.pi / self.span)

    def redundancy(self, places: Tensor) -> Tensor:
        """Return how much data count by how often their rays are measured, float64 (views, n).

        1 where each ray is seen twice by detectors that see both sides alike; from 0 to 2 else,
        smoothly, so that the two data of a ray have the sum 2, and what is measured once has 2.
        The partition is that of the distances to the ends of the scan and of the detector; for
        the shortest scans nearly Parker's weights, 1982, https://doi.org/10.1118/1.595078.

        Args:
            places: of the bins, as ``edges``, (n,).
        """
        if self.span < 2 * math.pi:
            return torch.ones(len(self.angles), len(places), dtype=torch.float64)
        theta = torch.deg2rad(torch.tensor(self.angles, dtype=torch.float64))[:, None]
        here = self._confidence(theta, places)
        there = self._confidence(*self._opposite(theta, places))
        share = here / (here + there).clamp(min=torch.finfo(here.dtype).tiny)
        return 2 * share.square() * (3 - 2 * share)

    def measures(self, theta: Tensor, places: Tensor) -> Tensor:
        """Tell which rays of views at ``theta`` radians are measured, from here or from beyond."""
        left, right = self.edges
        edge = 1e-6 * (right - left)
        inside = (left - edge <= places) & (places <= right + edge)
        if self.span < 2 * math.pi:
            return inside
        return inside | (self._confidence(*self._opposite(theta, places)) > 0)

    def _opposite(self, theta: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return view and place of the same rays, seen from the other side."""
        return theta + math.pi - (0 if self.is_parallel else 2) * places, -places

    def _confidence(self, theta: Tensor, places: Tensor) -> Tensor:
        """Return how far inside the measured data rays are: 0 at their ends and beyond."""
        left, right = self.edges
        across = torch.minimum(places - left, right - places).clamp(min=0)
        return self._from_the_ends(theta) * across

    def _from_the_ends(self, theta: Tensor) -> Tensor:
        """Return how far views are from the next wedge, in radians; 1 where there is none."""
        starts, gaps, _ = self._gaps
        distance = torch.full_like(theta, math.inf)
        for start, gap in zip(starts[self._wedges], gaps[self._wedges], strict=True):
            beyond = (theta - start - self._usual / 2).remainder(2 * math.pi)
            wide = (gap - self._usual).clamp(min=0)
            inside = torch.minimum(beyond - wide, 2 * math.pi - beyond).clamp(min=0)
            distance = torch.minimum(distance, inside)
        return torch.where(distance.isinf(), 1.0, distance)

    @cached_property
    def _gaps(self) -> tuple[Tensor, Tensor, Tensor]:
        return _gaps(self.angles, self.span)

    @cached_property
    def _usual(self) -> Tensor:
        gaps = self._gaps[1]
        return gaps[gaps > 1e-9].median()

    @cached_property
    def _wedges(self) -> Tensor:
        """Gaps that were not measured: far larger than nearly all others and than those beside."""
        gaps = self._gaps[1]
        ordered = gaps[gaps > 1e-9].sort().values
        large = ordered[int(0.9 * (len(ordered) - 1))]
        beside = torch.maximum(gaps.roll(1), gaps.roll(-1))
        return gaps > WEDGE * torch.maximum(large, beside)


def _gaps(angles: Sequence[float], span: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return views in radians within a span, sorted, the gap after each, and their order."""
    theta = torch.deg2rad(torch.tensor(angles, dtype=torch.float64)).remainder(span)
    # Rounding may put 180 degrees just below the span instead of at 0.
    theta, order = torch.where(theta > span - 1e-9, 0, theta).sort()
    return theta, torch.cat([theta.diff(), theta[:1] + span - theta[-1:]]), order
