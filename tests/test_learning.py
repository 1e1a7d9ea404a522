"""Priors learnt from measurements alone: rounds of sampling and training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests import helpers
from tests.helpers import Killed, mask, normal, rand, tiny_training

from wellposed.errors import ArgumentError, CheckpointError, ShapeError
from wellposed.learning import (
    Measurement,
    RoundSettings,
    learn_from_measurements,
    rounds,
    stationary_start,
)
from wellposed.noise import ItemNoise
from wellposed.operators import Denoising, Inpainting, ParallelBeamCT, SingleCoilMRI
from wellposed.priors import GaussianPrior, Stationary, load
from wellposed.solvers import DDS, HQS


def field(count, side=16, seed=0):
    """Smooth images about 0.5, and the power spectrum that they were drawn with."""
    frequency = torch.fft.fftfreq(side).double()
    spectrum = 0.02 / (0.02 + frequency[:, None] ** 2 + frequency**2)
    draws = normal(count, 1, side, side, seed=seed)
    return GaussianPrior(0.5, Stationary(spectrum[None])).draw(draws), spectrum


def measured(x, keep=0.5, sigma=0.1):
    """A measurement of every image, through a mask of its own."""
    for number, image in enumerate(x):
        operator = Inpainting(mask(1, *image.shape[1:], keep=keep, seed=number), noise_sigma=sigma)
        y = operator.A(image[None])
        noise = ItemNoise(1, [(number,)]).draw(y)
        yield Measurement(f"image-{number}", operator.restrict(y + sigma * noise), operator)


@pytest.mark.slow
def test_the_start_finds_mean_and_spectrum():
    x, spectrum = field(24)
    prior = stationary_start(list(measured(x.float(), keep=0.7)), rounds=4)
    assert float((prior.mean - x.mean()).abs()) < 0.05
    found = prior.covariance.spectrum[0]
    bands = [(spectrum > 0.5), (spectrum <= 0.5) & (spectrum > 0.1), spectrum <= 0.1]
    for band in bands:
        assert 0.7 < float(found[band].mean() / spectrum[band].mean()) < 1.4


@pytest.mark.slow
def test_the_start_is_that_of_complex_images_too():
    x = torch.complex(*(normal(40, 1, 8, 8, seed=s) for s in (0, 1)))
    operator = SingleCoilMRI(torch.ones(8, 8), noise_sigma=1e-3)
    found = stationary_start(
        [Measurement(str(k), operator.A(x[k : k + 1]), operator) for k in range(40)]
    )
    assert found.is_complex and abs(float(found.covariance.spectrum.mean()) - 1) < 0.1


def test_the_start_does_not_depend_on_the_scale_of_the_operator():
    """The back-projection of CT is a hundred times as bright as the image."""
    x, _ = field(3)
    angles = [torch.arange(6) * 30.0 + 5 * k for k in range(3)]
    parts = [
        (image[None].float(), ParallelBeamCT(x.shape[-1], a, noise_sigma=0.2))
        for image, a in zip(x, angles, strict=True)
    ]
    found = stationary_start(
        [Measurement(str(k), op.A(image), op) for k, (image, op) in enumerate(parts)], rounds=1
    )
    power = float(x.square().mean())
    assert 0.3 < float(found.covariance.spectrum.mean()) / power < 3


def test_normalised_measurements_are_of_images_up_to_one():
    x, operator = 40 * rand(1, 1, 16, 16), Denoising((1, 16, 16), 4.0)
    found = Measurement("a", operator.A(x), operator).normalised()
    assert 0.95 < float(found.y.max()) < 1.05
    ratio = float(found.y.max() / x.max())
    assert float(found.operator.noise_model.sigma) == pytest.approx(4 * ratio)
    assert float(operator.noise_model.sigma) == 4.0


# --- rounds ---------------------------------------------------------------------------------


SETTINGS = RoundSettings(rounds=2, start_rounds=2, solver=DDS(steps=3, eta=1.0))


def examples(count=4):
    return [
        Measurement(m.name, m.y.float(), m.operator.float()) for m in measured(field(count)[0])
    ]


def learnt(out, measurements=None, settings=SETTINGS, **changes):
    training = tiny_training("unused", out, held_out=0.3, **changes)
    return learn_from_measurements(measurements or examples(), training, settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return learnt(tmp_path_factory.mktemp("whole"))


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_each_round_has_samples_and_a_prior(whole):
    assert whole.name == "prior" and whole.parent.name == "round-02"
    samples = sorted((whole.parent / "samples").glob("*.npy"))
    assert [s.stem for s in samples] == [f"image-{k}" for k in range(4)]
    assert np.load(samples[0]).shape == (16, 16)


def test_a_prior_to_start_from_draws_the_first_samples(whole, tmp_path):
    one, settings = examples(1), replace(SETTINGS, rounds=1)
    found = learnt(tmp_path, one, settings, init_from=str(whole), steps=1)
    sample = np.load(found.parent / "samples" / "image-0.npy")
    seed = rounds.seed_of(0, 1, 0, 1)
    expected = SETTINGS.solver(one[0].y, one[0].operator, load(whole), seed=seed).samples[0, 0, 0]
    helpers.close(torch.from_numpy(sample), expected, 1e-6)
    assert not (tmp_path / "start.npy").exists()
    with pytest.raises(CheckpointError, match="init_from"):
        learnt(tmp_path / "other", one, settings, init_from=str(whole), widths=(8, 24))
    assert not (tmp_path / "other" / "round-01").exists()  # refused before any sampling


@pytest.mark.parametrize("phase", ["sampling", "training"])
@pytest.mark.sampled
def test_a_killed_run_ends_with_the_same_weights(whole, phase, tmp_path, monkeypatch):
    calls, target = [], "write_sample" if phase == "sampling" else "train"
    real = getattr(rounds, target)

    def dies(*args):
        calls.append(args)
        if len(calls) == (6 if phase == "sampling" else 2):
            raise Killed
        return real(*args)

    monkeypatch.setattr(rounds, target, dies)
    with pytest.raises(Killed):
        learnt(tmp_path)
    monkeypatch.undo()
    found, expected = weights(learnt(tmp_path)), weights(whole)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_folder_of_another_run_is_refused(tmp_path):
    rounds._claim(tmp_path, ["a"], tiny_training("x", tmp_path), SETTINGS)
    rounds._claim(tmp_path, ["a"], tiny_training("x", tmp_path), SETTINGS)
    with pytest.raises(CheckpointError, match="other measurements"):
        rounds._claim(tmp_path, ["b"], tiny_training("x", tmp_path), SETTINGS)
    with pytest.raises(CheckpointError, match="other training"):
        rounds._claim(tmp_path, ["a"], tiny_training("x", tmp_path, seed=4), SETTINGS)


def test_bad_input_is_named(tmp_path):
    good = examples(1)
    with pytest.raises(ArgumentError, match="noise_sigma"):
        Measurement("a", torch.zeros(1, 1, 8, 8), Denoising((1, 8, 8)))
    with pytest.raises(ShapeError, match="2 items"):
        Measurement("a", torch.zeros(2, 1, 8, 8), Denoising((1, 8, 8), 0.1))
    with pytest.raises(ArgumentError, match="equal names"):
        learnt(tmp_path, [*good, *good])
    with pytest.raises(ShapeError, match="one shape"):
        other = Measurement("b", torch.zeros(1, 1, 8, 8), Denoising((1, 8, 8), 0.1))
        stationary_start([*good, other])
    with pytest.raises(ArgumentError, match="solver"):
        RoundSettings(solver=HQS())
    with pytest.raises(ArgumentError, match="rounds: got 0"):
        RoundSettings(rounds=0)
    (tmp_path / "s.npy").write_bytes(b"no array")
    with pytest.raises(CheckpointError, match="damaged"):
        rounds.has_sample(tmp_path / "s.npy")


# --- the command line -----------------------------------------------------------------------

TINY = ("--image-size", 16, "--widths", "8,16", "--layers", 1, "--batch-size", 2, "--steps", 4)
TINY = (*TINY, "--warmup", 2, "--rounds", 1, "--start-rounds", 1, "--held-out", 0.3)
TINY = (*TINY, "--solver", "dds", "--solver-set", "steps=2", "--noise-sigma", 0.1)


def train_measured(folder, *words):
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for number, image in enumerate(field(3)[0].clamp(0, 1)):
        np.save(data / f"{number}.npy", image[0].numpy())
    return helpers.run("train-measured", data, "--out", folder / "out", *TINY, *words)


@pytest.mark.parametrize("operator", ["inpainting", "mri"])
def test_the_command_line_trains_and_goes_on(tmp_path, operator):
    for count in (1, 2):
        done = train_measured(tmp_path, "--operator", operator, "--simulate", "--rounds", count)
        assert done.exit_code == 0, done.output
        prior = load(tmp_path / "out" / f"round-{count:02d}" / "prior")
        assert prior.is_complex == (operator == "mri")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--rounds", 0), "rounds: got 0"),
        (("--solver", "hqs"), "solver: got"),
        (("--solver", "mmsp"), "Did you mean"),
        (("--solver-set", "stps=3"), "unknown name 'stps'"),
        (("--noise-sigma", 0), "noise_sigma"),
        (("--views", 5), "--views: got 5"),
        (("--widths", "8,16,32", "--image-size", 12), "image_size: got 12"),
    ],
)
def test_the_command_line_names_what_does_not_fit(tmp_path, words, told):
    done = train_measured(tmp_path, "--operator", "inpainting", "--simulate", *words)
    assert done.exit_code != 0 and told in done.output
    assert done.output.strip().count("\n") == 0
