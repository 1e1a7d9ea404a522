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
from wellposed.cli.batch import identity
from wellposed.cli.calibration import as_calibrated
from wellposed.cli.known import of_draw
from wellposed.cli.names import make_solver
from wellposed.cli.settings import Reconstruct
from wellposed.cli.trial_settings import Validate
from wellposed.conditions import require_same
from wellposed.metrics import coverage
from wellposed.operators import Inpainting, box_mask, presets, random_mask, uniform_random_lines
from wellposed.operators.options import OperatorOptions
from wellposed.priors import GaussianPrior
from wellposed.solvers import DDS, MMPS, Problem
from wellposed.uncertainty import Conformal
from wellposed.validation.conditions import problem_conditions
from wellposed.validation.gaussian import field_covariance
from wellposed.validation.ranks import QUANTITIES, draw_prior, ranks_of, uniformity

SAMPLES, SIDE, SCAN = 19, 6, 64


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
        abs(test.mean - 0.5) < 0.1 and abs(test.variance - 1) < 0.25 for test in right.values()
    )
    narrow = uniformities(truth, y, operator, exact.mean + 0.5 * (samples - exact.mean))
    assert narrow["pixel"].p_value < 0.01 and narrow["pixel"].variance > 1.3
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


@pytest.mark.slow
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


def fitted(**conditions):
    samples, result = normal(4, 9, 1, 3, 3), result_of(normal(4, 9, 1, 3, 3), eta=0.5)
    return Conformal.fit([result], [samples[0] * 1.1], conditions=conditions)


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
    conditions = problem_conditions(Problem.create(y, operator, prior))
    assert conditions["operator"] == "Inpainting" and conditions["measured"] == 0.5
    calibration, same = fitted(**conditions), result_of(normal(4, 1, 1, 3, 3), eta=0.5)
    nearly = Inpainting(random_mask(SIDE, SIDE, 0.5, 0), 1, 0.11)
    calibration.maps(same, problem_conditions(Problem.create(y, nearly, prior)))
    noisy = Inpainting(random_mask(SIDE, SIDE, 0.5, 0), 1, 0.2)
    with pytest.raises(errors.ArgumentError, match="got noise"):
        calibration.maps(same, problem_conditions(Problem.create(y, noisy, prior)))
    twice = GaussianPrior(0.3, field_covariance(SIDE))
    with pytest.raises(errors.ArgumentError, match="got prior"):
        calibration.maps(same, problem_conditions(Problem.create(y, operator, twice)))


KINDS = {
    "blur": ("deblurring", {"blur_sigma": 0.5}),
    "wide blur": ("deblurring", {"blur_sigma": 3.0}),
    "pixels": ("inpainting", {"keep": 0.75}),
    "few pixels": ("inpainting", {"keep": 0.5}),
    "MRI 4 x": ("mri", {"coils": 8, "acceleration": 4}),
    "MRI 8 x": ("mri", {"coils": 16, "acceleration": 8}),
    "MRI of 4 coils": ("mri", {"coils": 4, "acceleration": 4}),
    "30 views": ("ct", {"views": 30}),
    "60 views": ("ct", {"views": 60}),
}


