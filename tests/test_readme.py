"""The README's example runs as written, and the table of solvers says what is so."""

import re
from pathlib import Path

import pytest

from wellposed import solvers

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_python_example_runs(monkeypatch, tmp_path, capsys):
    text = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    assert len(code.strip().splitlines()) <= 20
    monkeypatch.chdir(ROOT)
    exec(code.replace("out/example", str(tmp_path)), {})
    assert "Reconstruction(MMPS" in capsys.readouterr().out
    assert (tmp_path / "reconstruction.png").exists()


@pytest.mark.slow
def test_the_demo_beats_its_baselines(monkeypatch, tmp_path, capsys):
    """The whole demo: estimate and samples must be better than the baselines, on both problems."""
    import runpy

    monkeypatch.setattr("sys.argv", ["demo.py", "--out", str(tmp_path)])
    runpy.run_path(str(ROOT / "examples" / "demo.py"), run_name="__main__")
    rows = [
        [c.strip() for c in line.split("|")[1:-1]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    ]
    table = {tuple(row[:3]): row[3:] for row in rows}
    psnr = lambda *key: float(table[("simulated", *key)][0])  # noqa: E731
    best = max(psnr(name, "estimate") for name in ("BackProjection", "Tikhonov", "TotalVariation"))
    assert psnr("HQS", "estimate") > best + 2.0
    assert psnr("MMPS", "mean of 2") > best + 1.0
    held_out = lambda *key: float(table[("measured", *key)][2])  # noqa: E731
    for key in (("HQS", "estimate"), ("MMPS", "mean of 2")):
        assert held_out(*key) < 0.75 * held_out("Tikhonov", "estimate")
    assert len(list(tmp_path.glob("*.png"))) == 14


def test_the_table_of_solvers_says_what_they_declare():
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| ([^|]*) \|$", (ROOT / "docs/solvers.md").read_text(), re.M
    )
    said = {name: operators.split("; ")[0] for name, operators in rows if hasattr(solvers, name)}
    said = {n: text for n, text in said.items() if not getattr(solvers, n).restores}
    assert len(said) >= 13
    for name, operators in said.items():
        cls = getattr(solvers, name)
        declared = "linear" if cls.linear_only or cls.linear_operator else "any"
        declared = "`Decomposable`" if cls.decomposable_only else declared
        declared = f"`{cls.operators[0]}`" if cls.operators else declared
        # What depends on a setting is checked by the solver itself.
        assert operators == declared or name == "NoisyProjection", name
