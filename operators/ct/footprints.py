"""Footprints of pixels on a detector: what share of a pixel each bin sees, of many views at once.

A footprint is a trapezoid between the projections of a pixel's corners, with the chord of the ray
through its centre as height. This is exact for parallel beams; for fan beams it is the separable
footprint of Long, Fessler and Balter (2010, https://doi.org/10.1109/TMI.2010.2050898).

All positions are in bins. They are computed in double precision and then taken relative to the
pixel's first bin, where they are so small that single precision suffices.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.operators.ct.geometry import Geometry

NEGLIGIBLE = 1e-7
"""Weights below this share of a pixel are rounding errors in single precision."""


@dataclass(frozen=True)
class Footprints:
    """The bins and weights of n pixels in V views.

    Attributes:
        first: first bin of each pixel, int32 (V, n); it may lie outside the detector.
        weights: weights of the bins from the first, (taps, V, n), in units of length: the
            integral of a unit pixel along a ray, averaged over the bin.
    """

    first: Tensor
    weights: Tensor


def footprints(
    geometry: Geometry,
    degrees: Tensor,
    rows: slice | None = None,
    dtype: torch.dtype = torch.float64,
) -> Footprints:
    """Return the footprints of the pixels in some rows of the image.

    Args:
        geometry: the scan.
        degrees: angles of the views, float64 (V,), on the device of the result.
        rows: rows of the image, by default all.
        dtype: dtype of the weights.
    """
    theta = torch.deg2rad(degrees)[:, None, None]
    part = slice(0, geometry.image_size[0]) if rows is None else rows
    find = _parallel if geometry.is_parallel else _fan
    first, areas, chord = find(geometry, theta.cos(), theta.sin(), part, dtype)
    weights = torch.empty(len(areas), *first.shape, dtype=dtype, device=first.device)
    torch.mul(areas[0], chord, out=weights[0])
    for tap in range(1, len(areas)):
        torch.sub(areas[tap], areas[tap - 1], out=weights[tap]).mul_(chord)
    return Footprints(first.to(torch.int32).flatten(1), weights.flatten(2))


def _parallel(
    geometry: Geometry, cos: Tensor, sin: Tensor, rows: slice, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return first bins (V, H, W), the areas below their ends, and chords.

    All pixels of a view have the same symmetric trapezoid.
    """
    x, y = geometry.pixel_axes(cos.device)
    scale, middle = 1 / geometry.bin_size, geometry.middle
    broad, narrow = torch.maximum(cos.abs(), sin.abs()), torch.minimum(cos.abs(), sin.abs())
    side = geometry.pixel_size * scale
    outer, inner = side * (broad + narrow) / 2, side * (broad - narrow) / 2
    left = scale * cos * x + (scale * sin * y[rows, None] + (middle - outer))
    first = left.floor()
    place = left.sub_(first).to(dtype)
    taps = math.ceil(float(place.amax((1, 2)).add_(2 * outer[:, 0, 0].to(dtype)).max()))
    outer, inner = outer.to(dtype), inner.to(dtype)
    # From `inner` to `outer` the trapezoid falls.
    per_fall = 0.5 / (outer - inner).clamp(min=torch.finfo(dtype).tiny)
    half = (outer + inner) / 2
    areas = []
    for tap in range(1, taps):
        offset = (tap - outer) - place
        distance = offset.abs().minimum(outer)
        fall = (distance - inner).clamp_(min=0)
        distance.addcmul_(fall, fall * per_fall, value=-1)
        areas.append(distance.copysign_(offset).add_(half))
    areas.append((2 * half).expand_as(place))
    return first, areas, (geometry.pixel_size / broad).to(dtype)


def _fan(
    geometry: Geometry, cos: Tensor, sin: Tensor, rows: slice, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return first bins (V, H, W), the areas below their ends, and chords."""
    a, b, c, d = _corners(geometry, cos, sin, rows)
    first = a.floor()
    a, b, c, d = (corner.sub_(first).to(dtype) for corner in (a, b, c, d))
    taps, tiny = math.ceil(float(d.max())), torch.finfo(dtype).tiny
    rise, fall = b - a, d - c
    per_rise, per_fall = 0.5 / rise.clamp(min=tiny), 0.5 / fall.clamp(min=tiny)
    areas = []
    for tap in range(1, taps):
        area = _below_ramp(tap - a, rise, per_rise)
        areas.append(area.sub_(_below_ramp((tap - c).clamp_(min=0), fall, per_fall)))
    areas.append((c + d).sub_(a).sub_(b).mul_(0.5))
    return first, areas, _chords(geometry, cos, sin, rows, dtype)


def _below_ramp(u: Tensor, width: Tensor, half_per_width: Tensor) -> Tensor:
    """Return the area, up to ``u`` of at least 0, below a ramp from 0 to 1 over a width."""
    inside = u.minimum(width)
    return u.sub_(inside).addcmul_(inside, inside * half_per_width)


def _corners(
    geometry: Geometry, cos: Tensor, sin: Tensor, rows: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sorted projections of each pixel's corners, (V, H, W) each."""
    x, y = geometry.pixel_axes(cos.device, corners=True)
    y = y[rows.start : rows.stop + 1, None]
    scale, middle = geometry.detector_distance / geometry.bin_size, geometry.middle
    if geometry.detector.curved:
        depth = (geometry.source_distance + cos * y) - sin * x
        places = (cos * x + sin * y).div_(depth).atan_().mul_(scale).add_(middle)
    else:  # scale and middle are part of a numerator that is linear in x and y
        depth = (geometry.source_distance + cos * y) - sin * x
        constant = middle * geometry.source_distance
        along = (scale * cos - middle * sin) * x
        places = (along + ((scale * sin + middle * cos) * y + constant)).div_(depth)
    # Pixels share edges: these are sorted once.
    near, far = places[..., :-1], places[..., 1:]
    low, high = torch.minimum(near, far), torch.maximum(near, far)
    inner = torch.maximum(low[:, :-1], low[:, 1:]), torch.minimum(high[:, :-1], high[:, 1:])
    return (
        torch.minimum(low[:, :-1], low[:, 1:]),
        torch.minimum(*inner),
        torch.maximum(*inner),
        torch.maximum(high[:, :-1], high[:, 1:]),
    )


def _chords(
    geometry: Geometry, cos: Tensor, sin: Tensor, rows: slice, dtype: torch.dtype
) -> Tensor:
    """Return the length within its pixel of the ray through each pixel's centre, (V, H, W)."""
    x, y = geometry.pixel_axes(cos.device)
    # The ray runs from the source at source_distance (sin, -cos).
    dx = (x - geometry.source_distance * sin).abs().to(dtype)
    dy = (y[rows, None] + geometry.source_distance * cos).abs().to(dtype)
    slope = torch.minimum(dx, dy).div_(torch.maximum(dx, dy))
    return slope.square_().add_(1).sqrt_().mul_(geometry.pixel_size)
