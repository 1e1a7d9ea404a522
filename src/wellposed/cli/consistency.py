"""``wellposed validate --operator``: ranks of truths drawn from the prior among samples."""

import json
from collections.abc import Mapping
from pathlib import Path

import typer

from wellposed.cli.batch import identity
from wellposed.cli.known import draw_image, of_draw, sampler
from wellposed.cli.names import use_device
from wellposed.cli.priors import load_prior, prior_name
from wellposed.cli.reports import REPORT, run_facts
from wellposed.cli.tasks import check_options_of
from wellposed.cli.trial_settings import Validate
from wellposed.errors import FileError, require
from wellposed.figures import format_table, write_figure
from wellposed.integrity import read_json
from wellposed.metrics import coverage
from wellposed.priors import Prior
from wellposed.report import Facts, Figure, Page, Table, write_page
from wellposed.runs.fingerprint import fingerprint
from wellposed.runs.progress import track
from wellposed.validation.rank_figure import draw_ranks
from wellposed.validation.ranks import QUANTITIES, Uniformity, ranks_of, uniformity
from wellposed.writing import make_folder, write_text

RANKS, PICTURE = "ranks.json", "ranks.png"
HEADER = ["rank of", "which is", "p", "mean (.5)", "variance (1)"]

Found = dict[str, float]
"""The ranks of an image, and the coverage of its pixels."""


def consistency(o: Validate) -> None:
    """Draw images, reconstruct them, and test their ranks."""
    operator = _checked(o)
    name = prior_name(operator, o)
    prior = load_prior(name, o).to(use_device(o.device))
    weights = fingerprint(prior)
    settings = identity(o, weights)
    found = [] if o.out is None else _kept(o.out, settings)
    for index in track(range(len(found), o.images), "images"):
        found.append(_ranked(o, prior, weights, index))
        if o.out is not None:
            content = {"settings": settings, "images": found}
            write_text(o.out / RANKS, json.dumps(content, indent=1) + "\n", "--out")
    _report(found[: o.images], o)


def _checked(o: Validate) -> str:
    """Return the operator; raise if options do not fit this test."""
    assert o.operator is not None
    check_options_of(o.operator, o)
    require(not o.quick, "--quick", o.quick, "--images and --steps with --operator")
    require(len(o.solvers) <= 1, "SOLVER", " ".join(o.solvers), "one solver with --operator")
    require(o.images >= 1, "--images", o.images, "a positive number")
    require(o.num_samples >= 2, "--num-samples", o.num_samples, "2 or more")
    return o.operator


def _ranked(o: Validate, prior: Prior, weights: str, index: int) -> Found:
    """Return the ranks of an image, which is whole, as the prior has drawn it."""
    known, truth = of_draw(prior, weights, o, index)
    solver = sampler(o, o.solvers[0] if o.solvers else None, known)
    result = known.solved(solver, o.num_samples)
    height, width = truth.shape[-2:]
    point = draw_image(prior, o, index, (height, width), number=1)
    place = (known.task.y.cpu(), known.task.operator.cpu())
    ranks = ranks_of(truth, result.samples[:, 0], *place, point, known.seed)
    inside = float(coverage(result.interval(_level(o.num_samples)), truth).mean())
    return {**{name: float(rank) for name, rank in ranks.items()}, "coverage": inside}


def _level(num_samples: int) -> float:
    """Return the probability of the range of the samples, in which no interpolation is needed."""
    return (num_samples - 1) / (num_samples + 1)


def _kept(folder: Path, settings: str) -> list[Found]:
    """Return what an interrupted run has found.

    Raises:
        FileError: the folder holds results of other settings.
    """
    make_folder(folder, "--out")
    path = folder / RANKS
    if not path.exists():
        return []
    try:
        stored = read_json(path)
        same, found = stored["settings"] == settings, stored["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"--out: cannot add to {str(path)!r}: {error}") from error
    if not same:
        raise FileError(
            f"--out: {str(path)!r} holds ranks of other settings, accepted: an empty folder, or "
            "ranks of the same options, files and prior"
        )
    kept: list[Found] = found
    return kept


def _report(found: list[Found], o: Validate) -> None:
    ranks = {name: [int(each[name]) for each in found] for name in QUANTITIES}
    tests = {name: uniformity(values, o.num_samples) for name, values in ranks.items()}
    rows, note = _rows(tests), _note(tests, found, o.num_samples)
    typer.echo(f"{format_table(HEADER, rows)}\n{note}")
    if o.out is None:
        return
    write_figure(draw_ranks(ranks, o.num_samples), o.out / PICTURE)
    picture = Figure.of_file("Ranks", o.out / PICTURE, "Histograms of the ranks, and TARP's curve")
    table = Table(title="Tests of the ranks", header=HEADER, rows=rows, note=note)
    facts = Facts(title="Provenance", facts=run_facts())
    page = Page(title=f"Self-consistency: {o.operator}", parts=[table, picture, facts])
    written = write_page(o.out / REPORT, page)
    typer.echo(f"wrote {o.out / RANKS}, {o.out / PICTURE} and {written}")


def _rows(tests: Mapping[str, Uniformity]) -> list[list[str]]:
    return [
        [name, QUANTITIES[name], f"{t.p_value:.3g}", f"{t.mean:.3f}", f"{t.variance:.2f}"]
        for name, t in tests.items()
    ]


def _note(tests: Mapping[str, Uniformity], found: list[Found], num_samples: int) -> str:
    least = min(1.0, len(tests) * min(t.p_value for t in tests.values()))
    inside = sum(each["coverage"] for each in found) / len(found)
    return (
        f"{len(found)} images of {num_samples} samples: smallest p times {len(tests)} tests is "
        f"{least:.3g}; below .05 the samples are not those of the prior's posterior.\n"
        f"Pixels inside the range of their samples: {inside:.1%}, of exact samples "
        f"{_level(num_samples):.1%}. Variances above 1: samples too narrow."
    )
