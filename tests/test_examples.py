"""The comparing examples run on small data, and what they share computes what it says."""

import runpy
import shutil
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import tiny_training

from wellposed import operators
from wellposed.datasets import load_htc2022
from wellposed.errors import FileError
from wellposed.operators.image.inpainting import Denoising
from wellposed.priors.training import train

ROOT = Path(__file__).parent.parent
EXAMPLES, DATA = ROOT / "examples", Path(__file__).parent / "data"
PHOTO = DATA / "held_out" / "kodak_08.png"


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    """As for a script, its folder comes first; what it imports is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in ("comparison", "ct_measured", "ct_sparse_views", "mri_multicoil", "restore"):
        sys.modules.pop(name, None)


def run(monkeypatch, capsys, script, data, out, *options):
    """Run a script, two steps of DDS and of TV; return its table by case and method."""
    short = ["--steps", "2", "--iterations", "2"]
    command = [script, "--data", str(data), "--out", str(out), *short, *options]
    monkeypatch.setattr("sys.argv", command)
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert (out / "table.md").read_text().splitlines() == lines
    return {(row[0], row[1]): [float(cell) for cell in row[2:]] for row in rows[2:]}


def check(table, out, cases, methods):
    """Every method has figures for every case, every case a panel."""
    assert list(table) == [(case, method) for case in cases for method in methods]
    assert np.isfinite(list(table.values())).all()
    assert {path.name for path in out.glob("*.png")} == {
        f"{case.replace(' ', '-')}.png" for case in cases
    }


SAMPLED = [f"{name}, {kind}" for name in ("MMPS", "DDS") for kind in ("one sample", "mean of 2")]
WITH_PRIOR = ["HQS", *SAMPLED]


@pytest.mark.slow
def test_the_measured_disc(monkeypatch, capsys, tmp_path):
    """The reduced scan, 128 pixels: FBP needs the views, TV less so."""
    out = tmp_path / "out"
    data = DATA / "htc2022"
    table = run(monkeypatch, capsys, "ct_measured.py", data, out, "--samples", "2")
    check(table, out, ["ta 60 views", "ta 30 views"], ["FBP", "TV", *WITH_PRIOR])
    assert table["ta 60 views", "FBP"][0] > table["ta 30 views", "FBP"][0] + 1
    assert table["ta 30 views", "TV"][0] > table["ta 30 views", "FBP"][0] + 3


def test_our_reference_is_the_organisers_image():
    """Same values at the same place: a shift of a pixel costs many decibels."""
    from ct_measured import ATTENUATION, fan_beam

    scan = load_htc2022(DATA / "htc2022" / "htc2022_ta_full.mat")
    pool = torch.nn.functional.avg_pool2d
    ours = fan_beam(scan, 1).fbp(pool(scan.sinogram[:, :, :-1], (1, 2)))
    theirs = pool(scan.fbp, 2) / ATTENUATION
    errors = {
        (dy, dx): float((torch.roll(ours, (dy, dx), (2, 3)) - theirs).norm() / theirs.norm())
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    best = errors.pop((0, 0))
    assert best < 0.1
    assert all(error > 2 * best for error in errors.values())


def write_series(folder, numbers):
    """Write the test's DICOM slices again with these instance numbers."""
    import pydicom

    folder.mkdir()
    paths = sorted((DATA / "dicom").glob("*.dcm"))
    for path, number in zip(paths, numbers, strict=True):
        header = pydicom.dcmread(path)
        header.InstanceNumber = number
        header.save_as(folder / path.name)
    return folder


@pytest.mark.slow
def test_sparse_views(monkeypatch, capsys, tmp_path):
    data, out = write_series(tmp_path / "series", (121, 126, 136)), tmp_path / "out"
    table = run(monkeypatch, capsys, "ct_sparse_views.py", data, out, "--samples", "2")
    cases = ["slice 121 30 views", "slice 126 30 views"]
    check(table, out, cases, ["FBP", "TV", *WITH_PRIOR])
    assert table[cases[0], "HQS"][0] > table[cases[0], "FBP"][0]


