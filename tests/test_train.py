"""Training that can be killed, priors stored and loaded, crops and files."""

import csv
import json
import stat

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from wellposed import errors, priors
from wellposed.datasets import read_array
from wellposed.datasets.crops import Crops, load_volumes, split
from wellposed.priors import shipped
from wellposed.priors.networks import ConvUNet
from wellposed.priors.prediction import training_target
from wellposed.priors.train import Trainer, TrainingSettings, train

pytestmark = pytest.mark.usefixtures("single_thread")


def grey(height=20, width=24, seed=0):
    """A smooth random picture in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 10
    a, b, c = rng.uniform(0.5, 2, 3)
    return ((1 + np.sin(a * x + c) * np.cos(b * y)) / 2).astype(np.float32)


def write_png(path, array):
    Image.fromarray(np.round(array * 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        write_png(folder / f"{i}.png", grey(seed=i))
    return folder


def settings(photos, out, **changes):
    tiny = dict(
        data=(str(photos),),
        out=str(out),
        image_size=16,
        widths=(16, 32),
        steps=6,
        batch_size=2,
        warmup=2,
        save_every=3,
        image_every=100,
    )
    return TrainingSettings(**{**tiny, **changes})


class Killed(Exception):
    pass


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


# Training


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
    ours, theirs = state_of(tmp_path), state_of(finished)
    assert [row[0] for row in ours["history"]] == [3, 6]
    assert_same(ours, theirs)
    for name in ("model.safetensors", "loss.csv", "config.json", "README.md"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_finished_run_is_not_continued(photos, finished):
    before = (finished / "model.safetensors").read_bytes()
    train(settings(photos, finished), progress=killer(7))
    assert (finished / "model.safetensors").read_bytes() == before
    assert state_of(finished)["step"] == 6


def test_training_leaves_the_global_generator_alone(photos, tmp_path):
    before = torch.get_rng_state()
    train(settings(photos, tmp_path, steps=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_weights_and_batches(photos, tmp_path):
    a, b, other = (Trainer(settings(photos, tmp_path, seed=seed)) for seed in (0, 0, 1))
    torch.randn(3)
    assert_same(a.network.state_dict(), b.network.state_dict())
    assert not torch.equal(a.network.unet.conv_in.weight, other.network.unet.conv_in.weight)
    assert a.train_step() == b.train_step() != other.train_step()


def test_training_lowers_the_held_out_loss(photos, tmp_path):
    run = settings(photos, tmp_path, steps=60, learning_rate=3e-3, batch_size=4)
    trainer = Trainer(run)
    before = trainer.validate()
    for _ in range(60):
        trainer.train_step()
    assert trainer.validate() < 0.7 * before


@pytest.mark.parametrize("kind", ["noise", "sample", "velocity"])
def test_the_loss_of_a_perfect_network_is_zero(kind, photos, tmp_path):
    """The loss asks of a network what `to_sample` expects of it, at the label ``t - 1``."""
    trainer = Trainer(settings(photos, tmp_path, prediction=kind))
    x0 = trainer.to_units(trainer.crops.batch(3, 0, 0))
    t = torch.tensor([1, 500, 1000])
    alpha, sigma = (v.view(-1, 1, 1, 1).float() for v in trainer.schedule(t))

    def perfect(x_t, label):
        assert torch.equal(label, t - 1)
        eps = (x_t - alpha * x0) / sigma
        return training_target(kind, x0, eps, alpha, sigma)

    assert float(trainer.loss(perfect, x0, t, np.random.default_rng(0))) < 1e-8
    assert bool((x0.abs() <= 1).all())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 1e-3}, r"learning_rate \(0.0003 before, 0.001 now\)"),
        ({"widths": (16, 48)}, r"widths \(\[16, 32\] before, \[16, 48\] now\)"),
        ({"seed": 5, "steps": 9}, "steps .*, seed"),
    ],
)
def test_resuming_with_other_settings_names_them(change, named, photos, finished):
    with pytest.raises(errors.CheckpointError, match=f"other settings: {named}"):
        train(settings(photos, finished, **change))


def test_settings_that_decide_nothing_may_change(photos, finished, tmp_path):
    trainer = Trainer(settings(photos, tmp_path, save_every=1, image_every=1))
    trainer.load_checkpoint(finished / "checkpoint.pt")
    assert trainer.step == 6


def spoil_state(change):
    def spoil(path):
        state = torch.load(path, weights_only=True)
        torch.save(change(state) or state, path)

    return spoil


def drop(state):
    del state["optimizer"]


def reshape(state):
    state["network"]["unet.conv_in.weight"] = torch.zeros(1)


def poison(state):
    state["average"]["unet.conv_in.bias"][0] = torch.nan


CHECKPOINT_DAMAGE = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-5000]), "cannot read"),
    "garbage": (lambda p: p.write_bytes(b"not a checkpoint"), "cannot read"),
    "empty": (lambda p: p.write_bytes(b""), "cannot read"),
    "a tensor": (lambda p: torch.save(torch.ones(2), p), "cannot read"),
    "a weight file": (lambda p: torch.save({"weight": torch.ones(2)}, p), "cannot read"),
    "a pickle": (lambda p: torch.save({"settings": Killed()}, p), "cannot read"),
    "missing part": (spoil_state(drop), "does not fit: 'optimizer'"),
    "wrong shape": (spoil_state(reshape), r"does not fit: (?s:.*)conv_in"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 12}, "image_size: got 12, accepted: a positive multiple of 8"),
        ({"image_size": 0}, "image_size: got 0"),
        ({"widths": (16, 10)}, "widths: got"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"layers": 0}, "layers: got 0"),
        ({"save_every": 0}, "save_every: got 0"),
        ({"axes": (5,)}, "axes: got"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"percentile": 500.0}, "percentile: got 500.0"),
        ({"zoom": (0.0, 1.0)}, "zoom: got"),
        ({"data_range": (1.0, 1.0)}, "data_range: got"),
        ({"complex_phase": True}, "data_range: got .0.0, 1.0., accepted: symmetric"),
        ({"seed": -1}, "seed: got -1"),
        ({"prediction": "nois"}, "Did you mean 'noise'"),
        ({"prediction": "flow"}, "Known: noise, sample, velocity"),
        ({"steps": 0}, "steps: got 0"),
        ({"ema": 1.0}, "ema: got 1.0"),
        ({"held_out": 0.0}, "held_out: got 0.0"),
    ],
)
def test_settings_name_what_cannot_be(change, message, photos, tmp_path):
    with pytest.raises(errors.ArgumentError, match=message):
        settings(photos, tmp_path, **change)


def test_images_too_small_are_named_before_training(photos, tmp_path):
    with pytest.raises(errors.ShapeError, match=r"crops of 64 .* slice side is 20"):
        train(settings(photos, tmp_path, image_size=64), progress=killer(1))


# Storing and loading


def test_a_trained_prior_is_the_average_in_half_precision(photos, finished):
    prior = priors.load(finished)
    trainer = Trainer(settings(photos, finished))
    trainer.load_checkpoint(finished / "checkpoint.pt")
    stored = prior.network.state_dict()
    for key, value in trainer.average.state_dict().items():
        assert stored[key].dtype == torch.float32
        assert torch.equal(stored[key], value.half().float()), key
    assert not prior.network.training
    assert not any(p.requires_grad for p in prior.parameters())
    assert (prior.channels, prior.is_complex, prior.data_range) == (1, False, (0.0, 1.0))
    assert prior.schedule.T == 1000
    x_t, t = torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(0)), 400
    alpha, sigma = prior.schedule(t)
    with torch.no_grad():
        noise = prior.network(x_t, torch.full((2,), t - 1.0))
    torch.testing.assert_close(prior.denoise(x_t, t), (x_t - sigma * noise) / alpha)


def test_a_run_leaves_its_record(finished):
    with open(finished / "loss.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "loss", "held_out_loss"]
    assert [[float(v) for v in row] for row in rows[1:]] == [
        list(row) for row in state_of(finished)["history"]
    ]
    assert Image.open(finished / "images" / "step_0000006.png").size == (6 * 16, 11 * 16)
    card = (finished / "README.md").read_text()
    assert "0.png" in card
    assert "| steps | 6 of batch 2 |" in card
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in finished.iterdir() if p.is_file()}
    assert modes["model.safetensors"] == modes["config.json"]  # others may read it too
    assert not list(finished.glob("*.part"))


def test_complex_priors(photos, tmp_path):
    """Magnitudes with random phase train a prior of one complex channel."""
    run = settings(photos, tmp_path, steps=1, complex_phase=True, data_range=(-1.0, 1.0))
    prior = priors.load(train(run))
    assert (prior.channels, prior.is_complex, prior.data_range) == (1, True, (-1.0, 1.0))
    x_t = torch.randn(2, 1, 16, 16, dtype=torch.complex64)
    assert prior.denoise(x_t, 10).shape == x_t.shape


def test_load_finds_shipped_priors_by_name(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    (tmp_path / "brain-mri").symlink_to(finished)
    assert priors.available() == {"brain-mri": "1 real channel(s), trained 6 steps"}
    assert priors.load("brain-mri").channels == 1
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'brain-mri'"):
        priors.load("brian-mri")
    with pytest.raises(errors.UnknownNameError, match="Known: brain-mri"):
        priors.load(tmp_path / "missing")


def edit_config(**changes):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            config[key] = value
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def edit_weights(change):
    def spoil(folder):
        weights = load_file(folder / "model.safetensors")
        save_file(change(weights), folder / "model.safetensors")

    return spoil


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


PRIOR_DAMAGE = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot load"),
    "truncated weights": (truncate, "cannot load"),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "cannot load"),
    "foreign config": (
        lambda f: (f / "config.json").write_text('{"_class_name": "UNet2DModel"}'),
        "lacks 'network'",
    ),
    "network not a table": (edit_config(network="unet"), "cannot load"),
    "unknown network setting": (edit_config(network={"depth": 3}), "cannot load.*depth"),
    "unknown schedule": (edit_config(schedule={"kind": "sine", "T": 10}), "'sine'"),
    "unknown prediction": (edit_config(prediction="nois"), "Did you mean 'noise'"),
    "bad range": (edit_config(data_range=[1, 0]), "data_range"),
    "no range": (edit_config(data_range=None), "config"),
    "NaN weights": (edit_weights(lambda w: {k: v * torch.nan for k, v in w.items()}), "NaN"),
    "wrong shape": (
        edit_weights(lambda w: {**w, "unet.conv_in.bias": torch.zeros(3)}),
        r"unet\.conv_in\.bias: \(3,\) instead of \(16,\)",
    ),
    "missing key": (
        edit_weights(lambda w: {k: v for k, v in w.items() if k != "unet.conv_in.bias"}),
        r"missing keys: \['unet\.conv_in\.bias'\]",
    ),
    "extra key": (
        edit_weights(lambda w: {**w, "other": torch.zeros(3)}),
        r"unexpected keys: \['other'\]",
    ),
}


@pytest.mark.parametrize("damage", PRIOR_DAMAGE)
def test_a_damaged_prior_is_refused(damage, finished, tmp_path):
    spoil, message = PRIOR_DAMAGE[damage]
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    spoil(tmp_path)
    with pytest.raises(errors.CheckpointError, match=f"prior: .*{message}"):
        priors.load(tmp_path)


# The network


@pytest.mark.parametrize("shape", [(16, 16), (17, 30), (5, 9), (3, 9)])
def test_the_network_takes_any_image_size(shape):
    network = ConvUNet(2, (16, 32)).eval()
    x = torch.randn(1, 2, *shape, generator=torch.Generator().manual_seed(0))
    pad = [-n % network.stride for n in shape]
    with torch.no_grad():
        out = network(x, torch.tensor([3.0]))
        padded = torch.nn.functional.pad(x, (0, pad[1], 0, pad[0]), mode="reflect")
        expected = network(padded, torch.tensor([3.0]))[..., : shape[0], : shape[1]]
    assert torch.equal(out, expected)


def test_the_network_names_images_too_small_to_pad():
    network = ConvUNet(1, (16, 32))
    with pytest.raises(errors.ShapeError, match="x: got images of 2 x 16"):
        network(torch.zeros(1, 1, 2, 16), torch.zeros(1))


# Crops


def volume(depth=6, height=20, width=24, channels=1, seed=0):
    return np.random.default_rng(seed).random((depth, height, width, channels), np.float32)


def test_crops_are_a_function_of_seed_and_step():
    data = [volume(), volume(1, 40, 30, seed=1)]
    make = lambda: Crops(data, 16, zoom=(0.8, 1.3), gain=(0.5, 1.2), complex_phase=True)  # noqa: E731
    first, second = make(), make()
    a = [first.batch(3, 7, step) for step in range(4)]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    for step in (3, 1, 0, 2):
        assert torch.equal(second.batch(3, 7, step), a[step])
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(first.batch(3, 8, 0), a[0])
    assert a[0].shape == (3, 2, 16, 16)
    assert a[0].dtype == torch.float32


def test_plain_crops_are_windows_of_the_images():
    """Up to flips and transposition; every one of the eight poses occurs."""
    image = np.arange(20 * 24, dtype=np.float32).reshape(1, 20, 24, 1)
    poses = set()
    for crop in Crops([image], 16).batch(200, 0, 0)[:, 0].numpy():
        top, left = divmod(int(crop.min()), 24)
        window = image[0, top : top + 16, left : left + 16, 0]
        matches = [
            (turns, flip)
            for turns in range(4)
            for flip in (False, True)
            if np.array_equal(np.rot90(np.fliplr(window) if flip else window, turns), crop)
        ]
        assert len(matches) == 1
        poses.update(matches)
    assert len(poses) == 8


def test_slices_are_taken_across_the_axes():
    """A volume that is constant across an axis gives crops that know their axis."""
    data = np.arange(20, dtype=np.float32)[:, None, None, None] * np.ones((20, 20, 1), np.float32)
    across = Crops([data], 16, axes=(0,)).batch(20, 0, 0)
    assert bool((across.amax((1, 2, 3)) == across.amin((1, 2, 3))).all())
    along = Crops([data], 16, axes=(1, 2)).batch(20, 0, 0)
    assert bool((along.amax((1, 2, 3)) - along.amin((1, 2, 3)) == 15).all())


def test_a_complex_phase_keeps_the_magnitude():
    data, gain = [volume()], (0.5, 1.2)
    plain = Crops(data, 16, gain=gain).batch(4, 0, 3)
    parts = Crops(data, 16, gain=gain, complex_phase=True).batch(4, 0, 3)
    torch.testing.assert_close(parts.square().sum(1, keepdim=True).sqrt(), plain)
    unit = torch.view_as_complex(parts.permute(0, 2, 3, 1).contiguous()) / plain[:, 0]
    step = (unit[..., 1:] / unit[..., :-1]).angle()
    assert float(step.abs().max()) < 1  # smooth
    assert float((unit[0] / unit[1]).angle().std()) > 0.01  # another one per crop


def test_gain_and_zoom_stay_in_their_ranges():
    flat = [np.ones((1, 40, 40, 1), np.float32)]
    gains = Crops(flat, 16, gain=(0.5, 1.2)).batch(200, 0, 0)[:, 0, 0, 0]
    assert 0.5 <= float(gains.min()) < 0.55
    assert 1.15 < float(gains.max()) <= 1.2
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None], (40, 40))[None, ..., None]
    crops = Crops([ramp], 16, zoom=(0.5, 2.0)).batch(200, 0, 0)
    extent = crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))
    assert 6 <= float(extent.min()) < 9  # 8 pixels magnified
    assert 28 < float(extent.max()) <= 32  # 32 pixels made small


def test_empty_crops_are_mostly_redrawn():
    half = np.zeros((40, 16, 16, 1), np.float32)
    half[::2] = 1
    bright = Crops([half], 16, foreground=0.5).batch(300, 0, 0).amax((1, 2, 3)) > 0
    assert 0.93 < float(bright.double().mean()) < 1


def test_crops_name_images_that_are_too_small():
    with pytest.raises(errors.ShapeError, match=r"size: got crops of 32 .* side is 20"):
        Crops([volume(), volume(1, 40, 40)], 32)
    with pytest.raises(errors.ShapeError, match="side is 6"):
        Crops([volume()], 16, axes=(0, 1, 2))
    assert Crops([volume()], 20).batch(1, 0, 0).shape == (1, 1, 20, 20)
    assert Crops([volume()], 32, zoom=(1.0, 1.6)).batch(1, 0, 0).shape == (1, 1, 32, 32)
    with pytest.raises(errors.ArgumentError, match="at least one volume"):
        Crops([], 16)


def test_crops_name_channels_that_do_not_fit():
    with pytest.raises(errors.ShapeError, match="1 and 3 channels, accepted: all of one kind"):
        Crops([volume(), volume(channels=3)], 16)
    with pytest.raises(errors.ShapeError, match="3 channels, accepted: 1 channel with complex"):
        Crops([volume(channels=3)], 16, complex_phase=True)
    assert Crops([volume(channels=3)], 16).batch(2, 0, 0).shape == (2, 3, 16, 16)


def test_split_holds_out_a_slab_of_volumes():
    stack = np.arange(40.0).reshape(40, 1, 1, 1)
    train_parts, held = split([stack], 0.1)
    assert held[0].ravel().tolist() == [13, 14, 15, 16]
    kept = np.concatenate([p.ravel() for p in train_parts])
    assert sorted([*kept, *held[0].ravel()]) == list(range(40))
    train_parts, held = split([stack[:2]], 0.4)
    assert [p.ravel().tolist() for p in (*train_parts, *held)] == [[0], [1]]


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (3, 1), (10, 1), (40, 2), (100, 5)])
def test_split_holds_out_whole_images(count, expected):
    images = [np.full((1, 2, 2, 1), i) for i in range(count)]
    train_parts, held = split(images, 0.05)
    assert len(held) == expected
    names = [int(v.flat[0]) for v in (*train_parts, *held)]
    assert sorted(names) == list(range(count))


def test_a_single_image_serves_as_both():
    image = volume(1)
    train_parts, held = split([image], 0.05)
    assert len(train_parts) == len(held) == 1
    assert held[0] is image


# Files


def test_load_volumes_reads_folders_and_volumes(photos, tmp_path):
    np.save(tmp_path / "scan.npy", 7 * volume()[..., 0])
    colour = np.stack([grey(seed=i) for i in range(3)], -1)
    write_png(tmp_path / "colour.png", colour)
    arrays, names = load_volumes([photos, tmp_path / "scan.npy", tmp_path / "colour.png"])
    assert names == ["0.png", "1.png", "2.png", "3.png", "scan.npy", "colour.png"]
    assert [a.shape for a in arrays] == [(1, 20, 24, 1)] * 4 + [(6, 20, 24, 1), (1, 20, 24, 3)]
    assert all(a.dtype == np.float32 for a in arrays)
    np.testing.assert_allclose(arrays[0][0, ..., 0], grey(), atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(arrays[4][..., 0], 7 * volume()[..., 0])
    (scaled,), _ = load_volumes([tmp_path / "scan.npy"], percentile=99.0)
    assert float((scaled > 1).mean()) == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.array([[1.0, np.nan], [0, 0]]), errors.FileError, "holds NaN"),
        (np.array([[1.0, np.inf], [0, 0]]), errors.FileError, "holds NaN or infinite"),
        (np.zeros((2, 2)), errors.FileError, "no positive value"),
        (np.ones((2, 2), np.complex64), errors.FileError, "is complex"),
        (np.ones((2, 2, 2, 2)), errors.ShapeError, "array of 4 axes"),
        (np.ones(3), errors.ShapeError, "array of 1 axes"),
    ],
)
def test_load_volumes_names_files_it_cannot_use(array, error, message, tmp_path):
    np.save(tmp_path / "scan.npy", array)
    with pytest.raises(error, match=f"scan.npy.*{message}"):
        load_volumes([tmp_path / "scan.npy"], percentile=99.8)


def test_load_volumes_of_an_empty_folder(tmp_path):
    with pytest.raises(errors.FileError, match="no image files"):
        load_volumes([tmp_path])
    with pytest.raises(errors.FileError, match="no such file"):
        load_volumes([tmp_path / "missing"])


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".jpg"])
@pytest.mark.parametrize("colour", [False, True])
def test_photographs_come_in_0_to_1(suffix, colour, tmp_path):
    image = np.stack([grey(seed=i) for i in range(3)], -1) if colour else grey()
    path = tmp_path / f"photo{suffix}"
    write_png(path, image)
    array = read_array(path)
    assert array.shape == image.shape
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, image, atol=0.1 if suffix == ".jpg" else 0.5 / 255 + 1e-6)


def test_other_kinds_of_pixels(tmp_path):
    deep = np.round(grey() * 65535).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_array(tmp_path / "deep.png"), deep / 65535, rtol=1e-6)
    with_alpha = Image.fromarray(np.round(grey() * 255).astype(np.uint8)).convert("RGBA")
    with_alpha.save(tmp_path / "alpha.png")
    assert read_array(tmp_path / "alpha.png").shape == (20, 24, 3)
    # Pillow would clip 32-bit pixels to 0..255 in silence.
    Image.fromarray(grey()).save(tmp_path / "float.tif")
    with pytest.raises(errors.FileError, match="32-bit pixels"):
        read_array(tmp_path / "float.tif")


def test_arrays_come_as_they_are_stored(tmp_path):
    array = volume()[..., 0] * (1 + 2j)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_array(str(tmp_path / "a.npy")), array)
    scan = nibabel.Nifti1Image(array.real.astype(np.int16), np.eye(4))
    scan.header.set_slope_inter(2.0, 1.0)
    for name in ("scan.nii", "scan.nii.gz", "SCAN.NII.GZ"):
        nibabel.save(scan, tmp_path / name)
        expected = np.asarray(nibabel.load(tmp_path / name).dataobj)
        np.testing.assert_array_equal(read_array(tmp_path / name), expected)


def test_hdf5_keys(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["small"], file["group/large"] = np.ones((2, 2)), np.ones((4, 4))
        file["line"] = np.ones(100)
    assert read_array(path).shape == (4, 4)  # the largest image; lines do not count
    assert read_array(path, "small").shape == (2, 2)
    assert read_array(path, "group/large").shape == (4, 4)
    with pytest.raises(errors.FileError, match="has no 'kspace', it holds: group/large, small"):
        read_array(path, "kspace")
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file["line"] = np.ones(100)
    with pytest.raises(errors.FileError, match="holds no data set of two or more axes"):
        read_array(tmp_path / "empty.hdf5")


def write_all_kinds(folder):
    write_png(folder / "a.png", grey())
    write_png(folder / "a.jpg", grey())
    np.save(folder / "a.npy", grey())
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"] = grey()
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(grey(), np.eye(4)), folder / name)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.npy", "a.h5", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_truncated_files_are_named(name, keep, tmp_path):
    write_all_kinds(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(errors.FileError, match=f"path: cannot read .*{name}"):
        read_array(path)


def test_missing_and_unknown_files_are_named(tmp_path):
    with pytest.raises(errors.FileError, match=r"no such file .*missing\.png"):
        read_array(tmp_path / "missing.png")
    with pytest.raises(errors.FileError, match="no such file"):
        read_array(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(errors.FileError, match=r"got 'notes.txt', accepted: \.png, .*\.nii\.gz"):
        read_array(tmp_path / "notes.txt")


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(errors.FileError, match="allow_pickle=False"):
        read_array(tmp_path / "a.npy")
