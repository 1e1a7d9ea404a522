"""The report of the exact-posterior tests."""

from collections.abc import Mapping
from pathlib import Path

from wellposed.report import Facts, Figure, Page, Table
from wellposed.validation.report import HEADER, details, summary_rows
from wellposed.validation.run import Record

NOTE = (
    'Every problem has a posterior known in closed form. "floor" stands for exact samples; "-" '
    'marks a problem that a solver refuses, "*" an average over those that it accepts.'
)


def posterior_page(records: dict[str, Record], plot: Path, facts: Mapping[str, str]) -> Page:
    """Return the report of records.

    Args:
        records: records by name; the record of exact samples is named "floor".
        plot: the file of their picture, see `report.write_plot`.
        facts: where they are from.
    """
    title = "Distance of the samples from the exact posterior"
    picture = "Coverage of the samples against its nominal value, and distances of mixtures"
    return Page(
        title=title,
        note=NOTE,
        parts=[
            Table(title="Means by solver", header=HEADER, rows=summary_rows(records)),
            Figure.of_file("Coverage and distances", plot, picture),
            *(
                Table(title=t, header=head, rows=rows)
                for t, (head, rows) in details(records).items()
            ),
            Facts(title="Provenance", facts=facts),
        ],
    )
