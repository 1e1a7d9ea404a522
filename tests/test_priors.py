"""Priors around networks and denoisers, against the exact Gaussian one."""

import json
import math
import shutil
from functools import partial

import deepinv
import diffusers
import pytest
import torch
from deepinv.models import Denoiser
from safetensors.torch import load_file, save_file
from tests import helpers
from tests.helpers import close
from torch import nn

from wellposed import errors
from wellposed.operators.image.inpainting import Inpainting, random_mask
from wellposed.priors import (
    VE,
    DenoiserPrior,
    Diagonal,
    DiffusersPrior,
    Flow,
    Full,
    GaussianPrior,
    NetworkPrior,
    Rescheduled,
    Slicewise,
    Stationary,
    Tabulated,
)
from wellposed.priors.labels import LogNoiseLabel
from wellposed.priors.prediction import PREDICTIONS, to_sample, training_target
from wellposed.solvers import DDS

F64, C128 = torch.float64, torch.complex128
VP = Tabulated.linear()
SCHEDULES = {"vp": VP, "ve": VE(), "flow": Flow(), "cosine": Tabulated.cosine()}
SHAPE = (2, 3, 4)


pytestmark = pytest.mark.usefixtures("single_thread")
item_noise = partial(helpers.item_noise, dtype=F64)


# Predictions


def kernel_values(kind):
    """Levels per item, as the kind of prediction asks for them."""
    alpha, sigma = (item_noise(5, 1, 1, 1, seed=s).abs() + 0.05 for s in (1, 2))
    if kind == "velocity":
        alpha, sigma = (v / (alpha**2 + sigma**2).sqrt() for v in (alpha, sigma))
    return (1 - sigma.clamp(max=0.9), sigma.clamp(max=0.9)) if kind == "flow" else (alpha, sigma)


@pytest.mark.parametrize("kind", [p for p in PREDICTIONS if p != "residual"])
def test_to_sample_inverts_the_training_target(kind):
    alpha, sigma = kernel_values(kind)
    x0, eps = item_noise(5, *SHAPE, seed=3), item_noise(5, *SHAPE, seed=4)
    x_t = alpha * x0 + sigma * eps
    target = training_target(kind, x0, eps, alpha, sigma)
    close(to_sample(kind, target, x_t, alpha, sigma), x0)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_to_sample_with_an_anchor(kind):
    """On ``x_t = m + alpha (x_0 - m) + sigma eps``, as restoration processes have it."""
    alpha, sigma = kernel_values(kind)
    x0, eps, m = (item_noise(5, *SHAPE, seed=s) for s in (3, 4, 5))
    x_t = m + alpha * (x0 - m) + sigma * eps
    output = {
        "noise": eps,
        "sample": x0,
        "velocity": alpha * eps - sigma * (x0 - m),
        "flow": eps - (x0 - m),
        "score": -(x_t - m - alpha * (x0 - m)) / sigma**2,
        "residual": m - x0,
        "edm": training_target("edm", x0 - m, eps, alpha, sigma),
    }[kind]
    close(to_sample(kind, output, x_t, alpha, sigma, anchor=m), x0)


def test_unknown_predictions_name_the_nearest():
    one = torch.ones(1)
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'velocity'"):
        to_sample("velocty", one, one, 1.0, 1.0)
    with pytest.raises(errors.UnknownNameError, match="noise, sample"):
        training_target("eps", one, one, 1.0, 1.0)
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'noise'"):
        NetworkPrior(nn.Identity(), VP, "noize", data_range=(-1.0, 1.0))
    with pytest.raises(errors.UnknownNameError, match="noise, sample"):
        NetworkPrior(nn.Identity(), VP, "residual+noise", data_range=(-1.0, 1.0))


# Networks


class GaussianNetwork(nn.Module):
    """The best possible network for ``x_0 ~ N(mean, covariance)``, of any kind of prediction."""

    def __init__(self, gaussian, kind="noise", time=lambda label: label + 1):
        super().__init__()
        self.gaussian, self.kind, self.time, self.calls = gaussian, kind, time, []

    def forward(self, x, label):
        self.calls.append((x, label))
        t = self.time(label).double()
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in self.gaussian.schedule(t))
        x0 = self.gaussian.denoise(x, t)
        eps = (x - alpha * x0) / sigma.clamp(min=1e-12)
        return {
            "noise": lambda: eps,
            "sample": lambda: x0,
            "velocity": lambda: alpha * eps - sigma * x0,
            "flow": lambda: eps - x0,
            "score": lambda: -eps / sigma,
            "residual": lambda: -x0,
        }[self.kind]().to(x.dtype)


