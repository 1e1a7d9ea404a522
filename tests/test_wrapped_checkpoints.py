"""What trainers put around weights: containers, prefixes, averages, plain data."""

import argparse
import datetime
import json
import sys
from collections import defaultdict, deque
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from wellposed import errors, priors
from wellposed.priors.checkpoints.family import load_network
from wellposed.priors.checkpoints.reading import read_state
from wellposed.priors.networks.adm import ADMConfig, ADMUNet
from wellposed.priors.networks.lucidrains_unet import AttentionShape, PixelUNet, PixelUNetConfig
from wellposed.priors.networks.restoration_unet import ResidualUNet, UNetConfig

pytestmark = pytest.mark.usefixtures("single_thread")

RAW = {"a.weight": torch.full((2, 3), 0.01), "b": torch.zeros(4), "n": torch.tensor(3)}
MEAN = {k: v + 0.01 if v.is_floating_point() else v for k, v in RAW.items()}
PARAMETERS = [MEAN["a.weight"], MEAN["b"]]
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2, 2)}}, "param_groups": [{"lr": 1e-4}]}


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


EMA_PYTORCH = {
    **under("online_model.", RAW),
    **under("ema_model.", MEAN),
    "initted": torch.tensor(True),
    "step": torch.tensor([7]),
}
AVERAGED = {
    "model, model_ema": {"model": RAW, "model_ema": MEAN},
    "model, ema_model": {"model": RAW, "ema_model": MEAN},
    "state_dict, state_dict_ema": {"state_dict": RAW, "state_dict_ema": MEAN},
    "shadow": {"model": RAW, "ema": {"shadow": MEAN, "decay": 0.999}},
    "order alone": {"model": RAW, "ema": {"shadow_params": PARAMETERS, "num_updates": 3}},
    "parameters alone": {"net": under("module.", RAW), "ema": {"a.weight": MEAN["a.weight"]}},
    "list": [RAW, OPTIMIZER, 3, 40, under("module.", MEAN)],
    "CompVis": {
        "state_dict": {
            **under("model.", RAW),
            **{f"model_ema.{key.replace('.', '')}": v for key, v in MEAN.items()},
            "model_ema.decay": torch.tensor(0.999),
        }
    },
    "ema_pytorch": EMA_PYTORCH,
    "ema_pytorch inside": {"model": RAW, "opt": OPTIMIZER, "ema": EMA_PYTORCH, "scaler": None},
    "two in one": {"state_dict": {**under("net.", RAW), **under("net_ema.", MEAN)}},
    "callback": {"state_dict": under("net.", RAW), "callbacks": {"EMA": {"ema_weights": MEAN}}},
    "AveragedModel": {
        "model": RAW,
        "swa": {"n_averaged": torch.tensor(9), **under("module.", MEAN)},
    },
    "generator": {"g": RAW, "d": {"c.weight": torch.ones(2, 2)}, "g_ema": MEAN},
}
WRAPPED = {
    "compiled": under("_orig_mod.", MEAN),
    "compiled in parallel": {"state_dict": under("module._orig_mod.", MEAN)},
    "Lightning": {"state_dict": under("net.", MEAN), "optimizer_states": [OPTIMIZER]},
    "model_state_dict": {"model_state_dict": MEAN, "optimizer_state_dict": OPTIMIZER},
    "net": {"net": MEAN},
    "unet": {"unet": under("model.", MEAN)},
    "beside another": {"model": MEAN, "discriminator": {"c.weight": torch.ones(2, 2)}},
}


def saved(content, path):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", AVERAGED | WRAPPED)
def test_averaged_weights_are_found_wherever_they_hide(kind, tmp_path):
    state = read_state(saved((AVERAGED | WRAPPED)[kind], tmp_path / "model.pt"))
    for key, value in MEAN.items():
        average = kind != "parameters alone" or key == "a.weight"
        torch.testing.assert_close(state[key], value if average else RAW[key])
    assert not {"c.weight", "exp_avg"} & state.keys()


