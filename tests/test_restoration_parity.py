"""Restoration samplers against trajectories of the original authors' code, in float64.

Recorded with analytic networks in place of trained ones; draws are replayed in call order.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.helpers import anchored
from torch import nn

from wellposed.noise import RecordedNoise
from wellposed.operators import Denoising
from wellposed.priors import DenoisingProcess, MeanReverting, NetworkPrior, rddm, resshift
from wellposed.priors.labels import Label
from wellposed.solvers import (
    IRSDE,
    RDDM,
    DynamicThreshold,
    IRSDEDenoising,
    MRSampler,
    Problem,
    ResShift,
)

DATA = Path(__file__).parent / "data" / "parity"
TOLERANCE = 1e-9


def recorded(name):
    return {k: torch.from_numpy(v) for k, v in np.load(DATA / f"{name}.npz").items()}


def first(x, c, t):
    return 0.6 * torch.tanh(0.8 * x) + 0.3 * c + 0.1 * torch.sin(3 * x - c + 0.05 * t)


def second(x, c, t):
    return 0.5 * torch.sin(1.3 * x + 0.02 * t) - 0.2 * c


class Network(nn.Module):
    """The analytic network of the recordings; it is told the anchor, or what ``told`` picks."""

    def __init__(self, *heads, told=lambda given: given.anchor):
        super().__init__()
        self.heads, self.told = heads, told

    def forward(self, x, label, given):
        t = label.to(x.dtype).view(-1, 1, 1, 1)
        return torch.cat([head(x, self.told(given), t) for head in self.heads], 1)


class Pooling:
    """The autoencoder of ResShift's recording: averages of 4 x 4 pixels."""

    factor, image_channels, latent_channels = 4, 3, 3

    def encode(self, x):
        return F.avg_pool2d(x, 4)

    def decode(self, z):
        return F.interpolate(z, scale_factor=4.0)


def run(solver, y, prior, draws):
    """The states of a run, and its result."""
    states = []
    result = solver(
        y,
        None,
        prior,
        noise=RecordedNoise(draws),
        callback=lambda i, s: states.append((s.x, s.x0)),
    )
    return states, result.samples[0]


def assert_close(got, wanted, what):
    error = (got - wanted).abs().max() / wanted.abs().max()
    assert error < TOLERANCE, f"{what}: {error}"


def test_resshift_follows_the_published_chain():
    d = recorded("resshift")
    prior = anchored(
        Network(first, told=lambda given: given.image),
        resshift(),
        input="latent",
        upsample=4,
        autoencoder=Pooling(),
        data_range=(-1, 1),
    )
    torch.testing.assert_close(prior.schedule.sigma[1:] / 2, d["sqrt_etas"], rtol=0, atol=1e-15)
    states, result = run(ResShift(), d["y"], prior, d["noise"])
    assert len(states) == 15
    for i, (x, x0) in enumerate(states):
        assert_close(x0, d["x0"][i], f"clean estimate of step {i}")
        assert_close(x, d["traj"][i], f"step {i}")
    assert torch.equal(result, Pooling().decode(states[-1][0]))


@pytest.mark.parametrize("method", ["sde", "ode", "posterior"])
def test_ir_sde_follows_the_published_code(method):
    d = recorded("irsde")
    prior = anchored(Network(first), MeanReverting(10), "noise", channels=1, data_range=(-1, 1))
    sigmas = prior.schedule(torch.arange(101.0))[1]
    torch.testing.assert_close(sigmas, d["sigma_bars"], rtol=0, atol=1e-12)
    decay = d["cumsum"] * d["dt"]
    torch.testing.assert_close(prior.schedule.decay, decay, rtol=1e-12, atol=0)
    draws = [d["xT_noise"], *d["noise"]]
    states, result = run(IRSDE(method=method), d["lq"], prior, draws)
    assert len(states) == 100
    for i, wanted in enumerate(d[f"reverse_{method}/traj_every10"]):
        assert_close(states[10 * i][0], wanted, f"step {10 * i}")
    assert_close(result, d[f"reverse_{method}/out"], "result")


class Plain(nn.Module):
    """The analytic network of the recordings of denoising, which is told no degraded image."""

    def forward(self, x, label):
        t = label.to(x.dtype).view(-1, 1, 1, 1)
        return 0.6 * torch.tanh(0.8 * x) + 0.1 * torch.sin(3 * x + 0.05 * t)


