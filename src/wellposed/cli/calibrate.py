"""``wellposed calibrate``: the factor of intervals, from images whose truth is known."""

from collections.abc import Sequence
from statistics import median

import typer
from torch import Tensor

from wellposed.cli.known import KnownImage, known_images, sampler, slices_of
from wellposed.cli.names import use_device
from wellposed.cli.options import require_unused
from wellposed.cli.priors import load_prior, prior_name
from wellposed.cli.recipes import as_tuned
from wellposed.cli.tasks import check_options_of
from wellposed.cli.trial_settings import DRAWN, READ, Calibrate
from wellposed.conditions import SCANS, Conditions, require_same
from wellposed.errors import require
from wellposed.figures import format_table
from wellposed.reconstruction import Reconstruction
from wellposed.runs.progress import track
from wellposed.uncertainty import Conformal, gaussian_factor, require_images, scores_of
from wellposed.writing import make_folder, require_writable


def calibrate(o: Calibrate) -> None:
    """Reconstruct the images, find the factor, and write it."""
    _check(o)
    o, recipe = as_tuned(o)
    device = use_device(o.device)
    name = prior_name(o.operator, o)
    images = known_images(load_prior(name, o).to(device), o)
    # Before the first run.
    conditions = common([_named(image()) for image in track(images, "conditions")])
    if recipe is not None:
        recipe.warn_of(conditions)
    results, truths = [], []
    for image in track(images, "images"):
        known = image()
        solver = sampler(o, o.solver, known)
        results.append(known.task.finished(known.solved(solver, o.num_samples)))
        truths.append(known.truth)
    fitted = Conformal.fit(results, truths, o.level, conditions=conditions)
    make_folder(o.out.parent, "--out")
    fitted.save(o.out)
    typer.echo(_table(fitted, results, truths))
    typer.echo(f"wrote {o.out}")


def _check(o: Calibrate) -> None:
    check_options_of(o.operator, o)
    unused, accepted = (DRAWN, "without INPUT") if o.inputs else (READ, "with INPUT")
    require_unused(o, unused, f"only {accepted}")
    require(o.num_samples >= 2, "--num-samples", o.num_samples, "2 or more, for a deviation")
    require(o.out.suffix == ".json", "--out", str(o.out), "a file that ends in .json")
    count = len(slices_of(o)) if o.inputs else o.images
    require_images("INPUT" if o.inputs else "--images", count, o.level)
    require_writable(o.out.parent, "--out")


def _named(known: KnownImage) -> tuple[str, Conditions]:
    return known.name, known.conditions


def common(images: Sequence[tuple[str, Conditions]]) -> Conditions:
    """Return the conditions of named images, the medians of those that differ a little.

    Raises:
        ArgumentError: those of an image do not fit; the message names it.
    """
    first = images[0][1]
    middle = {name: _median([each[name] for _, each in images]) for name in first if name in SCANS}
    found = {**first, **middle}
    for name, each in images:
        require_same(f"INPUT {name}", found, each)
    return found


def _median(values: Sequence[object]) -> object:
    """Return the median of numbers, or of each element of lists."""
    lists = [value for value in values if isinstance(value, list)]
    if lists:
        return [_median(parts) for parts in zip(*lists, strict=True)]
    return median(value for value in values if isinstance(value, float))


def _table(fitted: Conformal, found: list[Reconstruction], truths: list[Tensor]) -> str:
    """Return a table of the coverage of ``mean +- deviations std``, before and after."""
    gaussian = Conformal(fitted.level, fitted.factor.new_tensor(gaussian_factor(fitted.level)))
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
