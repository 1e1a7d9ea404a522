"""The line masks of the fastMRI challenges, bit for bit those of its code."""

from collections.abc import Callable, Sequence
from math import isfinite
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, Fraction, Seed, checked, require_integer
from wellposed.errors import ArgumentError, require, require_choice

KINDS = ("random", "equispaced", "equispaced_fraction", "magic", "magic_fraction")
FRACTIONAL = ("random", "equispaced_fraction", "magic_fraction")


@checked
def fastmri_lines(
    kind: str,
    width: Count,
    acceleration: Count,
    center_fraction: Fraction,
    seed: Seed | Sequence[int],
    offset: int | None = None,
) -> Tensor:
    """Return a line mask (W,), float32, equal to that of fastMRI's mask functions.

    Knoll et al., "fastMRI: a publicly available raw k-space and DICOM dataset of knee images for
    accelerated MR image reconstruction using machine learning", Radiology: Artificial
    Intelligence 2, 2020, doi:10.1148/ryai.2020190007; the masks of ``fastmri.data.subsample``
    0.3.0 with one acceleration and one centre fraction, which draw from numpy's legacy generator.
    The mask has the ``round(center_fraction W)`` lines about the centre; for odd differences they
    start one line later than in the other masks here. In addition it has

    - ``random``: each line with the probability for which the expected number of lines is
      ``W / acceleration``;
    - ``equispaced``: every ``acceleration``-th line, from a random line on, so more than
      ``W / acceleration`` lines in total;
    - ``equispaced_fraction``: equally spaced lines, rounded, with a larger spacing so that the
      total number is about ``W / acceleration``;
    - ``magic``: every ``acceleration``-th line on either side of the centre, with a relative shift
      so that the mirror image of a line is not sampled (conjugate symmetry);
    - ``magic_fraction``: like ``magic``, with a rounded spacing for which the total number is
      about ``W / acceleration``; at least one line about the centre is sampled.

    Args:
        kind: one of the five names of ``fastmri.data.subsample.create_mask_for_mask_type``.
        width: number W of lines.
        acceleration: W over the number of sampled lines, from 1 to W; an integer for
            ``equispaced`` and ``magic``.
        center_fraction: fraction of the lines in the fully sampled centre, 0 to 1.
        seed: seed of NumPy's ``RandomState``; fastMRI evaluates with
            ``tuple(map(ord, file_name))``.
        offset: first line, 0 to the spacing - 1, instead of a random one; not for ``random``.

    Raises:
        UnknownNameError: an unknown ``kind``.
        ArgumentError: an argument is out of range, or the centre alone has more lines than
            ``acceleration`` allows, for ``random`` and the two fractions.

    Example:
        >>> from wellposed import operators
        >>> seed = tuple(map(ord, "file1000000.h5"))  # as fastMRI's evaluation
        >>> operators.fastmri_lines("equispaced", 320, 4, center_fraction=0.08, seed=seed).shape
        torch.Size([320])
    """
    require_choice("kind", kind, KINDS)
    require_integer("width", width)
    real = isinstance(center_fraction, Real) and 0 <= center_fraction <= 1
    require(real, "center_fraction", center_fraction, "a fraction in [0, 1]")
    center = max(round(width * center_fraction), int(kind == "magic_fraction"))
    _check_acceleration(kind, width, acceleration, center)
    rng = _generator(seed)
    if kind == "random":
        require(offset is None, "offset", offset, "None for random masks")
        mask = rng.uniform(size=width) < (width / acceleration - center) / (width - center)
    else:
        spacing = _spacing(kind, width, acceleration, center)
        most = round(spacing) - 1
        first = rng.randint(0, most + 1) if offset is None else offset
        require_integer("offset", first, 0, most)
        mask = _SPACED[kind](width, spacing, first)
    start = (width - center + 1) // 2
    mask[start : start + center] = 1
    return torch.from_numpy(mask.astype(np.float32))


def _generator(seed: Seed | Sequence[int]) -> np.random.RandomState:
    try:
        return np.random.RandomState(seed)
    except (TypeError, ValueError) as error:
        accepted = "an integer from 0 to 2^32 - 1, or several"
        raise ArgumentError(f"seed: got {seed!r}, accepted: {accepted}") from error


def _check_acceleration(kind: str, width: Count, acceleration: float, center: int) -> None:
    if kind not in FRACTIONAL:
        require_integer("acceleration", acceleration, 1, width)
        return
    usable = isinstance(acceleration, Real) and isfinite(acceleration)
    usable = usable and 1 <= acceleration <= width
    require(usable, "acceleration", acceleration, f"a number from 1 to {width}")
    total = width / acceleration
    total = round(total) if kind == "magic_fraction" else total
    require(center < total, "center_fraction", f"{center} lines", f"fewer than {total:g}")


def _spacing(kind: str, width: Count, acceleration: float, center: int) -> float:
    if kind == "equispaced_fraction":
        return acceleration * (center - width) / (center * acceleration - width)
    if kind == "magic_fraction":
        return round(width / (round(width / acceleration) - center))
    return acceleration


def _equispaced(width: Count, spacing: int, offset: int) -> np.ndarray:
    mask = np.zeros(width)
    mask[offset::spacing] = 1
    return mask


def _equispaced_fraction(width: Count, spacing: float, offset: int) -> np.ndarray:
    mask = np.zeros(width)
    mask[np.around(np.arange(offset, width - 1, spacing)).astype(int)] = 1
    return mask


def _magic(width: Count, spacing: int, offset: int) -> np.ndarray:
    # Offsets of one line and of its neighbour on the other side, in pairs of even and odd.
    right, left = (offset + 1, offset + 2) if offset % 2 == 0 else (offset + 2, offset - 1)
    above, below = (width + 1) // 2, width // 2
    unshifted = np.concatenate(
        [_equispaced(above, spacing, right), _equispaced(below, spacing, left)[::-1]]
    )
    return np.fft.fftshift(unshifted)


_SPACED: dict[str, Callable[..., np.ndarray]] = {
    "equispaced": _equispaced,
    "equispaced_fraction": _equispaced_fraction,
    "magic": _magic,
    "magic_fraction": _magic,
}
