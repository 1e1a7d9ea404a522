"""Training on noisy images of a known noise level (GSURE)."""

import numpy as np
import pytest
import torch
from tests.helpers import close, normal, tiny_training
from torch import nn

from wellposed.errors import ArgumentError
from wellposed.priors import NetworkPrior, Tabulated, load
from wellposed.priors.training import train
from wellposed.priors.training.losses import gsure

SIGMA = 0.3


class Gain(nn.Module):
    """``a x``: its best factor is known."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x, label):
        return self.a * x


def prior_of(a, prediction):
    return NetworkPrior(Gain(a), Tabulated.linear(), prediction, channels=1, sigma_data=1.0)


@pytest.mark.parametrize("prediction", ["sample", "noise", "velocity", "edm"])
@pytest.mark.parametrize("level", [0.35, 2.0])
def test_the_optimum_is_that_of_clean_images(prediction, level):
    """The loss is a parabola in the factor; its minimum is the same with the clean images."""
    count = 200_000
    x0, n, eps, probe = (normal(1, 1, count, 1, seed=s) for s in range(4))
    y = x0 + SIGMA * n
    schedule = Tabulated.linear()
    t = schedule.time_at(torch.tensor([level], dtype=torch.float64))
    alpha, sigma = (float(v) for v in schedule(t))

    def best(loss):
        low, middle, high = (float(loss(prior_of(a, prediction))) for a in (-1.0, 0.0, 1.0))
        return (low - high) / (2 * (low - 2 * middle + high))

    def clean(prior):
        full = (alpha * y + (sigma**2 - (alpha * SIGMA) ** 2) ** 0.5 * eps - alpha * x0) / sigma
        return (
            (prior.predict(alpha * x0 + sigma * full, t) - prior.target(x0, full, t))
            .square()
            .mean()
        )

    found = best(lambda prior: gsure(prior, y, t, eps, probe, SIGMA))
    assert found == pytest.approx(best(clean), abs=0.02)


def test_without_noise_it_is_the_usual_loss():
    prior, (y, eps, probe) = prior_of(0.4, "edm"), (normal(2, 1, 4, 4, seed=s) for s in range(3))
    t = torch.tensor([20.0, 700.0])
    alpha, sigma = (v.view(2, 1, 1, 1) for v in prior.schedule(t))
    usual = (prior.predict(alpha * y + sigma * eps, t) - prior.target(y, eps, t)).square().mean()
    close(gsure(prior, y, t, eps, probe, 0.0), usual)


def test_the_gradient_reaches_the_weights_through_the_divergence():
    prior, (y, eps, probe) = (
        prior_of(0.4, "sample"),
        (normal(2, 1, 4, 4, seed=s) for s in range(3)),
    )
    t = torch.tensor([500.0, 700.0])
    loss = gsure(prior, y, t, eps, probe, 0.1)
    step = 1e-6
    near = [
        float(gsure(prior_of(0.4 + d, "sample"), y, t, eps, probe, 0.1)) for d in (-step, step)
    ]
    found = torch.autograd.grad(loss, prior.network.a)[0]
    close(found, torch.tensor((near[1] - near[0]) / (2 * step)).double(), 1e-6)


def noisy_images(folder):
    folder.mkdir()
    for k in range(4):
        np.save(folder / f"{k}.npy", np.random.default_rng(k).uniform(0, 1, (16, 16)))
    return folder


def test_training_goes_on_noisy_images(tmp_path):
    settings = tiny_training(noisy_images(tmp_path / "data"), tmp_path / "out", image_noise=0.1)
    assert load(train(settings)).channels == 1


@pytest.mark.parametrize(
    "setting", [{"zoom": (0.5, 1.0)}, {"gain": (0.5, 1.0)}, {"image_noise": -1.0}]
)
def test_settings_that_change_the_noise_are_refused(tmp_path, setting):
    name = next(iter(setting))
    with pytest.raises(ArgumentError, match=name):
        tiny_training(tmp_path, tmp_path / "out", **({"image_noise": 0.1} | setting))
