"""Training: what a step sees, what it does, and runs that can be killed."""

import copy
import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from tests.helpers import Killed, tiny_training
from torch import nn

from wellposed import errors
from wellposed.integrity import checksum
from wellposed.priors.stored.store import build_prior
from wellposed.priors.training import Trainer, train
from wellposed.priors.training.batches import (
    TrainingBatches,
    to_units,
    training_times,
)
from wellposed.priors.training.denoiser import VALIDATION_LEVELS
from wellposed.priors.training.settings import FREE, PREDICTIONS

pytestmark = pytest.mark.usefixtures("single_thread")

PAIRS = [(schedule, kind) for schedule, kinds in PREDICTIONS.items() for kind in kinds]


def grey(height=20, width=24, seed=0):
    """A smooth random picture in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 10
    a, b, c = rng.uniform(0.5, 2, 3)
    return ((1 + np.sin(a * x + c) * np.cos(b * y)) / 2).astype(np.float32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        Image.fromarray(np.round(grey(seed=i) * 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def settings(photos, out, **changes):
    return tiny_training(photos, out, **dict(steps=6, save_every=3) | changes)


def steps(trainer, count):
    """Take some steps and return their losses."""
    return [trainer.train_step(trainer.task.batches[trainer.step]) for _ in range(count)]


def killer(step):
    """A progress callback that ends the process, so to say, in the middle of a step."""

    def progress(done, loss):
        if done == step:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """The folder of an uninterrupted run."""
    return train(settings(photos, tmp_path_factory.mktemp("finished")))


def state_of(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same(a, b):
    """Equal bit by bit, through dictionaries and lists."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def assert_same_run(a, b):
    """The same weights, optimiser, loss curve, config and card, byte by byte."""
    assert_same(state_of(a), state_of(b))
    for name in ("model.safetensors", "loss.csv", "config.json", "README.md"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


# Settings


def test_settings_name_what_cannot_be(photos, tmp_path):
    for change, message in (
        (
            {"image_size": (12,), "widths": (8, 8, 8)},
            "image_size: got 12, accepted: .* of the ne.* 8",
        ),
        ({"image_size": (0,)}, "image_size: got 0"),
        ({"image_size": ()}, "image_size: got 0"),
        ({"image_size": (16, 18)}, "image_size: got 18, accepted: a positive multiple of .* 4"),
        ({"widths": (16, 0)}, "widths: got"),
        ({"widths": ()}, "widths: got"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"batch_size": 2.5}, "batch_size: got 2.5, accepted: an integer of at least 1"),
        ({"layers": 0}, "layers: got 0"),
        ({"save_every": 0}, "save_every: got 0"),
        ({"image_every": 0}, "image_every: got 0"),
        ({"axes": (5,)}, "axes: got"),
        ({"axes": ()}, "axes: got"),
        ({"learning_rate": math.nan}, "learning_rate: got nan"),
        ({"learning_rate": math.inf}, "learning_rate: got inf"),
        ({"clip": 0.0}, "clip: got 0.0"),
        ({"zoom": (0.0, 1.0)}, "zoom: got"),
        ({"zoom": (1.0,)}, "zoom: got .* two finite numbers"),
        ({"aspect": 0.0}, "aspect: got 0.0"),
        ({"aspect": 1.1}, "aspect: got 1.1, accepted: a ratio .* stride, 4"),
        ({"flips": "sidewards"}, "Did you mean 'sideways'"),
        ({"polarity": True}, "data_range: got .*, accepted: a symmetric range"),
        ({"companding": 255.0}, "data_range: got .*, accepted: a symmetric range"),
        ({"companding": -1.0}, "companding: got -1.0, accepted: 0, or a positive"),
        (
            {"companding": 255.0, "complex_phase": True, "data_range": (-1.0, 1.0)},
            "companding: got 255.0, accepted: 0 with complex_phase",
        ),
        ({"gain": (1.2, 0.5)}, "gain: got"),
        ({"gain": (1.0, math.inf)}, "gain: got .* two finite numbers"),
        ({"window": (0.0, 1.0, 2.0)}, "window: got .* two finite numbers"),
        ({"foreground": math.nan}, "foreground: got nan"),
        ({"data_range": (1.0, 1.0)}, "data_range: got"),
        ({"data_range": (0.0, math.inf)}, "data_range: got"),
        ({"complex_phase": True}, "data_range: got .0.0, 1.0., accepted: a symmetric range"),
        ({"seed": -1}, "seed: got -1"),
        ({"workers": -1}, "workers: got -1"),
        ({"warmup": -1}, "warmup: got -1"),
        ({"schedule": "lineer"}, "Did you mean 'linear'"),
        ({"prediction": "nois"}, "Did you mean 'noise'"),
        ({"prediction": "flow"}, "Known: edm, noise, sample, velocity"),
        ({"schedule": "ve", "prediction": "velocity"}, "Known: edm, noise, sample"),
        ({"schedule": "flow", "prediction": "velocity"}, "Known: flow, edm, noise, sample"),
        ({"noise_levels": "normal"}, "Did you mean 'lognormal'"),
        ({"log_noise": (0.0, 0.0)}, "log_noise: got"),
        ({"log_noise": (math.nan, 1.0)}, "log_noise: got"),
        ({"sigma_data": 0.0}, "sigma_data: got 0.0"),
        ({"sigma_data": math.inf}, "sigma_data: got inf"),
        ({"steps": 0}, "steps: got 0"),
        ({"steps": 10**12}, "steps: got 1000000000000, accepted: an integer from 1 to"),
        ({"steps": True}, "steps: got True"),
        ({"workers": 5000}, "workers: got 5000"),
        ({"ema": 1.0}, "ema: got 1.0"),
        ({"decay": 1.1}, "decay: got 1.1"),
        ({"held_out": 0.0}, "held_out: got 0.0"),
        ({"held_out": 0.5}, "held_out: got 0.5"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            settings(photos, tmp_path, **change)


def test_the_learning_rate_ramps_stays_and_falls():
    rate = lambda step, **c: settings("", "", learning_rate=0.1, **c).learning_rate_at(step)  # noqa: E731
    of_run = [rate(step, steps=20, warmup=4, decay=0.25) for step in range(20)]
    assert of_run[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert of_run[4:16] == pytest.approx([0.1] * 12)
    assert of_run[15:] == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02])
    longer = [rate(step, steps=40, warmup=4, decay=0.25) for step in range(20)]
    assert longer[:16] == of_run[:16]
    for decay in (0.0, 1.0):
        every = [rate(step, steps=10, warmup=0, decay=decay) for step in range(10)]
        assert all(0 < value <= 0.1 for value in every)
    assert rate(9, steps=10, decay=0.0) == 0.1


# What a step sees


def test_signals_are_trained_on_tall_companded_crops(tmp_path):
    """Every option of the crops reaches them; pictures and samples are as tall."""
    rf = np.random.default_rng(0).normal(0, 0.05, (40, 24, 20)).astype(np.float32)
    np.save(tmp_path / "rf.npy", rf)
    of_signals = dict(aspect=1.5, flips="none", polarity=True, companding=255.0)
    run = settings(tmp_path / "rf.npy", tmp_path / "out", data_range=(-1, 1), **of_signals)
    trainer = Trainer(run)
    for crops in (trainer.task.batches.crops, trainer.task.held.crops):
        assert {name: getattr(crops, name) for name in of_signals} == of_signals
    x0, _, eps = trainer.task.batches[0]
    assert x0.shape == eps.shape == (2, 1, 24, 16)
    assert 0.2 < float(x0.std()) < 0.7
    samples = trainer.task.pictures(trainer.averaged)["samples"]
    assert samples[0].shape == (3, 1, 24, 16)


def make_trainer(photos, tmp_path, **changes):
    return Trainer(settings(photos, tmp_path, **changes))


def test_units_run_from_minus_one_to_one():
    x = torch.tensor([-3.0, 1.0, 5.0])
    assert to_units(x, (-3.0, 5.0)).tolist() == [-1, 0, 1]
    assert torch.equal(to_units(x, (-1.0, 1.0)), x)


@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_all_processes_make_the_batch_of_one(world, photos, tmp_path):
    run = settings(photos, tmp_path, batch_size=4 * world, image_size=(8, 16, 8))
    crops = Trainer(run).task.batches.crops
    whole = TrainingBatches(crops, run)
    shares = [TrainingBatches(crops, run, (rank, world)) for rank in range(world)]
    for step in range(4):
        parts = zip(*(share[step] for share in shares), strict=True)
        joined = tuple(torch.cat(part) for part in parts)
        assert_same(joined, whole[step])
    assert len(whole[0][0]) == 4 * len(whole[1][0]) == run.batch_size


def test_batches_that_cannot_be_shared_are_named(photos, tmp_path):
    crops = make_trainer(photos, tmp_path).task.batches.crops
    odd = settings(photos, tmp_path, batch_size=3)
    with pytest.raises(errors.ArgumentError, match=r"batch_size: got 3, which is 3 .* 16 pixels"):
        TrainingBatches(crops, odd, (0, 2))
    # Six crops of 8 pixels cost as much as two of 16, of which three processes have no share.
    several = settings(photos, tmp_path, batch_size=6, image_size=(8, 16))
    TrainingBatches(crops, several, (0, 2))
    with pytest.raises(errors.ArgumentError, match=r"which is 2 crop.* 16 pixels, .* 3 processes"):
        TrainingBatches(crops, several, (0, 3))


def test_larger_crops_come_in_smaller_batches(photos, tmp_path):
    batches = make_trainer(photos, tmp_path, image_size=(8, 16, 12), batch_size=5).task.batches
    shapes = [tuple(batches[step][0].shape) for step in range(4)]
    assert shapes == [(5, 1, 8, 8), (1, 1, 16, 16), (2, 1, 12, 12), (5, 1, 8, 8)]


def test_noise_and_levels_are_functions_of_step_and_item(photos, tmp_path):
    batches = make_trainer(photos, tmp_path, batch_size=64).task.batches
    assert_same(batches[3], batches[3])
    (_, u, eps), (_, other_u, other_eps) = batches[3], batches[4]
    # Evenly spread over the batch, shifted at random.
    torch.testing.assert_close(u.diff(), torch.full((63,), 1 / 64, dtype=torch.float64))
    assert 0 <= float(u[0]) < 1 / 64
    assert float(u[0]) != float(other_u[0])
    every = torch.cat([eps, other_eps]).flatten(1)
    assert eps.dtype == torch.float32
    assert float(every.mean()) == pytest.approx(0, abs=0.03)
    assert float(every.std()) == pytest.approx(1, abs=0.03)
    correlation = np.corrcoef(every) - np.eye(128)
    assert np.abs(correlation).max() < 0.35  # 256 independent values each: std 1 / 16
    few = batches.draw(range(5, 7), 64, 3, 16)
    assert torch.equal(few[2], eps[5:7])
    assert torch.equal(few[1], u[5:7])


def schedule_of(run):
    config = {"schedule": run.schedule, "prediction": run.predicts, "sigma_data": 0.5}
    images = {"channels": 1, "complex": False, "data_range": (0, 1)}
    return build_prior(nn.Identity(), {**config, **images}).schedule


@pytest.mark.parametrize("schedule", PREDICTIONS)
@pytest.mark.parametrize("log_noise", [(-1.0, 1.6), (0.5, 0.8)])
def test_lognormal_noise_levels_have_their_distribution(schedule, log_noise, photos, tmp_path):
    """Whatever the schedule, log sigma / alpha is normal but for its ends."""
    run = settings(photos, tmp_path, schedule=schedule, log_noise=log_noise)
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    t, schedule = training_times(schedule_of(run), run, u), schedule_of(run)
    assert bool(((t > 0) & (t <= schedule.T)).all())
    assert bool((t.diff() >= 0).all())
    level = schedule.ratio(t).log().numpy()
    expected = log_noise[0] + log_noise[1] * torch.special.ndtri(u).numpy()
    ends = float(schedule.min_ratio), min(150.0, float(schedule.ratio(schedule.T)))
    inside = (expected > math.log(ends[0])) & (expected < math.log(ends[1]))
    assert inside.mean() > 0.95
    np.testing.assert_allclose(level[inside], expected[inside], atol=0.02)


@pytest.mark.parametrize("schedule", PREDICTIONS)
def test_uniform_noise_levels_have_their_distribution(schedule, photos, tmp_path):
    run = settings(photos, tmp_path, schedule=schedule, noise_levels="uniform")
    u = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    t, schedule = training_times(schedule_of(run), run, u), schedule_of(run)
    if run.schedule == "ve":  # uniform in log sigma
        ends = math.log(schedule.min_ratio), math.log(schedule.T)
        np.testing.assert_allclose((t.log() - ends[0]) / (ends[1] - ends[0]), u, atol=1e-6)
    elif run.schedule == "flow":
        np.testing.assert_allclose(t, u.clamp(min=2e-3 / 1.002), atol=1e-6)
    else:  # every one of the steps equally often
        assert torch.equal(t.unique(return_counts=True)[1], torch.full((1000,), 5))
        assert (float(t[0]), float(t[-1])) == (1, 1000)


@pytest.mark.parametrize("schedule", PREDICTIONS)
@pytest.mark.parametrize("levels", ["lognormal", "uniform"])
def test_no_place_gives_a_time_outside_the_schedule(schedule, levels, photos, tmp_path):
    run = settings(photos, tmp_path, schedule=schedule, noise_levels=levels)
    ends = torch.tensor([0.0, 1e-12, 1 - 1e-12, 1.0], dtype=torch.float64)
    t = training_times(schedule_of(run), run, ends)
    alpha, sigma = schedule_of(run)(t)
    assert bool((sigma > 0).all())
    assert bool((alpha > 0).all())
    assert bool((t <= schedule_of(run).T).all())


class Perfect(nn.Module):
    """Knows the images; answers what its kind of network should, written from the papers."""

    def __init__(self, prior, x0, sigma_data):
        super().__init__()
        self.schedule, self.kind = prior.schedule, prior.prediction
        self.x0, self.sigma_data, self.calls = x0.double(), sigma_data, 0

    def forward(self, x, label):
        """``x`` is EDM's c_in (x_t / alpha), ``label`` its log(sigma / alpha) / 4."""
        self.calls += 1
        ratio = (4 * label.double()).exp().view(-1, 1, 1, 1)
        alpha = self.schedule(self.schedule.time_at(ratio))[0]
        sigma, data = ratio * alpha, self.sigma_data
        spread = (ratio**2 + data**2).sqrt()
        noisy = x.double() * spread  # x0 + ratio eps
        eps = (noisy - self.x0) / ratio
        c_skip, c_out = data**2 / spread**2, ratio * data / spread
        return {
            "noise": eps,
            "sample": self.x0,
            "velocity": alpha * eps - sigma * self.x0,
            "flow": eps - self.x0,
            "edm": (self.x0 - c_skip * noisy) / c_out,
        }[self.kind].float()


@pytest.mark.parametrize(("schedule", "kind"), PAIRS)
@pytest.mark.parametrize("levels", ["lognormal", "uniform"])
def test_the_loss_of_a_perfect_network_is_zero(schedule, kind, levels, photos, tmp_path):
    """And it denoises perfectly: the loss asks of a network what `denoise` expects of it."""
    trainer = make_trainer(
        photos,
        tmp_path,
        **dict(schedule=schedule, prediction=kind, noise_levels=levels, sigma_data=0.7),
        **dict(batch_size=16, log_noise=(0.0, 1.0)),
    )
    batch = trainer.task.batches[0]
    x0, _, eps = batch
    assert bool((x0.abs() <= 1).all())
    prior = trainer.model
    network = prior.network = Perfect(prior, x0, 0.7)
    loss = float(trainer.task.loss(prior, batch))
    assert network.calls == 1
    assert loss < 1e-4
    t = prior.schedule.time_at(0.8)
    alpha, sigma = (float(v) for v in prior.schedule(t))
    clean = prior.denoise_channels(alpha * x0 + sigma * eps, t)
    torch.testing.assert_close(clean, x0, atol=1e-4, rtol=0)
    network.x0 = network.x0 + 0.5  # the loss sees what is wrong
    assert float(trainer.task.loss(prior, batch)) > 100 * loss + 1e-3


# What a step does


def test_the_seed_decides_weights_and_batches(photos, tmp_path):
    a, b, other = (make_trainer(photos, tmp_path, seed=seed) for seed in (0, 0, 1))
    torch.randn(3)
    assert_same(a.network.state_dict(), b.network.state_dict())
    assert not torch.equal(a.network.head.weight, other.network.head.weight)
    first, second, third = (steps(trainer, 2) for trainer in (a, b, other))
    assert first == second
    assert first != third


def test_training_leaves_the_global_generators_alone(photos, tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    train(settings(photos, tmp_path, steps=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


QUICK = {("linear", "noise"), ("cosine", "velocity"), ("ve", "edm"), ("flow", "flow")}


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [pytest.param(*p, marks=[] if p in QUICK else [pytest.mark.slow]) for p in PAIRS],
)
def test_training_lowers_the_held_out_loss(schedule, kind, photos, tmp_path):
    """The loss of every kind of network falls, and with it the denoising error."""
    trainer = make_trainer(
        photos,
        tmp_path,
        **dict(schedule=schedule, prediction=kind, steps=60, decay=0.5, ema=0.9),
        **dict(learning_rate=5e-3, batch_size=8, log_noise=(-1.0, 0.8)),
    )
    before = trainer.validate()
    steps(trainer, 60)
    after = trainer.validate()
    assert after[0] < 0.7 * before[0]
    middle = 1 + VALIDATION_LEVELS.index(0.5)
    assert after[middle] < 0.7 * before[middle]


def test_the_average_follows_the_weights(photos, tmp_path):
    """Its memory grows to 1 / (1 - ema) steps, so that the first weights are soon forgotten."""
    trainer = make_trainer(photos, tmp_path, ema=0.2)
    expected = copy.deepcopy(trainer.network.state_dict())
    for step in range(5):
        steps(trainer, 1)
        keep = min(0.2, (1 + step) / (10 + step))
        for key, value in trainer.network.state_dict().items():
            expected[key] = keep * expected[key] + (1 - keep) * value
    assert keep == 0.2
    for key, value in trainer.average.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)
    exact = make_trainer(photos, tmp_path, ema=0.0)
    steps(exact, 2)
    assert_same(exact.average.state_dict(), exact.network.state_dict())


def gradient_norm(trainer):
    return float(torch.stack([p.grad.norm() for p in trainer.network.parameters()]).norm())


def test_gradients_are_clipped(photos, tmp_path):
    free, clipped = (make_trainer(photos, tmp_path, clip=clip) for clip in (1e6, 1e-4))
    for trainer in (free, clipped):
        steps(trainer, 1)
    assert gradient_norm(free) > 1e-3
    assert gradient_norm(clipped) == pytest.approx(1e-4, rel=1e-2)
    ratio = gradient_norm(clipped) / gradient_norm(free)
    for ours, theirs in zip(clipped.network.parameters(), free.network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, ratio * theirs.grad, rtol=1e-3, atol=1e-9)


def test_bfloat16_is_autocast(photos, tmp_path):
    """The convolutions run in it; weights, loss and what is stored do not."""
    exact, rough = (make_trainer(photos, tmp_path, bf16=bf16) for bf16 in (False, True))
    seen = []
    rough.network.head.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    a, b = steps(exact, 4), steps(rough, 4)
    assert seen == [torch.bfloat16] * 4
    assert b == pytest.approx(a, rel=0.05)
    assert a != b
    assert {p.dtype for p in rough.network.parameters()} == {torch.float32}
    path = train(settings(photos, tmp_path, bf16=True))
    with pytest.raises(errors.CheckpointError, match=r"bf16 \(True before, False now\)"):
        train(settings(photos, path))


def test_validation_is_fixed_and_of_the_averaged_weights(photos, tmp_path):
    """Errors at each level, against EDM's preconditioning of a network that is zero."""
    trainer = make_trainer(photos, tmp_path, sigma_data=0.6)
    loss, *errors_at = trainer.validate()
    assert trainer.validate() == (loss, *errors_at)
    batch = trainer.task.held.draw(range(32), 32, 0, 16)
    x0, _, eps = (v.double() for v in batch)
    for level, error in zip(VALIDATION_LEVELS, errors_at, strict=True):
        clean = (x0 + level * eps) * 0.6**2 / (level**2 + 0.6**2)
        assert error == pytest.approx(float((clean - x0).square().mean()), rel=1e-4)
    assert loss == pytest.approx(float(trainer.task.loss(trainer.averaged, batch)), rel=1e-6)
    with torch.no_grad():
        trainer.network.tail.bias += 1
    assert trainer.validate()[0] == loss
    with torch.no_grad():
        trainer.average.tail.bias += 1
    assert trainer.validate()[0] != loss


def values(crops):
    """The whole numbers that pixels of unit crops were stored as."""
    return set(((crops + 1) / 2 * 100).round().int().flatten().tolist())


@pytest.mark.parametrize("kind", ["volume", "photos", "groups"])
def test_held_out_data_is_never_trained_on(kind, tmp_path):
    """Every slice, photograph or patient has a grey of its own."""
    import h5py

    greys = np.arange(40)[:, None, None] * np.ones((16, 16), int)
    changes = {}
    if kind == "volume":
        np.save(tmp_path / "scan.npy", greys / 100)
        changes = {"axes": (0, 1, 2)}
    elif kind == "photos":
        for n in range(40):
            np.save(tmp_path / f"{n}.npy", greys[n] / 100)
    else:
        order = np.random.default_rng(0).permutation(40) % 20
        with h5py.File(tmp_path / "scan.h5", "w") as file:
            file["pixels"], file["patient"] = greys[order] / 100, order
        changes = {"group_key": "patient"}
    trainer = make_trainer(
        tmp_path, tmp_path, held_out=0.1, image_size=(8,), batch_size=64, **changes
    )
    trained = set.union(*(values(trainer.task.batches[step][0]) for step in range(8)))
    held = values(trainer.task.held.draw(range(200), 200, 0, 8)[0])
    assert trained.isdisjoint(held)
    expected = 20 if kind == "groups" else 40
    assert sorted(trained | held) == list(range(expected))
    assert len(held) == expected // 10


def test_a_broken_run_stops_and_says_so(photos, tmp_path):
    wild = settings(photos, tmp_path, learning_rate=1e25, clip=1e30, steps=50)
    with pytest.raises(errors.ArgumentError, match=r"loss: got (nan|inf), accepted: a finite val"):
        train(wild)


@pytest.mark.parametrize(
    "device",
    [
        "tpu",
        "cuda:7",
        pytest.param(
            "cuda", marks=[pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")]
        ),
    ],
)
def test_devices_that_are_not_there_are_named(device, photos, tmp_path):
    with pytest.raises(errors.DeviceError, match=f"device: got '{device}', accepted: cpu"):
        train(settings(photos, tmp_path / "out"), device)
    assert not (tmp_path / "out").exists()


def test_images_too_small_are_named_before_training(photos, tmp_path):
    out = tmp_path / "out"
    large = settings(photos, out, image_size=(16, 64))
    with pytest.raises(errors.ShapeError, match=r"of 64 x 64 pixels .* 0\.png has .* of 20 x 24"):
        train(large, progress=killer(1))
    assert not out.exists()
    Image.fromarray(np.zeros((40, 12), np.uint8)).save(tmp_path / "narrow.png")
    one_small = settings(photos, out, data=(str(photos), str(tmp_path / "narrow.png")))
    with pytest.raises(errors.ShapeError, match=r"crops of 16 .* narrow\.png has .* of 40 x 12"):
        train(one_small, progress=killer(1))
    both = settings(photos, out, data=(str(photos),), window=(0.0, 1.0), percentile=99.0)
    with pytest.raises(errors.ArgumentError, match="window"):
        train(both)


# Runs


@pytest.mark.parametrize("kills", [(4,), (3,), (1, 5, 6)])
def test_a_killed_run_ends_as_an_uninterrupted_one(kills, photos, finished, tmp_path):
    """Killed after its checkpoint, just before it, and again and again."""
    run = settings(photos, tmp_path)
    for step in kills:
        with pytest.raises(Killed):
            train(run, progress=killer(step))
    (tmp_path / "checkpoint.part").write_bytes(b"half a checkpoint")
    seen = []
    train(run, progress=lambda step, loss: seen.append(step))
    assert seen == list(range(4 if kills[-1] > 3 else 1, 7))
    assert [row[0] for row in state_of(tmp_path)["history"]] == [3, 6]
    assert_same_run(tmp_path, finished)


@pytest.mark.slow
def test_a_run_made_longer_equals_one_planned_longer(photos, tmp_path):
    """As long as the learning rate has not begun to fall."""
    schedule = dict(decay=0.5, save_every=2)
    short, planned = tmp_path / "short", tmp_path / "planned"
    with pytest.raises(Killed):
        train(settings(photos, short, steps=8, **schedule), progress=killer(5))
    assert state_of(short)["step"] == 4
    train(settings(photos, short, steps=16, **schedule))
    train(settings(photos, planned, steps=16, **schedule))
    assert_same_run(short, planned)
    train(settings(photos, short, steps=20, batch_size=3, **schedule))
    training = json.loads((short / "config.json").read_text())["training"]
    assert (training["steps_done"], training["batch_size"]) == (20, 3)
    assert training["changes"] == [[16, {"batch_size": [2, 3], "steps": [16, 20]}]]


def test_a_prior_is_fine_tuned(photos, finished, tmp_path):
    tuned = Trainer(settings(photos, tmp_path, init_from=str(finished), learning_rate=1e-5))
    weights = load_file(finished / "model.safetensors")
    for network in (tuned.network, tuned.average):
        for key, value in network.state_dict().items():
            torch.testing.assert_close(value, weights[key].float())
    assert tuned.step == 0 and all(p.requires_grad for p in tuned.network.parameters())
    assert tuned.config()["training"]["init_from"] == finished.name
    with pytest.raises(errors.CheckpointError, match=r"init_from: .*network .*\[8, 16\].*accept"):
        Trainer(settings(photos, tmp_path, init_from=str(finished), widths=(8, 24)))
    with pytest.raises(errors.CheckpointError, match="cannot load"):
        Trainer(settings(photos, tmp_path, init_from=str(tmp_path)))


def test_runs_of_older_versions_go_on(photos, finished, tmp_path):
    state = state_of(finished)
    del (
        state["settings"]["block"],
        state["settings"]["volume_key"],
        state["changes"],
        state["sha256"],
    )
    torch.save(state, tmp_path / "checkpoint.pt")
    trainer = Trainer(settings(photos, tmp_path))
    trainer.load_checkpoint(tmp_path / "checkpoint.pt")
    assert trainer.step == 6


def test_a_run_is_not_made_shorter_than_it_may(photos, tmp_path):
    """At step 4 of 8 a run of 6 would have been slower already."""
    with pytest.raises(Killed):
        train(settings(photos, tmp_path, steps=8, decay=0.5, save_every=2), progress=killer(5))
    with pytest.raises(errors.CheckpointError, match=r"steps \(8 before, 6 now\)"):
        train(settings(photos, tmp_path, steps=6, decay=0.5, save_every=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers, photos, finished, tmp_path):
    train(settings(photos, tmp_path, workers=workers))
    assert_same_run(tmp_path, finished)


def test_a_finished_run_is_not_continued(photos, finished):
    before = (finished / "model.safetensors").read_bytes()
    train(settings(photos, finished), progress=killer(7))
    assert (finished / "model.safetensors").read_bytes() == before
    assert state_of(finished)["step"] == 6


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-3}, r"learning_rate \(0.0005 before, 0.001 now\);"),
        ({"widths": (8, 24)}, r"widths \(\[8, 16\] before, \[8, 24\] now\);"),
        ({"seed": 5, "steps": 9}, r"seed \(0 before, 5 now\);"),
        ({"steps": 5}, r"steps \(6 before, 5 now\);"),
    ],
)
def test_resuming_with_other_settings_names_them(change, named, photos, finished):
    with pytest.raises(errors.CheckpointError, match=f"other settings: {named} use these"):
        train(settings(photos, finished, **change))