def conditions_of_kind(kind, seed, side=64):
    if kind == "box":
        operator = Inpainting(box_mask(side, side, (side // 2, side // 2)), 1, 0.02)
    else:
        name, options = KINDS[kind]
        options = OperatorOptions(**options, seed=seed, noise_sigma=0.02)
        operator = presets.build(name, (1, side, side), options)
    dtype = torch.complex64 if operator.complex_image else torch.float32
    image = torch.full((1, 1, side, side), 0.5 + 0.1 * seed, dtype=dtype)
    prior = GaussianPrior(0.5, 0.25, is_complex=operator.complex_image)
    return problem_conditions(Problem.create(operator.measure(image, seed), operator, prior))


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("blur", ["wide blur"]),
        ("pixels", ["box", "few pixels"]),
        ("MRI 4 x", ["MRI 8 x", "MRI of 4 coils"]),
        ("30 views", ["60 views"]),
    ],
)
def test_conditions_tell_operators_apart_and_not_masks_of_one_kind(kind, others):
    """Box and random pixels measure equally much, as do 8 coils at 4 x and 16 at 8 x."""
    first = conditions_of_kind(kind, 0)
    for seed in (1, 2):
        require_same("problem", first, conditions_of_kind(kind, seed))
    for other in others:
        with pytest.raises(errors.ArgumentError, match="accepted:"):
            require_same(
                "problem", first, conditions_of_kind(other, 0) | {"noise": first["noise"]}
            )


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
        ({"operator": "deblurring"}, (), "got operator 'PaddedBlur', accepted: 'Inpainting'"),
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


@pytest.mark.slow
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


@pytest.mark.parametrize("option", ["--slices", "--slice", "--axis", "--window", "--bands"])
def test_options_of_files_are_refused_without_files(tmp_path, option):
    values = {"--slices": ["1:4"], "--window": [0, 1], "--bands": []}.get(option, [1])
    done = run("calibrate", "--operator", "mri", option, *values, "--out", tmp_path / "cal.json")
    assert done.exit_code == 2
    assert f"{option}: got" in done.stderr and "accepted: only with INPUT" in done.stderr


def test_seeds_share_no_truths():
    prior = GaussianPrior(0.5, 0.04)
    for operator, size in (("inpainting", 8), ("deblurring", 8 + 6)):
        found = [
            of_draw(prior, "", Validate(operator=operator, image_size=8, seed=s), index)
            for s, index in ((0, 1), (1, 0), (0, 1))
        ]
        assert [tuple(whole.shape[-2:]) for _, whole in found] == [(size, size)] * 3
        assert torch.equal(found[0][1], found[2][1])
        assert not torch.allclose(found[0][1], found[1][1])


@pytest.mark.slow
def test_images_may_be_drawn_from_the_prior(files, tmp_path):
    words = ("calibrate", *common(files), "--images", 4, "--image-size", 16)
    fast = (*FAST, "--draw-steps", 2, "--level", 0.8)
    done = run(*words, *fast, "--out", tmp_path / "new" / "cal.json")
    assert done.exit_code == 0, done.output
    assert Conformal.load(tmp_path / "new" / "cal.json").conditions["size"] == [1, 16, 16]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--level", 0.9), "INPUT: got '4 images', accepted: at least 9 images"),
        (("--level", 1.5), "level: got 1.5"),
        (("--num-samples", 1), "--num-samples: got 1"),
        (("--out", "cal.txt"), "--out: got 'cal.txt'"),
        (("--solver", "hqs"), "--solver: got 'hqs', accepted: a solver that samples images"),
        (("--acceleration", 4), "--acceleration: got 4"),
        (("--images", 30), "--images: got '30', accepted: only without INPUT"),
        (("--image-size", 32), "--image-size: got '32', accepted: only without INPUT"),
    ],
)
def test_calibrations_that_cannot_be_made_are_named(files, tmp_path, more, message):
    words = ("calibrate", files / "images", *common(files))
    done = run(*words, "--out", tmp_path / "cal.json", "--level", 0.8, *more)
    assert done.exit_code == 2
    assert message in done.stderr


