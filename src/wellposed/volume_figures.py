"""Quality and pictures of volumes, plane by plane."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from wellposed.errors import ShapeError, require
from wellposed.metrics import psnr, ssim

SSIM_WINDOW = 11
SLICES_AT_ONCE = 16


def slices_across(volume: Tensor, axis: int) -> Tensor:
    """Return the slices across an axis of volumes (B, C, D, H, W) as a batch (n, C, ., .).

    Raises:
        ShapeError: not of five axes.
        ArgumentError: the axis is not 2, 3 or 4.
    """
    if volume.ndim != 5:
        raise ShapeError(f"volume: got {tuple(volume.shape)}, accepted: (B, C, D, H, W)")
    require(axis in (2, 3, 4), "axis", axis, "2, 3 or 4 of (B, C, D, H, W)")
    return volume.movedim(axis, 1).flatten(0, 1)


def plane_quality(
    estimate: Tensor, truth: Tensor, axis: int, peak: float = 1.0
) -> tuple[float, float]:
    """Return the mean PSNR and the mean SSIM of the slices across an axis.

    As the tables of DiffusionMBIR and DDS have them, for axial, coronal and sagittal slices. In
    the PSNR slices without any error, as empty ones may be, do not count.

    Args:
        estimate: volumes (B, C, D, H, W); complex ones are compared by magnitude.
        truth: the same shape.
        axis: 2, 3 or 4.
        peak: the largest possible value.

    Returns:
        Decibels, and a number up to 1 that is NaN where slices have a side below 11 pixels.
    """
    if estimate.shape != truth.shape:
        raise ShapeError(
            f"estimate: got shape {tuple(estimate.shape)}, accepted: {tuple(truth.shape)} as truth"
        )
    ours, exact = slices_across(estimate, axis), slices_across(truth, axis)
    each = psnr(ours, exact, peak)
    decibels = float(each[each.isfinite()].mean()) if bool(each.isfinite().any()) else math.inf
    if min(exact.shape[-2:]) < SSIM_WINDOW:
        return decibels, math.nan
    parts = zip(ours.split(SLICES_AT_ONCE), exact.split(SLICES_AT_ONCE), strict=True)
    total = sum(float(ssim(a, b, peak).sum()) for a, b in parts)
    return decibels, total / len(exact)


def write_planes(
    path: str | Path,
    volumes: Mapping[str, Tensor],
    window: tuple[float, float] = (0.0, 1.0),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> None:
    """Write the middle slices across D, H and W of volumes, a column each, side by side.

    Args:
        path: a picture.
        volumes: (1, 1, D, H, W) by title, all of one shape; of complex ones the magnitude.
        window: values shown black and white.
        spacing: size of a voxel along D, H and W.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    shape = next(iter(volumes.values())).shape[-3:]
    d, h, w = (n * size for n, size in zip(shape, spacing, strict=True))
    extents = [(w, h), (w, d), (h, d)]  # width and height across D, H and W
    width = 1.7
    heights = [width * tall / wide for wide, tall in extents]
    figure = Figure(figsize=(width * len(volumes), sum(heights) + 0.35), dpi=96)
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(3, len(volumes), squeeze=False, height_ratios=heights)
    for column, (title, volume) in zip(grid.T, volumes.items(), strict=True):
        column[0].set_title(title, fontsize=7, pad=2)
        for axes, pixels in zip(column, _middle_slices(volume), strict=True):
            axes.imshow(pixels, cmap="gray", vmin=window[0], vmax=window[1], aspect="auto")
            axes.set_axis_off()
    top = 1 - 0.33 / figure.get_figheight()
    figure.subplots_adjust(0.003, 0.003, 0.997, top, 0.015, 0.015)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(64).save(path, optimize=True)  # a third of the bytes of full colour


def _middle_slices(volume: Tensor) -> list[np.ndarray]:
    real = (volume.abs() if volume.is_complex() else volume)[0, 0].detach().cpu().float()
    return [real.select(axis, real.shape[axis] // 2).numpy() for axis in range(3)]