def test_settings_that_decide_nothing_may_change(photos, finished, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in photos.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    free = dict(data=(str(moved),), save_every=1, image_every=1, workers=1, compile=False)
    free |= dict(skip_broken=True)
    assert {*free, "out"} == set(FREE)
    trainer = Trainer(settings(photos, tmp_path, **free))
    trainer.load_checkpoint(finished / "checkpoint.pt")
    assert trainer.step == 6


def spoil_state(change):
    def spoil(path):
        state = torch.load(path, weights_only=True)
        state = change(state) or state
        state.pop("sha256")
        torch.save({**state, "sha256": checksum(state)}, path)

    return spoil


def drop(state):
    del state["optimizer"]


def reshape(state):
    state["network"]["head.weight"] = torch.zeros(1)


def poison(state):
    state["average"]["head.bias"][0] = torch.nan


def poison_optimizer(state):
    state["optimizer"]["state"][0]["exp_avg"].view(-1)[0] = torch.inf


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


CHECKPOINT_DAMAGE = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-5000]), "cannot read"),
    "garbage": (lambda p: p.write_bytes(b"not a checkpoint"), "cannot read"),
    "empty": (lambda p: p.write_bytes(b""), "cannot read"),
    "a tensor": (lambda p: torch.save(torch.ones(2), p), "cannot read"),
    "a weight file": (lambda p: torch.save({"weight": torch.ones(2)}, p), "cannot read"),
    "a pickle": (lambda p: torch.save({"settings": Killed()}, p), "cannot read"),
    "odd settings": (spoil_state(lambda s: {**s, "settings": ["steps"]}), "cannot read"),
    "odd step": (spoil_state(lambda s: {**s, "step": "six"}), "step: got 'six'"),
    "negative step": (spoil_state(lambda s: {**s, "step": -1}), "step: got -1"),
    "missing step": (
        spoil_state(lambda s: {k: v for k, v in s.items() if k != "step"}),
        "'step'",
    ),
    "flipped bit": (flip, "cannot read.*checksum|cannot read"),
    "NaN moments": (spoil_state(poison_optimizer), "not finite"),
    "missing part": (spoil_state(drop), "does not fit: 'optimizer'"),
    "wrong shape": (spoil_state(reshape), r"does not fit: (?s:.*)head"),
    "NaN weights": (spoil_state(poison), "not finite"),
}


