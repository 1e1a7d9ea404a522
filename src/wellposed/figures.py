"""Pictures and tables of results."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wellposed.errors import FileError
from wellposed.writing import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


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
    write_picture(Image.fromarray(pixels), path)


def write_picture(picture: "Image", path: Path, optimize: bool = False) -> None:
    """Write a Pillow image; missing folders are created.

    Raises:
        FileError: the file cannot be written.
    """
    with _placed(path) as part:
        picture.save(part, optimize=optimize)


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a matplotlib figure; missing folders are created.

    Raises:
        FileError: the file cannot be written.
    """
    with _placed(path) as part:
        figure.savefig(part)


@contextmanager
def _placed(path: Path) -> Iterator[Path]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"folder: cannot write {str(path)!r}: {error}") from error
    with replacing(path, "folder") as part:
        yield part


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
    # A third of the bytes of full colour.
    write_picture(picture.quantize(64), Path(path), optimize=True)


def _middle_slices(volume: Tensor) -> list[np.ndarray]:
    real = (volume.abs() if volume.is_complex() else volume)[0, 0].detach().cpu().float()
    return [real.select(axis, real.shape[axis] // 2).numpy() for axis in range(3)]


def format_table(header: list[str], rows: list[list[str]]) -> str:
    """Return rows as a Markdown table."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
