"""Restorers and the schedules of restoration processes."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import anchored, randn
from torch import nn

from wellposed.errors import ArgumentError, ShapeError
from wellposed.priors import (
    Degraded,
    DiffusersAutoencoder,
    Flow,
    MeanReverting,
    Tabulated,
    rddm,
    rddm_from_ddim,
    resshift,
)
from wellposed.priors.prediction import from_heads
from wellposed.priors.transition import levels
from wellposed.solvers import RDDM, Problem, ResShift
from wellposed.solvers.restoration.rddm import clipped

pytestmark = pytest.mark.usefixtures("single_thread")

SCHEDULES = {
    "resshift": resshift(),
    "ir-sde": MeanReverting(30),
    "ir-sde, unshifted": MeanReverting(30, shifted=False),
    "rddm": rddm(50),
}


def test_resshift_has_the_published_levels():
    published = [0.02, 0.1172, 0.1763, 0.2336, 0.2916, 0.3510, 0.4124, 0.4759]
    published += [0.5417, 0.6099, 0.6807, 0.7540, 0.8300, 0.9086, 0.99]
    schedule = resshift()
    assert (schedule.sigma[1:] / 2).tolist() == pytest.approx(published, abs=6e-5)
    four = resshift(T=4, min_noise=0.2)
    assert (four.sigma[1:] / 2).tolist() == pytest.approx([0.1, 0.5201, 0.7614, 0.99], abs=6e-5)
    eta = four.sigma**2 / 4
    torch.testing.assert_close(four.alpha, 1 - eta)


@pytest.mark.parametrize("theta", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("shifted", [True, False])
def test_ir_sde_solves_its_differential_equation(theta, shifted):
    schedule = MeanReverting(25, T=50, theta=theta, shifted=shifted)
    alpha, sigma = schedule(torch.arange(51.0))
    lam = 25 / 255
    assert schedule.terminal_std == lam
    assert float(alpha[-1]) == pytest.approx(0.005)
    assert (float(alpha[0]) == 1) == shifted
    # dv = 2 theta (lambda^2 - v) dt has v - lambda^2 fall as alpha^2.
    torch.testing.assert_close(lam**2 - sigma**2, (lam * alpha) ** 2, rtol=1e-9, atol=1e-15)
    speed = -torch.diff(alpha.log())
    if theta == "constant":
        torch.testing.assert_close(speed, speed.mean().expand(50), rtol=1e-9, atol=0)
    else:
        assert bool((torch.diff(speed) > 0).all())
    if theta == "linear":
        torch.testing.assert_close(
            torch.diff(speed, 2), torch.zeros(48).double(), atol=1e-9, rtol=0
        )


def test_rddm_adds_up_its_published_steps():
    T = 40
    t = torch.arange(1, T + 1, dtype=torch.float64)
    steps = {"decreased": T + 1 - t, "increased": t, "average": torch.ones(T).double()}
    for residual, alphas in steps.items():
        for noise, betas in steps.items():
            schedule = rddm(T, 0.3, residual, noise)
            sums = (alphas / alphas.sum()).cumsum(0), 0.3 * (betas / betas.sum()).cumsum(0)
            torch.testing.assert_close(1 - schedule.alpha[1:], sums[0])
            torch.testing.assert_close(schedule.sigma[1:] ** 2, sums[1])
    assert float(rddm().alpha[-1]) == 0
    assert float(rddm(floor=1e-6).alpha[-1]) == 1e-6


def test_rddm_converted_from_ddim_has_the_same_kernel():
    betas = torch.linspace(1e-4, 0.02, 100, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    schedule = rddm_from_ddim(betas)
    torch.testing.assert_close(1 - schedule.alpha[1:], 1 - alpha_bar.sqrt())
    torch.testing.assert_close(schedule.sigma[1:] ** 2, 1 - alpha_bar)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_times_and_ratios_are_inverse(schedule):
    t = torch.linspace(0.01, 0.99, 23, dtype=torch.float64) * schedule.T
    torch.testing.assert_close(schedule.time_at(schedule.ratio(t)), t, rtol=0, atol=1e-9)
    alpha, sigma = schedule(torch.linspace(0, 1, 100, dtype=torch.float64) * schedule.T)
    assert bool((torch.diff(sigma / alpha) > 0).all())
    assert bool((torch.diff(alpha) < 0).all())


def test_schedules_name_bad_arguments():
    for make, argument in (
        (lambda: resshift(T=1), "T"),
        (lambda: resshift(kappa=0.0), "kappa"),
        (lambda: resshift(power=-1.0), "power"),
        (lambda: resshift(min_noise=5.0), "min_noise"),
        (lambda: resshift(max_noise=1.0), "min_noise"),
        (lambda: rddm(T=1), "T"),
        (lambda: rddm(sum_scale=2.0), "sum_scale"),
        (lambda: rddm(residual="falling"), "residual"),
        (lambda: rddm(noise="falling"), "noise"),
        (lambda: rddm(floor=-1.0), "floor"),
        (lambda: MeanReverting(0.0), "max_sigma"),
        (lambda: MeanReverting(T=1), "T"),
        (lambda: MeanReverting(eps=1.0), "eps"),
        (lambda: MeanReverting(theta="square"), "theta"),
    ):
        with pytest.raises(ArgumentError, match=f"^{argument}: "):
            make()


class Said(nn.Module):
    """A network that says what it was given to say, and remembers what it was asked."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x, label, given):
        self.seen, self.label, self.given = x, label, given
        return self.output


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_every_prediction_gives_the_clean_image_and_its_parts(schedule):
    x0, m, eps = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2)
    t = torch.tensor([3.0, 7.5])
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in schedule(t))
    x_t = m + alpha * (x0 - m) + sigma * eps
    s = schedule.terminal_std
    outputs = {
        "sample": x0,
        "noise": eps,
        "residual": m - x0,
        "score": -eps / sigma,
        "residual+noise": torch.cat([m - x0, eps], 1),
        "residual+sum": torch.cat([m - x0, m - x0 + eps], 1),
        "sample+noise": torch.cat([x0, eps], 1),
        "sample+sum": torch.cat([x0, x0 + eps], 1),
    }
    if isinstance(schedule, MeanReverting):
        outputs["velocity"] = alpha * s * eps - sigma / s * (x0 - m)
    for predicts, output in outputs.items():
        prior = anchored(Said(output), schedule, predicts)
        parts = prior.components(x_t, t, m)
        for got, wanted in zip(parts, (x0, m - x0, eps), strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9, msg=predicts)
        assert torch.equal(prior.denoise(x_t, t, Degraded(m, m)), parts.x0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_networks_see_what_their_papers_say(name):
    schedule, x_t, m = SCHEDULES[name], randn(1, 3, 4, 4), randn(1, 3, 4, 4, seed=1)
    sigma = float(schedule(5.0)[1])
    wanted = {
        "plain": x_t,
        "difference": x_t - m,
        "latent": x_t / math.sqrt(sigma**2 + 1),
        "pixel": x_t / (3 * sigma + 1),
    }
    for sees, seen in wanted.items():
        prior = anchored(Said(x_t), schedule, input=sees)
        prior.denoise(x_t, 5.0, m)
        torch.testing.assert_close(prior.network.seen, seen, rtol=1e-12, atol=0)
        label = 5.0 if name.startswith("ir-sde") else 4.0
        assert prior.network.label.tolist() == [label]


def test_degraded_images_are_upsampled_into_units():
    y = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = anchored(Said(y), resshift(), upsample=4)
    given = prior.degraded(y)
    torch.testing.assert_close(given.image, 2 * y - 1)
    bicubic = F.interpolate(2 * y - 1, (20, 24), mode="bicubic", align_corners=False)
    torch.testing.assert_close(given.anchor, bicubic)


@pytest.mark.parametrize("kind", ["VQModel", "AutoencoderKL"])
def test_latent_restorers_work_in_the_latents_of_diffusers_autoencoders(kind):
    import diffusers

    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
    }
    model = getattr(diffusers, kind)(3, 3, latent_channels=4, **blocks)
    codec = DiffusersAutoencoder(model, scaling_factor=0.5, shift_factor=0.1)

    class Anchored(nn.Module):
        def forward(self, x, label, given):
            return given.anchor

    prior = anchored(Anchored(), resshift(), input="latent", autoencoder=codec)
    assert not prior.is_affine
    y = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    result = ResShift(steps=4)(y, None, prior, seed=0)
    encoded = model.encode(2 * y - 1)
    z = encoded.latents if kind == "VQModel" else encoded.latent_dist.mode()
    assert prior.unit_shape(y.shape) == z.shape
    torch.testing.assert_close(prior.degraded(y).anchor, (z - 0.1) * 0.5)
    torch.testing.assert_close(result.samples[0], (model.decode(z).sample + 1) / 2)
    with pytest.raises(ShapeError, match="multiples of 2"):
        ResShift()(y[..., :7, :], None, prior)
    with pytest.raises(ArgumentError, match="autoencoder: got 'Linear'"):
        DiffusersAutoencoder(nn.Linear(1, 1))