def gaussian(schedule=VP, shape=SHAPE):
    mean = 0.3 * item_noise(1, *shape, seed=6)
    return GaussianPrior(mean, Diagonal(0.1 + item_noise(*shape, seed=7) ** 2), schedule)


@pytest.mark.parametrize("kind", [p for p in PREDICTIONS if p not in ("flow", "edm")])
def test_every_kind_of_network_gives_the_exact_estimate(kind):
    exact = gaussian()
    prior = NetworkPrior(GaussianNetwork(exact, kind), VP, kind, data_range=(-1.0, 1.0))
    for t in (1, 13, 500.5, 1000):
        x_t = item_noise(3, *SHAPE)
        close(prior.denoise(x_t, t), exact.denoise(x_t, t), 1e-6)


class PreconditionedNetwork(nn.Module):
    """The best network F of Karras et al. (2022, eq. 7), written from c_skip, c_out, c_in."""

    def __init__(self, exact, sigma_data):
        super().__init__()
        self.exact, self.sigma_data, self.labels = exact, sigma_data, []

    def forward(self, x, label):
        self.labels.append(label)
        sigma, data = (4 * label).exp().view(-1, 1, 1, 1), self.sigma_data
        noisy = x * torch.hypot(sigma, torch.tensor(data))  # c_in = 1 / hypot
        c_skip = data**2 / (sigma**2 + data**2)
        c_out = sigma * data / torch.hypot(sigma, torch.tensor(data))
        clean = self.exact.denoise(noisy, sigma.flatten())
        return (clean - c_skip * noisy) / c_out


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_a_preconditioned_network_gives_the_exact_estimate_under_any_schedule(name, sigma_data):
    schedule, exact = SCHEDULES[name], gaussian(VE())
    network = PreconditionedNetwork(exact, sigma_data)
    prior = NetworkPrior(
        network, schedule, "edm", LogNoiseLabel(schedule), sigma_data, data_range=(-1.0, 1.0)
    )
    x_t = item_noise(3, *SHAPE)
    for ratio in (0.01, 0.7, 30.0):
        t = schedule.time_at(ratio)
        expected = Rescheduled(exact, schedule).denoise(x_t, t)
        close(prior.denoise(x_t, t), expected, 1e-5)
        assert network.labels[-1].tolist() == pytest.approx([math.log(ratio) / 4] * 3, abs=1e-5)


def test_preconditioning_is_finite_where_the_image_has_vanished():
    prior = NetworkPrior(
        nn.Identity(), Flow(), "edm", LogNoiseLabel(Flow()), 0.5, data_range=(-1.0, 1.0)
    )
    network = lambda x, label: torch.full_like(x, 0.2) * (label.view(-1, 1, 1, 1) < 2)  # noqa: E731
    prior.network.forward = network
    close(prior.denoise(item_noise(2, *SHAPE), 1.0), torch.full((2, *SHAPE), 0.1, dtype=F64))


def test_preconditioning_needs_the_spread_of_the_data():
    with pytest.raises(errors.ArgumentError, match="sigma_data: got None"):
        NetworkPrior(nn.Identity(), VP, "edm", data_range=(-1.0, 1.0))


class ClassNetwork(nn.Module):
    """Predicts a sample that is the class everywhere."""

    def forward(self, x, label, classes):
        return torch.zeros_like(x) + classes.view(-1, 1, 1, 1)


def test_class_conditional_networks():
    prior = NetworkPrior(
        ClassNetwork(), VP, "sample", num_classes=10, channels=2, data_range=(-1.0, 1.0)
    )
    x_t = item_noise(3, *SHAPE)
    assert prior.denoise(x_t, 5, 7).unique().tolist() == [7]
    each = prior.denoise(x_t, 5, torch.tensor([1, 9, 0]))
    assert each[:, 0, 0, 0].tolist() == [1, 9, 0]
    fixed = prior.conditioned_on(4)
    assert fixed.denoise(x_t, 5).unique().tolist() == [4]
    assert (fixed.channels, fixed.schedule) == (2, VP)
    for wrong in (None, 10, -1, 2.5, torch.tensor([0, 1, 10])):
        with pytest.raises(errors.ArgumentError, match=r"condition: .*classes 0 to 9; fix one"):
            prior.denoise(x_t, 5, wrong)
    with pytest.raises(errors.ArgumentError, match="as the condition is fixed"):
        fixed.denoise(x_t, 5, 3)


def test_a_flow_network_gives_the_exact_estimate():
    exact = gaussian(Flow())
    network = GaussianNetwork(exact, "flow", time=lambda label: label / 1000)
    prior = NetworkPrior(network, Flow(), "flow", label=lambda t: 1000 * t, data_range=(-1.0, 1.0))
    for t in (0.01, 0.5, 1.0):
        x_t = item_noise(3, *SHAPE)
        close(prior.denoise(x_t, t), exact.denoise(x_t, t), 1e-6)


