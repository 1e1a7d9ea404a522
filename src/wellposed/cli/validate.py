"""The command ``wellposed validate``."""

import json
from dataclasses import fields
from pathlib import Path

import typer

from wellposed.cli.consistency import consistency
from wellposed.cli.names import find_class, make_solver
from wellposed.cli.options import options_of, require_unused
from wellposed.cli.reports import REPORT, run_facts
from wellposed.cli.settings import SolverOptions
from wellposed.cli.trial_settings import Validate
from wellposed.errors import FileError, require
from wellposed.figures import format_table
from wellposed.integrity import read_json
from wellposed.report import write_page
from wellposed.runs.progress import track
from wellposed.solvers import Solver
from wellposed.validation.page import posterior_page
from wellposed.validation.report import details, summary, write_plot
from wellposed.validation.run import FULL, QUICK, Effort, Record, measure
from wellposed.validation.settings import BUDGET, recorded_solvers
from wellposed.writing import write_text

RECORDS = "posterior.json"
TEXT = """# How far are the samples from the exact posterior?

Made by `{command}`. Every problem here has a posterior known in closed form; problems, noise and
samples are determined by fixed seeds (0, 1, ... for the problems of a kind), in float64. "floor"
stands for exact samples: the result of a perfect solver with the same number of samples. "-" marks
a problem that a solver refuses; "*" an average over the problems it accepts.

{table}

![coverage and distances]({plot})

- **mean, covariance, spread, coverage, CRPS**: {problems} Gaussian problems of each kind below,
  {samples} samples each. mean: error of the sample mean in posterior standard deviations (root of
  the trace); covariance: relative Frobenius error; spread: total sample variance over the exact
  variance, below 1 is overconfident; coverage: probability of the samples' central 50 to 95 %
  intervals under the exact posterior; CRPS: ratio to the CRPS of the exact posterior.
- **mixture**: the test of MCGdiff (arXiv 2308.07983), 25 Gaussians in d dimensions observed by d_y
  projections; {mixtures} problems per cell, {mixture_samples} samples, {slices} directions: sliced
  Wasserstein distance over the distance between two exact sample sets, averaged over the cells.
- **Lévy**: the Gaussian case of arXiv 2509.12821, random walks of length 64 at 25 dB, {signals}
  signals, 50 samples: expected squared error of the sample mean over the minimum, in dB, and the
  probability, under the exact posterior, of the 90 % region of the samples.
- At most {budget} steps in these tests (PnPDM, which anneals over its steps: 100).
- **order**: slope of the error of the mean against the number of steps, on the first kind of
  problem with antithetic noise; 0 means a bias that more steps do not remove.
- **VP/VE/flow**: largest difference between the samples of equivalent processes.
- **NFE**: network evaluations per sample; **seconds**: processor time of these tests. Weighted
  particles are as many as the samples of each test.

Few of these methods are exact by construction. RED-diff seeks a mode, so its spread is small by
design.

{details}"""


def validate(o: Validate) -> None:
    """Measure the solvers, and add their results to the folder; or test self-consistency."""
    if o.operator is not None:
        return consistency(o)
    _refuse_own(o)
    chosen: dict[str, Solver | None] = {"floor": None, **_chosen(o)}
    effort, out = QUICK if o.quick else FULL, o.out
    command = " ".join(["wellposed validate", *(["--quick"] if o.quick else []), f"--out {out}"])
    records = _kept(out, effort) if out is not None else {}
    for name in track([n for n in chosen if n != "floor" or n not in records], "solvers"):
        records[name] = rounded(measure(chosen[name], effort))
        if out is not None:
            _write(records, effort, command, out)
    typer.echo(summary({name: records[name] for name in chosen}))
    if out is not None:
        typer.echo(f"wrote {out / 'posterior.md'}, .png and .json, and {out / REPORT}")


def _refuse_own(o: Validate) -> None:
    """Raise if an option is given that only the test with --operator uses."""
    used = {"solvers", "quick", "out", *(f.name for f in fields(SolverOptions))}
    unused = {each.name for each in options_of(Validate)} - used
    require_unused(o, unused, "only with --operator")


def _kept(folder: Path, effort: Effort) -> dict[str, Record]:
    """Return the records that an earlier run of the same effort left in the folder.

    Creates the folder before hours are spent on the results. A table whose records are missing or
    of another effort is not overwritten.
    """
    path, table = folder / RECORDS, folder / "posterior.md"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and not table.exists():
            return {}
        stored = read_json(path)
    except (OSError, ValueError) as error:
        raise FileError(f"--out: cannot add to {str(path)!r}: {error}") from error
    if not (isinstance(stored, dict) and stored.get("effort") == _plain(effort)):
        raise FileError(
            f"--out: {str(path)!r} holds results of another effort, accepted: an empty folder, or "
            "results of the same effort (with or without --quick)"
        )
    solvers: dict[str, Record] = stored["solvers"]
    return solvers


def _plain(effort: Effort) -> object:
    return json.loads(json.dumps(vars(effort)))


def _chosen(o: Validate) -> dict[str, Solver]:
    """Return solvers by label: with the recorded settings, or with those of the options."""
    recorded = recorded_solvers()
    known = {s.name: type(s) for s in recorded.values()}
    own = o.steps is not None or bool(o.set)
    named = bool(o.solvers) or not own
    require(named, "--set", "no SOLVER", "hyper-parameters of a named SOLVER")
    chosen = {} if o.solvers else recorded
    for name in o.solvers:
        cls = find_class("SOLVER", name, known, Solver)
        if own or cls not in known.values():
            label = ", ".join([cls.__name__, *(a.replace("=", " ") for a in o.set)])
            chosen[label] = make_solver(cls, o, steps=BUDGET, spacing="karras")
        else:
            chosen |= {key: s for key, s in recorded.items() if type(s) is cls}
    return chosen


def _write(records: dict[str, Record], effort: Effort, command: str, folder: Path) -> None:
    tables = {title: format_table(*table) for title, table in details(records).items()}
    sections = [f"## {title}\n\n{table}\n" for title, table in tables.items()]
    text = TEXT.format(
        command=command,
        table=summary(records),
        plot="posterior.png",
        details="\n".join(sections),
        **vars(effort),
    )
    write_text(folder / "posterior.md", text, "--out")
    stored = {"effort": _plain(effort), "solvers": records}
    write_text(folder / RECORDS, json.dumps(stored, indent=1) + "\n", "--out")
    write_plot(records, folder / "posterior.png")
    facts = {name: str(value) for name, value in vars(effort).items()} | run_facts()
    write_page(folder / REPORT, posterior_page(records, folder / "posterior.png", facts))


def rounded(record: Record) -> Record:
    """Return a record with its numbers rounded to six significant digits, as they are stored."""
    short: Record = json.loads(json.dumps(record), parse_float=lambda n: float(f"{float(n):.6g}"))
    return short
