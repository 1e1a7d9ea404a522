"""Trajectories of non-Cartesian MRI, and the density of their samples.

Frequencies are in cycles per field of view, float64, in the order of the image's axes: (rows,
columns), with rows counted downwards. Pixels are square, so that a circle of frequencies in
cycles per pixel, of radius 1/2, is an ellipse of half axes (H / 2, W / 2) here.
"""

from collections.abc import Sequence
from math import pi, sqrt

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, RealTensor, Steps, checked, require_integer
from wellposed.errors import ArgumentError, ShapeError, check_finite, require
from wellposed.operators.angles import view_angles
from wellposed.operators.mri.nufft import NUFFT

GOLDEN_ANGLE = 180 * (sqrt(5) - 1) / 2
"""Degrees between spokes that cover the half circle evenly, for any number of spokes."""


@checked
def golden_angles(views: Count) -> Tensor:
    """Return the angles (views,) of golden-angle spokes, in degrees from 0 to 360.

    Winkelmann, Schaeffter, Koehler, Eggers and Doessel, "An optimal radial profile order based
    on the golden ratio for time-resolved MRI", IEEE Transactions on Medical Imaging 26, 2007,
    doi:10.1109/TMI.2006.885337.

    Raises:
        ArgumentError: ``views`` is not an integer of at least 1.

    Example:
        >>> from wellposed import operators
        >>> [round(float(angle), 1) for angle in operators.golden_angles(3)]
        [0.0, 111.2, 222.5]
    """
    require_integer("views", views)
    return torch.arange(views, dtype=torch.float64) * GOLDEN_ANGLE % 360


