"""``wellposed tune``: hyper-parameters that suit a kind of task, written as a recipe."""

from collections.abc import Mapping

import typer

from wellposed.benchmark import Card, Instance, Recipe, instances, read_card
from wellposed.benchmark import tune as search
from wellposed.benchmark.card import OF_IMAGES
from wellposed.benchmark.ranges import Searched, default_ranges, range_of, require_ranges
from wellposed.benchmark.tuning import problem_for
from wellposed.cli.compare import file_instances, moved
from wellposed.cli.comparison_settings import Tune
from wellposed.cli.names import (
    find_class,
    make_solver,
    parse_value,
    split_assignments,
    use_device,
)
from wellposed.cli.options import options_of, require_unused
from wellposed.cli.priors import load_prior, prior_name
from wellposed.cli.reconstruct import show_log
from wellposed.cli.settings import InputOptions, PriorOptions
from wellposed.cli.tasks import check_options_of
from wellposed.errors import ArgumentError, require
from wellposed.figures import format_table
from wellposed.integrity import file_sha256
from wellposed.solvers import Solver
from wellposed.solvers.catalogue import named_solvers
from wellposed.writing import make_folder, require_writable

FREE = ("inputs", "operator")
"""Options of a task that a card replaces, beside those of inputs and prior."""


def tune(o: Tune) -> None:
    """Search, and write the recipe."""
    require(o.out.suffix == ".json", "--out", str(o.out), "a file that ends in .json")
    require_writable(o.out.parent, "--out")
    solver, card = _solver(o), None if o.card is None else _card(o)
    problems = _of_files(o) if card is None else _of_card(card, o)
    ranges = _ranges(o, solver, problems[0], {} if card is None else card.tuning)
    show_log()
    found = search(
        solver,
        problems,
        ranges,
        evaluations=o.evaluations,
        objective=o.objective,
        num_samples=o.num_samples,
        seed=o.seed,
        folder=o.out.with_suffix(".trials"),
    )
    make_folder(o.out.parent, "--out")
    found.save(o.out)
    typer.echo(_table(found, solver))
    typer.echo(f"wrote {o.out}")


def _solver(o: Tune) -> Solver:
    """Return the solver whose settings are tried first."""
    require(":" not in o.solver, "--solver", o.solver, "a solver of `wellposed list`")
    cls = find_class("--solver", o.solver, named_solvers(), Solver)
    require(not cls.volumes_only, "--solver", o.solver, "a solver of images")
    return make_solver(cls, o)


def _card(o: Tune) -> Card:
    """Return the card; the options of another task are refused."""
    assert o.card is not None
    task = {each.name for cls in (InputOptions, PriorOptions) for each in options_of(cls)}
    require_unused(o, {*task, *FREE}, "only without --card")
    card = read_card(o.card)
    require(card.kind in OF_IMAGES, "--card", o.card, "a card of images")
    return card


def _of_card(card: Card, o: Tune) -> list[Instance]:
    """Return problems of the card with other images.

    Raises:
        ArgumentError: no other images, or one that is a test image of the card.
    """
    if o.data is None:
        accepted = "a folder of validation images, as those of the card are its test"
        raise ArgumentError(f"--data: got None, accepted: {accepted}")
    kept = {} if card.frozen is None else {sha: name for name, sha in card.frozen.files.items()}
    for path in sorted(o.data.iterdir()) if o.data.is_dir() else ():
        sha = file_sha256(path) if path.is_file() else ""
        accepted = "images that are not those of the test"
        require(sha not in kept, "--data", f"{path.name}, a test image of {card.name}", accepted)
    device = use_device(o.device)
    return [moved(each, device) for each in instances(card, o.data)]


def _of_files(o: Tune) -> list[Instance]:
    """Return problems of the images of the user."""
    require(o.data is None, "--data", str(o.data), "only with --card")
    require(o.operator is not None, "--operator", None, "an operator, or --card")
    require(len(o.inputs) > 0, "INPUT", "none", "validation images, or --card")
    assert o.operator is not None
    check_options_of(o.operator, o)
    name = prior_name(o.operator, o)
    return file_instances(load_prior(name, o).to(use_device(o.device)), o)


def _ranges(
    o: Tune, solver: Solver, first: Instance, of_card: Mapping[str, Mapping[str, object]]
) -> dict[str, Searched]:
    """Return the ranges: the usual ones, those of the card, and those of the options."""
    cls = type(solver)
    fixed = {name for name, _ in split_assignments("--set", o.set)}
    fixed |= {"steps"} if o.steps is not None else set()
    given = {name: _parsed(name, text) for name, text in split_assignments("--range", o.range)}
    twice = next((name for name in given if name in fixed), None)
    require(twice is None, "--range", twice, "hyper-parameters without --set and --steps")
    own = of_card.get(cls.name, {})
    found = default_ranges(cls, problem_for(solver, first))
    found |= {name: range_of(f"tuning: {name}", spelled) for name, spelled in own.items()}
    # A card limits the evaluations of a sample.
    fixed |= {"steps"} - own.keys() if o.card is not None else set()
    ranges = {name: each for name, each in found.items() if name not in fixed} | given
    require_ranges(cls, ranges, "--range")
    return ranges


def _parsed(name: str, text: str) -> Searched:
    values = [parse_value(part) for part in text.split(",")]
    return range_of(f"--range {name}", values if len(values) > 1 else text)


def _table(found: Recipe, solver: Solver) -> str:
    """Return a table of the settings that were searched, before and after, and a line on cost."""
    before = solver.settings
    moved = [name for name, value in found.settings.items() if value != before[name]]
    score = "failed" if found.default is None else f"{found.default:.4g}"
    rows = [["given", score, *(f"{before[name]}" for name in moved)]]
    rows += [["tuned", f"{found.value:.4g}", *(f"{found.settings[name]}" for name in moved)]]
    failed = f", {found.failed} failed" if found.failed else ""
    cost = f"{found.trials} settings tried{failed}; {found.evaluations} network evaluations"
    return f"{format_table(['settings', found.objective, *moved], rows)}\n{cost}"