@pytest.mark.parametrize("damage", CHECKPOINT_DAMAGE)
def test_a_damaged_checkpoint_is_refused(damage, photos, finished, tmp_path):
    spoil, message = CHECKPOINT_DAMAGE[damage]
    path = tmp_path / "checkpoint.pt"
    path.write_bytes((finished / "checkpoint.pt").read_bytes())
    spoil(path)
    with pytest.raises(errors.CheckpointError, match=f"checkpoint: .*{message}"):
        train(settings(photos, tmp_path))


# What a run leaves


def test_a_run_leaves_its_loss_curve(finished):
    with open(finished / "loss.csv", newline="") as file:
        rows = list(csv.reader(file))
    levels = [f"mse_at_{level}" for level in ("0.05", "0.1", "0.2", "0.5", "1", "5")]
    assert rows[0] == ["step", "loss", "held_out_loss", *levels]
    history = state_of(finished)["history"]
    assert [[float(v) for v in row] for row in rows[1:]] == [list(row) for row in history]
    assert all(len(row) == 9 and np.isfinite(row).all() for row in history)


def test_the_curve_holds_the_running_mean_and_the_validation(photos, tmp_path):
    run = settings(photos, tmp_path)
    reported = []
    train(run, progress=lambda step, loss: reported.append(loss))
    trainer = Trainer(run)
    losses = steps(trainer, 6)
    mean = losses[0]
    for n, loss in enumerate(losses):
        mean = mean if n == 0 else 0.99 * mean + 0.01 * loss
        assert reported[n] == pytest.approx(mean, rel=1e-9)
    last = state_of(tmp_path)["history"][-1]
    assert last == pytest.approx((6, mean, *trainer.validate()), rel=1e-9)


