"""``wellposed validate --operator``: ranks of truths drawn from the prior among samples."""

import json
from dataclasses import asdict
from pathlib import Path

import typer

from wellposed.cli.known import of_draw, sampler
from wellposed.cli.names import use_device
from wellposed.cli.priors import load_prior
from wellposed.cli.reconstruct import PRIORS
from wellposed.cli.tasks import check_options_of
from wellposed.cli.trial_settings import Validate
from wellposed.errors import FileError, require
from wellposed.figures import format_table, write_figure
from wellposed.integrity import read_json
from wellposed.metrics import coverage
from wellposed.priors import Prior
from wellposed.runs.fingerprint import fingerprint
from wellposed.runs.progress import track
from wellposed.validation.ranks import QUANTITIES, draw_ranks, ranks_of, uniformity
from wellposed.writing import make_folder, write_text

RANKS, PICTURE = "ranks.json", "ranks.png"
INCIDENTAL = ("out", "device", "batch_size", "images")
"""Options that do not affect the ranks of an image."""

Found = dict[str, float]
"""The ranks of an image, and the coverage of its pixels."""


def consistency(o: Validate) -> None:
    """Draw images, reconstruct them, and test their ranks."""
    assert o.operator is not None
    check_options_of(o.operator, o)
    require(not o.quick, "--quick", o.quick, "--images and --steps with --operator")
    require(len(o.solvers) <= 1, "SOLVER", " ".join(o.solvers), "one solver with --operator")
    require(o.images >= 1, "--images", o.images, "a positive number")
    require(o.num_samples >= 2, "--num-samples", o.num_samples, "2 or more")
    name = PRIORS.get(o.operator, "natural") if o.prior is None else o.prior
    prior = load_prior(name, o).to(use_device(o.device))
    chosen = {k: repr(v) for k, v in asdict(o).items() if k not in INCIDENTAL}
    settings = {**chosen, "weights": fingerprint(prior)}
    found = [] if o.out is None else _kept(o.out, settings)
    for index in track(range(len(found), o.images), "images"):
        found.append(_one(o, prior, index))
        if o.out is not None:
            content = {"settings": settings, "images": found}
            write_text(o.out / RANKS, json.dumps(content, indent=1) + "\n", "--out")
    _report(found[: o.images], o)


def _one(o: Validate, prior: Prior, index: int) -> Found:
    known, other = of_draw(prior, o, index)
    solver = sampler(o, o.solvers[0] if o.solvers else None, known)
    result = known.solved(solver, o.num_samples, o.seed + index)
    place = (known.task.y.cpu(), known.task.operator.cpu())
    ranks = ranks_of(known.truth, result.samples[:, 0], *place, other, o.seed + index)
    level = _level(o.num_samples)
    inside = float(coverage(result.interval(level), known.truth).mean())
    return {**{name: float(rank) for name, rank in ranks.items()}, "coverage": inside}


def _level(num_samples: int) -> float:
    """Return the probability of the range of the samples, in which no interpolation is needed."""
    return (num_samples - 1) / (num_samples + 1)


def _kept(folder: Path, settings: dict[str, str]) -> list[Found]:
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
            "ranks of the same settings"
        )
    kept: list[Found] = found
    return kept


def _report(found: list[Found], o: Validate) -> None:
    ranks = {name: [int(each[name]) for each in found] for name in QUANTITIES}
    tests = {name: uniformity(values, o.num_samples) for name, values in ranks.items()}
    rows = [
        [name, QUANTITIES[name], f"{t.p_value:.3g}", f"{t.mean:.3f}", f"{t.spread:.2f}"]
        for name, t in tests.items()
    ]
    header = ["rank of", "", "p", "mean (.5)", "spread (1)"]
    typer.echo(format_table(header, rows))
    least = min(1.0, len(tests) * min(t.p_value for t in tests.values()))
    inside = sum(each["coverage"] for each in found) / len(found)
    typer.echo(
        f"{len(found)} images of {o.num_samples} samples: smallest p times {len(tests)} tests is "
        f"{least:.3g}; below .05 the samples are not those of the prior's posterior.\n"
        f"Pixels inside the range of their samples: {inside:.1%}, of exact samples "
        f"{_level(o.num_samples):.1%}. Spreads above 1: samples too narrow."
    )
    if o.out is not None:
        write_figure(draw_ranks(ranks, o.num_samples), o.out / PICTURE)
        typer.echo(f"wrote {o.out / RANKS} and {o.out / PICTURE}")