def test_missing_slices_are_named(monkeypatch, capsys, tmp_path):
    data = write_series(tmp_path / "series", (120, 121, 122))
    with pytest.raises(FileError, match="series lacks the slices of instance number 126"):
        run(monkeypatch, capsys, "ct_sparse_views.py", data, tmp_path / "out")


def write_head(path):
    """Write the slice of the examples' data at the places that the example reads."""
    with h5py.File(EXAMPLES / "data" / "studyforrest_slice.h5") as file:
        magnitude = file["magnitude"][::4, ::4].astype(np.float32)
    volume = np.zeros((magnitude.shape[1], magnitude.shape[0], 281), np.float32)
    volume[:, ::-1, [220, 240, 280]] = magnitude.T[..., None]
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    return path


@pytest.mark.slow
def test_multicoil_mri(monkeypatch, capsys, tmp_path):
    data, out = write_head(tmp_path / "head.nii.gz"), tmp_path / "out"
    table = run(monkeypatch, capsys, "mri_multicoil.py", data, out, "--samples", "2")
    cases = [f"slice {place} {factor} x" for place in (240, 280) for factor in (4, 8)]
    check(table, out, cases, ["zero-filled", "CG-SENSE", "TV", *WITH_PRIOR])
    for method in ("zero-filled", "CG-SENSE"):
        assert table[cases[0], method][0] > table[cases[1], method][0]
    assert table[cases[0], "CG-SENSE"][0] > table[cases[0], "zero-filled"][0]
    # The noise level is known: what fits the data leaves about the noise.
    assert 0.5 < table[cases[0], "CG-SENSE"][2] < 2


@pytest.fixture(scope="module")
def restorers(tmp_path_factory):
    """Restorers after two steps of training, under the names of those shipped."""
    folder = tmp_path_factory.mktemp("restorers")
    kinds = {
        "irsde-deblur": ("ir-sde", "deblurring"),
        "resshift-x4": ("resshift", "super-resolution"),
    }
    for name, (process, degradation) in kinds.items():
        more = dict(process=process, degradation=degradation, prediction="residual")
        train(tiny_training(PHOTO, folder / name, steps=2, warmup=1, **more))
    return folder