def test_complex_images_are_two_real_channels():
    """Real parts first; each part has its own mean and variance here."""
    parts = gaussian(shape=(4, 3, 4))
    prior = NetworkPrior(GaussianNetwork(parts), VP, channels=2, is_complex=True)
    x_t = item_noise(3, *SHAPE, dtype=C128)
    expected = parts.denoise(torch.cat([x_t.real, x_t.imag], 1), 300)
    out = prior.denoise(x_t, 300)
    assert out.dtype == C128
    close(out, torch.complex(expected[:, :2], expected[:, 2:]), 1e-9)
    close(prior.denoise(torch.cat([x_t.real, x_t.imag], 1), 300), expected, 1e-9)


class LearnedVariance(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, label):
        out = self.network(x, label)
        return torch.cat([out, torch.full_like(out, torch.nan)], 1)


@pytest.mark.parametrize("dtype", [F64, C128])
def test_learned_variances_are_dropped(dtype):
    network = GaussianNetwork(gaussian(shape=(2 if dtype == F64 else 4, 3, 4)))
    x_t = item_noise(3, *SHAPE, dtype=dtype)
    expected = NetworkPrior(network, VP, data_range=(-1.0, 1.0)).denoise(x_t, 300)
    assert torch.equal(
        NetworkPrior(LearnedVariance(network), VP, data_range=(-1.0, 1.0)).denoise(x_t, 300),
        expected,
    )


class Weighted(GaussianNetwork):
    """With a parameter, so that the network has a dtype."""

    def __init__(self, *args):
        super().__init__(*args)
        self.weight = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, F64])
def test_the_networks_dtype_is_its_own(dtype):
    network = Weighted(gaussian()).to(dtype)
    x_t = item_noise(2, *SHAPE)
    with torch.no_grad():
        out = NetworkPrior(network, VP, data_range=(-1.0, 1.0)).denoise(x_t, 982)
    (x, label) = network.calls[0]
    assert x.dtype == dtype
    assert out.dtype == F64
    # bfloat16 would turn 981 into 980.
    assert label.tolist() == [981, 981]
    epsilon = torch.finfo(dtype).eps
    # The estimate divides by alpha = .0077.
    close(out, gaussian().denoise(x_t, 982), 500 * epsilon)


@pytest.mark.parametrize(("t", "label"), [(1, 0), (1000, 999), (37.5, 36.5), (0.25, 0), (0, 0)])
def test_the_label_is_the_index_of_ddpm(t, label):
    network = GaussianNetwork(gaussian(), "sample", time=lambda label: label + 1)
    NetworkPrior(network, VP, "sample", data_range=(-1.0, 1.0)).denoise(item_noise(2, *SHAPE), t)
    assert network.calls[0][1].tolist() == [label, label]


def test_one_time_per_item_is_items_one_by_one():
    prior = NetworkPrior(GaussianNetwork(gaussian()), VP, data_range=(-1.0, 1.0))
    x_t, times = item_noise(3, *SHAPE), torch.tensor([1.0, 400.0, 1000.0])
    each = [prior.denoise(x_t[i : i + 1], float(t)) for i, t in enumerate(times)]
    close(prior.denoise(x_t, times), torch.cat(each))
    close(prior.denoise(x_t, times[1:2]), prior.denoise(x_t, 400.0))


def test_conditions_are_refused():
    x_t = item_noise(2, *SHAPE)
    with pytest.raises(errors.ArgumentError, match="condition: got 'a condition', accepted: None"):
        NetworkPrior(nn.Identity(), VP, data_range=(-1.0, 1.0)).denoise(x_t, 1, condition=x_t)


def test_a_network_of_other_channels_is_refused():
    """One channel for two would broadcast in silence."""
    prior = NetworkPrior(GaussianNetwork(gaussian()), VP, data_range=(-1.0, 1.0))
    prior.network.forward = lambda x, label: x[:, :1]
    with pytest.raises(errors.ShapeError, match=r"network: returned shape \(3, 1, 3, 4\)"):
        prior.denoise(item_noise(3, *SHAPE), 10)


