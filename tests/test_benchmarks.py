"""The comparison on images: its problems, its search and its tables, at toy size."""

import argparse
import importlib
import json
import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import anchored

from wellposed import solvers
from wellposed.errors import ArgumentError, FileError, SamplingError
from wellposed.priors import MeanReverting, load, resshift
from wellposed.priors.networks.conv_unet import RestorationUNet
from wellposed.reconstruction import Reconstruction
from wellposed.solvers import Problem
from wellposed.solvers.data import squared_norm

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
pytestmark = pytest.mark.usefixtures("single_thread")
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(BENCHMARKS)
    (
        problems,
        methods,
        tune,
        images,
        speed,
        overhead,
        restoration,
        report,
        full,
        held,
        scaling,
    ) = (
        importlib.import_module(name)
        for name in (
            *("image_problems", "image_methods", "tune", "images", "speed", "overhead"),
            *("restoration", "restoration_report", "full_size", "coverage", "scaling"),
        )
    )
PROTOCOL = {"nfe": 5, "trials": 3, "size": 32}


def case(name, items=1, size=32):
    task = problems.TASKS[name]
    prior = load(task.prior)
    shape = (items, prior.channels, size, size)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return problems.measured(task, x.to(torch.complex64) if prior.is_complex else x, seed=0)


every_task = pytest.mark.parametrize("name", problems.TASKS)


@every_task
def test_problems_are_what_they_say(name):
    found = case(name, items=2)
    problem = Problem.create(found.y, found.operator, found.prior)
    assert squared_norm(problem).tolist() == pytest.approx([found.norm2] * 2, rel=0.15)
    noise = found.y - found.operator.A(found.truth)
    noise = noise[found.operator.restrict(torch.ones_like(noise)) != 0]
    parts = torch.view_as_real(noise) if noise.is_complex() else noise
    assert float(parts.std()) / found.prior.scale == pytest.approx(found.sigma, rel=0.1)
    assert problems.TASKS[name].family in problems.TASKS


def data_folder(folder):
    """Return a folder in which every image has a value of its own."""
    photographs = folder / "natural" / "kodak24"
    photographs.mkdir(parents=True)
    for number in range(1, 25):
        Image.new("RGB", (96, 80), (10 * number,) * 3).save(photographs / f"{number:02}.png")
    for path, depth in (
        ("mri/studyforrest_t1.nii.gz", 300),
        ("ct/andrei_abdomen_256.nii.gz", 250),
    ):
        (folder / path).parent.mkdir()
        volume = np.broadcast_to(np.arange(depth, dtype=np.int16), (32, 32, depth))
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / path)
    return folder


@pytest.mark.slow
def test_no_image_serves_for_tuning_and_for_the_table(tmp_path):
    folder = data_folder(tmp_path)
    for name in ("sr4", "mri4", "ct30"):
        cases = [problems.build_case(name, folder, use, 32) for use in ("test", "tuning")]
        levels = [c.truth.abs().mean((1, 2, 3)).tolist() for c in cases]
        flat = [round(level, 5) for each in levels for level in each]
        assert len(set(flat)) == len(flat) == 6
    (folder / "natural" / "kodak24" / "08.png").unlink()
    with pytest.raises(FileError, match=r"08\.png"):
        problems.build_case("sr4", folder, "tuning", 32)


@every_task
def test_all_settings_that_are_drawn_can_be_used(name):
    found = case(name)
    for method in methods.METHODS.values():
        drawn = method.draw(found, 9, seed=3)
        assert drawn[0] == {} and drawn == method.draw(found, 9, seed=3)
        for settings in drawn:
            method.make(**method.budget(50), **method.fixed(found), **settings)


def test_draws_fill_their_ranges_evenly():
    ranges = {"a": methods.Log(0.01, 100.0, lambda c: 2.0), "b": methods.Share()}
    drawn = methods.Method(solvers.DDS, ranges).draw(case("sr4"), 11, seed=0)[1:]
    strata = {
        "a": [math.floor(10 * math.log10(s["a"] / 0.02) / 4) for s in drawn],
        "b": [math.floor(10 * s["b"]) for s in drawn],
    }
    assert sorted(strata["a"]) == sorted(strata["b"]) == list(range(10))
    assert strata["a"] != strata["b"]


@pytest.mark.parametrize("name", methods.METHODS)
@pytest.mark.slow
def test_methods_keep_to_the_budget(name):
    result = methods.METHODS[name].run(case("inpaint-random", 2), {}, 10)
    assert 9 <= result.nfe <= 10


