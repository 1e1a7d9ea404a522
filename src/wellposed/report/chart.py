"""A chart of named points, laid out so that names do not overlap."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 466, 12, 268
"""The frame of the axes in a picture of `WIDTH` by `HEIGHT`."""

LETTER, LINE, LONGEST = 7.4, 15, 30
"""Width of a letter, height of a line, and letters of the longest name."""

WIDE = 20.0
"""Positive values with a larger ratio have a logarithmic axis."""


Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


class Point(NamedTuple):
    """A point and its name."""

    name: str
    x: float
    y: float


class Tick(NamedTuple):
    """A number of an axis, and its place."""

    place: float
    text: str


class Mark(NamedTuple):
    """A point on the picture, and the start (or end) of its name, which may stand away from it."""

    point: Point
    x: float
    y: float
    label: str
    label_x: float
    label_y: float
    anchor: str
    away: bool


class Axis(NamedTuple):
    """An axis: what it shows of values, and its numbers."""

    place: Callable[[float], float]
    ticks: list[Tick]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Points of two scores.

    Attributes:
        x, y: names of the axes.
        points: those that are not finite are left out.
    """

    kind: ClassVar[str] = "chart"
    title: str
    x: str
    y: str
    points: Sequence[Point]

    @property
    def finite(self) -> list[Point]:
        """The points that can be drawn."""
        return [p for p in self.points if math.isfinite(p.x) and math.isfinite(p.y)]

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The horizontal and the vertical axis."""
        xs, ys = [p.x for p in self.finite], [p.y for p in self.finite]
        return axis(xs, LEFT + 14, RIGHT - 14, True), axis(ys, BOTTOM - 14, TOP + 14, False)

    @property
    def marks(self) -> list[Mark]:
        """The points on the picture with their names."""
        across, up = self.axes
        places = [(p, across.place(p.x), up.place(p.y)) for p in self.finite]
        taken = [(x - 5, y - 5, x + 5, y + 5) for _, x, y in places]
        return [_labelled(point, x, y, taken) for point, x, y in places]


def axis(values: Sequence[float], first: float, last: float, may_be_log: bool) -> Axis:
    """Return an axis of values, whose least is at ``first`` and whose largest is at ``last``."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    log = may_be_log and low > 0 and high / low > WIDE
    scale: Callable[[float], float] = math.log10 if log else float
    if low == high:
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    start, extent = scale(low), scale(high) - scale(low)

    def place(value: float) -> float:
        return round(first + (scale(value) - start) / extent * (last - first), 1)

    numbers = _decades(low, high) if log else _steps(low, high)
    return Axis(place, [Tick(place(v), f"{v:g}") for v in numbers])


def _steps(low: float, high: float) -> list[float]:
    """Return some five round numbers between two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 5 else (1,)
    return [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]


def _labelled(point: Point, x: float, y: float, taken: list[Box]) -> Mark:
    """Return a point with its name at the first free place, which is then taken."""
    name = point.name if len(point.name) <= LONGEST else f"{point.name[: LONGEST - 1]}…"
    width = LETTER * len(name)
    boxes = [*_candidates(x, y, width)]
    free = [b for b in boxes if _inside(b) and not any(_overlap(b, other) for other in taken)]
    left, top, right, bottom = (free or boxes)[0]
    taken.append((left, top, right, bottom))
    anchor, label_x = ("start", left) if left >= x else ("end", right)
    away = not top < y < bottom
    return Mark(point, x, y, name, round(label_x, 1), round(bottom - 4, 1), anchor, away)


def _candidates(x: float, y: float, width: float) -> Iterator[Box]:
    for step in range(8):
        for shift in {step * LINE: 0, -step * LINE: 0}:
            top = y + shift - LINE / 2
            yield x + 8, top, x + 8 + width, top + LINE
            yield x - 8 - width, top, x - 8, top + LINE


def _inside(box: Box) -> bool:
    return box[0] > LEFT and box[2] < WIDTH - 2 and box[1] > 0 and box[3] < BOTTOM


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