def test_restorers_name_bad_arguments():
    network, m = Said(randn(1, 3, 4, 4)), randn(1, 3, 4, 4)
    bad = {
        "prediction: unknown name 'clean'": lambda: anchored(network, resshift(), "clean"),
        "input": lambda: anchored(network, resshift(), input="all"),
        "upsample": lambda: anchored(network, resshift(), upsample=0),
        "is_complex": lambda: anchored(network, resshift(), is_complex=True, data_range=(-1, 1)),
        "schedule": lambda: anchored(network, resshift(), "velocity"),
        "schedule: got 'MeanReverting'": lambda: anchored(network, MeanReverting(), "flow"),
        "schedule: got 'resshift'": lambda: anchored(network, "resshift"),
        "network: got <function .*>": lambda: anchored(lambda x, t, given: x, resshift()),
        "prediction": lambda: from_heads("noise", m, m, 1.0, 1.0, m),
        "t": lambda: anchored(network, rddm(9), "noise").denoise(m, 9.0, m),
        "network": lambda: anchored(network, rddm(9), "sample+noise").denoise(m, 9.0, m),
        "condition": lambda: anchored(network, rddm(9)).denoise(m, 9.0),
    }
    for argument, call in bad.items():
        with pytest.raises(ArgumentError, match=f"^{argument}[:,. ]"):
            call()