@checked
def radial_trajectory(
    angles: Count | Sequence[float] | RealTensor, samples: Count, image_size: Sequence[Count]
) -> Tensor:
    """Return full spokes through the centre of k-space, shape (views, samples, 2).

    Sample j of a spoke has the radius ``(j - samples // 2) / samples`` in cycles per pixel; the
    usual readout oversampling has twice as many samples as pixels. A spoke is the transform of the
    projection of `ParallelBeamCT` at the same angle (Fourier slice theorem): at 0 degrees along
    the columns, at 90 degrees against the rows.

    Args:
        angles: degrees counter-clockwise, shape (views,), or the number of views spaced equally
            over [0, 180).
        samples: samples per spoke.
        image_size: (H, W).

    Raises:
        ArgumentError, ShapeError, NonFiniteError: a number is not an integer of at least 1, or
            angles are not a vector, or not finite.

    Warns:
        UserWarning: angles look like radians.

    Example:
        >>> from wellposed import operators
        >>> spokes = operators.radial_trajectory(operators.golden_angles(34), 64, (32, 32))
        >>> spokes.shape
        torch.Size([34, 64, 2])
    """
    angles = view_angles(angles, span=180.0)
    require_integer("samples", samples)
    radius = (torch.arange(samples, dtype=torch.float64) - samples // 2) / samples
    return _polar(radius, torch.deg2rad(angles)[:, None], image_size)


@checked
def spiral_trajectory(
    interleaves: Count, samples: Count, image_size: Sequence[Count], turns: float | None = None
) -> Tensor:
    """Return Archimedean spirals from the centre outwards, shape (interleaves, samples, 2).

    They are traversed at constant speed, which corresponds to a limit on the gradient amplitude
    but not on the slew rate, and are rotated by equal angles.

    Args:
        interleaves: number of spirals.
        samples: samples per spiral, at least 2.
        image_size: (H, W).
        turns: revolutions per spiral; the default, ``max(H, W) / (2 interleaves)``, gives a
            distance of one cycle per field of view between the arms.

    Raises:
        ArgumentError: an argument out of range.

    Example:
        >>> from wellposed import operators
        >>> operators.spiral_trajectory(interleaves=8, samples=500, image_size=(32, 32)).shape
        torch.Size([8, 500, 2])
    """
    require_integer("interleaves", interleaves)
    require_integer("samples", samples, 2)
    height, width = _checked_pair(image_size)
    turns = max(height, width) / (2 * interleaves) if turns is None else turns
    require(0 < turns < np.inf, "turns", turns, "a positive number")
    angle = np.linspace(0, 2 * pi * turns, 100_001)
    length = angle * np.sqrt(1 + angle**2) + np.arcsinh(angle)  # twice the length, radius = angle
    angle = np.interp(np.linspace(0, length[-1], int(samples)), length, angle)
    along = torch.from_numpy(angle)
    start = torch.arange(interleaves, dtype=torch.float64)[:, None] * (2 * pi / interleaves)
    return _polar(along / (4 * pi * turns), along + start, image_size)


@checked
def ramp_density(trajectory: RealTensor, image_size: Sequence[Count]) -> Tensor:
    """Return the area of k-space per sample, for equally spaced full spokes.

    The two samples of each spoke on a ring of width d and radius r share its area: each has
    ``pi r d / views``, corrected at the centre so that smooth spectra are integrated to fourth
    order. Units are (cycles per field of view)^2, so that `NUFFT.adjoint` of weighted samples has
    the scale of the image.

    Args:
        trajectory: spokes in cycles per field of view, (views, samples, 2).
        image_size: (H, W).

    Returns:
        Weights (views, samples), float64.

    Raises:
        ShapeError, ArgumentError: the trajectory does not have spokes of two or more samples, or
            all samples of a spoke coincide.

    Example:
        >>> from wellposed import operators
        >>> spokes = operators.radial_trajectory(34, samples=64, image_size=(32, 32))
        >>> operators.ramp_density(spokes, (32, 32)).shape
        torch.Size([34, 64])
    """
    shape = tuple(trajectory.shape) if isinstance(trajectory, Tensor) else ()
    if len(shape) != 3 or shape[2] != 2 or shape[0] < 1 or shape[1] < 2:
        raise ShapeError(f"trajectory: got {shape}, accepted: (views, samples >= 2, 2)")
    height, width = _checked_pair(image_size)
    sides = torch.tensor([height, width], device=trajectory.device)
    per_pixel = check_finite("trajectory", trajectory).double() / sides
    step = per_pixel.diff(dim=1).norm(dim=-1).mean()
    require(bool(step > 0), "trajectory", "coinciding samples", "samples along spokes")
    radius = per_pixel.norm(dim=-1) / step
    nearest = radius.amin(1, keepdim=True)
    # The Euler-Maclaurin correction for the kink of |r|, added to the samples next to the kink.
    lack = (nearest**2 - nearest + 1 / 6) * (1 - radius).clamp(min=0)
    cells: Tensor = pi * (radius + lack) * step**2 * (height * width / len(trajectory))
    return cells


@checked
def pipe_menon_density(
    trajectory: RealTensor, image_size: Sequence[Count], iterations: Steps = 30
) -> Tensor:
    """Return the volume of k-space per sample, for any trajectory.

    Pipe and Menon, "Sampling density compensation in MRI: rationale and an iterative numerical
    solution", Magnetic Resonance in Medicine 41, 1999,
    doi:10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V. With these weights the
    samples are 1 everywhere after gridding and interpolation: ``w <- w / (C w)``. Units are
    (cycles per field of view)^d, as for `ramp_density`.

    Args:
        trajectory: cycles per field of view, (..., d).
        image_size: the d sides of the image.
        iterations: number of fixed-point iterations.

    Returns:
        Weights of the shape of the trajectory without its last axis, float64.

    Raises:
        The errors of `NUFFT`, and ArgumentError for ``iterations`` below 1.

    Example:
        >>> from wellposed import operators
        >>> spirals = operators.spiral_trajectory(4, samples=200, image_size=(16, 16))
        >>> operators.pipe_menon_density(spirals, (16, 16), iterations=10).shape
        torch.Size([4, 200])
    """
    require_integer("iterations", iterations)
    # This kernel, three cycles per field of view wide, has a transform that is broad over the
    # image and vanishes beyond twice its sides: it couples the samples that the image couples.
    nufft = NUFFT(trajectory, image_size, width=6, oversampling=2)
    weights = torch.ones(nufft.samples, 1, dtype=torch.float64, device=trajectory.device)
    for _ in range(iterations):
        weights = weights / nufft.gridding.interpolate(nufft.gridding.spread(weights))
    # The kernel has unit integral in cells of the grid, which are smaller than the cycles.
    cells = [n / g for n, g in zip(nufft.image_size, nufft.grid_size, strict=True)]
    return weights.view(trajectory.shape[:-1]) * float(np.prod(cells))


def _polar(radius: Tensor, angle: Tensor, image_size: Sequence[Count]) -> Tensor:
    """Return (..., 2) for radii in cycles per pixel and angles counter-clockwise in radians."""
    height, width = _checked_pair(image_size)
    return torch.stack([-height * radius * angle.sin(), width * radius * angle.cos()], -1)


def _checked_pair(image_size: Sequence[Count]) -> tuple[int, int]:
    size = tuple(image_size) if isinstance(image_size, Sequence) else ()
    if len(size) != 2:
        raise ArgumentError(f"image_size: got {image_size!r}, accepted: (H, W)")
    return require_integer("image_size", size[0]), require_integer("image_size", size[1])