@pytest.mark.slow
def test_restoring_a_photograph(monkeypatch, capsys, restorers, tmp_path):
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    Image.open(PHOTO).crop((0, 0, 50, 66)).save(photo)  # cut to 48 x 64
    command = ["restore.py", photo, "--samples", 2, "--steps", 2, "--out", out]
    command += ["--restorers", restorers]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    runpy.run_path(str(EXAMPLES / "restore.py"), run_name="__main__")
    lines = (out / "table.md").read_text().splitlines()
    assert lines == [x for x in capsys.readouterr().out.splitlines() if x.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    table = {(row[0], row[1]): [float(cell) for cell in row[2:]] for row in rows}
    sampled = ("restorer", "restorer and operator", "DDS, zero-shot")
    kinds = [f"{name}, {kind}" for name in sampled for kind in ("one sample", "mean of 2")]
    check(table, out, ["blurred", "reduced"], ["degraded", *kinds])
    for case in ("blurred", "reduced"):
        # Told the operator, even an untrained restorer fits the data.
        known, blind = (table[case, f"{name}, one sample"][2] for name in sampled[1::-1])
        assert known < blind


@pytest.mark.slow
def test_tuning_compares_settings_on_other_data(monkeypatch, capsys, tmp_path):
    """Only the tuning scan is in the folder, so that no other can have been looked at."""
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copy(DATA / "htc2022" / "htc2022_ta_full.mat", folder / "htc2022_tb_full.mat")
    options = ["--samples", "1", "--tune"]
    table = run(monkeypatch, capsys, "ct_measured.py", folder, tmp_path / "out", *options)
    cases, methods = zip(*table, strict=True)
    assert set(cases) == {"tb 60 views", "tb 30 views"}
    assert {"TV, weight 0.01", "HQS, noise 0.04", "DDS, noise 0.02"} <= set(methods)


@pytest.mark.parametrize("script", ["ct_measured.py", "ct_sparse_views.py", "mri_multicoil.py"])
def test_missing_data_are_named(monkeypatch, capsys, tmp_path, script):
    with pytest.raises(FileError, match="nowhere"):
        run(monkeypatch, capsys, script, tmp_path / "nowhere", tmp_path / "out")


def denoising(noisy, noise_sigma=0.0):
    from comparison import Case

    operator = Denoising(noisy.shape[1:], noise_sigma)
    return Case("denoising", noisy, operator, noisy)


def test_total_variation_of_two_pieces():
    """A step of height h between halves of n columns shrinks by 2 weight / n (Strong, Chan)."""
    from comparison import total_variation

    step = torch.zeros(1, 1, 16, 20)
    step[..., 10:] = 1
    weight = 0.4
    found = total_variation(denoising(step), weight, iterations=100)
    expected = step + (weight / 10) * torch.where(step > 0, -1.0, 1.0)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_total_variation_of_complex_images_is_that_of_both_parts():
    from comparison import Case, total_variation

    rng = np.random.default_rng(0)
    parts = torch.from_numpy(rng.normal(size=(2, 1, 1, 12, 12))).float()
    mri = operators.SingleCoilMRI(torch.ones(12, 12))
    y = mri.A(torch.complex(*parts))
    found = total_variation(Case("complex", y, mri, y), 0.3, iterations=30)
    for part, image in zip((found.real, found.imag), parts, strict=True):
        expected = total_variation(denoising(image), 0.3, iterations=30)
        torch.testing.assert_close(part, expected, atol=2e-3, rtol=0)


def test_the_residual_is_one_for_the_truth():
    from comparison import Case, residual

    rng = np.random.default_rng(0)
    image = torch.complex(*torch.from_numpy(rng.normal(size=(2, 1, 1, 64, 64))).float())
    mask = operators.uniform_random_lines(64, 2, seed=0)
    maps = operators.simulate_sensitivity_maps(4, 64, 64)
    mri = operators.MultiCoilMRI(mask, maps, 0.05)
    y = mri.measure(image, seed=0)
    assert residual(Case("mri", y, mri, image), image) == pytest.approx(1, abs=0.03)
    ones = torch.ones(1, 1, 32, 32)
    assert residual(denoising(ones), 0.9 * ones) == pytest.approx(0.1, rel=1e-4)
    assert residual(denoising(ones, 0.2), 0.9 * ones) == pytest.approx(0.5, rel=1e-4)


def test_a_photograph_is_deblurred_without_its_kernel(monkeypatch, capsys, tmp_path):
    short = ["--out", str(tmp_path), "--side", "32", "--steps", "2", "--starts", "1"]
    monkeypatch.setattr("sys.argv", ["blind_deblurring.py", *short])
    runpy.run_path(str(EXAMPLES / "blind_deblurring.py"), run_name="__main__")
    table = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == table
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        *("blurred", "TV, Gaussian kernel", "BlindHQS", "TV, true kernel", "HQS, true kernel")
    ]
    assert (tmp_path / "blind.png").exists()


def test_images_are_compared_in_the_region_alone(capsys, tmp_path):
    import comparison

    region = (torch.arange(32) < 16).float().expand(1, 1, 32, 32)
    case = comparison.Case("half", region, Denoising((1, 32, 32)), 0.5 * region, region=region)
    off = {"inside": 0.5 * region + 0.1 * region, "outside": 0.5 * region + (1 - region)}
    methods = {name: lambda case, image=image: image for name, image in off.items()}
    comparison.run([case], methods, tmp_path)
    cells = [line.split("|")[2:4] for line in capsys.readouterr().out.splitlines()[2:]]
    psnr = {name.strip(): float(value) for name, value in cells}
    assert psnr["inside"] == pytest.approx(20 + 10 * np.log10(2), abs=0.01)
    assert psnr["outside"] == float("inf")
    assert (tmp_path / "half.png").exists()