def picture(folder, kind, step):
    with Image.open(folder / "images" / f"{kind}_{step:07d}.png") as image:
        return image.mode, np.asarray(image)


def test_a_run_leaves_pictures(photos, finished):
    """Clean held-out crops, then noisy and denoised ones of every level; and samples."""
    mode, denoised = picture(finished, "denoised", 6)
    assert (mode, denoised.shape) == ("L", (13 * 16, 6 * 16))
    trainer = Trainer(settings(photos, finished))
    clean = trainer.task.held.draw(range(6), 6, 1, 16)[0]
    first = torch.cat([*clean], -1)[0].numpy()
    np.testing.assert_allclose(denoised[:16] / 255, (first + 1) / 2, atol=1 / 255)
    spread = [float(denoised[16 * row : 16 * row + 16].std()) for row in (0, 1, 11)]
    assert spread[1] == pytest.approx(spread[0], rel=0.2)  # least noise
    assert spread[2] > 90  # most: black and white
    mode, samples = picture(finished, "samples", 6)
    assert (mode, samples.shape) == ("L", (2 * 16, 3 * 16))
    assert samples.std() > 5
    assert sorted(p.name for p in (finished / "images").iterdir()) == [
        "denoised_0000006.png",
        "samples_0000006.png",
    ]