def test_default_labels_of_tables_and_of_other_schedules():
    label = anchored(Said(None), rddm(9)).label
    assert label(torch.tensor([0.5, 9.0])).tolist() == [0, 8]
    assert anchored(Said(None), Flow()).label(torch.tensor(0.5)) == 0.5
    assert isinstance(rddm(9), Tabulated)


@pytest.mark.parametrize(
    "predicts", ["residual+noise", "sample+noise", "residual", "noise", "sample"]
)
def test_rddm_clips_by_the_published_rules(predicts):
    """Against those rules, written out one by one for what the network predicts."""
    schedule, y, x = rddm(10), 0.8 * randn(1, 3, 4, 4), randn(1, 3, 4, 4, seed=1)
    first, second = randn(1, 3, 4, 4, seed=2), randn(1, 3, 4, 4, seed=3)
    heads = 2 if "+" in predicts else 1
    prior = anchored(Said(torch.cat([first, second], 1)[:, : 3 * heads]), schedule, predicts)
    level = levels(schedule, 6.0, 4.0)
    a_bar, b_bar = 1 - level.alpha_t, level.sigma_t
    problem = Problem.create((y + 1) / 2, None, prior)
    parts = clipped(problem.components(x, 6.0), x, level, problem)
    r = {
        "residual+noise": lambda: first.clamp(-1, 1),
        "residual": lambda: first.clamp(-1, 1),
        "sample+noise": lambda: (y - first).clamp(-1, 1),
        "sample": lambda: (y - first).clamp(-1, 1),
        "noise": lambda: (y - wanted_x0).clamp(-1, 1),
    }
    wanted_x0 = {
        "residual+noise": lambda: x - a_bar * r["residual+noise"]() - b_bar * second,
        "residual": lambda: y - r["residual"](),
        "sample+noise": lambda: first,
        "sample": lambda: y - r["sample"](),
        "noise": lambda: (x - a_bar * y - b_bar * first) / (1 - a_bar),
    }[predicts]().clamp(-1, 1)
    wanted_r = r[predicts]()
    eps = {"noise": first, "residual+noise": second, "sample+noise": second}.get(
        predicts, (x - y - (a_bar - 1) * wanted_r) / b_bar
    )
    for got, wanted in zip(parts, (wanted_x0, wanted_r, eps), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    assert (first.abs() > 1).any()


@pytest.mark.parametrize("predicts", ["noise", "residual", "residual+noise"])
def test_rddm_runs_from_the_whole_residual_for_every_objective(predicts):
    class Half(nn.Module):
        def forward(self, x, label, given):
            return torch.cat([0.5 * x, 0.5 * x], 1)[:, : 2 * 1 if "+" in predicts else 1]

    y = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    schedule = rddm(floor=1e-6 if predicts == "noise" else 0.0)
    prior = anchored(Half(), schedule, predicts, channels=1)
    for path in ("joint", "residual-first"):
        x = RDDM(path=path)(y, None, prior, seed=0).samples
        assert torch.isfinite(x).all()
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
