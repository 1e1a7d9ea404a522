"""Pictures and tables of results."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wellposed.errors import FileError

if TYPE_CHECKING:
    from wellposed.reconstruction import Reconstruction


def displayable(image: Tensor) -> np.ndarray:
    """Return an image (C, ...) as (H, W) or (H, W, 3) floats; magnitude of complex ones.

    Of volumes (C, D, H, W) the middle slice is shown.
    """
    image = (image.abs() if image.is_complex() else image).detach().cpu().float()
    while image.ndim > 3:
        image = image[:, image.shape[1] // 2]
    array = image.numpy()
    return array.transpose(1, 2, 0) if len(array) == 3 else array.mean(0)


def write_png(image: Tensor, path: Path) -> None:
    """Write an image (C, H, W) in [0, 1], with 8 bits; what lies outside is cut off.

    Raises:
        FileError: it cannot be written.
    """
    from PIL import Image

    pixels = (displayable(image).clip(0, 1) * 255).round().astype(np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    except OSError as error:
        raise FileError(f"folder: cannot write {str(path)!r}: {error}") from error


def write_panel(
    result: "Reconstruction", path: Path, reference: Tensor | None, truth: Tensor | None
) -> None:
    """Write a row of pictures: reference, mean, one sample, spread and, with truth, the error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mean = displayable(result.mean[0])
    low, high = float(min(0.0, np.percentile(mean, 0.1))), float(np.percentile(mean, 99.8))
    grey = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6)}
    pictures = [("mean", mean, grey), ("one sample", displayable(result.samples[0, 0]), grey)]
    if reference is not None:
        pictures.insert(0, ("reference", displayable(reference[0]), grey))
    spread = _grey(displayable(result.std[0]))
    widest = float(np.percentile(spread, 99.5)) or 1.0
    pictures.append(("std", spread, {"cmap": "magma", "vmin": 0, "vmax": widest}))
    if truth is not None:
        exact = displayable(truth[0])
        error = _grey(np.abs(mean - exact))
        top = float(np.percentile(error, 99.8)) or 1.0
        pictures += [
            ("truth", exact, grey),
            ("|error| of mean", error, {"cmap": "magma", "vmax": top}),
        ]
    height, width = mean.shape[:2]
    figure = Figure(figsize=(2.6 * len(pictures), 2.6 * height / width + 0.35), dpi=120)
    FigureCanvasAgg(figure)
    for axis, (title, picture, style) in zip(
        figure.subplots(1, len(pictures)), pictures, strict=True
    ):
        shown = np.clip(picture, 0, 1) if picture.ndim == 3 else picture
        axis.imshow(shown, **style)
        axis.set_title(title, fontsize=9)
        axis.set_axis_off()
    figure.subplots_adjust(0.005, 0.0, 0.995, 0.9, 0.02)
    figure.savefig(path)


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
