"""The calibration data of parallel imaging: the fully sampled centre of k-space."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wellposed.checks import Count, checked, require_integer
from wellposed.errors import ArgumentError, DtypeError, ShapeError, require


@checked
def find_calibration(kspace: Tensor, limit: Count = 32) -> tuple[int, int]:
    """Return the (rows, columns) of the largest fully sampled block at the centre of k-space.

    A sample counts as taken when any coil is not zero there. For a batch the block is one that
    every item has.

    Args:
        kspace: complex (coils, H, W) or (B, coils, H, W), centred, zero where not measured.
        limit: largest size returned for either axis; more calibration data make `espirit`
            slower and hardly better.

    Raises:
        DtypeError, ShapeError: ``kspace`` is not complex or has other axes.
        ArgumentError: nothing was measured at the centre, k-space is not centred, or ``limit`` is
            below 1.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> mask = operators.equispaced_lines(32, acceleration=4, center_fraction=0.25)
        >>> kspace = mask * torch.ones(4, 32, 32, dtype=torch.complex64)
        >>> operators.find_calibration(kspace)  # rows, columns
        (32, 9)
    """
    check_kspace(kspace)
    _check_centred(kspace)
    taken = (kspace != 0).any(-3)
    taken = taken.all(0) if taken.ndim == 3 else taken
    height, width = taken.shape
    best = (0, 0)
    for rows in range(1, min(height, limit) + 1):
        full = taken[_centred(height, rows)].all(0).tolist()
        columns = 0
        while columns < min(width, limit) and all(full[_centred(width, columns + 1)]):
            columns += 1
        best = max(best, (rows, columns), key=lambda size: size[0] * size[1])
    if min(best) == 0:
        raise ArgumentError(
            "kspace: the centre of k-space was not measured, accepted: centred k-space with a "
            "fully sampled block in the middle"
        )
    return best


def calibration_block(kspace: Tensor, size: int | tuple[int, int], kernel: int | None) -> Tensor:
    """Return the central block (coils, rows, columns), checked to be fully sampled."""
    _check_centred(kspace)
    least = kernel or 2
    sizes = size if isinstance(size, Sequence) else (size, size)
    require(len(sizes) == 2, "calibration", size, "None, an integer, or two: (rows, columns)")
    rows, columns = (require_integer("calibration", n) for n in sizes)
    height, width = kspace.shape[-2:]
    fits = least <= min(rows, columns) and rows <= height and columns <= width
    accepted = f"a block from {least} x {least}, the kernel, to {height} x {width}, the image"
    require(fits, "calibration", size, accepted)
    block = kspace[:, _centred(height, rows), _centred(width, columns)]
    if not bool((block != 0).any(0).all()):
        raise ArgumentError(
            f"calibration: got {rows} x {columns}, but that block has samples that were not "
            f"measured, accepted: {find_calibration(kspace)}, or None to find it"
        )
    return block


def padded(data: Tensor, size: Sequence[int]) -> Tensor:
    """Return a block (coils, rows, columns) in the middle of zeros (coils, *size)."""
    whole = data.new_zeros(len(data), *size)
    rows, columns = (_centred(n, m) for n, m in zip(size, data.shape[1:], strict=True))
    whole[:, rows, columns] = data
    return whole


def check_kspace(kspace: Tensor) -> None:
    """Raise unless k-space is complex, (coils, H, W) or (B, coils, H, W)."""
    if not isinstance(kspace, Tensor) or kspace.dtype not in (torch.complex64, torch.complex128):
        kind = kspace.dtype if isinstance(kspace, Tensor) else type(kspace).__name__
        raise DtypeError(f"kspace: got {kind}, accepted: a complex64 or complex128 tensor")
    if kspace.ndim not in (3, 4) or kspace.numel() == 0:
        raise ShapeError(
            f"kspace: got shape {tuple(kspace.shape)}, accepted: (coils, H, W) or "
            f"(B, coils, H, W), not empty"
        )


def _check_centred(kspace: Tensor) -> None:
    """Raise if far more energy lies at the ends of an axis than in its middle."""
    energy = kspace.abs().nan_to_num(0, 0, 0).square().flatten(0, -3).sum(0)
    for axis, name in ((0, "rows"), (1, "columns")):
        profile = energy.sum(1 - axis)
        reach = max(1, len(profile) // 16)
        ends = profile.roll(reach)[: 2 * reach].sum()
        middle = profile[_centred(len(profile), 2 * reach)].sum()
        if len(profile) >= 8 and bool(ends > 16 * middle):
            raise ArgumentError(
                f"kspace: its energy is in the first and last {name}, accepted: centred "
                "k-space, torch.fft.fftshift(kspace, dim=(-2, -1))"
            )


def _centred(size: int, count: int) -> slice:
    """Return the ``count`` samples about the centre ``size // 2``."""
    start = size // 2 - count // 2
    return slice(start, start + count)