class Fake:
    """A solver that is off by ``error``; diverges beyond 1 and refuses below 0."""

    def __init__(self, truth, error=0.5, **budget):
        self.truth, self.error = truth, error

    def __call__(self, y, operator, prior, num_samples, seed):
        if self.error > 1:
            raise SamplingError("diverged")
        if self.error < 0:
            raise ArgumentError("refused")
        samples = (self.truth + self.error).expand(num_samples, *self.truth.shape)
        return Reconstruction(samples, torch.ones(num_samples, len(y)), 10, 1.0, "fake")


def fake(found, errors, published=0.5):
    return methods.Method(
        lambda error=published, **budget: Fake(found.truth, error, **budget),
        {"error": methods.Choice(errors)},
    )


@pytest.mark.slow
def test_search_finds_the_best_settings():
    found = case("sr4")
    best = tune.search(fake(found, (2.0, 0.1)), found, nfe=10, trials=3)
    assert best["settings"] == {"error": 0.1}
    assert best["psnr"] == pytest.approx(20.0, abs=1e-3)
    assert sorted(str(trial["psnr"]) for trial in best["tried"]) == ["20.0", "6.021", "None"]
    assert tune.search(fake(found, (0.9, 0.8)), found, nfe=10, trials=3)["settings"] == {}


def test_search_tells_refusal_from_a_wrong_range():
    found = case("sr4")
    assert tune.search(fake(found, (0.1,), published=-1.0), found, nfe=10, trials=2) is None
    with pytest.raises(ArgumentError, match="refused"):
        tune.search(fake(found, (-1.0,)), found, nfe=10, trials=2)


@pytest.mark.slow
def test_tuning_goes_on_where_it_stopped(tmp_path, monkeypatch):
    found, out = case("mri4"), tmp_path / "tuned.json"
    names = ("DDS", "DDRM")
    monkeypatch.setattr(tune, "METHODS", {name: methods.METHODS[name] for name in names})
    tune.tune("mri4", found, PROTOCOL, out)
    record = json.loads(out.read_text())
    assert len(record["results"]["mri4"]["DDS"]["tried"]) == 3
    assert record["results"]["mri4"]["DDRM"] is None
    record["results"]["mri4"]["DDS"] = "kept"
    tune.add(out, PROTOCOL, ("mri4", "DDS"), "kept")
    tune.tune("mri4", found, PROTOCOL, out)
    assert json.loads(out.read_text()) == record
    with pytest.raises(ArgumentError, match="protocol"):
        tune.read(out, {**PROTOCOL, "nfe": 6})


def test_tables_hold_the_figures(tmp_path, monkeypatch):
    found = case("inpaint-box", items=2)
    monkeypatch.setattr(images, "METHODS", {n: fake(found, (0.1,)) for n in ("good", "bad")})
    pictures = tmp_path / "pictures"
    args = argparse.Namespace(out=tmp_path / "images.json", pictures=pictures, long_dps=False)
    tuned = {
        "good": {"settings": {"error": 0.1}},
        "bad": {"settings": {"error": 2.0}},
        "refused": None,
    }
    protocol = {**PROTOCOL, "samples": 2}
    images.run_task("inpaint-box", found, tuned, protocol, args)
    record = json.loads(args.out.read_text())
    assert record["results"]["inpaint-box"]["good"]["psnr_mean"] == pytest.approx(20, abs=1e-3)
    text = images.document(record)
    assert "| good   | 20.00 / 20.00 |" in text
    assert "| bad    | diverged      |" in text
    assert "refused" not in text
    with Image.open(pictures / "inpaint-box-good.png") as picture:
        assert picture.size == (32, 32)
        shown = images.mosaic(record["results"], pictures, 32)
        # The columns are the truth and both methods; the first method's picture is in the second.
        assert shown.crop((124, 28, 156, 60)).tobytes() == picture.convert("RGB").tobytes()


def test_the_headline_compares_at_no_less_quality(tmp_path):
    row = {"settings": {}, "psnr_one": 0.0, "seconds": 0.0}
    results = {
        "DDS": {
            "5": {**row, "psnr_one": 20.0, "seconds": 1.0},
            "50": {**row, "psnr_one": 25.0, "seconds": 10.0},
            "100": {**row, "psnr_one": 26.0, "seconds": 20.0},
        },
        "DPS": {
            "20": {**row, "error": "diverged"},
            "250": {**row, "psnr_one": 24.0, "seconds": 80.0},
            "1000": {**row, "psnr_one": 30.0, "seconds": 300.0},
        },
    }
    fast, none = speed.headline(results)
    assert "DDS with 50 steps has 25.00 dB 8 times faster" in fast
    assert "1000 steps: no run of DDS is as good" in none
    table = speed.document(results, 4, 32)
    assert fast in table and "| DPS    | 20    | -                  | -          |" in table
    speed.draw(results, tmp_path / "speed.png")
    with Image.open(tmp_path / "speed.png") as picture:
        assert min(picture.size) > 300


