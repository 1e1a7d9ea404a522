"""Restoration processes and their samplers, on Gaussian oracles whose exact answers are known."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.helpers import anchored
from torch import nn

from wellposed.noise import ItemNoise
from wellposed.operators import Blur, Denoising, Inpainting, SuperResolution, gaussian_kernel
from wellposed.priors import (
    VE,
    DenoisingProcess,
    Diagonal,
    Flow,
    GaussianPrior,
    MeanReverting,
    Rescheduled,
    Slicewise,
    Tabulated,
    rddm,
    resshift,
)
from wellposed.solvers import (
    DDS,
    IRSDE,
    MMPS,
    RDDM,
    DDIMProjection,
    IRSDEDenoising,
    MRSampler,
    Problem,
    ResShift,
)
from wellposed.solvers.restoration.grids import grid

pytestmark = pytest.mark.usefixtures("single_thread")

GAIN, SHIFT = 0.6, 0.1
SPREAD = torch.tensor([0.04, 0.01], dtype=torch.float64).view(1, 1, 1, 2)
"""``x_0 ~ N(GAIN m + SHIFT, SPREAD)`` given the degraded image ``m``, pixel by pixel."""

FAMILIES = {
    "resshift": resshift(T=1000, min_noise=0.004, power=1.0),
    "ir-sde": MeanReverting(50),
    "ir-sde, unshifted": MeanReverting(50, shifted=False),
    "rddm": rddm(),
}
PLAIN = {"vp": Tabulated.linear(), "ve": VE(10.0), "flow": Flow()}
SAMPLERS = {
    "resshift": ResShift(clip=False),
    "ir-sde": IRSDE(),
    "ir-sde, sde": IRSDE(method="sde"),
    "ir-sde, ode": IRSDE(method="ode"),
    "rddm": RDDM(clip=False),
    "rddm, eta": RDDM(clip=False, eta=0.5),
    "rddm, residual first": RDDM(clip=False, path="residual-first"),
    "mr ode 1": MRSampler(order=1),
    "mr ode 2": MRSampler(order=2),
    "mr ode 2, noise": MRSampler(order=2, parametrization="noise"),
    "mr ode 3": MRSampler(order=3, spacing="karras-n"),
    "mr sde 1": MRSampler(method="sde", order=1),
    "mr sde 2": MRSampler(method="sde", order=2),
    "mr sde 2, noise": MRSampler(method="sde", order=2, parametrization="noise"),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


class Oracle(nn.Module):
    """``E[x_0 | x_t, m]`` of the Gaussian above, as a network that is told the time itself."""

    def __init__(self, schedule):
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t, label, given):
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in self.schedule(label))
        m, c = given.anchor, SPREAD.to(x_t)
        mean = GAIN * m + SHIFT
        gain = (alpha * c / (alpha**2 * c + sigma**2)).to(x_t)
        return mean + gain * (x_t - m - alpha.to(x_t) * (mean - m))


def oracle(schedule, **options):
    options = {"channels": 1, "data_range": (-1, 1), "label": lambda t: t, **options}
    return anchored(Oracle(schedule), schedule, **options)


class OneHot:
    """Draws of which each is 1 for one item of the batch, so that items show a run's response."""

    def __init__(self):
        self.position = 0

    def draw(self, like):
        self.position += 1
        draw = torch.zeros_like(like)
        draw[self.position] = 1
        return draw


def law(sampler, operator, prior, y):
    """The exact mean and variance of an affine sampler's result: item 0 draws only zeros."""
    problem = Problem.create(y[:1], operator, prior)
    items = len(sampler.times(problem)) + 1
    noise = OneHot()
    x = sampler(y.expand(items, *y.shape[1:]), operator, prior, noise=noise).samples[0]
    return x[0], (x[1:] - x[0]).square().sum(0)


def with_steps(sampler, steps):
    return type(sampler)(**{**vars(sampler), "steps": steps})


def errors(sampler, steps, operator, prior, y, mean):
    """Errors of the mean and of the deviation, in deviations."""
    found, variance = law(replace(sampler, steps=steps), operator, prior, y)
    gap = (found - mean).abs() / SPREAD.sqrt()
    return float(gap.max()), float(((variance / SPREAD).sqrt() - 1).abs().max())


