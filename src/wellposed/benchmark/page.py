"""The report of a comparison."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import isfinite, nan
from pathlib import Path
from statistics import fmean

import numpy as np

from wellposed.benchmark import table as tables
from wellposed.benchmark.card import Card
from wellposed.benchmark.record import Record, place_of, read_pictures
from wellposed.report import Album, Chart, Facts, Group, Link, Page, Point, Table, gallery
from wellposed.report.parts import Part

OWN = ("estimate", "mean", "sample")
MAPS = ("deviation", "error")
"""Pictures that each solver has of its own; the others of a problem are the same for all."""

WORST = 5
LEVEL = 0.9
"""Probability of the intervals whose coverage is a score."""

FIT = (
    "Samples of the posterior of noisy data have a chi-square of 1: below it they fit the noise, "
    "above it they miss the data. A mean of samples, or another point estimate, may differ."
)


def records_page(
    title: str,
    records: Sequence[Record],
    folder: Path,
    facts: Mapping[str, Mapping[str, str]],
    allowed: int | None = None,
) -> Page:
    """Return the report of records.

    Args:
        title: heading.
        records: of all solvers and problems.
        folder: where their pictures are kept.
        facts: where they are from, under headings.
        allowed: evaluations that a sample may take; more are marked by "!".
    """
    anchors = {name: f"problem-{k + 1}" for k, name in enumerate(_names(records))}
    header, rows = tables.whole(records, allowed)
    limit = "" if allowed is None else f"; ! marks more than {allowed} evaluations of a sample"
    count = f"Of {len(anchors)} problems{limit}."
    drawn = {r.instance for r in records if _pictures(r, folder).is_file()}
    linked = {name: anchor for name, anchor in anchors.items() if name in drawn}
    albums = [partial(_album, *each, records, folder) for each in linked.items()]
    parts = [
        Table(title="Means by solver", header=header, rows=rows, note=count),
        *_curves(records),
        *_fit(records),
        *_worst(records, linked),
        *([gallery("Pictures", albums)] if albums else []),
        _scores(records, linked),
        Group(title="Settings", parts=_settings(records)),
        Group(title="Provenance", parts=[Facts(title=n, facts=f) for n, f in facts.items()]),
        _identities(records),
    ]
    return Page(title=title, parts=parts)


def card_facts(card: Card, folder: Path | None = None) -> dict[str, dict[str, str]]:
    """Return where the problems of a card are from, under headings.

    Args:
        card: the card.
        folder: other images that are used for it.
    """
    own = {
        "card": card.id,
        "version": f"{card.version}",
        "protocol": card.protocol,
        "seed of the solvers": f"{card.seed}",
        "seed of the noise": f"{card.noise_seed}",
        "samples of a problem": f"{card.num_samples}",
        "evaluations of a sample": f"{card.evaluations} at most",
    }
    found = {"Card": own}
    if folder is not None:
        found["Data"] = {"source": f"images of {folder.name}"}
    elif card.data is not None:
        names = ("source", "licence", "split", "units")
        found["Data"] = {name: getattr(card.data, name) for name in names}
    if card.prior is not None:
        seen = "yes" if card.prior.saw_test_data else "no"
        name = ", ".join((card.prior.name, *card.prior.others))
        found["Prior"] = {"name": name, "trained on images of the card": seen}
    if card.frozen is not None:
        found.setdefault("Prior", {})["fingerprint"] = card.frozen.prior
    if card.frozen is not None and folder is None:
        marks = (m["sha256"] for m in card.frozen.measurements)
        found["Hashes (sha256)"] = dict(card.frozen.files) | {
            f"measurement {k + 1}": mark for k, mark in enumerate(marks)
        }
    return found


def _names(records: Iterable[Record]) -> list[str]:
    return list(dict.fromkeys(r.instance for r in records))


def _curves(records: Sequence[Record]) -> list[Part]:
    """Return the first score against evaluations and against seconds."""
    score = next(iter(tables.columns(records)), None)
    if score is None:
        return []
    means = {
        label: (
            tables.means(own).get(score, nan),
            max(r.evaluations for r in own),
            fmean(r.seconds for r in own),
        )
        for label, own in tables.done(records).items()
    }
    cost = {
        "network evaluations of a sample": [Point(n, x, y) for n, (y, x, _) in means.items()],
        "seconds of a problem": [Point(n, x, y) for n, (y, _, x) in means.items()],
    }
    charts = [
        Chart(title=f"{score} and {name}", x=name, y=score, points=points)
        for name, points in cost.items()
    ]
    return [Group(title="Quality and cost", parts=charts)]


def _fit(records: Sequence[Record]) -> list[Part]:
    """Return chi-square and coverage of each solver beside what is expected."""
    values = {
        label: [(r.scores.get("residual", nan) ** 2, r.scores.get("coverage", nan)) for r in own]
        for label, own in tables.done(records).items()
    }
    rows = [[n, *(_mean(each) for each in zip(*own, strict=True))] for n, own in values.items()]
    if all(cells[1:] == ["-", "-"] for cells in rows):
        return []
    header = ["solver", "chi-square (expected 1)", f"coverage (expected {LEVEL:.2f})"]
    return [Table(title="Fit to the data and coverage", header=header, rows=rows, note=FIT)]


def _mean(values: Iterable[float]) -> str:
    finite = [v for v in values if isfinite(v)]
    return f"{fmean(finite):.3f}" if finite else "-"


def _worst(records: Sequence[Record], anchors: Mapping[str, str]) -> list[Part]:
    """Return the worst problems of each solver by the first score."""
    score = next(iter(tables.columns(records)), None)
    if score is None:
        return []
    rows: list[list[str | Link]] = []
    for label, own in tables.done(records).items():
        scored = [r for r in own if score in r.scores]
        scored.sort(key=lambda r: r.scores[score], reverse=score not in tables.LARGER)
        rows += [
            [label, f"{k + 1}", _link(r.instance, anchors), tables.number(score, r.scores[score])]
            for k, r in enumerate(scored[:WORST])
        ]
    header = ["solver", "rank", "problem", score]
    title = f"Worst {WORST} problems of each solver by {score}"
    return [Table(title=title, header=header, rows=rows)]


def _link(name: str, anchors: Mapping[str, str]) -> str | Link:
    return Link(name, anchors[name]) if name in anchors else name


def _scores(records: Sequence[Record], anchors: Mapping[str, str]) -> Table:
    """Return the scores of every problem."""
    names = tables.columns(records)
    rows = [
        [
            _link(r.instance, anchors),
            r.solver,
            *(tables.number(n, r.scores[n]) if n in r.scores else "-" for n in names),
            f"{r.evaluations}",
            f"{r.seconds:.1f}",
            r.error,
        ]
        for r in records
    ]
    header = ["problem", "solver", *names, "evaluations", "seconds", "note"]
    if not any(r.error for r in records):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return Table(title="Scores of every problem", header=header, rows=rows)


def _settings(records: Sequence[Record]) -> list[Facts]:
    return [
        Facts(
            title=label,
            facts={"method": own[0].method, "samples": f"{own[0].samples}"}
            | {name: str(value) for name, value in own[0].settings.items()},
        )
        for label, own in tables.done(records).items()
    ]


def _identities(records: Sequence[Record]) -> Table:
    return Table(
        title="Identities of the runs",
        header=["problem", "solver", "identity"],
        rows=[[r.instance, r.solver, r.identity] for r in records],
        note="Hashes of all that a result depends on: solver, seed, measurement, operator, prior.",
        folded=True,
    )


def _pictures(record: Record, folder: Path) -> Path:
    return place_of(folder, record.solver, record.instance).with_suffix(".npz")


def _album(name: str, anchor: str, records: Sequence[Record], folder: Path) -> Album:
    """Return the pictures of a problem, each once."""
    images: dict[str, np.ndarray] = {}
    maps: dict[str, np.ndarray] = {}
    for record in records:
        if record.instance != name or record.error:
            continue
        found = read_pictures(_pictures(record, folder))
        for what, array in found.items():
            own = what in OWN or what in MAPS
            target = maps if what in MAPS else images
            target.setdefault(f"{record.solver}: {what}" if own else what, array)
    return Album(title=name, anchor=anchor, images=images, maps=maps)
