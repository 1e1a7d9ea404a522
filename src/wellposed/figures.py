"""Pictures and tables of results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
from torch import Tensor

from wellposed.errors import FileError


class Style(TypedDict, total=False):
    """How values become colours: matplotlib's names."""

    cmap: str
    vmin: float
    vmax: float


def displayable(image: Tensor) -> np.ndarray:
    """Return an image (C, ...) as (H, W) or (H, W, 3) floats, or the magnitude if complex.

    For volumes (C, D, H, W) it is the middle slice.
    """
    image = (image.abs() if image.is_complex() else image).detach().cpu().float()
    while image.ndim > 3:
        image = image[:, image.shape[1] // 2]
    array = image.numpy()
    return array.transpose(1, 2, 0) if len(array) == 3 else array.mean(0)


def write_png(image: Tensor, path: Path) -> None:
    """Write an image (C, H, W) in [0, 1] with 8 bits; other values are clipped.

    Raises:
        FileError: the file cannot be written.
    """
    from PIL import Image

    pixels = (displayable(image).clip(0, 1) * 255).round().astype(np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    except OSError as error:
        raise FileError(f"folder: cannot write {str(path)!r}: {error}") from error


def write_panel(
    path: Path,
    mean: Tensor,
    sample: Tensor,
    std: Tensor,
    reference: Tensor | None = None,
    truth: Tensor | None = None,
) -> None:
    """Write a row of pictures: reference, mean, one sample, spread and, with truth, the error.

    All images are (C, ...), see `displayable`.

    Args:
        path: picture file.
        mean: mean of the samples.
        sample: one sample.
        std: standard deviation of the samples, real.
        reference: a direct reconstruction, if there is one.
        truth: the clean image, if it is known.
    """
    average = displayable(mean)
    low, high = float(min(0.0, np.percentile(average, 0.1))), float(np.percentile(average, 99.8))
    grey: Style = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6)}
    pictures = [("mean", average, grey), ("one sample", displayable(sample), grey)]
    if reference is not None:
        pictures.insert(0, ("reference", displayable(reference), grey))
    spread = _grey(displayable(std))
    widest = float(np.percentile(spread, 99.5)) or 1.0
    pictures.append(("std", spread, {"cmap": "magma", "vmin": 0, "vmax": widest}))
    if truth is not None:
        exact = displayable(truth)
        error = _grey(np.abs(average - exact))
        top = float(np.percentile(error, 99.8)) or 1.0
        pictures += [
            ("truth", exact, grey),
            ("|error| of mean", error, {"cmap": "magma", "vmax": top}),
        ]
    _write_row(path, pictures)


def _write_row(path: Path, pictures: Sequence[tuple[str, np.ndarray, Style]]) -> None:
    """Write pictures of equal size side by side, each with its title and style."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = pictures[0][1].shape[:2]
    figure = Figure(figsize=(2.6 * len(pictures), 2.6 * height / width + 0.35), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(pictures))
    for axis, (title, picture, style) in zip(axes, pictures, strict=True):
        shown = np.clip(picture, 0, 1) if picture.ndim == 3 else picture
        axis.imshow(shown, **style)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    figure.subplots_adjust(0.005, 0.0, 0.995, 0.9, 0.02)
    figure.savefig(path)


def write_planes(
    path: str | Path,
    volumes: Mapping[str, Tensor],
    window: tuple[float, float] = (0.0, 1.0),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> None:
    """Write the middle slices of volumes across D, H and W, one column per volume.

    Args:
        path: picture file.
        volumes: (1, 1, D, H, W) by title, of equal shape; complex ones are shown by magnitude.
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


def _grey(image: np.ndarray) -> np.ndarray:
    return image.mean(-1) if image.ndim == 3 else image


def format_table(header: list[str], rows: list[list[str]]) -> str:
    """Return rows as a Markdown table."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
