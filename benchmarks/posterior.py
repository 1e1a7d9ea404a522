"""Errors of every solver against exact Gaussian posteriors; writes the recorded table.

    python benchmarks/posterior.py

writes ``docs/posterior.md`` and ``tests/data/posterior.json``, to which the tests hold the code.
"""

import json
from dataclasses import asdict
from pathlib import Path

from wellposed.report import format_table
from wellposed.validation import floor_errors, gaussian_errors, recorded_solvers

ROOT = Path(__file__).parent.parent
PROBLEMS, SAMPLES = 4, 500
TEXT = """# How far are the samples from the exact posterior?

Made by `python benchmarks/posterior.py`. {problems} random problems with a correlated Gaussian
prior (16 unknowns), a random operator (8 data, singular values .1 to 1) and noise .1, whose
posterior is known in closed form; {samples} samples per problem; variance-preserving prior (the
tests check that exploding and flow forms give the same samples).

- mean: error of the sample mean in posterior standard deviations (root of the trace);
- covariance: relative Frobenius error of the sample covariance;
- spread: total sample variance over the exact one; below 1 is overconfident.

"floor" are exact samples: what a perfect solver would show with so many samples. None of these
methods is exact by construction; RED-diff seeks a mode, so its small spread is by design.

{table}
"""


def main() -> None:
    """Measure and write."""
    errors = {"floor": floor_errors(PROBLEMS, SAMPLES)}
    for name, solver in recorded_solvers().items():
        errors[name] = gaussian_errors(solver, "vp", PROBLEMS, SAMPLES)
        print(name, errors[name], flush=True)
    record = {
        "problems": PROBLEMS,
        "samples": SAMPLES,
        "errors": {name: asdict(e) for name, e in errors.items()},
    }
    (ROOT / "tests/data/posterior.json").write_text(json.dumps(record, indent=1) + "\n")
    rows = [
        [name, f"{e.mean:.3f}", f"{e.covariance:.3f}", f"{e.spread:.3f}"]
        for name, e in errors.items()
    ]
    table = format_table(["solver", "mean", "covariance", "spread"], rows)
    text = TEXT.format(problems=PROBLEMS, samples=SAMPLES, table=table)
    (ROOT / "docs/posterior.md").write_text(text)


if __name__ == "__main__":
    main()