@pytest.mark.parametrize(
    ("max_sigma", "T", "sigma", "method"),
    [(75, 100, 25, "ode"), (70, 20, 50, "ode"), (70, 20, 50, "sde")],
)
def test_ir_sde_for_denoising_follows_the_published_code(max_sigma, T, sigma, method):
    d, name = recorded("irsde_denoising"), f"{max_sigma}_{T}_{sigma}"
    schedule = DenoisingProcess(max_sigma, T)
    sigmas = schedule(torch.arange(T + 1.0))[1]
    torch.testing.assert_close(sigmas, d[f"{name}/sigma_bars"], rtol=0, atol=1e-12)
    prior = NetworkPrior(Plain(), schedule, label=Label(), data_range=(-1, 1))
    operator = Denoising((1, 6, 6), sigma / 255)
    solver, states = IRSDEDenoising(steps=T, method=method), []
    draws = RecordedNoise(d[f"{name}/noise"])
    result = solver(
        d["y"], operator, prior, noise=draws, callback=lambda i, s: states.append(s.x)
    ).samples[0]
    assert len(states) == int(d[f"{name}/start"])
    for i, wanted in enumerate(d[f"{name}/{method}"]):
        stride = 6 if T == 100 else 1
        assert_close(states[stride * i], wanted, f"step {stride * i}")
    assert_close(result, d[f"{name}/{method}/out"], "result")


@pytest.mark.parametrize("predicts", ["noise", "data", "velocity"])
@pytest.mark.parametrize("parametrization", ["noise", "data"])
@pytest.mark.parametrize("kind", ["ode1", "ode2", "ode3", "sde1", "sde2"])
def test_mr_sampler_follows_the_published_code(kind, parametrization, predicts):
    d = recorded("mr_sampler")
    prior = anchored(
        Network(first),
        MeanReverting(50, shifted=False),
        {"data": "sample"}.get(predicts, predicts),
        channels=1,
        data_range=(-1, 1),
    )
    sigmas = prior.schedule(torch.arange(101.0))[1]
    torch.testing.assert_close(sigmas, d["sigma_bars"], rtol=0, atol=1e-12)
    solver = MRSampler(
        steps=5,
        method=kind[:3],
        order=int(kind[3]),
        parametrization=parametrization,
        published=True,
    )
    orders = [solver.order_of(number) for number in range(1, 6)]
    assert orders == d[f"{kind}/orders"].tolist()
    states, _ = run(solver, d["lq"], prior, [d["xT_noise"], *d["noise"]])
    wanted = d[f"{kind}/{parametrization}/{predicts}"]
    assert len(states) == len(wanted)
    for i, (x, _) in enumerate(states):
        assert_close(x, wanted[i], f"step {i}")


FRACTIONAL = [k for k in np.load(DATA / "mr_sampler_fractional.npz") if k.count("/") >= 4]


@pytest.mark.parametrize("name", [k for k in FRACTIONAL if not k.endswith("times")])
def test_mr_sampler_follows_the_published_code_between_the_times_of_the_table(name):
    d = recorded("mr_sampler_fractional")
    spacing, steps, kind, parametrization, predicts, *extra = name.split("/")
    schedule = MeanReverting(50, shifted=False, interpolated="levels")
    predicts = {"data": "sample"}.get(predicts, predicts)
    prior = anchored(Network(first), schedule, predicts, channels=1, data_range=(-1, 1))
    thresholding = "thresholding" in extra
    solver = MRSampler(
        steps=int(steps),
        spacing=spacing,
        method=kind[:3],
        order=int(kind[3]),
        parametrization=parametrization,
        correction=DynamicThreshold() if thresholding else None,
        denoise_last="denoise_last" in extra,
        published=True,
    )
    y = d["lq"] * (2.5 if thresholding else 1.0)
    times = solver.times(Problem.create(y, None, prior))
    torch.testing.assert_close(torch.tensor(times, dtype=torch.float64), d[f"{name}/times"])
    states, _ = run(solver, y, prior, [d["xT_noise"], *d["noise"]])
    assert len(states) == int(steps)
    for i, (x, _) in enumerate(states):
        assert_close(x, d[name][i], f"step {i}")


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("S2_sc0.01_T1000", RDDM(steps=2)),
        ("S5_sc1_T1000", RDDM(steps=5)),
        ("S10_sc0.01_T1000", RDDM(steps=10)),
        # As many steps as times: the published code takes its ancestral chain.
        ("S50_sc1_T50", RDDM(steps=50, eta=1.0)),
    ],
)
def test_rddm_follows_the_published_code(name, solver):
    d = recorded("rddm")
    _, scale, T = (float(part.strip("SscT")) for part in name.split("_"))
    prior = anchored(Network(first, second), rddm(int(T), scale), "residual+noise", channels=1)
    if T == 1000:
        alpha, sigma = prior.schedule(torch.arange(1, 1001, 37))
        torch.testing.assert_close(1 - alpha, d["alphas_cumsum"], rtol=0, atol=1e-12)
        torch.testing.assert_close(sigma**2, scale * d["betas2_cumsum"], rtol=0, atol=1e-12)
    states, result = run(solver, d["y01"], prior, d[f"{name}/noise"])
    wanted = d[f"{name}/traj01"]
    assert len(states) == len(wanted) - 1
    for i, (x, _) in enumerate(states):
        assert_close((x + 1) / 2, wanted[i + 1], f"step {i}")
    assert_close(result, wanted[-1], "result")
