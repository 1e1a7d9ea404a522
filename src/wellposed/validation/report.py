"""Table and plot of the results of the exact-posterior tests."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from wellposed.figures import format_table, write_figure
from wellposed.validation.errors import LEVELS
from wellposed.validation.run import Cell, Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")

COVERAGES = tuple(f"coverage_{100 * level:.0f}" for level in LEVELS)
HEADER = (
    *("solver", "NFE", "mean", "covariance", "spread"),
    *(f"{level:.0%}" for level in LEVELS),
    *("CRPS", "mixture", "Lévy dB", "Lévy 90%", "order", "VP/VE/flow", "seconds"),
)


def summary(records: dict[str, Record]) -> str:
    """Return the table of `summary_rows` in Markdown."""
    return format_table(list(HEADER), summary_rows(records))


def summary_rows(records: dict[str, Record]) -> list[list[str]]:
    """Return one row per solver: each number averaged over the problems it did not refuse.

    Args:
        records: records by name; the record of exact samples is named "floor".
    """
    floor = records["floor"]["mixture"]
    return [[name, *_row(record, _ratios(record, floor))] for name, record in records.items()]


def _ratios(record: Record, floor: Mapping[str, Cell]) -> list[Cell]:
    """Return the mixture distances of each cell over those of exact samples."""
    pairs = ((cell, floor[name]) for name, cell in record["mixture"].items())
    return [
        cell
        if isinstance(cell, str) or isinstance(exact, str)
        else {"ratio": cell["distance"] / exact["distance"]}
        for cell, exact in pairs
    ]


def _row(record: Record, ratios: list[Cell]) -> list[str]:
    gaussian, levy = record["gaussian"].values(), record["levy"].values()
    fields = ("mean", "covariance", "spread", *COVERAGES, "crps")
    return [
        str(record["nfe"]),
        *(_average(gaussian, field, ".3f") for field in fields),
        _average(ratios, "ratio", ".1f"),
        _average(levy, "gap", ".2f"),
        _average(levy, "coverage", ".2f"),
        _shown(record["order"], ".2f"),
        _shown(record["process_gap"], ".0e"),
        _shown(record["seconds"], ".0f"),
    ]


def _shown(value: float | str, style: str) -> str:
    return value if isinstance(value, str) else format(value, style)


def _average(cells: Iterable[Cell], field: str, style: str) -> str:
    """Return the average of a number over cells, or their entry if no cell has the number."""
    cells = list(cells)
    numbers = [cell[field] for cell in cells if not isinstance(cell, str)]
    if not numbers:
        return str(cells[0])
    return format(fmean(numbers), style) + ("" if len(numbers) == len(cells) else "*")


def details(records: dict[str, Record]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Return the tables of single problems by title: names of the columns, and rows."""

    def pair(first: str, second: str, between: str) -> Callable[[Mapping[str, float]], str]:
        return lambda cell: f"{cell[first]:.2f}{between}{cell[second]:.2f}"

    return {
        "Gaussian problems: error of the mean / spread": _table(
            {name: r["gaussian"] for name, r in records.items()}, pair("mean", "spread", " / ")
        ),
        "Mixture: sliced Wasserstein distance by d, d_y": _table(
            {name: r["mixture"] for name, r in records.items()},
            pair("distance", "half_width", " ± "),
        ),
        "Lévy process: gap in dB / coverage of the 90 % region": _table(
            {name: r["levy"] for name, r in records.items()}, pair("gap", "coverage", " / ")
        ),
        "Error of the mean by number of steps": _table(
            {name: r["steps"] for name, r in records.items()}, "{:.3f}".format
        ),
    }


def _table(
    cells: Mapping[str, Mapping[str, T | str]], show: Callable[[T], str]
) -> tuple[list[str], list[list[str]]]:
    """Return a row for each solver, whose cells are shown where they are no words."""
    names = list(cells["floor"])
    rows = [
        [solver, *(c if isinstance(c := of[name], str) else show(c) for name in names)]
        for solver, of in cells.items()
    ]
    return ["solver", *names], rows


def write_plot(records: dict[str, Record], path: Path) -> None:
    """Write a picture of the coverage against its nominal value and of the mixture distances."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 0.25 * len(records) + 3.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    calibration, distance = figure.subplots(1, 2)
    _plot_coverage(calibration, records)
    _plot_ratios(distance, records)
    write_figure(figure, path)


def _plot_coverage(axes: "Axes", records: dict[str, Record]) -> None:
    axes.plot([0.5, 0.95], [0.5, 0.95], color="black", linewidth=0.8)
    for index, (name, record) in enumerate(records.items()):
        cells = [cell for cell in record["gaussian"].values() if not isinstance(cell, str)]
        found = [fmean(cell[field] for cell in cells) for field in COVERAGES if cells]
        axes.plot(
            *(LEVELS[: len(found)], found),
            marker="os^v"[index // 10 % 4],
            color=f"C{index % 10}",
            label=name,
            markersize=4,
            linewidth=0.9,
        )
    axes.set(xlabel="nominal coverage", ylabel="coverage", title="Gaussian posteriors")
    axes.legend(fontsize=7)


def _plot_ratios(axes: "Axes", records: dict[str, Record]) -> None:
    floor = records["floor"]["mixture"]
    cells = {name: _ratios(record, floor) for name, record in records.items()}
    ratios = {
        n: [c["ratio"] for c in found if not isinstance(c, str)] for n, found in cells.items()
    }
    shown = {name: fmean(values) for name, values in ratios.items() if values}
    axes.barh(list(shown), list(shown.values()), color="0.6")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(xscale="log", title="mixture: distance over that of exact samples")