def test_images_of_another_noise_level_are_named_before_the_first_run(
    files, tmp_path, monkeypatch
):
    """Noise of complete k-space in the prior's units follows the range of each file."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for index, brightest in enumerate((1, 1, 5, 1)):
        np.save(folder / f"{index}.npy", brightest * kspace(index))
    monkeypatch.setattr("wellposed.cli.calibrate.sampler", None)
    words = ("calibrate", folder, *mri(files), "--level", 0.8, "--acceleration", 2)
    done = run(*words, "--out", tmp_path / "cal.json")
    assert done.exit_code == 2
    assert "INPUT 2.npy: got noise" in done.stderr


def kspace(seed, side=SCAN, coils=2):
    """Complete k-space of smooth spots, (coils, side, side)."""
    rng = np.random.default_rng(seed)
    image = np.pad(rng.random((side - 8, side - 8)), 4)
    ramp = np.linspace(0.5, 1, side)
    images = image * np.stack([np.tile(ramp, (side, 1)), np.tile(ramp[::-1], (side, 1))])[:coils]
    centred = np.fft.fft2(np.fft.ifftshift(images, (1, 2)), norm="ortho")
    return np.fft.fftshift(centred, (1, 2)).astype(np.complex64)


def mri(files):
    if not (files / "complex").exists():
        tiny_prior(files / "complex", 2, True)
    return ("--operator", "mri", "--prior", files / "complex", "--noise-sigma", 0.01)


FAST = ("--num-samples", 2, "--solver", "dds", "--steps", 2)


def test_measured_kspace_is_calibrated_with_complete_kspace(files, tmp_path):
    """The example of README, with a measured file that has other lines than the known ones."""
    folder = tmp_path / "known"
    folder.mkdir()
    for index in range(4):
        np.save(folder / f"{index}.npy", kspace(index))
    words = ("calibrate", folder, *mri(files), "--acceleration", 2, "--level", 0.8, *FAST)
    done = run(*words, "--out", tmp_path / "cal.json")
    assert done.exit_code == 0, done.output
    lines = uniform_random_lines(SCAN, 2, seed=9).numpy()
    np.save(tmp_path / "measured.npy", kspace(7) * lines)
    words = ("reconstruct", tmp_path / "measured.npy", *mri(files))
    words = (*words, "--calibration", tmp_path / "cal.json")
    done = run(*words, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    result = Reconstruction.load(tmp_path / "out" / "reconstruction.h5")
    assert result.calibrated.std.shape == (1, 1, SCAN, SCAN)
    np.save(tmp_path / "fewer.npy", kspace(7) * uniform_random_lines(SCAN, 6, seed=9).numpy())
    words = ("reconstruct", tmp_path / "fewer.npy", *words[2:])
    done = run(*words, "--out", tmp_path / "other")
    assert done.exit_code == 2 and "--calibration: got measured" in done.stderr


@pytest.mark.slow
def test_blurred_photographs_are_calibrated_with_sharp_ones(files, tmp_path):
    """Photographs go on outside the frame, in simulations too."""
    words = ("calibrate", files / "images", *common(files, operator="deblurring"))
    blur = ("--blur-sigma", 0.7)
    done = run(*words, *blur, "--level", 0.8, *FAST, "--out", tmp_path / "cal.json")
    assert done.exit_code == 0, done.output

    def deblurred(*more):
        words = ("reconstruct", files / "images" / "1.npy", *common(files, operator="deblurring"))
        calibration = ("--calibration", tmp_path / "cal.json", "--out", tmp_path / "out")
        return run(*words, *calibration, *more)

    done = deblurred(*blur)
    assert done.exit_code == 0, done.output
    done = deblurred("--blur-sigma", 3)
    assert done.exit_code == 2 and "--calibration: got measured" in done.stderr


def test_files_without_the_conditions_of_the_problem_are_refused(files, tmp_path):
    """As saved in Python without them: nothing would tell whether prior and operator fit."""
    samples = normal(4, 9, 1, 16, 16)
    calibration = Conformal.fit([result_of(samples, **DDS(steps=3).settings)], [samples[0] * 1.1])
    calibration.save(tmp_path / "cal.json")
    words = ("reconstruct", files / "images" / "0.npy", "--simulate", *common(files))
    done = run(*words, "--calibration", tmp_path / "cal.json", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "--calibration: got a file without prior, operator, measured, noise" in done.stderr


@pytest.mark.parametrize(
    "solver",
    [
        MMPS(steps=7, spacing="karras", isotropic_above=math.inf, batch_size=3),
        DDS(steps=7, gamma=None, eta=0.25),
    ],
)
def test_settings_of_all_kinds_come_back_from_a_file(tmp_path, solver):
    samples = normal(4, 9, 1, 3, 3)
    result = result_of(samples, type(solver).__name__, **solver.settings)
    path = Conformal.fit([result], [samples[0] * 1.1]).save(tmp_path / "cal.json")
    options = Reconstruct(inputs=(), operator="mri", out=tmp_path)
    chosen = as_calibrated(options, Conformal.load(path))
    assert chosen.num_samples == 4
    found = make_solver(type(solver), chosen, batch_size=solver.batch_size)
    assert chosen.solver == solver.name and found.settings == solver.settings


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
        size = ("--image-size", 8, "--images", images, "--draw-steps", 3)
        return run(*words, *size, "--out", tmp_path, *more)

    done = validate(2)
    assert done.exit_code == 0, done.output
    assert "TARP" in done.output and "2 images of 3 samples" in done.output
    first = json.loads((tmp_path / "ranks.json").read_text())["images"]
    assert validate(4).exit_code == 0
    second = json.loads((tmp_path / "ranks.json").read_text())["images"]
    assert second[:2] == first and len(second) == 4 and set(first[0]) == {*QUANTITIES, "coverage"}
    assert (tmp_path / "ranks.png").stat().st_size > 10_000
    assert "4 images of 3 samples" in (tmp_path / "report.html").read_text()
    done = validate(4, "--seed", 1)
    assert done.exit_code == 2 and "ranks of other settings" in done.stderr
    assert validate(4, "--batch-size", 2).exit_code == 0
    done = validate(4, "--quick")
    assert done.exit_code == 2 and "--quick: got True" in done.stderr
    done = run("validate", "--quick", "--images", 3)
    assert (
        done.exit_code == 2 and "--images: got '3', accepted: only with --operator" in done.stderr
    )


def test_ranks_of_another_kernel_or_operator_file_are_not_mixed(files, tmp_path):
    operator, kernel = tmp_path / "mine.py", tmp_path / "kernel.npy"
    operator.write_text("from wellposed.operators import Inpainting as Mine\n")
    np.save(kernel, np.ones((3, 3)))
    for options in (
        Validate(operator="deblurring", kernel_file=kernel),
        Validate(operator=f"{operator}:Mine"),
        Validate(operator="mri", solvers=(f"{operator}:Mine",)),
    ):
        before = identity(options, "weights")
        assert before == identity(replace(options, images=7, batch_size=2), "weights")
        np.save(kernel, np.load(kernel) + np.eye(3))
        operator.write_text(operator.read_text() + "\n")
        assert before != identity(options, "weights")


def test_library_solvers_tell_all_that_a_calibration_needs():
    _, y, operator, _, _ = gaussian(1)
    prior = GaussianPrior(0.2, field_covariance(SIDE))
    result = DDS(steps=2)(y, operator, prior, num_samples=4, seed=0)
    several = [replace(result, seed=n) for n in range(9)]
    about = problem_conditions(Problem.create(y, operator, prior))
    calibration = Conformal.fit(several, [result.samples[0]] * 9, conditions=about)
    assert calibration.conditions["solver"] == "DDS"
    assert calibration.conditions["solver.steps"] == 2
    calibration.interval(result, about)