@pytest.mark.parametrize("name", ["model.bin", "model.pth.tar", "model.ckpt"])
def test_plain_data_beside_the_weights(name, tmp_path, monkeypatch):
    class AttributeDict(dict):
        pass

    home = "lightning.fabric.utilities.data"
    AttributeDict.__module__, AttributeDict.__qualname__ = home, "AttributeDict"
    for place in ("lightning", "lightning.fabric", "lightning.fabric.utilities", home):
        monkeypatch.setitem(sys.modules, place, ModuleType(place))
    sys.modules[home].AttributeDict = AttributeDict
    content = {
        "state_dict": MEAN,
        "loss": np.float64(0.5),
        "best": np.int64(3),
        "curve": np.arange(3.0),
        "args": argparse.Namespace(folder=Path("x"), lr=np.float32(1e-4)),
        "time": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
        "losses": deque([0.5], maxlen=9),
        "counts": defaultdict(int, {"seen": 3}),
        "hyper_parameters": AttributeDict(width=64),
    }
    state = read_state(saved(content, tmp_path / name))
    assert state.keys() == MEAN.keys()


def test_sets_that_cannot_be_told_apart_are_named(tmp_path):
    path = saved({"model_a": RAW, "model_b": MEAN}, tmp_path / "a.pt")
    with pytest.raises(errors.CheckpointError, match="sets of weights, 'model_a' and 'model_b'"):
        read_state(path)
    assert torch.equal(read_state(path, "model_b")["a.weight"], MEAN["a.weight"])
    with pytest.raises(errors.UnknownNameError, match="weights: unknown name 'model_c'"):
        read_state(path, "model_c")
    taught = {"model": RAW, "teacher": under("module.", MEAN), "d": {"c.weight": torch.ones(2, 2)}}
    with pytest.raises(errors.CheckpointError, match="weights, 'model' and 'teacher'"):
        read_state(saved(taught, tmp_path / "d.pt"))
    rates = {"model": RAW, "ema_0.99": RAW, "ema_0.9999": MEAN}
    with pytest.raises(
        errors.CheckpointError, match=r"averaged weights, .ema_0\.99. and .ema_0\.9"
    ):
        read_state(saved(rates, tmp_path / "b.pt"))
    same = {"model_a": RAW, "model_b": dict(RAW)}
    assert read_state(saved(same, tmp_path / "c.pt")).keys() == RAW.keys()


@pytest.fixture(scope="module")
def network():
    config = ADMConfig((1, 1), 32, (64,), 1, (False,), "plain", True)
    network = ADMUNet(config).requires_grad_(False)
    for n, p in enumerate(network.parameters()):
        p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(n)))
    return network


def test_a_trainers_betas_are_the_schedule(network, tmp_path):
    """As beside lucidrains' networks: the tables are no weights, but tell what was trained."""
    cosine = priors.Tabulated.cosine()
    bars = cosine.alpha[1:] ** 2
    betas = 1 - bars / torch.cat([bars.new_ones(1), bars[:-1]])
    tables = {"betas": betas.float(), "alphas_cumprod": bars.float(), "loss_weight": bars}
    content = {
        "step": 3,
        "model": under("model.", network.state_dict()) | tables,
        "ema": under("ema_model.model.", network.state_dict()) | under("ema_model.", tables),
    }
    prior = priors.load(saved(content, tmp_path / "model-3.pt"))
    for t in (1.0, 500.0, 990.0):
        torch.testing.assert_close(prior.schedule(t)[0], cosine(t)[0], rtol=1e-3, atol=1e-4)
    assert priors.load(tmp_path / "model-3.pt", schedule="linear").schedule(500.0)[0] < 0.5


def test_a_trainer_file_of_lucidrains(tmp_path):
    config = UNetConfig((1, 1), 16, (16, 16, 32), 1, hidden=128, normalised=True, full=True)
    unet = ResidualUNet(config).requires_grad_(False)
    for n, p in enumerate(unet.parameters()):
        p.copy_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(n)))
    state = under("model.", unet.state_dict()) | {"betas": torch.linspace(1e-4, 0.02, 1000)}
    raw = {key: 2 * value for key, value in state.items()}
    content = {
        "step": 700,
        "model": raw,
        "opt": OPTIMIZER,
        "ema": {**under("online_model.", raw), **under("ema_model.", state)},
        "scaler": None,
        "version": "0.0.1",
    }
    prior = priors.load(saved(content, tmp_path / "model-7.pt"))
    x = torch.randn(1, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    alpha, sigma = prior.schedule(300.0)
    expected = (x - float(sigma) * unet(x, torch.tensor([299.0]))) / float(alpha)
    torch.testing.assert_close(prior.denoise(x, 300.0), expected, rtol=1e-4, atol=1e-4)
    assert prior.denoise(x[..., :7], 300.0).shape == (1, 1, 8, 7)


def unet_of(version):
    """Return a small U-Net of a version of denoising-diffusion-pytorch, and its random weights."""
    shape = dict(channels=(1, 1), features=16, widths=(16, 16, 32), last=1)
    full, linear = AttentionShape(True, 4, 128, 4), AttentionShape(False, 4, 128, 4)
    if version == "1.6.3":
        old = UNetConfig(**shape, hidden=128, normalised=True, full=True, unshuffled=True)
        unet = ResidualUNet(old)
    else:
        shape["channels"] = (2, 1) if version == "2.3.1" else (1, 1)
        each = (linear, full, full)
        if version == "1.8.8":
            each = tuple(replace(a, memory=0) for a in (full, linear, full))
        unet = PixelUNet(PixelUNetConfig(**shape, grouped=version < "2", attentions=each))
    state = unet.state_dict()
    for n, (key, value) in enumerate(sorted(state.items())):
        drawn = torch.randn(value.shape, generator=torch.Generator().manual_seed(n))
        value.copy_(0.1 * drawn + 0.5 * key.endswith((".g", "norm.weight")))
    return state


@pytest.mark.parametrize("version", ["1.6.3", "1.8.8", "1.9.1", "2.3.1"])
def test_every_layout_of_lucidrains_gives_what_its_code_gives(version, tmp_path):
    """The last takes an estimate too: zeros, as the code does without one."""
    expected = json.loads((Path(__file__).parent / "data/parity/lucidrains.json").read_text())
    prior = priors.load(saved(unet_of(version), tmp_path / "a.pt"))
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = prior.network(x, torch.tensor([299.0]))[0, 0, :, 3]
    torch.testing.assert_close(found, torch.tensor(expected[version]), rtol=1e-4, atol=2e-6)
    assert prior.prediction == ("noise" if version == "1.6.3" else "velocity")


@pytest.mark.parametrize("clip", [5.0, torch.inf])
@pytest.mark.parametrize("prediction", ["noise", "sample", "velocity"])
def test_the_weight_of_the_loss_tells_the_prediction(prediction, clip, tmp_path):
    bars = priors.Tabulated.cosine().alpha[1:] ** 2
    ratio = bars / (1 - bars)
    divisor = {"noise": ratio, "sample": 1.0, "velocity": 1 + ratio}[prediction]
    tables = {"alphas_cumprod": bars, "loss_weight": ratio.clamp(max=clip) / divisor}
    prior = priors.load(saved(unet_of("2.3.1") | tables, tmp_path / "a.pt"))
    assert prior.prediction == prediction
    other = priors.load(tmp_path / "a.pt", prediction="flow")
    assert other.prediction == "flow"


def test_what_is_no_table_is_not_dropped(network):
    state = network.state_dict() | {"extra": torch.ones(3)}
    with pytest.raises(errors.CheckpointError, match="unexpected keys: extra"):
        load_network(lambda _: ADMUNet(network.config), state, "path")
