"""Diffusion with forward models: against arrays of the authors' code, and on Gaussian signals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import F64, close, normal

from wellposed.errors import ArgumentError
from wellposed.learning.forward_models import ForwardModelSampler, forward_model_losses
from wellposed.noise import ItemNoise, RecordedNoise
from wellposed.priors.schedule import Tabulated

RECORDED = np.load(Path(__file__).parent / "data/parity/dfm.npz")
CASES = {"s10_cosine": (10, 0.0, 1.0), "s5_sigmoid_eta": (5, 0.7, 0.85)}


def recorded(case, name):
    return torch.from_numpy(RECORDED[f"{case}/{name}"])


def schedule_of(case):
    """The recorded schedule; our time 0 is the clean measurement."""
    alpha_bar = torch.cat([torch.ones(1, dtype=F64), recorded(case, "abar")])
    return Tabulated(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), terminal_std=1.0)


class Stub:
    """The recorded stand-in of the network; contexts are (B, 1, 3, 8, 8)."""

    def guess(self, context):
        return torch.tanh(0.5 * context[:, 0].roll(-2, -1))

    def estimate(self, context, z_t, forward, t, rendered):
        seen = 0.8 * z_t.roll(-1, -1) / 0.9 + 0.2 * context[:, 0].roll(-2, -1)
        return torch.tanh(seen) + 0.1 * ((t - 1) / 1000)[:, None, None, None]


def first(x):
    return 0.9 * x.roll(1, -1)


def second(x):
    return 0.8 * x.roll(3, -2)


@pytest.mark.parametrize("case", CASES)
def test_losses_are_the_authors(case):
    targets = recorded(case, "targets").unbind(1)
    t, eps = recorded(case, "t") + 1, recorded(case, "noise")
    found = forward_model_losses(
        Stub(),
        recorded(case, "ctx"),
        list(zip(targets, (first, second), strict=True)),
        t.double(),
        eps,
        schedule_of(case),
    )
    close(found.targets, recorded(case, "loss_targets"), 1e-6)
    close(found.deterministic, recorded(case, "loss_deterministic"), 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_samples_are_the_authors(case):
    steps, eta, temperature = CASES[case]
    sampler = ForwardModelSampler(steps=steps, eta=eta, temperature=temperature, threshold=0.95)
    noise = RecordedNoise([*recorded(case, "draws")])
    signal, z = sampler(Stub(), recorded(case, "ctx"), first, schedule_of(case), noise)
    close(signal, recorded(case, "signal"), 1e-6)
    close((z + 1) / 2, recorded(case, "traj")[:, -1], 1e-6)


# --- Gaussian signals -----------------------------------------------------------------------

COVARIANCE = torch.tensor(
    [[1.0, 0.7, 0.4, 0.1], [0.7, 1, 0.6, 0.3], [0.4, 0.6, 1, 0.5], [0.1, 0.3, 0.5, 1]]
)
COVARIANCE = COVARIANCE.double()
CONTEXT, TARGET = [0, 2], [1, 3]
"""Values that the context and the target measure, without noise."""


def drawn(count):
    return normal(count, 4) @ torch.linalg.cholesky(COVARIANCE).mT


def target(x):
    return x[:, TARGET]


def optimal(schedule, t):
    """Weights of (y_c, z_t) in ``E[x | y_c, z_t]``."""
    alpha, sigma = (float(value) for value in schedule(t))
    seen = torch.eye(4, dtype=F64)[CONTEXT + TARGET] * torch.tensor([1, 1, alpha, alpha])[:, None]
    noise = torch.diag(torch.tensor([0, 0, 1, 1], dtype=F64)) * sigma**2
    return COVARIANCE @ seen.mT @ torch.linalg.inv(seen @ COVARIANCE @ seen.mT + noise)


class Linear:
    """Weights of the context, and of context and noisy target at each time."""

    def __init__(self, weights):
        self.weights = weights

    def guess(self, context):
        return context.new_zeros(len(context), 4)

    def estimate(self, context, z_t, forward, t, rendered):
        return torch.cat([context, z_t], 1) @ self.weights(float(t[0])).mT


def test_the_minimum_is_the_mean_given_context_and_noisy_target():
    """Each example has one second target of two values; together they see all of x."""
    x, schedule, t = drawn(4000), Tabulated.linear(), 400.0
    seen = normal(4000, 4, seed=1).argsort(1)[:, :2]
    targets = [(target(x), target), (x.gather(1, seen), lambda v: v.gather(1, seen))]
    weights = torch.zeros(4, 4, dtype=F64, requires_grad=True)
    times = torch.full((4000,), t, dtype=F64)
    eps = normal(4000, 2, seed=2)

    def loss():
        network = Linear(lambda _: weights)
        losses = forward_model_losses(network, x[:, CONTEXT], targets, times, eps, schedule)
        return losses.targets

    optimizer = torch.optim.LBFGS([weights], max_iter=100, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    torch.testing.assert_close(weights.detach(), optimal(schedule, t), rtol=0, atol=0.05)


def test_samples_of_the_measurement_have_its_distribution_given_the_context():
    schedule, count = Tabulated.linear(), 4000
    context = torch.tensor([[1.0, -0.5]], dtype=F64).expand(count, -1)
    noise = ItemNoise(0, [(n,) for n in range(count)])
    sampler = ForwardModelSampler(steps=200)
    network = Linear(lambda t: optimal(schedule, t))
    _, z = sampler(network, context, target, schedule, noise)
    gain = COVARIANCE[TARGET][:, CONTEXT] @ torch.linalg.inv(COVARIANCE[CONTEXT][:, CONTEXT])
    mean = gain @ context[0]
    spread = COVARIANCE[TARGET][:, TARGET] - gain @ COVARIANCE[CONTEXT][:, TARGET]
    torch.testing.assert_close(z.mean(0), mean, rtol=0, atol=0.04)
    torch.testing.assert_close(torch.cov(z.mT), spread, rtol=0, atol=0.04)


def test_bad_settings_are_refused():
    with pytest.raises(ArgumentError, match="steps"):
        ForwardModelSampler(steps=0)
    with pytest.raises(ArgumentError, match="targets"):
        forward_model_losses(Stub(), None, [], None, None, None)
