"""Trained priors as they are stored, loaded and described, and their network."""

import json
import stat
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers import tiny_training
from torch import nn

from wellposed import errors, priors
from wellposed.integrity import all_finite
from wellposed.priors import Flow, Tabulated
from wellposed.priors.checkpoints.state import load_strictly
from wellposed.priors.networks.conv_unet import BLOCKS, ConvUNet, parameters_in_millions
from wellposed.priors.schedule import VE
from wellposed.priors.stored.card import model_card
from wellposed.priors.stored.store import build_prior, load_prior, save_prior
from wellposed.priors.training import Trainer, train

pytestmark = pytest.mark.usefixtures("single_thread")


def settings(folder, out, **changes):
    return tiny_training(folder, out, **dict(learning_rate=1e-2) | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for n in range(3):
        np.save(folder / f"{n}.npy", np.random.default_rng(n).random((20, 24), np.float32))
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder of a run."""
    return train(settings(data, tmp_path_factory.mktemp("finished")))


# Storing and loading


def test_a_trained_prior_is_the_average_in_half_precision(data, finished):
    prior = priors.load(finished)
    trainer = Trainer(settings(data, finished))
    trainer.load_checkpoint(finished / "checkpoint.pt")
    stored = prior.network.state_dict()
    for key, value in trainer.average.state_dict().items():
        assert stored[key].dtype == torch.float32
        assert torch.equal(stored[key], value.half().float()), key
    assert not torch.equal(trainer.average.head.weight, trainer.network.head.weight)
    assert not prior.network.training
    assert not any(p.requires_grad for p in prior.parameters())
    assert (prior.channels, prior.is_complex, prior.data_range) == (1, False, (0.0, 1.0))
    x_t = torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([400.0, 3.0])
    half = trainer.averaged.denoise(x_t, t)
    torch.testing.assert_close(prior.denoise(x_t, t), half, atol=2e-3, rtol=0)


def test_a_stored_prior_denoises_by_the_equations_of_edm(finished):
    prior = priors.load(finished)
    x_t, t = torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(0)), 400
    alpha, sigma = (float(v) for v in prior.schedule(t))
    level, spread = sigma / alpha, np.hypot(sigma / alpha, 0.5)
    with torch.no_grad():
        output = prior.network(x_t / alpha / spread, torch.full((2,), np.log(level) / 4))
    expected = 0.5**2 / spread**2 * x_t / alpha + level * 0.5 / spread * output
    torch.testing.assert_close(prior.denoise(x_t, t), expected, atol=1e-5, rtol=1e-5)


SCHEDULES = {
    "linear": Tabulated.linear(),
    "cosine": Tabulated.cosine(),
    "ve": VE(),
    "flow": Flow(),
}


@pytest.mark.parametrize(
    ("name", "prediction"),
    [("linear", "noise"), ("cosine", "velocity"), ("ve", "edm"), ("flow", "flow")],
)
def test_settings_survive_storing(name, prediction, data, tmp_path):
    run = settings(data, tmp_path, schedule=name, prediction=prediction, sigma_data=0.3, steps=1)
    prior = priors.load(train(run))
    assert (prior.prediction, prior.sigma_data) == (prediction, 0.3)
    assert type(prior.schedule) is type(SCHEDULES[name])
    t = 0.37 * prior.schedule.T
    assert prior.schedule(t) == SCHEDULES[name](t)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["training"]["steps"] == config["training"]["steps_done"] == 1
    decided = {k: v for k, v in config["training"].items() if k in run.decisive()}
    assert decided == run.decisive()


def test_a_run_leaves_its_record(finished):
    card = (finished / "README.md").read_text()
    assert "0.npy" in card
    assert "| steps | 4 of batch 2 |" in card
    rows = [line for line in card.splitlines() if line.startswith(("| 2 |", "| 4 |"))]
    history = json.loads((finished / "config.json").read_text())["training"]["history"]
    assert [[float(v) for v in row.strip("| ").split("|")] for row in rows] == [
        pytest.approx(row, rel=1e-4) for row in history
    ]
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in finished.iterdir() if p.is_file()}
    assert modes["model.safetensors"] == modes["config.json"]  # others may read it too
    assert not list(finished.glob("*.part"))


@pytest.mark.parametrize("count", [0, 1, 11, 12, 13, 14, 26, 101])
def test_cards_show_some_of_a_long_history(count, finished):
    config = json.loads((finished / "config.json").read_text())
    config["training"]["history"] = [[n, *[0.5] * 8] for n in range(1, count + 1)]
    table = model_card(config).split("---|\n")[-1].strip().splitlines()
    shown = [int(line.split("|")[1]) for line in table]
    assert len(shown) <= 12
    assert len(shown) >= min(count, 7)
    assert shown == sorted(set(shown))
    assert shown[-1:] == [count][: len(shown)]


def test_complex_priors(data, tmp_path):
    """Magnitudes with random phase train a prior of one complex channel."""
    run = settings(data, tmp_path, steps=1, complex_phase=True, data_range=(-1.0, 1.0))
    prior = priors.load(train(run))
    assert (prior.channels, prior.is_complex, prior.data_range) == (1, True, (-1.0, 1.0))
    x_t = torch.randn(2, 1, 16, 16, dtype=torch.complex64)
    assert prior.denoise(x_t, 10).shape == x_t.shape


def test_saving_replaces_what_was_there(data, finished, tmp_path):
    config = json.loads((finished / "config.json").read_text())
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = ConvUNet(1, (8, 16), 1)
        save_prior(tmp_path / "deep" / "folder", network, config)
        stored = load_prior(tmp_path / "deep" / "folder").network.state_dict()
        assert torch.equal(stored["head.weight"], network.head.weight.half().float())
    assert len(list((tmp_path / "deep" / "folder").iterdir())) == 3


def test_load_finds_shipped_priors_by_name(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[priors.load.__module__], "WEIGHTS", tmp_path)
    (tmp_path / "brain-mri").symlink_to(finished)
    assert priors.available() == {"brain-mri": "1 real channel(s), trained 4 steps"}
    assert priors.load("brain-mri").channels == 1
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'brain-mri'"):
        priors.load("brian-mri")
    with pytest.raises(errors.UnknownNameError, match="Known: brain-mri"):
        priors.load(tmp_path / "missing")


def edit_config(**changes):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return spoil


def without(key):
    def spoil(folder):
        config = json.loads((folder / "config.json").read_text())
        del config[key]
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def edit_network(**changes):
    def spoil(folder):
        network = json.loads((folder / "config.json").read_text())["network"]
        edit_config(network={**network, **changes})(folder)

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
    "garbled weights": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "cannot load"),
    "no config": (lambda f: (f / "config.json").unlink(), r"cannot load: .*config\.json"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "cannot load"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "cannot load"),
    "config of another kind": (lambda f: (f / "config.json").write_text("[1]"), "cannot load"),
    "foreign config": (
        lambda f: (f / "config.json").write_text('{"_class_name": "UNet2DModel"}'),
        "missing or invalid in config.json: 'network'",
    ),
    "network not a table": (edit_config(network="unet"), "cannot load"),
    "unknown network setting": (edit_config(network={"depth": 3}), "cannot load.*depth"),
    "no widths": (edit_network(widths=[]), "missing or invalid in config"),
    "negative width": (edit_network(widths=[-8, 16]), "cannot load"),
    "text for a number": (edit_network(layers="one"), "cannot load"),
    "unknown schedule": (edit_config(schedule="sine"), "invalid in config.json: 'sine'"),
    "schedule of the old format": (edit_config(schedule={"kind": "linear"}), "cannot load"),
    "unknown prediction": (edit_config(prediction="nois"), "Did you mean 'noise'"),
    "no sigma_data": (edit_config(sigma_data=None), "sigma_data"),
    "no schedule": (without("schedule"), "missing or invalid in config.json: 'schedule'"),
    "other channels": (edit_config(channels=3), "channels: got 3"),
    "complex of one real channel": (
        edit_config(complex=True, data_range=[-1, 1]),
        "channels: got 2, accepted: as many",
    ),
    "bad range": (edit_config(data_range=[1, 0]), "data_range"),
    "no range": (edit_config(data_range=None), "cannot load"),
    "NaN weights": (edit_weights(lambda w: {k: v * torch.nan for k, v in w.items()}), "NaN"),
    "wrong shape": (
        edit_weights(lambda w: {**w, "head.bias": torch.zeros(3)}),
        r"shapes: head\.bias: \(3,\) instead of \(8,\)",
    ),
    "missing key": (
        edit_weights(lambda w: {k: v for k, v in w.items() if k != "head.bias"}),
        r"missing keys: head\.bias$",
    ),
    "extra key": (
        edit_weights(lambda w: {**w, "other": torch.zeros(3)}),
        "unexpected keys: other$",
    ),
}


@pytest.mark.parametrize("damage", PRIOR_DAMAGE)
def test_a_damaged_prior_is_refused(damage, finished, tmp_path):
    spoil, message = PRIOR_DAMAGE[damage]
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    spoil(tmp_path)
    with pytest.raises(errors.CheckpointError, match=f"prior: .*{message}"):
        load_prior(tmp_path)


def test_a_folder_without_a_config_is_named(finished, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((finished / "model.safetensors").read_bytes())
    with pytest.raises(errors.CheckpointError, match=r"prior: .*config\.json"):
        priors.load(tmp_path)


def test_building_names_what_a_config_lacks():
    config = {"schedule": "ve", "prediction": "edm", "sigma_data": None, "channels": 1}
    with pytest.raises(errors.ArgumentError, match="sigma_data: got None"):
        build_prior(nn.Identity(), {**config, "complex": False, "data_range": (0, 1)})


# State dicts


def test_state_dicts_must_fit_exactly():
    network, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.weight.data += 1
    load_strictly(network, other.state_dict(), "here")
    assert torch.equal(network.weight, other.weight)
    assert not network.training
    assert not network.weight.requires_grad
    before = network.weight.clone()
    many = {f"{n}": torch.zeros(1) for n in range(9)}
    for state, message in (
        ({}, "missing keys: bias, weight"),
        ({**other.state_dict(), **many}, "unexpected keys: 0, 1, 2, 3, 4 and 4 more"),
        (nn.Linear(2, 2).state_dict(), r"shapes: weight: \(2, 2\) instead of \(2, 3\)"),
        ({"weight": torch.zeros(2, 2), "c": before}, "missing keys: bias; unexpected keys: c; sh"),
        ({"weight": before * torch.inf, "bias": before[:, 0]}, "NaN or infinite values in weight"),
    ):
        with pytest.raises(errors.CheckpointError, match=f"here: weights .*{message}"):
            load_strictly(network, state, "here")
        assert torch.equal(network.weight, before)


def test_finite_states():
    assert all_finite({"a": torch.ones(2), "count": torch.tensor(3)})
    assert all_finite({})
    for bad in (torch.nan, torch.inf, -torch.inf):
        assert not all_finite({"a": torch.ones(2), "b": torch.tensor([1.0, bad])})


# The network


def awake(*arguments, **options):
    """A network whose zero-initialised layers were given weights, in float64."""
    network = ConvUNet(*arguments, **options).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def noise(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(16, 16), (17, 30), (5, 9), (3, 9)])
def test_the_network_takes_any_image_size(shape):
    network, label = awake(2, (8, 16), 1), torch.tensor([0.3]).double()
    x = noise(1, 2, *shape)
    pad = [-n % network.stride for n in shape]
    out = network(x, label)
    padded = nn.functional.pad(x, (0, pad[1], 0, pad[0]), mode="reflect")
    assert torch.equal(out, network(padded, label)[..., : shape[0], : shape[1]])
    assert float(out.std()) > 0.01


@pytest.mark.parametrize("block", BLOCKS)
def test_the_network_treats_a_pixel_alike_in_images_of_any_size(block):
    """Away from the border, as everything it does is local."""
    network, label = awake(1, (8, 16), 1, block=block), torch.tensor([0.3]).double()
    x = noise(1, 1, 128, 128)
    whole = network(x, label)[..., 56:72, 56:72]
    part = network(x[..., 16:112, 16:112], label)[..., 40:56, 40:56]
    torch.testing.assert_close(part, whole)
    assert float(whole.std()) > 0.01


def test_the_network_sees_its_label_and_every_item_for_itself():
    network = awake(1, (8, 16), 1)
    x, labels = noise(3, 1, 16, 16), torch.tensor([0.3, -0.8, 0.3]).double()
    out = network(x, labels)
    for n in range(3):
        torch.testing.assert_close(network(x[n : n + 1], labels[n : n + 1])[0], out[n])
    other = network(x, labels[1].expand(3))
    assert not torch.allclose(out[0], other[0], atol=1e-3)
    torch.testing.assert_close(out[1], other[1])


def test_a_gated_block_is_that_of_its_equations():
    """In the words of the docstring, on a channels-first array."""
    block, x, embedding = (
        awake(1, (8,), 1, block="gated").down[0][0],
        noise(2, 8, 6, 6),
        noise(2, 128),
    )
    shapes = [v[:, :, None, None] for v in block.modulation(embedding).split(8, 1)]
    norm = lambda v: (v - v.mean(1, True)) / (v.var(1, correction=0, keepdim=True) + 1e-5).sqrt()  # noqa: E731
    gate = lambda v: v[:, :8] * v[:, 8:]  # noqa: E731
    h = block.widen(norm(x) * (1 + shapes[0]) + shapes[1])
    y = x + block.out(gate(block.filter(h)))
    expected = y + block.mixed(gate(block.mix(norm(y) * (1 + shapes[2]) + shapes[3])))
    torch.testing.assert_close(block(x, embedding), expected)


def test_a_new_network_predicts_zero():
    network = ConvUNet(3, (8, 16), 1)
    assert not bool(network(noise(1, 3, 16, 16).float(), torch.zeros(1)).any())
    assert parameters_in_millions(network) == sum(p.numel() for p in network.parameters()) / 1e6


def test_the_network_names_images_too_small_to_pad():
    network = ConvUNet(1, (8, 16))
    with pytest.raises(errors.ShapeError, match="x: got images of 2 x 16"):
        network(torch.zeros(1, 1, 2, 16), torch.zeros(1))


def test_cards_tell_how_crops_of_signals_are_varied(finished):
    config = json.loads((finished / "config.json").read_text())
    assert "gain [1.0, 1.0], flips, transposition |" in model_card(config)
    signals = {"flips": "sideways", "polarity": True, "companding": 255.0, "aspect": 2.0}
    config["training"].update(signals)
    card = model_card(config)
    assert "sideways flips, polarity, then mu-law of 255 |" in card
    assert "pixels, 2 times as tall |" in card
    for name in signals:  # as priors have it that were trained before these settings
        del config["training"][name]
    assert "flips, transposition |" in model_card(config)
