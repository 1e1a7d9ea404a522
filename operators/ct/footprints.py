"""Footprints of pixels on a detector: what share of a pixel each bin sees, of many views at once.

A footprint is a trapezoid between the projections of a pixel's corners, with the chord of the ray
through its centre as height. This is exact for parallel beams; for fan beams it is the separable
footprint of Long, Fessler and Balter (2010, https://doi.org/10.1109/TMI.2010.2050898).

All positions are in bins. They are computed in double precision and then taken relative to the
pixel's first bin, where they are so small that single precision suffices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from wellposed.operators.ct.fused import Run, unfused
from wellposed.operators.ct.geometry import Geometry

NEGLIGIBLE = 1e-7
"""Weights below this share of a pixel are rounding errors in single precision."""


@dataclass(frozen=True)
class Footprints:
    """The bins and weights of n pixels in V views.

    Attributes:
        first: first bin of each pixel, int32 (V, n); it may lie outside the detector.
        weights: weights of the bins from the first, (V, n) each, in units of length: the
            integral of a unit pixel along a ray, averaged over the bin.
    """

    first: Tensor
    weights: tuple[Tensor, ...]


def footprints(
    geometry: Geometry,
    degrees: Tensor,
    rows: slice | None = None,
    dtype: torch.dtype = torch.float64,
    run: Run = unfused,
) -> Footprints:
    """Return the footprints of the pixels in some rows of the image.

    Args:
        geometry: the scan.
        degrees: angles of the views, float64 (V,), on the device of the result.
        rows: rows of the image, by default all.
        dtype: dtype of the weights.
        run: `fused` for many pixels, else `unfused`.
    """
    theta = torch.deg2rad(degrees)[:, None, None]
    part = slice(0, geometry.image_size[0]) if rows is None else rows
    find = _parallel if geometry.is_parallel else _fan
    first, weights = find(geometry, theta.cos(), theta.sin(), part, dtype, run)
    return Footprints(first.flatten(1), tuple(weight.flatten(1) for weight in weights))


def _parallel(
    geometry: Geometry, cos: Tensor, sin: Tensor, rows: slice, dtype: torch.dtype, run: Run
) -> tuple[Tensor, list[Tensor]]:
    """Return first bins and weights, (V, H, W) each.

    All pixels of a view have the same symmetric trapezoid.
    """
    x, y = geometry.pixel_axes(cos.device)
    scale, middle = 1 / geometry.bin_size, geometry.middle
    broad, narrow = torch.maximum(cos.abs(), sin.abs()), torch.minimum(cos.abs(), sin.abs())
    side = geometry.pixel_size * scale
    outer, inner = side * (broad + narrow) / 2, side * (broad - narrow) / 2
    down = scale * sin * y[rows, None] + (middle - outer)
    first, place = run(_parallel_places)(scale * cos * x, down, dtype)
    outer, inner, chord = (t.to(dtype) for t in (outer, inner, geometry.pixel_size / broad))
    taps = math.ceil(float(place.amax((1, 2)).add_(2 * outer[:, 0, 0]).max()))
    return first, run(_parallel_weights)(place, outer, inner, chord, taps)


def _parallel_places(across: Tensor, down: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return first bins, and where pixels begin in them."""
    left = across + down
    first = left.floor()
    return first.to(torch.int32), left.sub_(first).to(dtype)


def _parallel_weights(
    place: Tensor, outer: Tensor, inner: Tensor, chord: Tensor, taps: int
) -> list[Tensor]:
    """Return the weights of bins for trapezoids that fall from ``inner`` to ``outer``."""
    per_fall = 0.5 / (outer - inner).clamp(min=torch.finfo(place.dtype).tiny)
    half = (outer + inner) / 2
    areas = []
    for tap in range(1, taps):
        offset = (tap - outer) - place
        distance = offset.abs().minimum(outer)
        fall = (distance - inner).clamp_(min=0)
        distance.addcmul_(fall, fall * per_fall, value=-1)
        areas.append(distance.copysign_(offset).add_(half))
    return _of_areas([*areas, (2 * half).expand_as(place)], chord)


