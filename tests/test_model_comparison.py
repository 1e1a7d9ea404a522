"""The example of model comparison finds the model that made the measurement."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "model_comparison.py"


def test_the_true_noise_and_the_true_prior_have_the_largest_evidence(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["model_comparison.py", "--particles", "100", "--steps", "15"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    best = max(rows, key=lambda row: float(row[2]))
    assert best[:2] == ["two classes", "0.1"]
    assert all(abs(float(row[2]) - float(row[3])) < 1 for row in rows)
