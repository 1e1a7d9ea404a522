"""The table of a comparison: the mean of each score over the problems, by solver."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from wellposed.benchmark.card import Card
from wellposed.benchmark.record import Record
from wellposed.figures import format_table
from wellposed.writing import make_folder, write_csv, write_text

ORDER = (
    *("PSNR", "SSIM", "PSNR, sample", "SSIM, sample", "CRPS", "coverage", "residual"),
    *("PSNR, B-mode", "gCNR", "KS", "MPSNR", "MSSIM", "SAM"),
    *("distance", "floor", "gap in dB", "coverage of regions"),
)
"""Order of the columns; scores that are not named here follow."""

DIGITS = {"CRPS": 4, "SSIM": 3, "SSIM, sample": 3, "MSSIM": 3, "KS": 3}
"""Digits after the point; 2 of other scores."""

LARGER = (
    *("PSNR", "SSIM", "PSNR, sample", "SSIM, sample", "coverage", "coverage of regions"),
    *("PSNR, B-mode", "gCNR", "MPSNR", "MSSIM"),
)
"""Scores of which larger values are better."""


def by_solver(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records of each solver, in the order in which they come."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.solver, []).append(record)
    return found


def done(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Return the records that have scores, by solver."""
    return by_solver(r for r in records if not r.error)


def columns(records: Sequence[Record]) -> list[str]:
    """Return the names of the scores that any record has, in order."""
    names = dict.fromkeys(name for record in records for name in record.scores)
    return sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))


def means(records: Sequence[Record]) -> dict[str, float]:
    """Return the mean of each score over the records that have it."""
    values = {n: [r.scores[n] for r in records if n in r.scores] for n in columns(records)}
    return {name: fmean(each) for name, each in values.items()}


def number(name: str, value: float) -> str:
    """Return a score as tables show it."""
    return f"{value:.{DIGITS.get(name, 2)}f}"


def rows(records: Sequence[Record], evaluations: int | None = None) -> list[list[str]]:
    """Return a row of each solver, in the order in which they come.

    Args:
        records: of all solvers and problems.
        evaluations: those that a sample may take; more are marked by "!".
    """
    names = columns(records)
    return [_row(label, own, names, evaluations) for label, own in by_solver(records).items()]


def _row(label: str, own: list[Record], names: list[str], allowed: int | None) -> list[str]:
    ended = [record for record in own if not record.error]
    if not ended:
        return [label, *["-"] * (len(names) + 3), own[0].error]
    found, most = means(ended), max(record.evaluations for record in ended)
    scores = [number(n, found[n]) if n in found else "-" for n in names]
    over = "!" if allowed is not None and most > allowed else ""
    failed = len(own) - len(ended)
    note = f"failed on {failed}: {next(r.error for r in own if r.error)}" if failed else ""
    seconds = fmean(record.seconds for record in ended)
    return [label, *scores, str(ended[0].samples), f"{most}{over}", f"{seconds:.1f}", note]


def header(records: Sequence[Record]) -> list[str]:
    """Return the names of the columns."""
    return ["solver", *columns(records), "samples", "evaluations", "seconds", "note"]


def whole(
    records: Sequence[Record], evaluations: int | None = None
) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns and the rows, without notes if there are none."""
    lines, head = rows(records, evaluations), header(records)
    if any(line[-1] for line in lines):
        return head, lines
    return head[:-1], [line[:-1] for line in lines]


def text(records: Sequence[Record], evaluations: int | None = None) -> str:
    """Return the table in Markdown."""
    return format_table(*whole(records, evaluations))


def write(folder: Path, title: str, records: Sequence[Record], allowed: int | None = None) -> Path:
    """Write table.md, scores.csv (of each problem) and return the path of the first.

    The same records give the same bytes, up to the seconds.
    """
    make_folder(folder, "--out")
    path, names = folder / "table.md", columns(records)
    write_text(path, f"# {title}\n\n{text(records, allowed)}\n", "--out")
    lines = [
        [r.solver, r.instance, *(r.scores.get(n, "") for n in names), r.evaluations, r.error]
        for r in records
    ]
    head = ["solver", "problem", *names, "evaluations", "error"]
    write_csv(folder / "scores.csv", [head, *lines], "--out")
    return path


def deviations(card: Card, records: Sequence[Record]) -> list[str]:
    """Return a line for each score that differs from its reference row by more than allowed."""
    lines, ended = [], done(records)
    for row in card.reference:
        found = means(ended.get(row.solver, []))
        for name, wanted in row.scores.items():
            if name in found and abs(found[name] - wanted) > row.tolerance[name]:
                limit = f"{wanted:g} within {row.tolerance[name]:g}"
                lines.append(f"{row.solver}: {name} {found[name]:.4g}, the card has {limit}")
    return lines
