"""The comparing examples of volumes run on small data, and what they share is what it says."""

import runpy
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from wellposed.datasets import load_nifti
from wellposed.errors import ArgumentError
from wellposed.operators import Stacked
from wellposed.operators.image.inpainting import Denoising
from wellposed.priors import Tabulated
from wellposed.priors.prior import Prior

pytestmark = pytest.mark.usefixtures("single_thread")

EXAMPLES = Path(__file__).parent.parent / "examples"
AFFINE = np.array([[0, 2, 0, 5], [-1.5, 0, 0, 7], [0, 0, 3, -20], [0, 0, 0, 1.0]])
SHAPE = 26, 24, 12


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    """As for a script, its folder comes first; what it imports is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in ("comparison", "volume_comparison", "volume_ct", "volume_mri"):
        sys.modules.pop(name, None)


def write_ball(path, outside):
    """Write a ball of 600 as a file of axes (W, H, D)."""
    w, h, d = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    values = np.where(w**2 + h**2 + d**2 < 0.5, 600, outside).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    return path


@pytest.fixture
def ball(tmp_path):
    return write_ball(tmp_path / "ball.nii.gz", -1000)


def run(monkeypatch, capsys, script, data, out, *options):
    """Run a script on all slices of half the resolution; return its table by case and method."""
    short = ["--steps", "2", "--iterations", "20", "--slices", "0:12", "--side", "12"]
    command = [script, "--data", str(data), "--out", str(out), *short, *options]
    monkeypatch.setattr("sys.argv", command)
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert (out / "table.md").read_text().splitlines() == lines
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    return {(row[0], row[1]): row[2:] for row in rows}


def decibels(row):
    return float(row[0].split(",")[0])


@pytest.mark.slow
def test_thorax(monkeypatch, capsys, tmp_path, ball):
    out = tmp_path / "out"
    table = run(monkeypatch, capsys, "volume_ct.py", ball, out, "--mbir-steps", "1")
    joined = ["DDS3D, cg_steps 5", "DDS3D, cg_steps 20"]
    methods = ["FBP", "3-D TV", "DDS, slices", *joined, "DiffusionMBIR"]
    scans = ["8 views", "0 to 119 degrees"]
    assert list(table) == [(scan, method) for scan in scans for method in methods]
    assert {path.name for path in out.glob("*.png")} == {"8-views.png", "0-to-119-degrees.png"}
    for scan in scans:
        assert [table[scan, method][4] for method in methods] == ["0", "0", *["2"] * 4]
        # The ball is what total variation is for, and 20 sweeps fit the data.
        assert decibels(table[scan, "3-D TV"]) > decibels(table[scan, "FBP"]) + 3
        assert float(table[scan, "3-D TV"][3]) < 0.05
    written = nibabel.load(out / "8-views-3-d-tv.nii.gz")
    assert written.shape == (13, 12, 12)
    inside, outside = written.get_fdata()[6, 6, 6], written.get_fdata()[0, 0, 6]
    assert inside == pytest.approx(600, abs=250)
    assert outside == pytest.approx(-1000, abs=250)


def test_fbp_of_a_limited_angle_counts_the_angles_seen(ball):
    """The sum over 120 of 180 degrees: two thirds of what the data call for, not all of it."""
    import volume_ct

    truth = (load_nifti(ball).volume + 1000) / 2000
    sparse, limited = volume_ct.cases(truth)
    assert tuple(sparse.operator.operator.angles.numpy()) == tuple(22.5 * k for k in range(8))
    np.testing.assert_allclose(limited.operator.operator.angles, np.arange(120))
    assert float(volume_ct.fbp(sparse)[0, 0, 6].mean() / truth[0, 0, 6].mean()) == pytest.approx(
        1, abs=0.15
    )
    assert float(volume_ct.fbp(limited)[0, 0, 6].mean() / truth[0, 0, 6].mean()) == pytest.approx(
        2 / 3, abs=0.12
    )


@pytest.mark.slow
def test_head(monkeypatch, capsys, tmp_path):
    out, data = tmp_path / "out", write_ball(tmp_path / "head.nii", 0)
    table = run(monkeypatch, capsys, "volume_mri.py", data, out)
    assert list(table) == [("8 x", m) for m in ("zero-filled", "3-D TV", "DDS, slices", "DDS3D")]
    assert decibels(table["8 x", "3-D TV"]) > decibels(table["8 x", "zero-filled"])
    written = nibabel.load(out / "8-x-3-d-tv.nii.gz")
    assert written.get_fdata()[6, 6, 6] == pytest.approx(600, abs=250)


def test_settings_are_compared_on_other_slices(monkeypatch, capsys, tmp_path, ball):
    """Only the tuning slices are looked at, whatever slices are asked for."""
    import volume_mri

    first, end = map(int, volume_mri.TEST.split(":"))
    tuning = range(*map(int, volume_mri.TUNING.split(":")))
    assert not set(tuning) & set(range(first, end))
    with pytest.raises(ArgumentError, match=f"slices: got '{volume_mri.TUNING}'"):
        run(monkeypatch, capsys, "volume_mri.py", ball, tmp_path / "out", "--tune")


def test_averaged_pixels_lie_in_the_middle_of_their_pixels(ball):
    from volume_comparison import slab

    whole = load_nifti(ball)
    part = slab(whole, "2:6", 12)
    assert part.volume.shape == (1, 1, 4, 12, 13)
    assert part.spacing == (3, 4, 3)
    block = whole.volume[0, 0, 3, 4:6, 8:10]
    torch.testing.assert_close(part.volume[0, 0, 1, 2, 4], block.mean())
    np.testing.assert_allclose(part.affine @ [4, 2, 1, 1], AFFINE @ [8.5, 4.5, 3, 1])
    assert slab(whole, "2:6", 24).volume.shape == (1, 1, 4, 24, 26)


class Useless(Prior):
    def denoise(self, x_t, t, condition=None):
        return x_t / 0


@pytest.mark.slow
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_total_variation_of_two_pieces(axis):
    """A step of height 1 in the middle of n voxels shrinks by 2 lambda / n (Strong, Chan)."""
    from volume_comparison import TotalVariation

    step = torch.zeros(1, 1, 8, 8, 8, dtype=torch.float64)
    step.narrow(axis, 4, 4).fill_(1)
    operator = Stacked(Denoising((1, 8, 8), 0.0), 8)
    prior = Useless(Tabulated.linear(), 1, data_range=(0.0, 1.0))
    solver = TotalVariation(steps=200, lam=0.4, rho=1.0)
    found = solver(step, operator, prior, seed=0)
    expected = step + (0.4 / 4) * torch.where(step > 0, -1.0, 1.0)
    torch.testing.assert_close(found.mean, expected, atol=1e-3, rtol=0)
    assert found.nfe == 0
