"""``wellposed calibrate``: the factor of intervals, from images whose truth is known."""

from collections.abc import Iterator
from statistics import median

import typer
from torch import Tensor

from wellposed.cli.known import Known, of_draw, of_files, places, sampler
from wellposed.cli.names import use_device
from wellposed.cli.priors import load_prior
from wellposed.cli.reconstruct import PRIORS
from wellposed.cli.tasks import check_options_of
from wellposed.cli.trial_settings import Calibrate
from wellposed.errors import require
from wellposed.figures import format_table
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.runs.progress import track
from wellposed.uncertainty import MEASURED, NOISE, Conditions, Conformal, require_images, scores_of
from wellposed.writing import require_writable


def calibrate(o: Calibrate) -> None:
    """Reconstruct the images, find the factor, and write it."""
    check_options_of(o.operator, o)
    require(o.num_samples >= 2, "--num-samples", o.num_samples, "2 or more, for a deviation")
    require(o.out.suffix == ".json", "--out", str(o.out), "a file that ends in .json")
    count = len(places(o)) if o.inputs else o.images
    require_images("INPUT" if o.inputs else "--images", count, o.level)
    require_writable(o.out.parent, "--out")
    device = use_device(o.device)
    name = PRIORS.get(o.operator, "natural") if o.prior is None else o.prior
    found, truths, about = _reconstructed(o, load_prior(name, o).to(device), count)
    fitted = Conformal.fit(found, truths, o.level, about=about)
    o.out.parent.mkdir(parents=True, exist_ok=True)
    fitted.save(o.out)
    typer.echo(_table(fitted, found, truths))
    typer.echo(f"wrote {o.out}")


def _reconstructed(
    o: Calibrate, prior: Prior, count: int
) -> tuple[list[Reconstruction], list[Tensor], Conditions]:
    results, truths, abouts = [], [], []
    cases = _cases(o, prior)
    for index in track(range(count), "images"):
        known = next(cases)
        solver = sampler(o, o.solver, known)
        results.append(known.solved(solver, o.num_samples, o.seed + index))
        truths.append(known.truth)
        abouts.append(known.about)
    typical = {name: median(_number(a[name]) for a in abouts) for name in (MEASURED, NOISE)}
    return results, truths, {**abouts[0], **typical}


def _cases(o: Calibrate, prior: Prior) -> Iterator[Known]:
    if o.inputs:
        return of_files(prior, o)
    return (of_draw(prior, o, index)[0] for index in range(o.images))


def _number(value: object) -> float:
    assert isinstance(value, float)
    return value


def _table(fitted: Conformal, found: list[Reconstruction], truths: list[Tensor]) -> str:
    """Return a table of the coverage of ``mean +- deviations std``, before and after."""
    gaussian = Conformal(fitted.level, fitted.factor.new_tensor(fitted.gaussian))
    rows = []
    for name, each in {"samples": gaussian, "calibrated": fitted}.items():
        factor = float(each.factor)
        inside = [
            float((scores_of(r, truth) <= factor).double().mean())
            for r, truth in zip(found, truths, strict=True)
        ]
        row = [sum(inside) / len(inside), min(inside), max(inside)]
        rows.append([name, f"{factor:.3f}", *(f"{value:.1%}" for value in row)])
    header = ["intervals", "deviations", f"coverage (wanted {fitted.level:.0%})", "least", "most"]
    return format_table(header, rows)