def assert_converges(sampler, operator, prior, y, mean):
    few, many = (errors(sampler, steps, operator, prior, y, mean) for steps in (8, 64))
    # The start, m plus noise of the limit, is a little off where the schedule leaves a signal.
    assert many[0] < max(0.1, 0.3 * few[0])
    assert many[1] < min(0.45, 0.6 * few[1])


@every_sampler
@every_family
def test_every_solver_converges_to_the_exact_law_on_every_family(name, family):
    y = torch.tensor([-0.4, 0.9], dtype=torch.float64).view(1, 1, 1, 2)
    assert_converges(SAMPLERS[name], None, oracle(FAMILIES[family]), y, GAIN * y + SHIFT)


@every_sampler
@pytest.mark.parametrize("process", PLAIN)
def test_every_solver_converges_on_plain_priors(name, process):
    mean = torch.tensor([-0.4, 0.9], dtype=torch.float64).view(1, 1, 1, 2)
    prior = GaussianPrior(mean, Diagonal(SPREAD), PLAIN[process])
    operator = Inpainting(torch.ones(1, 1, 2, dtype=torch.float64), noise_sigma=0.1)
    sampler = SAMPLERS[name]
    if isinstance(sampler, MRSampler):  # times equal in t serve no variance-exploding process
        sampler = replace(sampler, spacing="karras-n")
    assert_converges(sampler, operator, prior, 0 * mean, mean)