@pytest.mark.parametrize(("name", "per_step"), [("DDS", 0), ("DPS", 1), ("MMPS", 3)])
@pytest.mark.slow
def test_the_stopwatch_counts_calls_and_gradients(name, per_step):
    found = case("mri4")
    watch = overhead.Stopwatch(found.prior.network)
    found.prior.network = watch
    total, network = overhead.measure(lambda: methods.METHODS[name].run(found, {}, 5, 2), watch)
    assert (watch.calls, watch.gradients) == (5, 5 * per_step)
    assert 0 < network < total


# Full size


@pytest.mark.slow
def test_untuned_methods_are_measured_once(tmp_path, monkeypatch):
    """A method that refuses a problem leaves a dash; what is in the file is not run again."""
    rows = {"HQS": full.Row(lambda case: solvers.HQS(steps=2))}
    rows["DDRM"] = full.Row(lambda case: solvers.DDRM(steps=2), 3)
    monkeypatch.setattr(full, "METHODS", rows)
    monkeypatch.setattr(full, "build_case", lambda name, *args: case(name, items=2))
    out, table = tmp_path / "full.json", tmp_path / "full.md"
    paths = ["--out", str(out), "--table", str(table)]
    command = ["full_size.py", "--data", ".", "--images", "2", "--tasks", "sr4", "mri4", *paths]
    monkeypatch.setattr("sys.argv", command)
    full.main()
    record = json.loads(out.read_text())
    assert record["mri4"]["DDRM"]["1"]["refused"].startswith("operator: MultiCoilMRI has no")
    found = record["sr4"]["DDRM"]["0"]
    assert 0 < found["coverage"] < 1
    assert found["psnr_mean"] > found["psnr_one"]
    monkeypatch.setattr(full, "figures", None)
    full.main()
    assert json.loads(out.read_text()) == record
    lines = [
        line.split("|") for line in table.read_text().splitlines() if line.startswith("| DDRM")
    ]
    assert lines[0][3].strip() == "-"


@pytest.mark.slow
def test_held_out_images_are_covered_and_measured_once(tmp_path, monkeypatch):
    """Deviations are three times too small: calibration finds it, and kept scores are used."""

    def solved(setting, task, part, index):
        rng = np.random.default_rng(2 * index + (part == "held"))
        score = 3 * np.abs(rng.standard_normal((1, 24, 24)))
        return np.stack([rng.random((1, 24, 24)), np.full((1, 24, 24), 0.1), score])

    monkeypatch.setattr(held, "solved", solved)
    monkeypatch.setattr(held, "file_sha256", str)
    words = ["--data", ".", "--known", "12", "--held-out", "4", "--tasks", "mri4", "sr4"]
    places = ["--keep", str(tmp_path / "keep"), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["coverage.py", *words, *places])
    held.main()
    found = json.loads((tmp_path / "coverage.json").read_text())["mri4"]
    assert found["samples"] == pytest.approx(0.416, abs=0.03)
    assert found["calibrated"] == pytest.approx(0.9 * 13 / 12, abs=0.02)
    assert (tmp_path / "coverage.png").stat().st_size > 5000
    assert "MRI 4 x" in (tmp_path / "coverage.md").read_text()
    monkeypatch.setattr(held, "solved", None)
    held.main()
    monkeypatch.setattr("sys.argv", ["coverage.py", *words, *places, "--samples", "9"])
    with pytest.raises(FileError, match="of another samples, accepted: an empty folder"):
        held.main()


def test_intervals_are_calibrated_by_the_other_images():
    scores = torch.randn(8, 40_000, generator=torch.Generator().manual_seed(0)).abs().double() * 3
    rows = {str(index): {"within": full.within(own)} for index, own in enumerate(scores)}
    assert full.calibrated(rows) == pytest.approx(0.9, abs=0.005)
    assert full.calibrated({"0": {"coverage": 0.5}, "1": {"coverage": 0.5}}) is None


# Scaling


