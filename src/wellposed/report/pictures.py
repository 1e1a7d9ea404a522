"""Pictures of a page: 8-bit PNG inside the file, small enough for all of them together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from io import BytesIO
from itertools import chain
from typing import ClassVar

import numpy as np
from PIL import Image

from wellposed.report.parts import Group, png_uri

BUDGET = 12_000_000
"""Characters of all pictures of a page together."""

SIDES = (512, 384, 256, 192, 128, 96, 64)
"""Largest sides in pixels; the first one with which the pictures fit into `BUDGET` is taken."""

SLICES = 32
"""Slices of a volume that are shown, evenly spaced."""

BRIGHT = 99.5
"""Percentile of deviations and errors that is white."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Album:
    """Arrays of one size that show the same place: (C, H, W), or (C, D, H, W) of volumes.

    Three channels are red, green and blue, others are averaged; complex values are shown by their
    magnitude.

    Attributes:
        title, anchor: heading, and name of the place on the page.
        images: by name; all have one grey scale.
        maps: deviations and errors by name; all have one scale of their own, from 0.
        window: values that are black and white.
        unit: of the values.
        aspect: height of a pixel over its width.
    """

    title: str
    anchor: str
    images: Mapping[str, np.ndarray]
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    window: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    aspect: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture whose slices, of ``width`` by ``height``, stand in rows of ``columns``."""

    title: str
    uri: str
    width: int
    height: int
    columns: int
    slices: Sequence[int]
    is_map: bool


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Pictures with their controls.

    Attributes:
        low, high: values of the images that are black and white in the file.
        window: values that are black and white at first.
        most: value of maps that is white.
        unit: of the values.
    """

    kind: ClassVar[str] = "viewer"
    title: str
    anchor: str
    pictures: Sequence[Picture]
    low: float
    high: float
    window: tuple[float, float]
    most: float
    unit: str

    @property
    def slices(self) -> Sequence[int]:
        """The numbers of the slices that are shown."""
        return max((p.slices for p in self.pictures), key=len, default=(0,))

    @property
    def size(self) -> int:
        """The characters of its pictures."""
        return sum(len(p.uri) for p in self.pictures)


def gallery(title: str, albums: Sequence[Callable[[], Album]], budget: int = BUDGET) -> Group:
    """Return the pictures of albums as large as they fit, at most 512 pixels a side.

    Albums are read one by one. If they do not even fit with the smallest side, the last ones are
    left out, which the note tells.

    Args:
        title: heading.
        albums: functions that return the albums.
        budget: characters of all pictures together.
    """
    for side in SIDES:
        shown = list(_until(budget, (viewer(album(), side) for album in albums)))
        if len(shown) == len(albums):
            break
    note = f"Pictures are reduced to at most {side} pixels a side."
    if len(shown) < len(albums):
        note += f" The last {len(albums) - len(shown)} are left out, to keep the file small."
    return Group(title=title, parts=shown, note=note, narrow=False)


def _until(budget: int, viewers: Iterator[Viewer]) -> Iterator[Viewer]:
    """Yield viewers while they fit."""
    for each in viewers:
        budget -= each.size
        if budget < 0:
            return
        yield each


def viewer(album: Album, side: int = SIDES[0]) -> Viewer:
    """Return the pictures of an album.

    Args:
        album: the arrays.
        side: the longer side of a picture in pixels, at most.
    """
    images = {name: planes(array) for name, array in album.images.items()}
    maps = {name: planes(array) for name, array in album.maps.items()}
    maps = {name: a.mean(-1) if a.ndim == 4 else a for name, a in maps.items()}
    low, high = held(album.window, list(images.values()))
    most = max((float(np.percentile(a, BRIGHT)) for a in maps.values()), default=0.0) or 1.0
    shape = (side, album.aspect)
    depths = {n: _chosen(a) for n, a in chain(album.images.items(), album.maps.items())}
    shown = [_picture(name, (a - low) / (high - low), shape) for name, a in images.items()]
    shown += [_picture(name, a / most, shape, is_map=True) for name, a in maps.items()]
    shown = [replace(p, slices=depths[p.title]) for p in shown]
    return Viewer(
        title=album.title,
        anchor=album.anchor,
        pictures=shown,
        low=low,
        high=high,
        window=album.window,
        most=most,
        unit=album.unit,
    )


def held(window: tuple[float, float], images: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the values that pictures hold in 256 steps.

    They go beyond the window where the images do, by half its width at most, so that the window
    has 128 steps or more.
    """
    low, high = window
    beyond = (high - low) / 2
    least = min((float(a.min()) for a in images), default=low)
    most = max((float(a.max()) for a in images), default=high)
    return max(low - beyond, min(low, least)), min(high + beyond, max(high, most))


def _chosen(array: np.ndarray) -> tuple[int, ...]:
    """Return the numbers of the slices of an array that are shown."""
    if array.ndim < 4:
        return (0,)
    depth = array.shape[1]
    return tuple(np.linspace(0, depth - 1, min(depth, SLICES)).round().astype(int).tolist())


def planes(array: np.ndarray) -> np.ndarray:
    """Return the slices of (C, H, W) or (C, D, H, W) as real (N, H, W), or (N, H, W, 3)."""
    real = np.abs(array) if np.iscomplexobj(array) else array
    volume = real[:, None] if real.ndim == 3 else real[:, list(_chosen(real))]
    finite = np.nan_to_num(volume.astype(np.float32))
    return np.moveaxis(finite, 0, -1) if len(finite) == 3 else finite.mean(0)


def _picture(
    title: str, levels: np.ndarray, shape: tuple[int, float], is_map: bool = False
) -> Picture:
    """Return a picture of slices, whose levels from 0 to 1 are black to white."""
    pixels = (np.clip(levels, 0, 1) * 255).round().astype(np.uint8)
    slices = [_reduced(Image.fromarray(each), *shape) for each in pixels]
    (width, height), columns = slices[0].size, int(np.ceil(len(slices) ** 0.5))
    rows = -(-len(slices) // columns)
    sheet = Image.new(slices[0].mode, (columns * width, rows * height))
    for k, each in enumerate(slices):
        sheet.paste(each, (k % columns * width, k // columns * height))
    if is_map:
        sheet.putpalette(_magma())
    return Picture(
        title=title,
        uri=png_uri(_png(sheet)),
        width=width,
        height=height,
        columns=columns,
        slices=range(len(slices)),
        is_map=is_map,
    )


def _reduced(picture: Image.Image, side: int, aspect: float) -> Image.Image:
    """Return a picture of square pixels, of at most ``side`` pixels a side."""
    width, height = picture.width, picture.height * aspect
    factor = min(1.0, side / max(width, height))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BOX)


def _png(picture: Image.Image) -> bytes:
    content = BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


@cache
def _magma() -> bytes:
    from matplotlib import colormaps

    colours: np.ndarray = colormaps["magma"](np.arange(256), bytes=True)
    return colours[:, :3].tobytes()
