"""Computed tomography in the plane: parallel and fan beams, and stacks of slices."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wellposed.checks import (
    Count,
    NonNegative,
    Positive,
    RealTensor,
    require_integer,
    require_path,
)
from wellposed.errors import require, warn
from wellposed.linalg import conjugate_gradient
from wellposed.operators.angles import view_angles
from wellposed.operators.base import LinearOperator
from wellposed.operators.ct.fbp import filtered_backprojection
from wellposed.operators.ct.geometry import Detector, Geometry, is_length
from wellposed.operators.ct.pair import apply_pair
from wellposed.operators.ct.projectors import make_projector
from wellposed.operators.ct.ramp import RampInverse, ramp_spectrum

MEMORY = 2e9
"""Largest number of bytes of a stored matrix and its transpose."""


class PlanarCT(LinearOperator):
    """Tomography of a plane: each datum is a line integral averaged over a detector bin.

    Images (B, 1, H, W) hold attenuation per unit length, sinograms (B, 1, views, bins) hold its
    dimensionless line integrals. ``A`` and its exact transpose use a sparse matrix of a few views,
    built once per geometry, and obtain the other views by symmetry. Of a matrix that would exceed
    ``memory`` they store a part, and compute the other weights at each product. Half-precision
    tensors are multiplied in single precision. Half and full turns, limited and irregular angles
    are all supported.

    Args:
        geometry: the scan; see `geometry` for all conventions.
        noise_sigma: standard deviation of the noise in the line integrals.
        memory: largest number of bytes of the matrix and its transpose.
        cache: folder that keeps the matrix for later operators of the same scan; files are
            checked when they are read, and a damaged one is replaced.

    Warns:
        UserWarning: the data are truncated: rays through the ellipse inscribed in the image miss
            the detector from both sides. Angles look like radians. A file of the cache is damaged.
    """

    _spectrum: Tensor | None

    def __init__(
        self,
        geometry: Geometry,
        noise_sigma: float | Tensor = 0.0,
        memory: NonNegative = MEMORY,
        cache: str | Path | None = None,
    ) -> None:
        height, width = geometry.image_size
        size = (1, len(geometry.angles), geometry.bins)
        super().__init__((1, height, width), size, noise_sigma)
        _warn_of_truncation(geometry)
        self.geometry = geometry
        self.register_buffer("angles", torch.tensor(geometry.angles, dtype=torch.float64))
        folder = None if cache is None else require_path("cache", cache)
        self._projector = make_projector(geometry, memory, folder)
        self.register_buffer("_spectrum", ramp_spectrum(geometry), persistent=False)

    def forward_map(self, x: Tensor) -> Tensor:
        """Return the sinograms of images (B, 1, H, W)."""
        return apply_pair(self._projector, x)

    def adjoint_map(self, y: Tensor) -> Tensor:
        """Return the unfiltered back-projection of sinograms, by the exact transpose."""
        return apply_pair(self._projector, y, transpose=True)

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return about ``(A^H A + weight)^-1``, a ramp filter, if views come from all sides.

        Conjugate gradients then take two or three times fewer steps. None for a weight of 0, for
        which their steps regularise.
        """
        alike = weight.ndim == 0 or weight.numel() == len(weight)  # no map of weights
        if self._spectrum is None or not alike or not bool((weight > 0).all()):
            return None
        return RampInverse(self._spectrum, weight)

    def fbp(self, y: Tensor) -> Tensor:
        """Return the filtered back-projection of sinograms, (B, 1, H, W), in 1 / length.

        Values are correct if every ray is measured from one side or from both: by views over 180
        degrees (parallel beams) or 180 degrees and the fan angle (short scans), even or not, or
        over 360 degrees by a detector that covers slightly more than half. See `Coverage`.

        Args:
            y: sinograms, (B, 1, views, bins).

        Raises:
            ShapeError, DtypeError, DeviceError: ``y`` is not a sinogram of this operator.
        """
        self._check("y", y, self.measurement_size, self.complex_measurement)
        return filtered_backprojection(y[:, 0], self.geometry)[:, None]

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return a least-squares image by conjugate gradients from the filtered back-projection.

        They end after 100 steps or at a relative residual of 1e-5 of the normal equations. This
        regularises: the smallest singular values are not inverted.
        """
        b = self.A_adjoint(y)
        return conjugate_gradient(
            self.A_adjoint_A, b, self.fbp(y), iterations=100, tolerance=1e-5
        ).x


class ParallelBeamCT(PlanarCT):
    """2-D parallel-beam computed tomography.

    Pixels are squares of constant value. The projection of a pixel is a trapezoid, integrated over
    each bin in closed form, so the projection is conservative: without truncation and with bins as
    wide as pixels every view sums to ``pixel_size`` times the sum of the image.

    Args:
        image_size: side N of a square image, or (H, W).
        angles: view angles in degrees, shape (views,), or the number of views spaced equally over
            [0, 180).
        detector: a `Detector` or its number of bins. By default bins are as wide as pixels and
            cover the diagonal of the image; their number has the parity of W, so that bins and
            columns coincide at 0 degrees.
        pixel_size: side of a pixel, in any unit of length, e.g. mm.
        noise_sigma: standard deviation of the noise in the line integrals.
        memory: largest number of bytes of the matrix and its transpose; larger ones are stored
            in part, and products take several times as long.
        cache: folder that keeps the matrix for later operators of the same scan, see `PlanarCT`.

    Raises:
        ArgumentError: a size, the number of bins or views, or ``pixel_size`` is not positive, or
            there is no angle.
        ShapeError, DtypeError, NonFiniteError: angles are not 1-D, not real or not finite.

    References:
        Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, sections 3.1, 3.3
        and 7.1 (line integrals, filtered back-projection, strip areas as weights),
        https://doi.org/10.1137/1.9780898719277

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.ParallelBeamCT(32, angles=60, pixel_size=0.8, noise_sigma=0.01)
        >>> sinogram = operator.measure(torch.full((1, 1, 32, 32), operators.MU_WATER), seed=0)
        >>> sinogram.shape, operator.fbp(sinogram).shape
        (torch.Size([1, 1, 60, 46]), torch.Size([1, 1, 32, 32]))
    """

    def __init__(
        self,
        image_size: Count | Sequence[Count],
        angles: RealTensor | Sequence[float] | Count,
        detector: Detector | Count | None = None,
        pixel_size: Positive = 1.0,
        noise_sigma: float | Tensor = 0.0,
        *,
        memory: NonNegative = MEMORY,
        cache: str | Path | None = None,
    ) -> None:
        shape, detector = image_shape(image_size), as_detector(detector)
        require(not detector.curved, "detector", detector, "a straight detector")
        require_length("pixel_size", pixel_size)
        bin_size = detector.bin_size or float(pixel_size)
        shadow = math.hypot(*shape) * pixel_size + 2 * abs(detector.offset)
        bins = detector.bins or covering_bins(shadow / bin_size, shape[1])
        detector = replace(detector, bins=int(bins), bin_size=float(bin_size))
        views = scan_angles(angles, span=180.0)
        scan = Geometry(shape, views, float(pixel_size), detector)
        super().__init__(scan, noise_sigma, memory, cache)


class FanBeamCT(PlanarCT):
    """2-D fan-beam computed tomography, on a flat or curved detector.

    Args:
        image_size: side N of a square image, or (H, W).
        angles: view angles in degrees, shape (views,), or the number of views spaced equally over
            [0, 360).
        source_distance: source to rotation centre.
        detector_distance: source to detector (flat: to its plane along the central ray).
        detector: a `Detector` or its number of bins. By default bins have the magnified pixel size
            and cover the whole image.
        pixel_size: side of a pixel, in any unit of length, e.g. mm.
        noise_sigma: standard deviation of the noise in the line integrals.
        memory: largest number of bytes of the matrix and its transpose; larger ones are stored
            in part, and products take several times as long.
        cache: folder that keeps the matrix for later operators of the same scan, see `PlanarCT`.

    Raises:
        ArgumentError: a size or distance is not positive, the source is inside the image, or the
            detector is in front of the rotation centre.
        ShapeError, DtypeError, NonFiniteError: angles are not 1-D, not real or not finite.

    References:
        Kak and Slaney, 1988, section 3.4 (filtered back-projection of fans); Long, Fessler and
        Balter, 2010, https://doi.org/10.1109/TMI.2010.2050898 (separable footprints as weights)

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> detector = operators.Detector(bins=64, bin_size=1.5)
        >>> operator = operators.FanBeamCT(
        ...     32, angles=60, source_distance=100.0, detector_distance=150.0, detector=detector
        ... )
        >>> operator.A(torch.full((1, 1, 32, 32), operators.MU_WATER)).shape
        torch.Size([1, 1, 60, 64])
    """

    def __init__(  # noqa: PLR0913 - the scanner's settings are its signature
        self,
        image_size: Count | Sequence[Count],
        angles: RealTensor | Sequence[float] | Count,
        source_distance: float,
        detector_distance: float,
        detector: Detector | Count | None = None,
        pixel_size: Positive = 1.0,
        noise_sigma: float | Tensor = 0.0,
        *,
        memory: NonNegative = MEMORY,
        cache: str | Path | None = None,
    ) -> None:
        shape, detector = image_shape(image_size), as_detector(detector)
        require_length("pixel_size", pixel_size)
        radius = math.hypot(*shape) / 2 * pixel_size
        require_distances(source_distance, detector_distance, radius)
        magnification = detector_distance / source_distance
        bin_size = float(detector.bin_size or pixel_size * magnification)
        reach = math.asin(radius / source_distance)
        half = detector_distance * (reach if detector.curved else math.tan(reach))
        bins = detector.bins or 2 * math.ceil((half + abs(detector.offset)) / bin_size)
        detector = replace(detector, bins=int(bins), bin_size=bin_size)
        super().__init__(
            Geometry(
                shape,
                scan_angles(angles, span=360.0),
                float(pixel_size),
                detector,
                float(source_distance),
                float(detector_distance),
            ),
            noise_sigma,
            memory,
            cache,
        )


def _warn_of_truncation(geometry: Geometry) -> None:
    """Warn unless all rays of views through the ellipse inscribed in the image are measured."""
    height, width = geometry.image_size
    turn = torch.linspace(0, 2 * math.pi, 65, dtype=torch.float64)
    x = (width / 2 * geometry.pixel_size) * turn.cos()
    y = (height / 2 * geometry.pixel_size) * turn.sin()
    theta = torch.deg2rad(torch.tensor(geometry.angles, dtype=torch.float64))[:, None]
    shadows = torch.stack([geometry.project(x, y, float(t)) for t in theta])
    if not bool(geometry.coverage.measures(theta, geometry.ray_places(shadows)).all()):
        edge = geometry.bins * geometry.bin_size / 2
        left, right = geometry.detector.offset - edge, geometry.detector.offset + edge
        low, high = float(shadows.min()), float(shadows.max())
        warn(
            f"detector: spans {left:.4g} to {right:.4g}, but the ellipse inscribed in the image "
            f"projects to {low:.4g} to {high:.4g}: the sinogram is truncated; use more bins"
        )


def as_detector(detector: Detector | Count | None) -> Detector:
    """Return a detector; a number is its number of bins."""
    if isinstance(detector, Detector):
        return detector
    return Detector() if detector is None else Detector(bins=detector)


def image_shape(image_size: Count | Sequence[Count]) -> tuple[int, int]:
    """Return (H, W) of a side or a pair."""
    pair = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    require(len(pair) == 2, "image_size", image_size, "an integer or a pair (H, W)")
    return require_integer("image_size", pair[0]), require_integer("image_size", pair[1])


def scan_angles(angles: RealTensor | Sequence[float] | Count, span: float) -> tuple[float, ...]:
    """Return checked angles in degrees; a number of views is spaced equally over the span."""
    return tuple(view_angles(angles, span).tolist())


def covering_bins(shadow: float, width: Count) -> int:
    """Return the number of bins that cover a projection, with the parity of the image's width."""
    bins = math.ceil(shadow - 1e-9)
    return bins + (bins - width) % 2


def require_length(name: str, length: object) -> None:
    """Raise `ArgumentError` unless a length is a positive number."""
    require(is_length(length), name, length, "a positive, finite length")


def require_distances(source_distance: float, detector_distance: float, radius: float) -> None:
    """Raise `ArgumentError` unless the source is outside a radius and the detector behind it."""
    require_length("source_distance", source_distance)
    require_length("detector_distance", detector_distance)
    outside = source_distance > radius
    accepted = f"a distance above {radius:g}, outside the image"
    require(outside, "source_distance", source_distance, accepted)
    behind = detector_distance >= source_distance
    accepted = f"a distance of at least {source_distance:g}"
    require(behind, "detector_distance", detector_distance, accepted)
