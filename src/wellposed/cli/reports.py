"""Reports of commands, and what all of them tell of a run."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from wellposed.cli.batch import Job
from wellposed.cli.settings import Reconstruct
from wellposed.cli.summary import Summary
from wellposed.reconstruction import Reconstruction
from wellposed.report import Table, reconstruction_page, versions, write_page

REPORT = "report.html"
"""File of a report."""


def run_facts() -> dict[str, str]:
    """Return the versions, and the command line as it was typed."""
    return versions() | {"command": shlex.join(["wellposed", *sys.argv[1:]])}


def report_reconstruction(
    o: Reconstruct,
    job: Job,
    found: Reconstruction,
    images: tuple[Mapping[str, Tensor], Tensor | None],
    summary: Summary,
    facts: Mapping[str, str],
) -> Path:
    """Write the report of an input beside its result and return its path.

    Args:
        o: the options.
        job: the input.
        found: its result.
        images: those to compare with, by name, and the truth if it is known.
        summary: its scores.
        facts: of the prior.
    """
    others, truth = images
    page = reconstruction_page(
        f"{job.file.name}: {o.operator}",
        found,
        others=others,
        truth=truth,
        tables=[Table(title="Scores", header=summary.header, rows=summary.rows)],
        facts={"input": job.file.name, "operator": o.operator, **facts, **run_facts()},
    )
    return write_page(job.out / REPORT, page)