def test_pictures_come_at_their_steps(photos, tmp_path):
    train(settings(photos, tmp_path, steps=5, image_every=2, image_size=(16, 20)))
    names = sorted(p.name for p in (tmp_path / "images").iterdir())
    kinds = ("denoised", "samples")
    assert names == [f"{kind}_{step:07d}.png" for kind in kinds for step in (2, 4, 5)]
    assert picture(tmp_path, "denoised", 2)[1].shape == (13 * 16, 6 * 16)
    assert picture(tmp_path, "samples", 2)[1].shape == (2 * 20, 3 * 20)  # of the largest size


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_arrays_of_many_channels(channels, tmp_path):
    cubes = np.random.default_rng(0).random((4, 20, 24, channels))
    for n, cube in enumerate(cubes):
        np.save(tmp_path / f"{n}.npy", cube)
    out = train(settings(tmp_path, tmp_path / "out", steps=1, channel_axis=-1))
    assert picture(out, "samples", 1)[0] == ("RGB" if channels == 3 else "L")
    state = state_of(out)["network"]
    assert state["head.weight"].shape[1] == 4 * channels


def test_complex_images(photos, tmp_path):
    """Magnitudes with a random phase, as real and imaginary channel."""
    run = settings(photos, tmp_path, steps=1, complex_phase=True, data_range=(-1.0, 1.0))
    trainer = Trainer(run)
    x0 = trainer.task.held.draw(range(6), 6, 1, 16)[0]
    assert x0.shape == (6, 2, 16, 16)
    magnitude = x0.square().sum(1).sqrt()
    assert 0.1 < float(magnitude.max()) <= 1 + 1e-6
    train(run)
    mode, pixels = picture(tmp_path, "denoised", 1)
    assert (mode, pixels.shape) == ("L", (13 * 16, 6 * 16))
    np.testing.assert_allclose(pixels[:16] / 255, torch.cat([*magnitude], -1), atol=1 / 255)