def test_costs_are_drawn_with_the_power_of_the_size(tmp_path):
    part = dict.fromkeys(scaling.COLUMNS, 1.0)
    found = {name: {"64": part, "128": part | {"step": 8.0}} for name in list(scaling.CURVES)[:2]}
    assert scaling.exponent(next(iter(found.values())), "step") == 3
    assert "| power | " in scaling.document(found)
    scaling.draw(found, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 5000


def test_the_cost_of_a_small_problem_is_measured(single_thread):
    curve = scaling.Curve("side", (32,), lambda n: scaling.mri(n, 2), "brain-mri")
    found = scaling.seconds(curve, 32, repeats=1)
    assert found.keys() == scaling.COLUMNS.keys()
    assert all(value >= 0 for value in found.values()) and found["network"] > found["normal"]


# Restorers

RESTORATION = {"images": 2, "size": 32, "samples": 2, "trials": 2}


def toy_restorer(name):
    network = RestorationUNet(3, (8, 16), 1)
    if name == "x4":
        return anchored(network, resshift(4), "residual", "pixel", upsample=4)
    return anchored(network, MeanReverting(max_sigma=25), "velocity", "difference")


def photographs(count, seed):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", restoration.TASKS)
def test_restoration_problems_are_what_they_say(name):
    found = restoration.TASKS[name].case(photographs(2, 0), toy_restorer(name), seed=0)
    problem = Problem.create(found.y, found.operator, found.prior)
    assert squared_norm(problem).tolist() == pytest.approx([found.norm2] * 2, rel=0.15)
    noise = found.y - found.operator.A(found.truth)
    assert float(noise.std()) == pytest.approx(float(found.operator.noise_model.sigma), rel=0.1)


def test_figures_tell_samples_from_the_mean():
    """Of any number of variables of one law, each is as good a sample given nothing."""
    draws = torch.randn(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    sampled = Reconstruction(draws[:2], torch.ones(2, 2), 1, 0.0, "exact")
    for value in restoration.sampling(sampled, draws[2]).values():
        assert value.tolist() == pytest.approx([1, 1], abs=0.05)
    mean = Reconstruction(torch.zeros_like(draws[:2]), torch.ones(2, 2), 1, 0.0, "mean")
    for value in restoration.sampling(mean, draws[2]).values():
        assert value.tolist() == [0, 0]
    near = restoration.sampling(sampled, draws[2], lambda x, y: (x + y).flatten(1).mean(1))
    inside = draws[0].clamp(0, 1).mean((1, 2, 3))
    expected = 2 * inside - 1 + 2 * draws[2].mean((1, 2, 3)) - 1
    torch.testing.assert_close(near["lpips_one"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", restoration.TASKS)
def test_restorers_are_measured_once(name, tmp_path, monkeypatch):
    out, restorer = tmp_path / "restoration.json", toy_restorer(name)
    monkeypatch.setattr(restoration, "TRIALS", 2)
    monkeypatch.setattr(restoration, "TRIAL_NFE", 2)
    common = (restorer, photographs(2, 0), photographs(1, 1), [2, 5], None, out, RESTORATION)
    restoration.run(name, *common)
    record = json.loads(out.read_text())
    assert set(record["results"]) == {f"{name}: {method}" for method in restoration.SAMPLERS}
    for place, runs in record["results"].items():
        limited = name == "x4" and not place.endswith(report.ZERO_SHOT)
        assert set(runs) - {"settings"} == ({"2"} if limited else {"2", "5"}), place
        assert all(runs[n]["nfe"] == int(n) for n in runs if n != "settings")
    restorer.network = None  # is not asked again
    restoration.run(name, *common)
    assert json.loads(out.read_text()) == record
    report.write(record, {name: "a line"}, tmp_path / "restoration.md")
    text = (tmp_path / "restoration.md").read_text()
    assert f"- **{name}**, a line" in text
    assert "LPIPS is left out" in text
    with Image.open(tmp_path / "restoration.png") as picture:
        assert min(picture.size) > 300


def test_the_baseline_is_reached_for_good():
    def runs(*psnrs):
        return {
            n: {"psnr_one": p, "detail": 1.0, "spread": 1.0}
            for n, p in zip((5, 10, 20), psnrs, strict=True)
        }

    found = {
        report.BASELINE: runs(20.0, 25.0, 26.0),
        "fast": runs(25.9, 26.1, 26.0),
        "lucky": runs(25.9, 24.0, 25.9),
        "smooth": {n: {**row, "detail": 0.5} for n, row in runs(26.0, 26.0, 26.0).items()},
        report.ZERO_SHOT: runs(26.0, 26.0, 26.0),
    }
    assert report.headline(found)[1:] == [
        f"- {report.BASELINE}: 20",
        *("- fast: 5", "- lucky: 20", "- smooth: never"),
    ]
    results = {f"x4: {name}": {str(n): row for n, row in r.items()} for name, r in found.items()}
    results["x4: lost"] = {"settings": {"gamma": 1}, "5": {"error": "diverged"}}
    results["deblur: fast"] = {"10": {}}
    assert report.rows_of(results, "x4") == {**found, "lost": {}}
