"""Calibration as a product: ranks of truths, calibration files, and their commands."""

import json
import math
from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pytest
import torch
from tests.helpers import normal, run
from tests.test_cli import tiny_prior

from wellposed import Reconstruction, errors
from wellposed.metrics import coverage
from wellposed.operators import Inpainting, random_mask
from wellposed.priors import GaussianPrior
from wellposed.solvers import DDS
from wellposed.uncertainty import Conformal
from wellposed.validation.conditions import problem_conditions
from wellposed.validation.gaussian import field_covariance
from wellposed.validation.ranks import QUANTITIES, draw_prior, ranks_of, uniformity

SAMPLES, SIDE = 19, 6


def gaussian(images, seed=0):
    """Truths of a Gaussian field, measured, with exact posterior samples."""
    prior = GaussianPrior(0.2, field_covariance(SIDE))
    truth = prior.draw(normal(images, 1, SIDE, SIDE, seed=seed))
    operator = Inpainting(random_mask(SIDE, SIDE, 0.5, 0), 1, 0.1)
    y = operator.measure(truth, seed)
    exact = prior.posterior(y, operator)
    return truth, y, operator, exact, exact.sample(SAMPLES, seed + 1)


def uniformities(truth, y, operator, samples):
    points = truth.roll(1, 0)
    found = [
        ranks_of(t[None], s, of[None], operator, point[None], seed)
        for seed, (t, s, of, point) in enumerate(
            zip(truth, samples.movedim(1, 0), y, points, strict=True)
        )
    ]
    return {name: uniformity([f[name] for f in found], SAMPLES) for name in QUANTITIES}


# Ranks


@pytest.mark.slow
def test_exact_samples_have_uniform_ranks_and_wrong_ones_do_not():
    truth, y, operator, exact, samples = gaussian(150)
    right = uniformities(truth, y, operator, samples)
    assert min(test.p_value for test in right.values()) > 0.01
    assert all(
        abs(test.mean - 0.5) < 0.1 and abs(test.spread - 1) < 0.25 for test in right.values()
    )
    narrow = uniformities(truth, y, operator, exact.mean + 0.5 * (samples - exact.mean))
    assert narrow["pixel"].p_value < 0.01 and narrow["pixel"].spread > 1.3
    assert narrow["distance"].p_value < 0.01  # TARP
    shifted = uniformities(truth, y, operator, samples + 0.1)
    assert shifted["mean"].p_value < 0.01 and shifted["mean"].mean < 0.4


def test_samples_of_the_prior_are_found_by_the_data_alone():
    """They have uniform ranks in all numbers that do not depend on the data."""
    truth, y, operator, _, _ = gaussian(150)
    prior = GaussianPrior(0.2, field_covariance(SIDE))
    unconditional = prior.draw(normal(SAMPLES * 150, 1, SIDE, SIDE, seed=9))
    unconditional = unconditional.unflatten(0, (SAMPLES, 150))
    found = uniformities(truth, y, operator, unconditional)
    assert found["misfit"].p_value < 0.01
    assert min(found[name].p_value for name in ("pixel", "direction", "mean", "energy")) > 0.01


def test_the_p_value_of_uniform_ranks_is_uniform_itself():
    rng = np.random.default_rng(0)
    found = [uniformity(rng.integers(8, size=40).tolist(), 7).p_value for _ in range(400)]
    for level in (0.05, 0.5):
        tolerance = 4 * math.sqrt(level * (1 - level) / 400)
        assert abs(np.mean(np.array(found) <= level) - level) < tolerance + 0.02  # ties


def test_equal_values_rank_at_random():
    zero, operator = torch.zeros(1, 1, 4, 4), Inpainting(random_mask(4, 4, 0.5, 0), 1, 0.1)
    y = operator.A(zero)
    found = [ranks_of(zero, zero.repeat(3, 1, 1, 1), y, operator, zero, s) for s in range(60)]
    assert {f["pixel"] for f in found} == {0, 1, 2, 3}
    with pytest.raises(errors.ArgumentError, match="numbers from 0 to 3"):
        uniformity([4], 3)
    with pytest.raises(errors.ArgumentError, match="ranks: got"):
        uniformity([], 3)


