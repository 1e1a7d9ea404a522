"""Scanner geometries in the plane, and the projection of a pixel on the detector.

For the conventions of other packages see `conventions`.

Conventions, shared by all operators here:

- The origin is the rotation centre, in the middle of the image: row (H-1)/2, column (W-1)/2.
  Column j is at ``X = (j - (W-1)/2) pixel_size``, row i at ``Y = ((H-1)/2 - i) pixel_size``: X
  points right, Y up, although rows count down.
- A view at angle theta, counter-clockwise in degrees, looks along ``d = (-sin theta, cos theta)``
  and orders its rays along ``u = (cos theta, sin theta)``. At 0 degrees the bins of a parallel
  beam run with the columns, at 90 degrees from the bottom row to the top one.
- The source of a fan beam is at ``-source_distance d``, its detector at
  ``(detector_distance - source_distance) d``: distances are from the source.
- Bin k of B is centred at ``(k - (B-1)/2) bin_size + offset`` along the detector, 0 being where
  the ray through the rotation centre hits it.
"""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from wellposed.checks import Count, Positive, check_fields
from wellposed.operators.ct.coverage import Coverage


@dataclass(frozen=True)
class Detector:
    """A line of equal bins.

    Args:
        bins: number of bins; by default enough to cover the image.
        bin_size: width of a bin along the detector, in the unit of ``pixel_size``; by default the
            magnified pixel size.
        offset: position of the detector's middle relative to the central ray; if the rotation
            centre projects to bin c of B, ``offset = ((B - 1) / 2 - c) bin_size``.
        curved: bins lie on an arc around the source (fan beams) instead of on a line.

    Example:
        >>> from wellposed import operators
        >>> detector = operators.Detector(bins=64, offset=0.5)
        >>> operators.ParallelBeamCT(32, angles=60, detector=detector).measurement_size
        (1, 60, 64)
    """

    bins: Count | None = None
    bin_size: Positive | None = None
    offset: float = 0.0
    curved: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Geometry:
    """A scan in the plane: image, views and detector; see the module for conventions.

    Args:
        image_size: (H, W).
        angles: view angles in degrees.
        pixel_size: side of a pixel.
        detector: the detector, with known bins and bin size.
        source_distance: source to rotation centre; infinite for a parallel beam.
        detector_distance: source to detector; infinite for a parallel beam.
    """

    image_size: tuple[int, int]
    angles: tuple[float, ...]
    pixel_size: float
    detector: Detector
    source_distance: float = math.inf
    detector_distance: float = math.inf

    @property
    def is_parallel(self) -> bool:
        """Whether all rays of a view are parallel."""
        return math.isinf(self.source_distance)

    @property
    def bins(self) -> int:
        """Number of detector bins."""
        assert self.detector.bins is not None
        return self.detector.bins

    @property
    def bin_size(self) -> float:
        """Width of a bin."""
        assert self.detector.bin_size is not None
        return self.detector.bin_size

    @property
    def coverage(self) -> Coverage:
        """Which rays are measured, places on the detector being `ray_places`."""
        offset, half = self.detector.offset, self.bins * self.bin_size / 2
        edges = self.ray_places(torch.tensor([offset - half, offset + half], dtype=torch.float64))
        return Coverage(self.angles, (float(edges[0]), float(edges[1])), self.is_parallel)

    def ray_places(self, t: Tensor) -> Tensor:
        """Return places along the detector as `Coverage` has them: angles in a fan."""
        if self.is_parallel:
            return t
        t = t / self.detector_distance
        return t if self.detector.curved else t.atan()

    @property
    def middle(self) -> float:
        """Where the central ray hits the detector, in bins from its first edge."""
        return self.bins / 2 - self.detector.offset / self.bin_size

    def pixel_axes(
        self, device: torch.device | None = None, corners: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return X of the columns (W,) and Y of the rows (H,), float64; one more of corners."""
        height, width = (side + corners for side in self.image_size)
        columns = torch.arange(width, dtype=torch.float64, device=device)
        rows = torch.arange(height, dtype=torch.float64, device=device)
        x = (columns - (width - 1) / 2) * self.pixel_size
        y = ((height - 1) / 2 - rows) * self.pixel_size
        return x, y

    def pixel_centres(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Return (X, Y) of all pixels, row by row, each float64 (H W,)."""
        x, y = self.pixel_axes(device)
        return x.repeat(len(y)), y.repeat_interleave(len(x))

    def bin_centres(self, device: torch.device | None = None) -> Tensor:
        """Return the positions of the bins along the detector, float64 (bins,)."""
        k = torch.arange(self.bins, dtype=torch.float64, device=device)
        return (k - (self.bins - 1) / 2) * self.bin_size + self.detector.offset

    def depth(self, x: Tensor, y: Tensor, theta: float) -> Tensor:
        """Return the distance of points (X, Y) from the source, along the central ray."""
        return self.source_distance - x * math.sin(theta) + y * math.cos(theta)

    def project(self, x: Tensor, y: Tensor, theta: float) -> Tensor:
        """Return where the rays through points (X, Y) hit the detector; ``theta`` in radians."""
        along = x * math.cos(theta) + y * math.sin(theta)
        if self.is_parallel:
            return along
        depth = self.depth(x, y, theta)
        if self.detector.curved:
            return self.detector_distance * torch.atan2(along, depth)
        return self.detector_distance * along / depth


def is_length(value: object) -> bool:
    """Return whether a value is a positive, finite Python or NumPy number."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf
