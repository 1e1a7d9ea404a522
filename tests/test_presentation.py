"""Priors and results as they show themselves, and priors that pickle."""

import pickle
import pydoc

import pytest
import torch
from tests.helpers import random

from wellposed import Reconstruction
from wellposed.priors import (
    Flow,
    GaussianPrior,
    NetworkPrior,
    NuclearNorm,
    Patchwise,
    Product,
    Proximal,
    Rescheduled,
    Slicewise,
    Stationary,
    Tabulated,
)
from wellposed.priors.covariance import Full
from wellposed.priors.labels import Label, LogNoiseLabel
from wellposed.priors.networks.conv_unet import ConvUNet

pytestmark = pytest.mark.usefixtures("single_thread")


def network(**options):
    torch.manual_seed(0)
    options = {"channels": 1, "data_range": (-1.0, 1.0)} | options
    return NetworkPrior(ConvUNet(1, (8, 16), 1), Tabulated.linear(), **options)


def edm():
    schedule = Tabulated.linear()
    return network(prediction="edm", sigma_data=0.5, label=LogNoiseLabel(schedule))


def flow():
    return NetworkPrior(
        ConvUNet(1, (8, 16), 1), Flow(), "flow", Label(scale=1000), data_range=(-1.0, 1.0)
    )


def full():
    root = random(64, 64)
    return GaussianPrior(random(1, 1, 8, 8), Full(root @ root.T))


PRIORS = {
    "network": (network, (2, 1, 8, 8)),
    "network, edm": (edm, (2, 1, 8, 8)),
    "network, flow": (flow, None),
    "gaussian": (lambda: GaussianPrior(0.5, 0.1), (2, 1, 8, 8)),
    "gaussian, full": (full, (2, 1, 8, 8)),
    "gaussian, stationary": (lambda: GaussianPrior(0.5, Stationary(torch.ones(1, 8, 8))), None),
    "slicewise": (lambda: Slicewise(network()), (1, 1, 3, 8, 8)),
    "patchwise": (lambda: Patchwise(network(), 16, 8), (1, 1, 20, 24)),
    "product": (lambda: Product([network(), network()], step_weights=(1, 2)), (2, 2, 8, 8)),
    "rescheduled": (lambda: Rescheduled(network(), Tabulated.linear()), None),
    "proximal": (lambda: Proximal(NuclearNorm(0.1)), (2, 1, 8, 8)),
}


@pytest.mark.parametrize(("make", "shape"), PRIORS.values(), ids=PRIORS.keys())
def test_priors_pickle(make, shape):
    prior = make()
    again = pickle.loads(pickle.dumps(prior))
    x, t = random(*(shape or (2, 1, 8, 8)), dtype=torch.float32), 0.4 * prior.schedule.T
    t = float(int(t)) if isinstance(prior.schedule, Tabulated) else t
    with torch.no_grad():
        assert torch.equal(again.denoise(x, t), prior.denoise(x, t))
    assert repr(again) == repr(prior)


@pytest.mark.parametrize(("make", "shape"), PRIORS.values(), ids=PRIORS.keys())
def test_priors_are_told_in_a_line(make, shape):
    prior = make()
    text = repr(prior)
    assert text.startswith(f"{type(prior).__name__}(")
    assert "\n" not in text
    assert len(text) < 160
    assert f"channels={prior.channels}" in text


def test_a_line_tells_what_matters():
    assert repr(network()) == (
        "NetworkPrior(ConvUNet, 46,396 weights, Tabulated, channels=1, data_range=(-1, 1), "
        "prediction=noise)"
    )
    assert repr(GaussianPrior(0.5, 0.1)).startswith("GaussianPrior(mean=0.5, Diagonal, Tabulated")
    assert "mean=(1, 1, 8, 8), Full" in repr(full())


@pytest.mark.parametrize(("make", "shape"), PRIORS.values(), ids=PRIORS.keys())
def test_names_are_the_priors_own(make, shape):
    prior = make()
    shown = {n for n in dir(prior) if not n.startswith("_")}
    assert {"denoise", "schedule", "channels", "to"} <= shown
    assert not shown & {"add_module", "register_buffer", "state_dict"}
    assert all(hasattr(prior, n) for n in shown)
    assert len(pydoc.render_doc(type(prior), renderer=pydoc.plaintext).splitlines()) < 240


def test_results_are_told_in_a_line_with_their_shapes():
    result = Reconstruction(torch.zeros(4, 2, 1, 8, 8), torch.ones(4, 2), 50, 1.5, "DDS", seed=0)
    assert repr(result) == (
        "Reconstruction(DDS, samples (4, 2, 1, 8, 8), residual 1, nfe 50, 1.5 s, seed 0)"
    )


def test_labels_of_time():
    t = torch.tensor([0.0, 1.0, 5.0])
    assert Label(1, least=0)(t).tolist() == [0, 0, 4]
    assert Label(scale=1000)(t).tolist() == [0, 1000, 5000]
    assert torch.equal(Label()(t), t)
    assert Label(least=0.5)(t).tolist() == [0.5, 1, 5]