def test_analytic_priors_draw_exactly():
    prior = GaussianPrior(0.2, field_covariance(SIDE))
    images = draw_prior(prior, 400, (SIDE, SIDE), 0)
    assert images.shape == (400, 1, SIDE, SIDE)
    assert float(images.mean()) == pytest.approx(0.2, abs=0.05)
    assert float(images.var()) == pytest.approx(0.09, rel=0.15)
    assert torch.equal(draw_prior(prior, 2, (SIDE, SIDE), 0), images[:2])


# Files


def result_of(samples, solver="DDS", **settings):
    return Reconstruction(samples, torch.ones(samples.shape[:2]), 5, 0.1, solver, settings)


def test_coverage_of_exact_and_of_narrow_gaussian_samples_is_restored(tmp_path):
    truth, _, _, exact, samples = gaussian(200, seed=3)
    new, _, _, new_exact, new_samples = gaussian(200, seed=7)
    for width in (1.0, 0.4):
        known = result_of(exact.mean + width * (samples - exact.mean))
        fitted = Conformal.fit([known], [truth], 0.9)
        again = Conformal.load(fitted.save(tmp_path / "file.json"))
        assert float(again.factor) == pytest.approx(float(fitted.factor), rel=1e-12)
        found = result_of(new_exact.mean + width * (new_samples - new_exact.mean))
        maps = again.maps(found)
        assert float(coverage((maps.lower, maps.upper), new).mean()) == pytest.approx(
            0.9, abs=0.02
        )
        spread = new_exact.covariance().diagonal().sqrt().mean()
        assert float(maps.std.mean()) == pytest.approx(float(spread), rel=0.15)
        torch.testing.assert_close((maps.upper - maps.lower) / 2, 1.6448536269 * maps.std)


def fitted(**about):
    samples = normal(4, 9, 1, 3, 3)
    return Conformal.fit([result_of(samples, eta=0.5)], [samples[0] * 1.1], about=about)


@pytest.mark.parametrize(
    ("samples", "solver", "eta", "message"),
    [
        (normal(4, 1, 1, 3, 3), "DPS", 0.5, "solver 'DPS', accepted: 'DDS'"),
        (normal(4, 1, 1, 3, 3), "DDS", 0.4, "solver.eta 0.4, accepted: 0.5"),
        (normal(5, 1, 1, 3, 3), "DDS", 0.5, "samples 5, accepted: 4"),
        (normal(4, 1, 1, 3, 4), "DDS", 0.5, r"size \[1, 3, 4\], accepted: \[1, 3, 3\]"),
    ],
)
def test_results_of_other_conditions_are_refused(tmp_path, samples, solver, eta, message):
    calibration = Conformal.load(fitted().save(tmp_path / "a.json"))
    calibration.interval(result_of(normal(4, 1, 1, 3, 3), eta=0.5, batch_size=7))
    with pytest.raises(errors.WellposedError, match=message + " as in the calibration"):
        calibration.interval(result_of(samples, solver, eta=eta))


def test_problems_of_other_conditions_are_refused():
    prior, (_, y, operator, _, _) = GaussianPrior(0.2, field_covariance(SIDE)), gaussian(1)
    about = problem_conditions(y, operator, prior)
    assert about["operator"] == "Inpainting" and about["measured"] == 0.5
    calibration, same = fitted(**about), result_of(normal(4, 1, 1, 3, 3), eta=0.5)
    other = Inpainting(random_mask(SIDE, SIDE, 0.5, 3), 1, 0.11)
    calibration.maps(same, problem_conditions(y, other, prior))
    noisy = Inpainting(random_mask(SIDE, SIDE, 0.5, 3), 1, 0.2)
    with pytest.raises(errors.ArgumentError, match="got noise"):
        calibration.maps(same, problem_conditions(y, noisy, prior))
    twice = GaussianPrior(0.3, field_covariance(SIDE))
    with pytest.raises(errors.ArgumentError, match="got prior"):
        calibration.maps(same, problem_conditions(y, operator, twice))


