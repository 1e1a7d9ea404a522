"""Freeze cards: write the weights' fingerprint, the measurements and reference rows into them.

    python benchmarks/freeze_card.py src/wellposed/benchmark/cards/*.toml [--rows out/bench]

With ``--rows`` the reference rows are those of ``wellposed benchmark CARD --out out/bench/CARD``;
without it the rows of a card stay. Raise the version of a card whose measurements change. What is
frozen stands below a line of its own, and is written anew.
"""

import argparse
import json
from pathlib import Path

from wellposed.benchmark import Card, instances, read_card
from wellposed.benchmark.problems import frozen, prior_of
from wellposed.benchmark.record import read_record
from wellposed.benchmark.table import done, means
from wellposed.benchmark.truths import DATA
from wellposed.integrity import file_sha256
from wellposed.runs.fingerprint import fingerprint

LINE = "# frozen by benchmarks/freeze_card.py"
TOLERANCES = {
    "PSNR": 0.1,
    "SSIM": 0.005,
    "PSNR, B-mode": 0.1,
    "MPSNR": 0.1,
    "SAM": 0.2,
    "distance": 0.05,
    "gap in dB": 0.1,
}
"""Scores of reference rows, and what other processors may change in them."""


def freeze(path: Path, rows: Path | None) -> None:
    """Write the frozen part of a card."""
    old = read_card(path)
    text = path.read_text(encoding="utf-8").partition(LINE)[0].rstrip() + "\n"
    lines = ["", LINE]
    if rows is not None:
        lines += reference_rows(old, rows / old.id)
    else:
        for row in old.reference:
            lines += reference(row.solver, dict(row.scores), dict(row.tolerance))
    path.write_text(text, encoding="utf-8")  # what it froze before does not count any more
    card = read_card(path)
    if card.data is not None and card.prior is not None:
        mark = fingerprint(prior_of(card.prior))
        lines += ["[frozen]", f'prior = "{mark}"', "[frozen.files]"]
        for name in card.data.files:
            lines.append(f'"{name}" = "{file_sha256(DATA / name)}"')
        for problem in instances(card):
            facts = frozen(problem.y)
            numbers = ", ".join(f"{v:.9g}" for v in facts["sketch"])
            lines += ["[[frozen.measurements]]", f'sha256 = "{facts["sha256"]}"']
            lines += [f"sketch = [{numbers}]"]
    path.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


def reference_rows(card: Card, folder: Path) -> list[str]:
    """Return the rows of the solvers that a folder of a run holds."""
    kept = map(read_record, sorted((folder / "records").rglob("*.json")))
    lines: list[str] = []
    for solver, records in done(record for record in kept if record is not None).items():
        scores = {name: v for name, v in means(records).items() if name in TOLERANCES}
        if scores:
            lines += reference(solver, scores, {name: TOLERANCES[name] for name in scores})
    return lines


def reference(solver: str, scores: dict[str, float], tolerance: dict[str, float]) -> list[str]:
    """Return the lines of a row."""

    def table(values: dict[str, float]) -> str:
        return ", ".join(f"{_key(name)} = {value:.5g}" for name, value in values.items())

    row = ["[[reference]]", f"solver = {json.dumps(solver)}", f"scores = {{ {table(scores)} }}"]
    return [*row, f"tolerance = {{ {table(tolerance)} }}"]


def _key(name: str) -> str:
    """Return a key of TOML."""
    return name if name.isalnum() else json.dumps(name)


def main() -> None:
    """Freeze the cards."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cards", type=Path, nargs="+")
    parser.add_argument("--rows", type=Path, help="folder with the results of each card")
    o = parser.parse_args()
    for path in o.cards:
        freeze(path, o.rows)


if __name__ == "__main__":
    main()