def test_priors_name_images_that_do_not_suit():
    prior = NetworkPrior(nn.Conv2d(3, 3, 1), VP, channels=3, data_range=(-1.0, 1.0))
    prior.check_image(torch.zeros(1, 3, 8, 8))
    for image, error, message in (
        (torch.zeros(1, 1, 8, 8), errors.ShapeError, "made for 3 channels, .* have 1"),
        (torch.zeros(1, 3, 8, 8, dtype=C128), errors.ShapeError, "made for real images"),
        (torch.zeros(1, 3, 4, 8, 8), errors.ShapeError, "accepted: priors.Slicewise"),
        (torch.zeros(1, 3, 8, 8, device="meta"), errors.DeviceError, "cpu but y on meta"),
    ):
        with pytest.raises(error, match=message):
            prior.check_image(image)
    paired = NetworkPrior(nn.Identity(), VP, channels=1, is_complex=True)
    paired.check_image(torch.zeros(1, 1, 8, 8, dtype=C128))
    paired.check_image(torch.zeros(1, 2, 8, 8))
    with pytest.raises(errors.ShapeError, match="made for 2 channels"):
        paired.check_image(torch.zeros(1, 1, 8, 8))


def test_images_are_those_of_checkpoints_by_default():
    assert NetworkPrior(nn.Identity(), VP).data_range == (0.0, 1.0)
    assert NetworkPrior(nn.Identity(), VP, is_complex=True).data_range == (-1.0, 1.0)


@pytest.mark.parametrize("arguments", [{"data_range": (1, 0)}, {"data_range": (2, 2)}])
def test_data_ranges_must_grow(arguments):
    with pytest.raises(errors.ArgumentError, match="data_range"):
        NetworkPrior(nn.Identity(), VP, **arguments)


def test_data_ranges_of_complex_images_must_keep_zero():
    with pytest.raises(errors.ArgumentError, match="a symmetric range for complex"):
        NetworkPrior(nn.Identity(), VP, is_complex=True, data_range=(0, 1))


# deepinv's protocol: priors as denoisers


MEAN, VARIANCE = 0.45, 0.04  # of public images


class GaussianDenoiser(Denoiser):
    """The minimum mean-square-error denoiser of N(MEAN, VARIANCE), as deepinv defines one."""

    def forward(self, x, sigma, **kwargs):
        level = self._handle_sigma(
            sigma, batch_size=len(x), ndim=x.ndim, device=x.device, dtype=x.dtype
        )
        return MEAN + VARIANCE / (VARIANCE + level**2) * (x - MEAN)


def in_units(schedule, low=0.0, high=1.0):
    """The same distribution as a Gaussian prior, in units of ``data_range``."""
    scale, centre = (high - low) / 2, (high + low) / 2
    return GaussianPrior((MEAN - centre) / scale, VARIANCE / scale**2, schedule)


def network_prior(name="vp", data_range=(0.0, 1.0)):
    schedule = SCHEDULES[name]
    network = GaussianNetwork(in_units(schedule, *data_range), time=lambda label: label)
    return NetworkPrior(network, schedule, label=lambda t: t, data_range=data_range)


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0), (-0.2, 3.0)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_prior_is_a_deepinv_denoiser(name, data_range):
    prior, exact = network_prior(name, data_range), GaussianDenoiser()
    x = 0.5 + item_noise(3, 1, 4, 4)
    for sigma in (1e-3, 0.02, 0.3, 5.0, torch.tensor(0.3), torch.tensor([0.3])):
        close(prior(x, sigma), exact(x, sigma), 1e-6)
    levels = torch.tensor([0.01, 0.2, 3.0])
    close(prior(x, levels), exact(x, levels), 1e-6)
    close(prior(x, levels.view(3, 1, 1, 1)), exact(x, levels), 1e-6)
    single = prior(x.float(), levels)
    assert single.dtype == torch.float32
    close(single.double(), exact(x, levels), 1e-5)