def _fan(
    geometry: Geometry, cos: Tensor, sin: Tensor, rows: slice, dtype: torch.dtype, run: Run
) -> tuple[Tensor, list[Tensor]]:
    """Return first bins and weights, (V, H, W) each."""
    source, side = geometry.source_distance, cos.new_tensor(geometry.pixel_size, dtype=dtype)
    first, *corners = run(_fan_places)(*_corners(geometry, cos, sin, rows), dtype)
    taps = math.ceil(float(corners[-1].max()))
    # The ray through a pixel's centre runs from the source at source_distance (sin, -cos).
    x, y = geometry.pixel_axes(cos.device)
    run_x = (x - source * sin).abs().to(dtype)
    run_y = (y[rows, None] + source * cos).abs().to(dtype)
    return first, run(_fan_weights)(*corners, run_x, run_y, side, taps)


def _corners(
    geometry: Geometry, cos: Tensor, sin: Tensor, rows: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
    """Return what `_fan_places` takes for the corners of pixels in some rows."""
    x, y = geometry.pixel_axes(cos.device, corners=True)
    y = y[rows.start : rows.stop + 1, None]
    scale, middle = geometry.detector_distance / geometry.bin_size, geometry.middle
    depth, aside = geometry.source_distance + cos * y, sin * x
    if geometry.detector.curved:
        return cos * x, sin * y, depth, aside, (cos.new_tensor(scale), cos.new_tensor(middle))
    # Scale and middle are part of a numerator that is linear in x and y.
    across = (scale * cos - middle * sin) * x
    down = (scale * sin + middle * cos) * y + middle * geometry.source_distance
    return across, down, depth, aside, None


def _fan_places(
    across: Tensor,
    down: Tensor,
    depth: Tensor,
    aside: Tensor,
    arc: tuple[Tensor, Tensor] | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return first bins, and the sorted projections of pixels' corners relative to them.

    Corners project to ``(across + down) / (depth - aside)``, in bins on a flat detector; on an arc
    to the angle with this tangent, times the first number of ``arc`` plus the second.
    """
    places = (across + down).div_(depth - aside)
    if arc is not None:
        places = places.atan_().mul_(arc[0]).add_(arc[1])
    # Pixels share edges: these are sorted once.
    near, far = places[..., :-1], places[..., 1:]
    low, high = torch.minimum(near, far), torch.maximum(near, far)
    inner = torch.maximum(low[:, :-1], low[:, 1:]), torch.minimum(high[:, :-1], high[:, 1:])
    lowest, highest = (
        torch.minimum(low[:, :-1], low[:, 1:]),
        torch.maximum(high[:, :-1], high[:, 1:]),
    )
    first = lowest.floor()
    a, b, c, d = (
        corner.sub_(first).to(dtype)
        for corner in (lowest, torch.minimum(*inner), torch.maximum(*inner), highest)
    )
    return first.to(torch.int32), a, b, c, d


def _fan_weights(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    run_x: Tensor,
    run_y: Tensor,
    side: Tensor,
    taps: int,
) -> list[Tensor]:
    """Return the weights of bins for trapezoids that rise from a to b and fall from c to d.

    Their height is the chord of a ray with the slope ``run_y / run_x`` in a pixel of some side.
    """
    rise, fall, tiny = b - a, d - c, torch.finfo(a.dtype).tiny
    per_rise, per_fall = 0.5 / rise.clamp(min=tiny), 0.5 / fall.clamp(min=tiny)
    areas = []
    for tap in range(1, taps):
        area = _below_ramp(tap - a, rise, per_rise)
        areas.append(area.sub_(_below_ramp((tap - c).clamp_(min=0), fall, per_fall)))
    areas.append((c + d).sub_(a).sub_(b).mul_(0.5))
    slope = torch.minimum(run_x, run_y).div_(torch.maximum(run_x, run_y))
    return _of_areas(areas, slope.square_().add_(1).sqrt_().mul_(side))


def _below_ramp(u: Tensor, width: Tensor, half_per_width: Tensor) -> Tensor:
    """Return the area, up to ``u`` of at least 0, below a ramp from 0 to 1 over a width."""
    inside = u.minimum(width)
    return u.sub_(inside).addcmul_(inside, inside * half_per_width)


def _of_areas(areas: Sequence[Tensor], chord: Tensor) -> list[Tensor]:
    """Return the weights of bins, given the areas of the footprint up to their ends."""
    return [areas[0] * chord, *((upper - lower).mul_(chord) for lower, upper in pairwise(areas))]