def test_fits_of_several_solvers_and_damaged_files_are_refused(tmp_path):
    samples = normal(4, 9, 1, 3, 3)
    with pytest.raises(errors.ArgumentError, match="reconstructions: got solver 'DPS'"):
        Conformal.fit([result_of(samples), result_of(samples, "DPS")], [samples[0]] * 2)
    pixels = Conformal.fit([result_of(samples)], [samples[0]], per_pixel=True)
    with pytest.raises(errors.ArgumentError, match="one factor, to be saved"):
        pixels.save(tmp_path / "pixels.json")
    bad = {"empty": "", "list": "[1]", "no factor": '{"level": 0.9}', "text": '{"level": "a"}'}
    bad |= {"level": '{"level": 2, "factor": 1}', "nan": '{"level": 0.9, "factor": NaN}'}
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(errors.FileError, match=name):
            Conformal.load(tmp_path / name)
    with pytest.raises(errors.FileError, match="nowhere"):
        Conformal.load(tmp_path / "nowhere")
    with pytest.raises(errors.FileError, match="cannot write"):
        fitted().save(tmp_path / "nowhere" / "a.json")


def test_calibrated_maps_are_saved_with_the_result(tmp_path):
    result = result_of(normal(4, 1, 1, 8, 8))
    maps = Conformal(0.8, torch.tensor(2.0)).maps(result)
    result = replace(result, calibrated=maps)
    again = Reconstruction.load(result.save(tmp_path)).calibrated
    assert again.level == 0.8
    assert all(torch.equal(a, b) for a, b in zip(again[1:], maps[1:], strict=True))
    with h5py.File(tmp_path / "reconstruction.h5") as file:
        assert {"std", "calibrated-std", "lower", "upper"} <= set(file)


# Commands


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    rng = np.random.default_rng(0)
    tiny_prior(folder / "prior", 1, False)
    (folder / "images").mkdir()
    for index in range(4):
        np.save(folder / "images" / f"{index}.npy", rng.random((16, 16)).astype(np.float32))
    volume = (1000 * rng.random((16, 16, 5))).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "volume.nii.gz")
    words = ("calibrate", folder / "images", "--level", 0.8, "--out", folder / "cal.json")
    done = run(*words, *common(folder), "--num-samples", 3, "--solver", "dds", "--steps", 3)
    assert done.exit_code == 0, done.output
    assert "calibrated" in done.output and "(wanted 80%)" in done.output
    return folder


def common(folder, noise=0.05, operator="inpainting"):
    return ("--operator", operator, "--prior", folder / "prior", "--noise-sigma", noise)


def reconstruct(folder, out, name="images/0.npy", *more, **options):
    words = ("reconstruct", folder / name, "--simulate", "--calibration", folder / "cal.json")
    return run(*words, *common(folder, **options), "--out", out, *more)


def test_a_calibration_goes_from_one_command_to_the_next(files, tmp_path):
    stored = json.loads((files / "cal.json").read_text())
    assert stored["solver"] == "DDS" and stored["images"] == 4 and stored["size"] == [1, 16, 16]
    done = reconstruct(files, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "within 80% interval" in done.output
    result = Reconstruction.load(tmp_path / "out" / "reconstruction.h5")
    assert result.solver == "DDS" and result.settings["steps"] == 3 and len(result.samples) == 3
    conformal = Conformal.load(files / "cal.json")
    expected = conformal.maps(replace(result, calibrated=None))
    assert all(torch.equal(a, b) for a, b in zip(result.calibrated[1:], expected[1:], strict=True))


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({"noise": 0.5}, (), "got noise"),
        ({"operator": "deblurring"}, (), "got operator 'Blur', accepted: 'Inpainting'"),
        ({}, ("--steps", 4), "got solver.steps 4"),
        ({}, ("--solver", "dps"), "got solver 'DPS', accepted: 'DDS'"),
        ({}, ("--num-samples", 2), "got samples 2"),
        ({}, ("--keep", 0.2), "got measured"),
    ],
)
def test_the_command_refuses_what_does_not_fit(files, tmp_path, options, more, message):
    done = reconstruct(files, tmp_path / "out", "images/0.npy", *more, **options)
    assert done.exit_code == 2
    assert f"--calibration: {message}" in done.stderr
    assert not (tmp_path / "out" / "reconstruction.h5").exists()


