"""``wellposed benchmark`` and ``wellposed compare``: solvers side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import typer

from wellposed.benchmark import Instance, Record, card_names, instances, measured, read_card
from wellposed.benchmark import table as tables
from wellposed.benchmark.instance import Pictures, Scores, image_pictures, image_scores
from wellposed.benchmark.page import card_facts, records_page
from wellposed.benchmark.record import Sampling, place_of, read_record
from wellposed.cli.comparison_settings import Benchmark, Compare, Tune
from wellposed.cli.entrants import entrants
from wellposed.cli.known import KnownImage, file_images
from wellposed.cli.names import require_distinct, use_device
from wellposed.cli.priors import load_prior, prior_name
from wellposed.cli.reports import REPORT, run_facts
from wellposed.cli.shares import own_share
from wellposed.cli.tasks import check_options_of
from wellposed.errors import require
from wellposed.figures import format_table
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.report import write_page
from wellposed.runs.fingerprint import fingerprint
from wellposed.runs.progress import track
from wellposed.writing import require_writable


def benchmark(o: Benchmark) -> None:
    """Run the solvers on a card, or list the cards."""
    if o.card is None:
        rows = [[name, read_card(name).title] for name in card_names()]
        typer.echo(format_table(["card", "task"], rows))
        return
    card = read_card(o.card)
    require(o.solvers is not None, "--solvers", None, "names of solvers, e.g. hqs,mmps")
    require(o.out is not None, "--out", None, "a folder")
    assert o.solvers is not None and o.out is not None
    solvers = entrants(o.solvers)
    count = card.num_samples if o.num_samples is None else o.num_samples
    device = use_device(o.device)
    problems = [moved(each, device) for each in instances(card, o.data)]
    title = f"{card.title} ({card.name}{f', images of {o.data.name}' if o.data else ''})"
    found = _run(solvers, problems, count, card.seed, o)
    facts = card_facts(card, o.data) | {"Run": run_facts()}
    _tell(o.out, title, found, facts, card.evaluations)
    frozen = o.data is None and count == card.num_samples
    for line in tables.deviations(card, found) if frozen else []:
        typer.echo(f"warning: differs from the card: {line}", err=True)


def compare(o: Compare) -> None:
    """Run the solvers on images of the user."""
    check_options_of(o.operator, o)
    solvers, device = entrants(o.solvers), use_device(o.device)
    name = prior_name(o.operator, o)
    prior = load_prior(name, o).to(device)
    problems = file_instances(prior, o)
    title = f"{o.operator} of {', '.join(path.name for path in o.inputs)}"
    found = _run(solvers, problems, o.num_samples, o.seed, o)
    facts = {"operator": o.operator, "prior": name, "fingerprint of the prior": fingerprint(prior)}
    own = {"seed of the solvers": f"{o.seed}", "samples": f"{o.num_samples}"}
    _tell(o.out, title, found, {"Problems": facts | own, "Run": run_facts()})


def moved(instance: Instance, device: str) -> Instance:
    """Return a problem on a device."""
    if device == "cpu":
        return instance
    parts = {n: getattr(instance, n).to(device) for n in ("y", "operator", "prior")}
    return replace(instance, **parts)


def file_instances(prior: Prior, o: Compare | Tune) -> list[Instance]:
    """Return the problems of the images of files.

    Raises:
        ArgumentError: two have the same name, which stands for their records.
    """
    images = [image() for image in file_images(prior, o)]
    require_distinct([each.name for each in images])
    return [_instance_of(each) for each in images]


def _instance_of(known: KnownImage) -> Instance:
    """Return the problem of an image, scored as its result is written."""
    task, peak = known.task, known.task.peak
    truth = known.truth

    def score(found: Reconstruction) -> Scores:
        return image_scores(truth, peak, task.finished(found))

    def pictures(found: Reconstruction) -> Pictures:
        return image_pictures(truth, peak, task.plain(), task.finished(found))

    problem = (task.y, task.operator, known.prior)
    return Instance(known.name, *problem, score, pictures, known.weights)


def _run(
    solvers: Mapping[str, Sampling],
    problems: Sequence[Instance],
    count: int,
    seed: int,
    o: Compare | Benchmark,
) -> list[Record]:
    """Return the records of all solvers on all problems, those of other processes too."""
    assert o.out is not None
    require_writable(o.out, "--out")
    pairs = [(problem, label) for problem in problems for label in solvers]
    for problem, label in track(own_share(o.shard).of(pairs), "runs"):
        measured(problem, label, solvers[label], count, seed, o.out)
    kept = [read_record(place_of(o.out, label, p.name)) for label in solvers for p in problems]
    return [record for record in kept if record is not None]


def _tell(
    out: Path,
    title: str,
    found: list[Record],
    facts: Mapping[str, Mapping[str, str]],
    allowed: int | None = None,
) -> None:
    path = tables.write(out, title, found, allowed)
    page = records_page(title, found, out, facts, allowed)
    typer.echo(tables.text(found, allowed))
    typer.echo(f"wrote {path} and {write_page(out / REPORT, page)}")
