"""Priors learnt from measurements alone: rounds of sampling and training."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
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
from wellposed.operators import Denoising, Inpainting, SingleCoilMRI
from wellposed.priors import GaussianPrior, Stationary
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


def test_the_start_finds_mean_and_spectrum():
    x, spectrum = field(60)
    prior = stationary_start(list(measured(x)), rounds=8)
    assert float((prior.mean - x.mean()).abs()) < 0.05
    found = prior.covariance.spectrum[0]
    bands = [(spectrum > 0.5), (spectrum <= 0.5) & (spectrum > 0.1), spectrum <= 0.1]
    for band in bands:
        assert 0.7 < float(found[band].mean() / spectrum[band].mean()) < 1.4


def test_the_start_is_that_of_complex_images_too():
    x = torch.complex(*(normal(40, 1, 8, 8, seed=s) for s in (0, 1)))
    operator = SingleCoilMRI(torch.ones(8, 8), noise_sigma=1e-3)
    found = stationary_start(
        [Measurement(str(k), operator.A(x[k : k + 1]), operator) for k in range(40)]
    )
    assert found.is_complex and abs(float(found.covariance.spectrum.mean()) - 1) < 0.05


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


@pytest.mark.parametrize("phase", ["sampling", "training"])
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