def test_maps_are_written_with_the_geometry_of_a_volume(files, tmp_path):
    out = tmp_path / "cal.json"
    words = ("calibrate", files / "volume.nii.gz", "--slices", "0:4", "--axis", 0)
    fast = ("--num-samples", 3, "--solver", "dds", "--steps", 2)
    done = run(*words, "--level", 0.8, "--out", out, *common(files), *fast)
    assert done.exit_code == 0, done.output
    words = ("reconstruct", files / "volume.nii.gz", "--slice", 4, "--simulate")
    done = run(*words, *common(files), "--calibration", out, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    result = Reconstruction.load(tmp_path / "out" / "reconstruction.h5")
    named = {"calibrated-std": "std", "lower": "lower", "upper": "upper"}
    for name, key in named.items():
        data = nibabel.load(tmp_path / "out" / f"{name}.nii.gz").get_fdata()
        values = getattr(result.calibrated, key)[0, 0].numpy()
        expected = result.units.scale * values.ravel()
        np.testing.assert_allclose(np.sort(data.ravel()), np.sort(expected), rtol=1e-3, atol=1)


@pytest.mark.slow
def test_images_may_be_drawn_from_the_prior(files, tmp_path):
    words = ("calibrate", *common(files), "--images", 4, "--image-size", 8, "--level", 0.8)
    fast = ("--num-samples", 2, "--solver", "dds", "--steps", 2)
    done = run(*words, *fast, "--out", tmp_path / "new" / "cal.json")
    assert done.exit_code == 0, done.output
    assert Conformal.load(tmp_path / "new" / "cal.json").conditions["size"] == [1, 8, 8]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--level", 0.9), "INPUT: got '4 images', accepted: at least 9 images"),
        (("--level", 1.5), "level: got 1.5"),
        (("--num-samples", 1), "--num-samples: got 1"),
        (("--out", "cal.txt"), "--out: got 'cal.txt'"),
        (("--solver", "hqs"), "--solver: got 'hqs', accepted: a solver that samples images"),
        (("--acceleration", 4), "--acceleration: got 4"),
    ],
)
def test_calibrations_that_cannot_be_made_are_named(files, tmp_path, more, message):
    words = ("calibrate", files / "images", *common(files))
    done = run(*words, "--out", tmp_path / "cal.json", "--level", 0.8, *more)
    assert done.exit_code == 2
    assert message in done.stderr


def test_damaged_calibrations_and_foreign_solvers_are_named(files, tmp_path):
    (files / "bad.json").write_text("{}")
    words = ("reconstruct", files / "images" / "0.npy", "--simulate", *common(files))
    done = run(*words, "--calibration", files / "bad.json", "--out", tmp_path)
    assert done.exit_code == 2 and "--calibration: " in done.stderr and "bad.json" in done.stderr
    stored = json.loads((files / "cal.json").read_text())
    (files / "own.json").write_text(json.dumps(stored | {"solver": "Mine"}))
    done = run(*words, "--calibration", files / "own.json", "--out", tmp_path)
    assert done.exit_code == 2 and "--solver MODULE:Mine" in done.stderr


@pytest.mark.slow
def test_the_ranks_of_a_prior_and_an_operator_are_tested_and_resumed(files, tmp_path):
    def validate(images, *more):
        words = ("validate", "dds", *common(files), "--steps", 2, "--num-samples", 3)
        size = ("--image-size", 8, "--images", images)
        return run(*words, *size, "--out", tmp_path, *more)

    done = validate(2)
    assert done.exit_code == 0, done.output
    assert "TARP" in done.output and "2 images of 3 samples" in done.output
    first = json.loads((tmp_path / "ranks.json").read_text())["images"]
    assert validate(4).exit_code == 0
    second = json.loads((tmp_path / "ranks.json").read_text())["images"]
    assert second[:2] == first and len(second) == 4 and set(first[0]) == {*QUANTITIES, "coverage"}
    assert (tmp_path / "ranks.png").stat().st_size > 10_000
    done = validate(4, "--seed", 1)
    assert done.exit_code == 2 and "ranks of other settings" in done.stderr
    done = validate(4, "--quick")
    assert done.exit_code == 2 and "--quick: got True" in done.stderr
    done = run("validate", "--quick", "--images", 3)
    assert (
        done.exit_code == 2 and "--images: got '3', accepted: only with --operator" in done.stderr
    )


def test_library_solvers_tell_all_that_a_calibration_needs():
    _, y, operator, _, _ = gaussian(1)
    prior = GaussianPrior(0.2, field_covariance(SIDE))
    result = DDS(steps=2)(y, operator, prior, num_samples=4, seed=0)
    several = [replace(result, seed=n) for n in range(9)]
    about = problem_conditions(y, operator, prior)
    calibration = Conformal.fit(several, [result.samples[0]] * 9, about=about)
    assert calibration.conditions["solver"] == "DDS"
    assert calibration.conditions["solver.steps"] == 2
    calibration.interval(result, about)