def test_only_the_first_process_writes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "is_main_process", False)
    seen = []
    out = tmp_path / "out"
    train(settings(photos, out), progress=lambda step, loss: seen.append(step))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert not out.exists()


# Slow: in processes of their own


def command(photos, out, *more):
    options = {"--image-size": "16", "--widths": "8,16", "--layers": 1, "--batch-size": 2}
    options |= {"--data": photos, "--out": out, "--save-every": 5, "--warmup": 2}
    flat = [str(part) for pair in options.items() for part in pair]
    return [sys.executable, "-m", "wellposed", "train", *flat, *map(str, more)]


@pytest.mark.slow
def test_a_run_ended_by_sigkill_ends_as_an_uninterrupted_one(photos, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for kill_after in (5, 60):
        process = subprocess.Popen(
            command(photos, killed, "--steps", 200), env=environment, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            time.sleep(0.01)
            if (killed / "checkpoint.pt").exists() and state_of(killed)["step"] >= kill_after:
                process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert state_of(killed)["step"] < 200
    for out in (killed, whole):
        subprocess.run(command(photos, out, "--steps", 200), env=environment, check=True)
    assert_same_run(killed, whole)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(photos, tmp_path):
    plain = make_trainer(photos, tmp_path, steps=4)
    compiled = make_trainer(photos, tmp_path, steps=4, compile=True)
    assert steps(compiled, 4) == pytest.approx(steps(plain, 4), rel=1e-4)
    path = tmp_path / "checkpoint.pt"
    compiled.save_checkpoint(path)
    plain.load_checkpoint(path)
    assert_same(plain.network.state_dict(), compiled.network.state_dict())
    assert not any("_orig_mod" in key for key in state_of(tmp_path)["average"])
