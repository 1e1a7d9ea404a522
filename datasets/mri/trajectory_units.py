"""Places in k-space as files have them, and as operators take them."""

from collections.abc import Callable
from math import pi
from pathlib import Path

import torch
from torch import Tensor

from wellposed.datasets.mri.encoding import Encoding
from wellposed.errors import FileError, require_choice

UNITS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cycles/pixel": lambda pixels, mm: pixels,
    "cycles/fov": lambda pixels, mm: torch.ones_like(pixels),
    "radians/pixel": lambda pixels, mm: pixels / (2 * pi),
    "1/m": lambda pixels, mm: mm / 1000,
    "1/mm": lambda pixels, mm: mm,
    "radians/m": lambda pixels, mm: mm / (2000 * pi),
    "radians/mm": lambda pixels, mm: mm / (2 * pi),
}
"""Cycles per field of view in one of each, from the pixels and the mm along the axes."""

FULL, SOME, MOST = 0.9, 0.5, 1.05
"""Reach of trajectories over half the matrix: of full ones, smallest and largest accepted."""

CLOSE = 0.02
"""Units in which full trajectories end this near to each other are not told apart."""


def in_cycles(path: Path, places: Tensor, encoding: Encoding, unit: str | None) -> Tensor:
    """Return places (..., x y or x y z) as (..., rows columns or z rows columns).

    Args:
        path: the file, for errors.
        places: as the file has them.
        encoding: whose image they are for, ``recon_size`` pixels wide.
        unit: of `UNITS`; None takes the one in which they reach the edge of the image's band.

    Returns:
        In cycles per field of view, as `NonCartesianMRI` takes them.

    Raises:
        FileError: no unit fits.
        UnknownNameError: no such unit.
    """
    axes = places.shape[-1]
    pixels = torch.tensor(encoding.recon_size[-axes:], dtype=places.dtype)
    mm = torch.tensor(encoding.recon_fov_mm[-axes:], dtype=places.dtype)
    places = places.flip(-1)
    if unit is None:
        unit = _recognised(path, places.flatten(0, -2).abs().amax(0), pixels, mm)
    require_choice("trajectory_unit", unit, UNITS)
    return places * UNITS[unit](pixels, mm)


def _recognised(path: Path, largest: Tensor, pixels: Tensor, mm: Tensor) -> str:
    """Return the unit in which the trajectory ends nearest to the edge of the band."""
    encoded = pixels > 1  # along a single pixel any place is at the edge
    largest, pixels, mm = largest[encoded], pixels[encoded], mm[encoded]
    scales = {name: factor(pixels, mm) for name, factor in UNITS.items()}
    reach = {n: float((largest * scale / (pixels / 2)).max()) for n, scale in scales.items()}
    full = [name for name, value in reach.items() if FULL <= value <= MOST]
    fitting = full or [name for name, value in reach.items() if SOME <= value <= MOST]
    if not fitting:
        raise FileError(
            f"path: the trajectory in {path.name} reaches {float(largest.max()):.4g}, half the "
            f"matrix in no unit known; accepted: trajectory_unit= one of {', '.join(UNITS)}"
        )
    best = min(fitting, key=lambda name: abs(reach[name] - 1))
    others = [n for n in fitting if not torch.allclose(scales[n], scales[best], rtol=1e-2)]
    alike = [n for n in others if not full or abs(reach[n] - 1) < abs(reach[best] - 1) + CLOSE]
    if alike:
        raise FileError(
            f"path: the trajectory in {path.name} reaches {float(largest.max()):.4g}, which may "
            f"be in {' or '.join([best, *alike])}; accepted: trajectory_unit= one of them"
        )
    return best
