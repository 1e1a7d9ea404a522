"""A row of named pictures with colour bars."""

import base64
from collections.abc import Mapping
from html import escape
from io import BytesIO
from typing import TypedDict

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from torch import Tensor

from wellposed.figures import displayable
from wellposed.units import Units

HEIGHT, BAR = 2.9, 0.62
"""Height of a picture, and width of a colour bar with its numbers, in inches."""


class Style(TypedDict):
    """Mapping of values to colours, in the names of matplotlib."""

    cmap: str
    vmin: float
    vmax: float


class Picture(Figure):
    """A matplotlib figure that notebooks display when it is returned."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def draw_panel(
    images: Mapping[str, Tensor],
    spread: Mapping[str, Tensor],
    units: Units | None = None,
    title: str = "",
) -> Picture:
    """Draw images on one grey scale, then standard deviations and errors on another.

    Args:
        images: pictures (C, ...) of equal size by name; see `displayable`.
        spread: standard deviations and absolute errors by name, in the units of ``images``.
        units: units of the values.
        title: line above the pictures, or an empty string.
    """
    units = units or Units()
    pictures = {name: displayable(units.stored(image)) for name, image in images.items()}
    maps = {name: _plane(displayable(abs(units.scale) * v)) for name, v in spread.items()}
    height, width = next(iter(pictures.values())).shape[:2]
    side = HEIGHT * min(max(width / (height * units.aspect), 0.3), 3.0)
    coloured = next(iter(pictures.values())).ndim == 3
    bars = [0.05 if coloured else BAR, BAR if maps else 0.05]
    columns = [side] * len(pictures) + bars[:1] + [side] * len(maps) + bars[1:]
    head = 0.55 if title else 0.3
    figure = Picture(figsize=(sum(columns), HEIGHT + head + 0.08), dpi=120)
    FigureCanvasAgg(figure)
    top = 1 - head / (HEIGHT + head + 0.08)
    grid = GridSpec(1, len(columns), figure, 0.005, 0.02, 0.995, top, 0.03, width_ratios=columns)
    shown = units.shown(list(pictures.values())[-1])  # the truth, or a sample
    grey: Style = {"cmap": "gray", "vmin": shown[0], "vmax": shown[1]}
    place = _draw(figure, grid, 0, pictures, grey, None if coloured else units.name, units.aspect)
    if maps:
        most = max(float(np.percentile(each, 99.5)) for each in maps.values())
        hot: Style = {"cmap": "magma", "vmin": 0.0, "vmax": most or 1.0}
        _draw(figure, grid, place, maps, hot, units.name, units.aspect)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


def _draw(
    figure: Figure,
    grid: GridSpec,
    first: int,
    pictures: Mapping[str, np.ndarray],
    style: Style,
    unit: str | None,
    aspect: float,
) -> int:
    """Draw pictures of one scale from a column on, then their bar; return the next column.

    ``unit`` is the unit of the bar, or None for no bar.
    """
    for column, (name, pixels) in enumerate(pictures.items(), first):
        axes = figure.add_subplot(grid[0, column])
        coloured = pixels.ndim == 3
        drawn = axes.imshow(np.clip(pixels, 0, 1) if coloured else pixels, aspect=aspect, **style)
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    if unit is not None:
        beside = figure.add_subplot(grid[0, first + len(pictures)])
        beside.set_axis_off()
        bar = figure.colorbar(drawn, cax=beside.inset_axes((0.04, 0.06, 0.16, 0.88)))
        bar.ax.tick_params(labelsize=7)
        bar.ax.yaxis.get_offset_text().set(fontsize=7, ha="left", x=0.0)
        bar.ax.set_title(unit, fontsize=7, pad=3, loc="left")
    return first + len(pictures) + 1


def _plane(image: np.ndarray) -> np.ndarray:
    return image.mean(-1) if image.ndim == 3 else image


def html(picture: Picture, facts: Mapping[str, str]) -> str:
    """Return a picture above a table."""
    image = base64.b64encode(picture._repr_png_()).decode()
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items())
    shown = f'<img src="data:image/png;base64,{image}" style="max-width:100%">'
    return f"<div>{shown}<table>{cells}</table></div>"