def image(size=8, items=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(items, 1, size, size, generator=generator, dtype=torch.float64)


def same(first, second, prior, y, tolerance=1e-10):
    """Whether two samplers give the same samples."""
    a, b = (sampler(y, None, prior, seed=5).samples for sampler in (first, second))
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@every_family
def test_solvers_that_are_equal_on_paper_are_equal(family):
    prior, y = oracle(FAMILIES[family]), image(2)[..., :1, :]
    steps = {"steps": 10}
    posterior = IRSDE(**steps)
    same(MRSampler(**steps, method="sde", order=1, spacing="linspace"), posterior, prior, y, 5e-3)
    by_data, by_noise = (MRSampler(**steps, order=1, parametrization=p) for p in ("data", "noise"))
    same(by_data, by_noise, prior, y)
    same(RDDM(**steps, clip=False, eta=1.0), ResShift(**steps, clip=False), prior, y)
    if float(prior.schedule(0.0)[1]) == 0:
        same(MRSampler(**steps, method="sde", order=1), posterior, prior, y)
        same(by_data, RDDM(**steps, clip=False), prior, y)


UNSHIFTED = MeanReverting(50, shifted=False)


def flow_error(schedule=UNSHIFTED, **options):
    """Distance of an ODE sampler from the exact flow, which keeps (x_t - mean_t) / std_t."""
    y, prior, c = image(6), oracle(schedule), SPREAD
    y = y[..., :2]
    states = []
    sampler = MRSampler(spacing="linear-lambda", **options)
    x = sampler(y, None, prior, seed=1, callback=lambda i, s: states.append(s)).samples[0]
    start = sampler.init(Problem.create(y, None, prior), ItemNoise(1, [(0, 0)])).x
    (a_T, s_T), (a_0, s_0) = schedule(schedule.T), schedule(0.0)
    residual = GAIN * y + SHIFT - y
    scale = torch.sqrt((a_0**2 * c + s_0**2) / (a_T**2 * c + s_T**2))
    exact = y + a_0 * residual + scale * (start - y - a_T * residual)
    return float((x - exact).square().mean().sqrt())


@pytest.mark.parametrize("parametrization", ["data", "noise"])
@pytest.mark.sampled
def test_the_mr_sampler_has_the_orders_it_claims(parametrization):
    slopes = []
    # The published one has half of D2, and lambda linear between times, which are many here.
    published = {"published": True, "schedule": MeanReverting(50, T=1000, shifted=False)}
    for options in ({"order": 1}, {"order": 2}, {"order": 3}, {"order": 3, **published}):
        coarse, fine = (
            flow_error(steps=n, parametrization=parametrization, **options) for n in (50, 100)
        )
        slopes.append(math.log2(coarse / fine))
    assert slopes[0] == pytest.approx(1, abs=0.2)
    assert slopes[1] == pytest.approx(2, abs=0.3)
    assert slopes[2] > 2.8
    assert slopes[3] == pytest.approx(2, abs=0.3)


def test_lowering_the_order_at_the_end_helps_the_parametrization_by_data():
    times = {"steps": 10, "schedule": UNSHIFTED}
    orders = MRSampler(steps=5, order=3)
    assert [orders.order_of(n) for n in range(1, 6)] == [1, 2, 3, 2, 1]
    full = replace(orders, lower_order_final=False)
    assert [full.order_of(n) for n in range(1, 6)] == [1, 2, 3, 3, 3]
    assert flow_error(order=2, **times) < flow_error(order=2, lower_order_final=False, **times)


@every_sampler
@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_or_two_are_enough_to_run(name, steps):
    prior, y = oracle(FAMILIES["ir-sde"]), image(2)[..., :1, :]
    sampler = replace(SAMPLERS[name], steps=steps)
    result = sampler(y, None, prior, seed=0)
    assert torch.isfinite(result.samples).all()
    if steps == 1 and not (isinstance(sampler, IRSDE) and sampler.method != "posterior"):
        # One step from m plus noise gives E[x_0 | x_T], all but the mean of x_0.
        error = (result.samples[0] - GAIN * y - SHIFT).abs()
        assert error.max() < (0.2 if isinstance(sampler, RDDM) else 0.05)


def test_fewer_steps_than_times_leave_no_noise_in():
    """The published baselines keep six times the exact deviation at 10 of 100 steps."""
    prior = oracle(FAMILIES["ir-sde"])
    y = torch.tensor([-0.4, 0.9], dtype=torch.float64).view(1, 1, 1, 2)
    for method in ("posterior", "sde", "ode"):
        assert errors(IRSDE(method=method), 10, None, prior, y, GAIN * y + SHIFT)[1] < 0.4


# What every solver promises, with a nonlinear network that couples pixels.


class Stub(nn.Module):
    calls, incidental = 0, ("calls",)

    def forward(self, x, label, given):
        self.calls += 1
        wave = torch.sin(3 * x - given.anchor + 0.05 * label.view(-1, 1, 1, 1))
        return 0.6 * torch.tanh(0.8 * x) + 0.3 * given.anchor + 0.1 * wave + 0.1 * x.roll(1, -1)


def restorer(family="ir-sde", **options):
    return anchored(Stub(), FAMILIES[family], **{"channels": 1, "data_range": (-1, 1), **options})


@every_sampler
@every_family
def test_items_are_the_same_alone_and_in_a_batch_and_seeds_decide(name, family):
    prior, y, state = restorer(family), image(items=3), torch.get_rng_state()
    sampler = replace(SAMPLERS[name], steps=5)
    batch = sampler(y, None, prior, seed=3)
    alone = sampler(y[2:], None, prior, noise=ItemNoise(3, [(0, 2)])).samples
    torch.testing.assert_close(alone[0], batch.samples[0, 2:], rtol=0, atol=1e-9)
    assert torch.equal(sampler(y, None, prior, seed=3).samples, batch.samples)
    assert not torch.equal(sampler(y, None, prior, seed=4).samples, batch.samples)
    assert torch.equal(torch.get_rng_state(), state)
    many = sampler(y[:1], None, prior, seed=0, num_samples=5).samples
    chunked = replace(sampler, batch_size=2)(y[:1], None, prior, seed=0, num_samples=5).samples
    torch.testing.assert_close(chunked, many, rtol=0, atol=1e-9)


@every_sampler
def test_calls_are_counted_dtypes_kept_and_residuals_unknown(name):
    prior, y, sampler = restorer(), image(), replace(SAMPLERS[name], steps=5)
    result = sampler(y, None, prior, seed=0)
    steps = len(sampler.times(Problem.create(y, None, prior))) - 1
    assert result.nfe == prior.network.calls == steps
    assert steps == (10 if "residual first" in name else 5)
    assert result.residual.isnan().all()
    assert result.measured is None
    single = sampler(y.float(), None, prior, seed=0).samples
    assert single.dtype == torch.float32
    assert (single - result.samples).norm() < 1e-3 * result.samples.norm()


@every_sampler
def test_runs_pause_and_resume(name, tmp_path):
    prior, y, sampler = restorer("rddm"), image(items=2), replace(SAMPLERS[name], steps=6)
    whole = sampler(y, None, prior, seed=4).samples
    problem = Problem.create(y, None, prior)
    noise, times = ItemNoise(4, [(0, 0), (0, 1)]), sampler.times(problem)
    state = sampler.init(problem, noise)
    with torch.no_grad():
        for t, s in pairwise(times[:4]):
            state = sampler.step(state, t, s, problem, noise)
        position, noise = noise.position, ItemNoise(4, [(0, 0), (0, 1)])
        noise.position = position
        for t, s in pairwise(times[3:]):
            state = sampler.step(state, t, s, problem, noise)
    assert torch.equal(problem.to_public(sampler.finish(state)), whole[0])

    def stop(index, state):
        if index == 3:
            raise KeyboardInterrupt

    options = {"seed": 4, "checkpoint": tmp_path, "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        sampler(y, None, prior, callback=stop, **options)
    calls = prior.network.calls
    assert torch.equal(sampler(y, None, prior, **options).samples, whole)
    assert prior.network.calls - calls == len(times) - 1 - 2


# Data consistency where the operator is known.


@every_sampler
def test_data_steps_pull_every_solver_to_the_measurement(name):
    prior, truth = restorer(), image(16)
    operator = Blur(gaussian_kernel(1.0, 5), (1, 16, 16), noise_sigma=0.01)
    y = operator.A(truth)
    residuals = [
        float(replace(SAMPLERS[name], steps=6, **options)(y, operator, prior, seed=0).residual)
        for options in ({}, {"data_steps": 5, "gamma": 10.0}, {"data_steps": 9, "gamma": 1e3})
    ]
    assert residuals[0] > 1.3 * residuals[1] > 1.3**2 * residuals[2]


def test_data_steps_use_what_the_network_does_not_know():
    """Where pixels are measured exactly the result is the truth, elsewhere it is the oracle's."""
    prior = oracle(FAMILIES["ir-sde"])
    mask = (image(12, seed=3)[0] > 0.5).double()
    y = image(12)
    y = (y * mask)[..., :2]
    mask = mask[..., :2]
    operator = Inpainting(mask)
    hard = MRSampler(steps=20, method="sde", order=1, data_steps=5, gamma=math.inf)
    plain = replace(hard, data_steps=0)
    with_data, without = (s(y, operator, prior, seed=0) for s in (hard, plain))
    known = mask.expand_as(y) > 0
    assert (with_data.samples[0] - y)[known].abs().max() < 1e-8
    assert (without.samples[0] - y)[known].abs().max() > 0.05
    torch.testing.assert_close(
        with_data.samples[0][~known], without.samples[0][~known], rtol=0, atol=1e-9
    )


class BlurOracle(nn.Module):
    """The exact network for stationary images, a blur that it takes for another, and noise."""

    def __init__(self, schedule, spectrum, response, noise):
        super().__init__()
        power = spectrum * response.abs() ** 2 + noise**2
        self.schedule = schedule
        self.wiener = spectrum * response.conj() / power
        self.spread = spectrum * noise**2 / power

    def forward(self, x_t, label, given):
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in self.schedule(label))
        X, M = torch.fft.fft2(x_t), torch.fft.fft2(given.anchor)
        mean = self.wiener * M
        gain = alpha * self.spread / (alpha**2 * self.spread + sigma**2)
        return torch.fft.ifft2(mean + gain * (X - M - alpha * (mean - M))).real


@pytest.mark.parametrize("name", ["resshift", "ir-sde", "rddm", "mr ode 2", "mr sde 2"])
def test_data_steps_help_a_restorer_that_knows_another_blur(name):
    frequency = torch.fft.fftfreq(32, dtype=torch.float64)
    square = frequency[:, None] ** 2 + frequency**2
    spectrum = 0.04 / (1 + (10 * square.sqrt()) ** 3)
    z = torch.fft.fft2(image(32, items=4, seed=2) - 0.5) * 12**0.5
    truth = torch.fft.ifft2(spectrum.sqrt() * z).real
    true, assumed = (
        Blur(gaussian_kernel(width, 9), (1, 32, 32), noise_sigma=0.02) for width in (1.5, 2.0)
    )
    impulse = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    impulse[..., 0, 0] = 1
    response, schedule = torch.fft.fft2(assumed.A(impulse)), MeanReverting(30)
    network = BlurOracle(schedule, spectrum, response, 0.02)
    prior = anchored(network, schedule, label=lambda t: t, channels=1, data_range=(-1, 1))
    y, distances = true.measure(truth, seed=3), []
    for options in ({}, {"data_steps": 10, "gamma": 3.0}, {"data_steps": 10, "gamma": 1e3}):
        sampler = replace(SAMPLERS[name], steps=20, **options)
        result = sampler(y, true, prior, seed=0)
        distances.append(float((result.samples[0] - truth).square().mean().sqrt()))
    assert distances[1] < 0.97 * distances[0]
    assert distances[2] > distances[1]  # the noise of the measurement goes into the image


def test_what_an_operator_has_not_measured_does_not_count():
    """Restorers of inpainting are trained on images that are 0 there."""
    prior, y = restorer(), image(8)
    operator = Inpainting((image(8, seed=3)[0] > 0.5).double(), noise_sigma=0.1)
    samples = [IRSDE(steps=3)(v, operator, prior, seed=0).samples for v in (y, operator.A(y))]
    assert torch.equal(*samples)


def test_data_steps_work_with_super_resolution():
    operator = SuperResolution((1, 16, 16), 4, noise_sigma=0.01)
    prior, truth = restorer("resshift", upsample=4, data_range=(0, 1)), image(16)
    result = ResShift(steps=5, data_steps=5, gamma=math.inf)(
        operator.A(truth), operator, prior, seed=0
    )
    assert result.samples.shape == (1, 1, 1, 16, 16)
    assert float(result.residual) < 0.1


# The published guard against alpha = 0.


class Noise(nn.Module):
    """A smooth function of what a network sees, as its prediction of the noise."""

    def forward(self, x_t, label, given):
        return torch.sin(2 * x_t) - 0.3 * given.anchor + 0.1 * torch.cos(label.view(-1, 1, 1, 1))


def test_rddm_of_a_predicted_noise_takes_the_published_steps():
    """1e-6 replaces 1 - sum alpha at T as a divisor, and nowhere else."""
    schedule, y, solver = rddm(12, 0.5), image(), RDDM(steps=3)
    prior = anchored(Noise(), schedule, "noise", channels=1, data_range=(-1, 1), floor=1e-6)
    states = []
    solver(y, None, prior, seed=0, callback=lambda i, s: states.append(s))
    assert float(schedule.alpha[-1]) == 0
    x = y + schedule.sigma[-1] * ItemNoise(0, [(0, 0)]).draw(y)
    for (t, s), state in zip(pairwise((12, 8, 4, 0)), states, strict=True):
        eps = prior.predict(x, t, y)
        summed = 1 - schedule.alpha  # of the residual's steps
        x0 = (x - summed[t] * y - schedule.sigma[t] * eps) / (1e-6 if t == 12 else 1 - summed[t])
        x0 = x0.clamp(-1, 1)
        r = (y - x0).clamp(-1, 1)
        x = x - (summed[t] - summed[s]) * r - (schedule.sigma[t] - schedule.sigma[s]) * eps
        torch.testing.assert_close(state.x0, x0, rtol=0, atol=1e-9)
        torch.testing.assert_close(state.x, x if s else x0, rtol=0, atol=1e-9)


def test_a_noise_at_alpha_0_needs_a_floor():
    prior = anchored(Noise(), rddm(), "noise", channels=1)
    with pytest.raises(ValueError, match="does not determine x_0"):
        RDDM(steps=3)(image(), None, prior)


# The times of the published grids.


def test_grids_are_the_published_ones_but_for_their_ends():
    schedule = MeanReverting(50, shifted=False)
    rows = {name: grid(schedule, 5, name) for name in MRSampler.spacings}
    assert rows["linspace"].tolist() == [100, 80, 60, 40, 20, 0]
    assert rows["leading"].tolist() == [80, 64, 48, 32, 16, 0]
    wanted = [100, *(100 - 100 / 6 * k for k in range(1, 5)), 0]
    assert rows["trailing"].tolist() == pytest.approx(wanted)
    roots = torch.linspace(100 ** (1 / 7), 1, 6, dtype=torch.float64)[:-1]
    assert rows["karras-t"].tolist() == pytest.approx([*(roots**7).tolist(), 0])
    steps = torch.diff(schedule.ratio(rows["linear-lambda"]).log())
    torch.testing.assert_close(steps, steps.mean().expand(5), rtol=0, atol=1e-9)
    steps = torch.diff(schedule.ratio(rows["karras-n"]) ** (1 / 7))
    torch.testing.assert_close(steps, steps.mean().expand(5), rtol=0, atol=1e-9)
    assert all(float(row[0]) == pytest.approx(100) for k, row in rows.items() if k != "leading")


@pytest.mark.parametrize("spacing", MRSampler.spacings)
@pytest.mark.parametrize("schedule", [*FAMILIES.values(), *PLAIN.values()])
def test_grids_go_down_to_0_on_every_schedule(spacing, schedule):
    for steps in (1, 2, 7):
        times = grid(schedule, steps, spacing)
        assert len(times) == steps + 1
        assert bool((torch.diff(times) < 0).all())
        assert times[-1] == 0
        assert times[0] <= schedule.T


def test_levels_can_be_linear_between_integer_times():
    levels = MeanReverting(50, shifted=False, interpolated="levels")
    decay = MeanReverting(50, shifted=False)
    whole = torch.arange(101, dtype=torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(levels(whole), decay(whole), strict=True))
    mid = [0.75 * a[:-1] + 0.25 * a[1:] for a in levels(whole)]
    torch.testing.assert_close(list(levels(whole[:-1] + 0.25)), mid)
    times = torch.linspace(0, 100, 37, dtype=torch.float64)
    torch.testing.assert_close(levels.time_at(levels.ratio(times)), times, rtol=0, atol=1e-9)


def test_published_times_below_1_where_no_noise_is_left_at_0():
    """lambda is infinite at 0, and not linear up to 1."""
    solver = MRSampler(steps=150, published=True)
    assert solver(image(), None, restorer(), seed=0).samples.isfinite().all()


def test_the_last_step_can_denoise_what_the_schedule_leaves():
    prior, states = restorer("ir-sde, unshifted"), []
    solver = MRSampler(steps=4, denoise_last=True)
    result = solver(image(), None, prior, seed=0, callback=lambda i, s: states.append(s))
    assert torch.equal(result.samples[0], states[-1].x0)
    kept = MRSampler(steps=4)(image(), None, prior, seed=0).samples[0]
    assert 0 < float((kept - result.samples[0]).abs().max())


# Denoising.


def denoised(sigma, items=1, prior=None, **options):
    clean = GaussianPrior(0.4, 0.01) if prior is None else prior
    prior = Rescheduled(clean, DenoisingProcess(75, T=400)) if prior is None else prior
    operator = Denoising((1, 8, 8), noise_sigma=torch.as_tensor(sigma))
    return IRSDEDenoising(**options)(image(items=items), operator, prior, seed=0)


def test_denoising_from_the_noisy_image_is_the_flow_of_a_gaussian():
    """Its end keeps each deviation from the mean, shrunk as the standard deviations are."""
    sigma, c = 0.1, 0.01
    y, found = image(), [denoised(sigma, steps=n).samples[0] for n in (100, 400)]
    mean = 0.4
    exact = mean + (y - mean) * math.sqrt(c / (c + sigma**2))
    coarse, fine = (float((x - exact).abs().max()) for x in found)
    assert fine < 0.4 * coarse < 0.04


def test_denoising_takes_the_times_below_that_of_the_noise():
    prior = Rescheduled(GaussianPrior(0.4, 0.01), DenoisingProcess())
    problem = Problem.create(image(), Denoising((1, 8, 8), 0.1), prior)
    start = round(float(prior.schedule.time_at(0.1)))
    assert IRSDEDenoising().times(problem) == pytest.approx(range(start, -1, -1))
    few = IRSDEDenoising(steps=10).times(problem)
    assert few == pytest.approx([start, *range(start // 10 * 10, -1, -10)])
    schedule = DenoisingProcess(70, T=1000)
    times = torch.linspace(0, 1000, 29, dtype=torch.float64)
    torch.testing.assert_close(schedule.time_at(schedule.ratio(times)), times, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: denoised(0.0), "noise_sigma: got .*accepted: one noise level of all items"),
        (lambda: denoised(0.4), "at most 0.2939"),
        (lambda: denoised([0.1, 0.2], items=2), "one noise level of all items"),
        (lambda: denoised(0.1, prior=GaussianPrior(0.4, 0.01)), "a prior with a DenoisingProcess"),
        (
            lambda: IRSDEDenoising()(image(), Inpainting(ONES), GaussianPrior(0.4, 0.01)),
            "operator: got Inpainting, accepted by IRSDEDenoising: Denoising",
        ),
    ],
)
def test_denoising_names_what_it_cannot_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Bad input.

ONES = torch.ones(1, 8, 8)


def test_solvers_name_bad_fields():
    for make, message in (
        (lambda: MRSampler(order=4), "order: got 4"),
        (lambda: MRSampler(method="sde", order=3), "order: got 3, accepted: 1 or 2 by"),
        (lambda: MRSampler(method="heun"), "method: unknown"),
        (lambda: MRSampler(parametrization="velocity"), "parametrization: unknown"),
        (lambda: MRSampler(spacing="geometric"), "spacing: unknown"),
        (lambda: MeanReverting(interpolated="level"), "interpolated: unknown.*'levels'"),
        (lambda: IRSDE(method="euler"), "method: unknown"),
        (lambda: RDDM(eta=2.0), "eta: got 2"),
        (lambda: RDDM(path="noise-first"), "path: unknown"),
        (lambda: ResShift(data_steps=-1), "data_steps: got -1"),
        (lambda: ResShift(gamma=0.0), "gamma: got 0"),
        (lambda: ResShift(steps=0), "steps: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, y: DDS()(y, None, p), "accepted by DDS: a plain prior"),
        (lambda p, y: ResShift(data_steps=2)(y, None, p), "operator: got None"),
        (lambda p, y: ResShift()(y, None, GaussianPrior(0.0, 1.0)), "operator: got NoneType"),
        (lambda p, y: ResShift()(y.expand(1, 3, 8, 8), None, p), "made for 1 channels"),
        (lambda p, y: ResShift()(y[0], None, p), "degraded images"),
        (lambda p, y: ResShift()(y * math.nan, None, p), "y: 64 of 64 values"),
        (lambda p, y: ResShift()((255 * y).int(), None, p), "y: got torch.int32"),
        (
            lambda p, y: ResShift()(y, SuperResolution((1, 32, 32), 4), p),
            "when enlarged 1 times",
        ),
        (lambda p, y: IRSDE()(y[:, :, None], Inpainting(ONES), Slicewise(p)), "inside Slicewise"),
        (lambda p, y: DDS()(y, Inpainting(ONES), Rescheduled(p, VE(1.0))), "inside Rescheduled"),
        (lambda p, y: p(y, 0.1), "NetworkPrior with an anchor"),
        (lambda p, y: p.conditioned_on(y), "condition: got 'that of a prior with an anchor"),
        (lambda p, y: p.denoise(y, 3.0), "condition: got None"),
    ],
)
def test_bad_calls_are_named_before_the_network_runs(call, message):
    prior = restorer()
    with pytest.raises(ValueError, match=message):
        call(prior, image())
    assert prior.network.calls == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every_sampler
def test_cuda_gives_what_the_cpu_gives(name):
    prior, y, sampler = restorer("rddm"), image(items=2), replace(SAMPLERS[name], steps=5)
    on_cpu = sampler(y, None, prior, seed=0).samples
    on_gpu = sampler(y.cuda(), None, prior.cuda(), seed=0).samples
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "sampler", [ResShift(steps=8), IRSDE(steps=8), RDDM(steps=8), MRSampler(steps=8)]
)
@pytest.mark.parametrize("correction", [MMPS().correction, DDIMProjection().correction])
def test_restoration_solvers_take_corrections_too(sampler, correction):
    """Of a network that knows the degraded image a little, the measurement tells more."""
    x = torch.tensor([0.3, -0.2], dtype=torch.float64).view(1, 1, 1, 2)
    operator = Inpainting(torch.ones(1, 1, 2, dtype=torch.float64), noise_sigma=0.01)
    y, prior = operator.measure(x), oracle(MeanReverting(50))
    corrected = replace(sampler, correction=correction)
    gaps = [
        float((method(y, operator, prior, seed=0).samples[0] - x).norm())
        for method in (sampler, corrected)
    ]
    assert gaps[1] < 0.5 * gaps[0]
