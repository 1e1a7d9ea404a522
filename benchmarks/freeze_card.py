"""Freeze cards: write the weights' fingerprint and the measurements of their problems into them.

    python benchmarks/freeze_card.py src/wellposed/benchmark/cards/*.toml

Raise the version of a card whose measurements change. What is frozen stands below the line
``# frozen``, and is written anew.
"""

import hashlib
import sys
from pathlib import Path

from wellposed.benchmark import instances, read_card
from wellposed.benchmark.problems import DATA, frozen
from wellposed.priors import load
from wellposed.runs.fingerprint import fingerprint

LINE = "# frozen by benchmarks/freeze_card.py"


def freeze(path: Path) -> None:
    """Write the frozen part of a card."""
    text = path.read_text().partition(LINE)[0].rstrip() + "\n"
    path.write_text(text)
    card = read_card(path)
    if card.data is None or card.prior is None:
        return
    lines = ["", LINE]
    mark = fingerprint(load(card.prior.name))
    lines += ["[frozen]", f'prior = "{mark}"', "[frozen.files]"]
    for name in card.data.files:
        lines.append(f'"{name}" = "{hashlib.sha256((DATA / name).read_bytes()).hexdigest()}"')
    for problem in instances(card):
        facts = frozen(problem.y)
        numbers = ", ".join(f"{v:.9g}" for v in facts["sketch"])
        lines += ["[[frozen.measurements]]", f'sha256 = "{facts["sha256"]}"']
        lines += [f"sketch = [{numbers}]"]
    path.write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        freeze(Path(name))