def test_an_exact_prior_is_a_deepinv_denoiser():
    x, levels = 0.5 + item_noise(3, 1, 4, 4), torch.tensor([0.01, 0.2, 3.0])
    prior = in_units(VP)
    prior.data_range = (0.0, 1.0)
    close(prior(x, levels), GaussianDenoiser()(x, levels), 1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_noise_level_zero_returns_the_image(name):
    x = 0.5 + item_noise(2, 1, 4, 4)
    prior = in_units(SCHEDULES[name])
    prior.data_range = (0.0, 1.0)
    close(prior(x, 0.0), x)
    close(prior(x, torch.tensor([0.0, 0.1]))[:1], x[:1])


@pytest.mark.parametrize(
    "sigma", [-0.1, torch.nan, 80.0, torch.tensor([0.1, -0.1]), torch.tensor([0.1, 80.0])]
)
def test_noise_levels_outside_the_schedule_raise(sigma):
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(errors.ArgumentError, match=r"sigma: got .*0 to 78\.7"):
        network_prior()(x, sigma)


def test_the_largest_noise_level_may_be_rounded_to_float32():
    scheduler = diffusers.DDPMScheduler()
    alpha_bar = scheduler.alphas_cumprod[-1]  # float32
    prior = NetworkPrior(
        GaussianNetwork(gaussian()), Tabulated.from_diffusers(scheduler), data_range=(-1.0, 1.0)
    )
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    assert float(sigma) > float(prior.schedule.ratio(1000))
    assert bool(torch.isfinite(prior(item_noise(1, *SHAPE), sigma)).all())


def masked(clean, sigma=0.05, keep=0.5):
    operator = Inpainting(random_mask(*clean.shape[-2:], keep), clean.shape[1], sigma)
    return operator.measure(clean, seed=1), operator


def clean_image(channels=1, size=8):
    return MEAN + VARIANCE**0.5 * item_noise(2, channels, size, size, dtype=torch.float32)


def test_a_prior_runs_as_deepinvs_plug_and_play_prior():
    prior, x = network_prior(), clean_image()
    pnp = deepinv.optim.prior.PnP(denoiser=prior)
    close(pnp.prox(x, 0.1), GaussianDenoiser()(x, 0.1), 1e-5)


@pytest.mark.parametrize("mode", ["adjoint", "direct"])
def test_a_prior_runs_in_deepinvs_artifact_removal(mode):
    y, operator = masked(clean_image())
    removed = deepinv.models.ArtifactRemoval(network_prior(), mode=mode)(y, operator)
    close(removed, GaussianDenoiser()(y, 0.05), 1e-5)


def test_a_prior_runs_in_deepinvs_samplers():
    """With the same seed a sampler ends where the hand-made denoiser takes it."""
    y, operator = masked(clean_image())
    physics = deepinv.physics.Inpainting(
        (1, 8, 8), mask=operator.mask[0], noise_model=deepinv.physics.GaussianNoise(0.05)
    )
    outputs = []
    for denoiser in (network_prior(), GaussianDenoiser()):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            ddrm = deepinv.sampling.DDRM(denoiser, sigmas=[1.0, 0.6, 0.3, 0.1, 0.0])
            pir = deepinv.sampling.DiffPIR(denoiser, deepinv.optim.data_fidelity.L2(), max_iter=4)
            outputs.append([ddrm(y.clone(), physics, seed=1), pir(y, physics, seed=1)])
    for ours, theirs in zip(*outputs, strict=True):
        assert bool(torch.isfinite(ours).all())
        close(ours, theirs, 1e-4)


# deepinv's protocol: denoisers as priors


@pytest.mark.parametrize("schedule", [VE(), VP, Flow(0.97), Tabulated.cosine()])
def test_a_deepinv_denoiser_is_a_prior(schedule):
    prior, exact = DenoiserPrior(GaussianDenoiser(), schedule), in_units(schedule)
    x_t = item_noise(3, 1, 4, 4)
    times = torch.tensor([1e-3, 0.4, 1.0], dtype=F64) * schedule.T
    for t in times:
        close(prior.denoise(x_t, float(t)), exact.denoise(x_t, float(t)), 1e-8)
    close(prior.denoise(x_t, times), exact.denoise(x_t, times), 1e-8)
    y = 0.5 + x_t
    close(prior(y, 0.3), GaussianDenoiser()(y, 0.3), 1e-10)


def test_a_denoiser_needs_a_finite_noise_level():
    for schedule in (Flow(), Tabulated([1.0, 0.0], [0.0, 1.0])):
        with pytest.raises(errors.ArgumentError, match=type(schedule).__name__):
            DenoiserPrior(GaussianDenoiser(), schedule)


def test_dds_with_a_deepinv_denoiser_is_dds_with_the_exact_prior():
    y, operator = masked(clean_image())
    schedule = VE(sigma_max=50.0)
    exact = in_units(schedule)
    exact.data_range = (0.0, 1.0)
    solver = DDS(steps=8, spacing="karras")
    priors = (DenoiserPrior(GaussianDenoiser()), exact)
    results = [solver(y, operator, prior, num_samples=2, seed=3) for prior in priors]
    close(results[0].samples, results[1].samples, 1e-4)
    assert results[0].nfe == 8


@pytest.mark.parametrize("denoiser", ["TVDenoiser", "MedianFilter"])
@pytest.mark.sampled
def test_dds_runs_with_deepinvs_own_denoisers(denoiser):
    ramp = torch.linspace(0.2, 0.8, 16)
    clean = (ramp[:, None] * ramp).sqrt().expand(1, 1, 16, 16).contiguous()
    y, operator = masked(clean, sigma=0.01, keep=0.7)
    prior = DenoiserPrior(getattr(deepinv.models, denoiser)(), VE(sigma_max=2.0))
    result = DDS(steps=10, spacing="karras", eta=0.3, gamma=10.0)(y, operator, prior, seed=0)
    zero_filled = (y - clean).norm()
    assert (result.mean - clean).norm() < 0.6 * zero_filled


# Another schedule than the trained one


def full_gaussian(schedule):
    factor = item_noise(24, 24, seed=8)
    covariance = factor @ factor.T / 24 + 0.05 * torch.eye(24, dtype=F64)
    return GaussianPrior(0.3 * item_noise(1, *SHAPE, seed=6), Full(covariance), schedule)


@pytest.mark.parametrize("inner", ["vp", "ve", "flow"])
@pytest.mark.parametrize("outer", ["vp", "ve", "flow", "cosine"])
def test_rescheduled_is_the_exact_prior_of_the_new_schedule(inner, outer):
    schedule = SCHEDULES[outer]
    prior = Rescheduled(full_gaussian(SCHEDULES[inner]), schedule)
    exact, x = full_gaussian(schedule), item_noise(3, *SHAPE)
    within = float(SCHEDULES[inner].ratio(SCHEDULES[inner].T))
    ratios = torch.tensor([0.02, 1.0, 30.0, 79.0], dtype=F64)
    times = schedule.time_at(ratios[ratios <= within])
    for t in times:
        x_t = x * sum(schedule(float(t)))
        close(prior.denoise(x_t, float(t)), exact.denoise(x_t, float(t)), 1e-9)
    close(prior.denoise(x, times[:3]), exact.denoise(x, times[:3]), 1e-9)
    close(prior.denoise(x, 0.0), x, 1e-9)


def test_rescheduled_at_the_end_of_the_new_schedule():
    x = item_noise(3, *SHAPE)
    close(
        Rescheduled(full_gaussian(VP), VE()).denoise(80 * x, 80.0),
        full_gaussian(VE()).denoise(80 * x, 80.0),
        1e-9,
    )
    # Where the old schedule knows pure noise too, flow's t = 1 is exact.
    no_signal = Tabulated.from_diffusers(diffusers.DDIMScheduler(rescale_betas_zero_snr=True))
    exact = full_gaussian(Flow())
    for t in (0.999, 1.0, torch.tensor([1.0, 0.5, 1.0])):
        prior = Rescheduled(full_gaussian(no_signal), Flow())
        close(prior.denoise(x, t), exact.denoise(x, t), 1e-9)


def test_rescheduled_beyond_the_old_schedule_is_its_end():
    """DDPM's last level keeps alpha = .0063: the estimate is its own there, near the mean."""
    old, x = full_gaussian(VP), item_noise(3, *SHAPE)
    last = old.denoise(float(VP(1000)[1]) * x, 1000)
    for t in (1.0, 0.99999):
        close(Rescheduled(old, Flow()).denoise(t * x, t), last, 1e-9)
    assert float((last - old.mean).abs().max()) < 0.1
    close(Rescheduled(old, VE(1e6)).denoise(1e6 * x, 1e6), last, 1e-9)


def test_rescheduled_keeps_public_values():
    for prior in (network_prior("vp"), network_prior("ve", (-0.2, 3.0))):
        x, levels = 0.5 + item_noise(3, 1, 4, 4), torch.tensor([0.05, 0.3, 5.0])
        new = Rescheduled(prior, Flow())
        assert new.data_range == prior.data_range
        close(new(x, levels), GaussianDenoiser()(x, levels), 1e-6)
    with pytest.raises(errors.ArgumentError, match="unconditional"):
        new.denoise(x, 0.5, condition=x)


def test_rescheduled_keeps_complex_images():
    spectrum = 1 / (1 + item_noise(1, 3, 4, seed=2) ** 2)
    make = [GaussianPrior(0.1, Stationary(spectrum), s, is_complex=True) for s in (VP, VE())]
    x_t = item_noise(2, 1, 3, 4, dtype=C128)
    assert Rescheduled(make[0], VE()).is_complex
    close(Rescheduled(make[0], VE()).denoise(x_t, 0.7), make[1].denoise(x_t, 0.7), 1e-9)


# Diffusers


def tiny_unet(channels=1, out_channels=None, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(channels)
        return diffusers.UNet2DModel(
            sample_size=8,
            in_channels=channels,
            out_channels=out_channels or channels,
            block_out_channels=(8, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            **settings,
        )


@torch.no_grad()
def by_hand(unet, x_t, label):
    return unet(x_t.float(), label).sample.to(x_t.dtype)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("as_config", [False, True])
def test_diffusers_prior_is_the_unet_by_hand(kind, as_config):
    unet = tiny_unet()
    scheduler = diffusers.DDPMScheduler(prediction_type=kind)
    prior = DiffusersPrior(unet, dict(scheduler.config) if as_config else scheduler)
    x_t, t = item_noise(2, 1, 8, 8), 700
    out = by_hand(unet, x_t, t - 1)
    alpha_bar = scheduler.alphas_cumprod[t - 1].double()
    a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    expected = {"epsilon": (x_t - s * out) / a, "v_prediction": a * x_t - s * out, "sample": out}
    close(prior.denoise(x_t, t), expected[kind], 1e-5)
    step = scheduler.step(out, t - 1, x_t)  # their own conversion, clipped to [-1, 1]
    close(prior.denoise(x_t, t).clamp(-1, 1), step.pred_original_sample, 1e-5)
    assert prior.data_range == (0, 1)
    assert prior.channels == 1


def test_diffusers_flow_matching():
    unet, scheduler = tiny_unet(), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    prior = DiffusersPrior(unet, scheduler)
    x_t, t = item_noise(2, 1, 8, 8), 0.3
    close(prior.denoise(x_t, t), x_t - t * by_hand(unet, x_t, 1000 * t), 1e-6)
    stored = json.loads(scheduler.to_json_string())
    assert isinstance(DiffusersPrior(unet, stored).schedule, Flow)


def test_diffusers_learned_variance_and_complex_images():
    scheduler = diffusers.DDPMScheduler(prediction_type="sample")
    unet, x_t = tiny_unet(2, out_channels=4), item_noise(2, 1, 8, 8, dtype=C128)
    prior = DiffusersPrior(unet, scheduler, is_complex=True)
    assert (prior.channels, prior.data_range) == (1, (-1, 1))
    out = by_hand(unet, torch.cat([x_t.real, x_t.imag], 1), 9)
    close(prior.denoise(x_t, 10), torch.complex(out[:, :1], out[:, 1:2]), 1e-6)


def test_diffusers_parts_that_do_not_fit():
    ddpm = diffusers.DDPMScheduler()
    for unet, scheduler, complex_image, message in (
        (tiny_unet(), "ddpm", False, "scheduler: got str"),
        (tiny_unet(), diffusers.CMStochasticIterativeScheduler(), False, "alphas_cumprod"),
        (tiny_unet(class_embed_type="timestep"), ddpm, False, "class_embed_type 'timestep'"),
        (tiny_unet(1), ddpm, True, "an even number"),
        (tiny_unet(), {**ddpm.config, "prediction_type": "epsilom"}, False, "mean 'epsilon'"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            DiffusersPrior(unet, scheduler, is_complex=complex_image)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pipeline as diffusers saves it."""
    folder = tmp_path_factory.mktemp("diffusers") / "pipeline"
    scheduler = diffusers.DDPMScheduler(prediction_type="v_prediction", beta_end=0.015)
    diffusers.DDPMPipeline(tiny_unet(2), scheduler).save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline(saved, tmp_path):
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "pipeline")


def assert_is_the_saved_one(prior):
    x_t = item_noise(2, 2, 8, 8)
    alpha, sigma = Tabulated.linear(end=0.015)(300)
    close(prior.denoise(x_t, 300), alpha * x_t - sigma * by_hand(tiny_unet(2), x_t, 299), 1e-5)
    assert not prior.network.model.training
    assert not any(p.requires_grad for p in prior.parameters())


def test_from_pretrained_reads_a_saved_pipeline(saved):
    assert_is_the_saved_one(DiffusersPrior.from_pretrained(saved))
    prior = DiffusersPrior.from_pretrained(str(saved), is_complex=True)
    assert (prior.channels, prior.is_complex) == (1, True)


def test_from_pretrained_reads_a_flat_folder(saved, tmp_path):
    for file in [*saved.glob("unet/*"), *saved.glob("scheduler/*")]:
        shutil.copy(file, tmp_path)
    assert_is_the_saved_one(DiffusersPrior.from_pretrained(tmp_path))


def test_from_pretrained_gives_float32(pipeline):
    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    halves = {k: v.half() for k, v in load_file(weights).items()}
    save_file(halves, weights, {"format": "pt"})
    prior = DiffusersPrior.from_pretrained(pipeline)
    assert {p.dtype for p in prior.parameters()} == {torch.float32}


def test_from_pretrained_names_what_is_not_there(tmp_path):
    for path in (tmp_path / "missing", str(tmp_path / "missing"), "missing", "../a/b", tmp_path):
        with pytest.raises(errors.CheckpointError, match=r"no such folder|has no config\.json"):
            DiffusersPrior.from_pretrained(path)


def replace_weights(folder, change):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(change(load_file(weights)), weights, {"format": "pt"})


def replace_json(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def pickled_only(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_name("diffusion_pytorch_model.bin"))
    weights.unlink()


class Code:
    """Unpickled, it would leave a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


def pickled_code(folder):
    pickled_only(folder)
    weights = folder / "unet" / "diffusion_pytorch_model.bin"
    torch.save({"conv_in.weight": Code(folder / "trace")}, weights)


def test_pickled_tensors_are_read_but_no_code(saved, pipeline):
    pickled_only(pipeline)
    assert_is_the_saved_one(DiffusersPrior.from_pretrained(pipeline))
    pickled_code(shutil.copytree(saved, pipeline.with_name("code")))
    with pytest.raises(errors.CheckpointError, match=r"path: .*\.bin"):
        DiffusersPrior.from_pretrained(pipeline.with_name("code"))
    assert not (pipeline.with_name("code") / "trace").exists()


def truncated(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


DAMAGE = {
    "no unet": (lambda p: shutil.rmtree(p / "unet"), "has no config.json"),
    "no scheduler": (lambda p: shutil.rmtree(p / "scheduler"), "has no scheduler_config.json"),
    "no weights": (
        lambda p: (p / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        "safetensors",
    ),
    "truncated weights": (truncated, "cannot load a UNet2DModel"),
    "broken config": (lambda p: (p / "unet/config.json").write_text("{"), "cannot read .*unet"),
    "list for a config": (lambda p: (p / "unet/config.json").write_text("[1]"), "cannot read"),
    "another network": (
        lambda p: replace_json(p / "unet/config.json", _class_name="UNet2DConditionModel"),
        "contains UNet2DConditionModel, accepted: UNet2DModel",
    ),
    "another width": (
        lambda p: replace_json(p / "unet/config.json", block_out_channels=[16, 16]),
        "cannot load a UNet2DModel",
    ),
    "latent diffusion": (
        lambda p: replace_json(p / "model_index.json", vqvae=["diffusers", "VQModel"]),
        "also has vqvae",
    ),
    "other prediction": (
        lambda p: replace_json(p / "scheduler/scheduler_config.json", prediction_type="flow"),
        "prediction_type: unknown name 'flow'",
    ),
    "missing key": (
        lambda p: replace_weights(p, lambda w: {k: v for k, v in w.items() if "conv_in" not in k}),
        r"missing_keys.*conv_in\.bias",
    ),
    "unexpected key": (
        lambda p: replace_weights(p, lambda w: {**w, "extra": torch.zeros(1)}),
        "unexpected_keys.*extra",
    ),
    "NaN weights": (
        lambda p: replace_weights(p, lambda w: {k: v * torch.nan for k, v in w.items()}),
        "NaN or infinite",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_from_pretrained_refuses(damage, pipeline):
    spoil, message = DAMAGE[damage]
    spoil(pipeline)
    with pytest.raises(errors.CheckpointError, match=f"(?s)path: .*{message}"):
        DiffusersPrior.from_pretrained(pipeline)


def test_from_pretrained_offline_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(errors.CheckpointError, match=r"offline, use a local folder"):
        DiffusersPrior.from_pretrained("wellposed/no-such-repository")


def test_from_pretrained_of_a_hub_id_fetches_configs_then_weights(saved, pipeline, monkeypatch):
    asked = []

    def snapshot_download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    folder = saved
    assert_is_the_saved_one(DiffusersPrior.from_pretrained("owner/name"))
    assert [repository for repository, _ in asked] == ["owner/name"] * 2
    (_, configs), (_, weights) = asked
    assert not any("safetensors" in p for p in configs)
    assert "unet/diffusion_pytorch_model.safetensors" in weights
    assert not any(".bin" in p for p in weights)
    asked.clear()
    pickled_only(pipeline)
    folder = pipeline
    assert_is_the_saved_one(DiffusersPrior.from_pretrained("owner/name"))
    assert "unet/diffusion_pytorch_model.bin" in asked[2][1]  # where there is nothing else
    asked.clear()
    folder = pipeline
    DAMAGE["latent diffusion"][0](pipeline)
    with pytest.raises(errors.CheckpointError, match="vqvae"):
        DiffusersPrior.from_pretrained("owner/name")
    assert len(asked) == 1  # refused before its weights were fetched


def test_times_are_one_or_one_of_each_item():
    prior = NetworkPrior(GaussianNetwork(gaussian()), VP, data_range=(-1.0, 1.0))
    volumes = Slicewise(prior)
    for each, shape in ((prior, (2, *SHAPE)), (volumes, (2, 1, 3, 4, 4))):
        with pytest.raises(errors.ShapeError, match="t: got 3 values, accepted: 1, or one of 2"):
            each.denoise(torch.zeros(shape), torch.tensor([10.0, 20.0, 30.0]))
