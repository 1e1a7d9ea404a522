"""The exact flow of Gaussians, and covariances of low rank."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import F64, close, normal, relative

from wellposed import errors
from wellposed.noise import ItemNoise
from wellposed.operators import Denoising
from wellposed.priors import (
    VE,
    Diagonal,
    Flow,
    Full,
    GaussianMixturePrior,
    GaussianPrior,
    LowRank,
    Skip,
    Tabulated,
    unexplained,
)
from wellposed.priors.sampling import reverse, sample
from wellposed.priors.transition import starting_std
from wellposed.solvers import DDS

pytestmark = pytest.mark.usefixtures("single_thread")

SCHEDULES = {"vp": Tabulated.linear(), "ve": VE(), "flow": Flow()}
SHAPE = (1, 3, 4)


def components(k=3, dtype=F64):
    return torch.linalg.qr(normal(12, k, dtype=dtype, seed=1)).Q.T.reshape(k, *SHAPE)


def low_rank(rest=0.1):
    return LowRank(components(), torch.tensor([2.0, 0.7, 0.3], dtype=F64), rest)


@pytest.mark.parametrize("process", ["vp", "flow"])
def test_the_flow_is_the_recorded_one(process):
    """Recorded with a numerical integration that agrees to 2e-13."""
    with np.load(Path(__file__).parent / "data" / "parity" / "inversion.npz") as file:
        start = f"gaussian_flow/{process}/"
        d = {n[len(start) :]: torch.from_numpy(np.asarray(file[n])) for n in file if start in n}
    alphas, sigmas = zip(d["alpha_sigma_s"].tolist(), d["alpha_sigma_t"].tolist(), strict=True)
    schedule = Tabulated([1.0, *alphas], [0.0, *sigmas])
    x_t, mean = d["x_t"].view(1, *SHAPE), d["mean"].view(1, *SHAPE)
    full = Full(d["V"] @ torch.diag(d["lam"]) @ d["V"].T)
    thin = LowRank(d["V"].T.reshape(-1, *SHAPE), d["lam"])
    for covariance in (full, thin):
        prior = GaussianPrior(mean, covariance, schedule)
        close(prior.flow(x_t, 2, 1).flatten(), d["x_s"], 1e-12)
        close(prior.denoise(x_t, 2).flatten(), d["denoised_t"], 1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_flow_comes_back_and_is_the_limit_of_ddim(name):
    schedule = SCHEDULES[name]
    prior = GaussianPrior(0.3 * normal(1, *SHAPE, seed=2), low_rank(), schedule)
    times = schedule.times(100, "geometric")[:-1].tolist()
    top, bottom = times[0], times[-1]
    alpha, sigma = (float(v) for v in schedule(top))
    x_t = float(np.hypot(alpha, sigma)) * normal(2, *SHAPE, seed=3)
    x_s = prior.flow(x_t, top, bottom)
    close(prior.flow(x_s, bottom, top), x_t, 1e-9 * sigma)
    close(prior.flow(prior.flow(x_t, top, times[30]), times[30], bottom), x_s, 1e-11)
    gaps = []
    for steps in (200, 400):
        run = [*schedule.times(steps, "geometric")[:-1].tolist(), 0.0]
        found = reverse(prior.denoise, prior.flow(x_t, top, run[0]), schedule, run, 0.0, None)
        gaps.append(relative(found, prior.flow(x_t, top, 0.0)))
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)


def test_times_may_be_one_of_each_item():
    prior = GaussianPrior(0.1, low_rank(), SCHEDULES["vp"])
    x = normal(2, *SHAPE, seed=3)
    both = prior.flow(x, torch.tensor([900.0, 500.0]), torch.tensor([100.0, 700.0]))
    close(both, torch.cat([prior.flow(x[:1], 900, 100), prior.flow(x[1:], 500, 700)]))


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_low_rank_is_its_dense_matrix(dtype):
    U = components(dtype=dtype)
    values = torch.tensor([2.0, 0.7, 0.3], dtype=F64)
    covariance = LowRank(U, values, 0.1)
    flat = U.flatten(1)
    rest = torch.eye(12, dtype=dtype) - flat.T @ flat.conj()
    dense = flat.T @ torch.diag(values).to(dtype) @ flat.conj() + 0.1 * rest
    x = normal(2, *SHAPE, dtype=dtype, seed=4)
    close((covariance @ x).flatten(1), x.flatten(1) @ dense.T)
    full = Full(dense)
    per_item = torch.tensor([1.0, 3.0], dtype=F64).view(2, 1, 1, 1)
    for function in (torch.sqrt, lambda c: per_item * c / (c + per_item)):
        close(covariance.spectral(x, function), full.spectral(x, function))


def test_directions_without_variance_stay():
    prior = GaussianPrior(0.0, low_rank(rest=0.0), VE())
    x = normal(1, *SHAPE, seed=5)
    off = x - prior.covariance.spectral(x, lambda c: (c > 0).to(c.dtype))
    close(prior.flow(off, 2.0, 1.0), off / 2)
    close(prior.flow(off, 2.0, 0.0), 0 * off)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": torch.tensor([1.0, 1.0])}, "components: got"),
        ({"values": torch.tensor([1.0, -1.0, 1.0])}, "values: got 'values < 0'"),
        ({"components": 2 * components()}, "components: got 'ones that are 3 from orth"),
        ({"rest": -1.0}, "rest: got -1.0"),
    ],
)
def test_bad_low_rank_is_named(change, message):
    good = {"components": components(), "values": torch.ones(3), "rest": 0.0}
    with pytest.raises(errors.ArgumentError, match=message):
        LowRank(**good | change)


def test_a_number_of_variance_is_diagonal():
    x = normal(1, *SHAPE, seed=6)
    priors = (
        GaussianPrior(0.0, c, VE())
        for c in (0.1, Diagonal(0.1), LowRank(components(), 0.1 * torch.ones(3, dtype=F64), 0.1))
    )
    first, *others = (prior.flow(x, 3.0, 0.2) for prior in priors)
    for other in others:
        close(other, first)


# Moments and skipped steps


def dense(covariance, size=12):
    basis = torch.eye(size, dtype=F64).reshape(size, *SHAPE)
    return (covariance @ basis).flatten(1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_denoiser_tells_its_moments(name):
    """Exactly, for a Gaussian, at any level."""
    mean = 0.3 * normal(1, *SHAPE, seed=2)
    for ratio in (0.3, 5.0):
        prior = GaussianPrior(mean, low_rank(), SCHEDULES[name])
        found = GaussianPrior.fit(prior, 3, image_size=SHAPE, ratio=ratio)
        close(found.mean, mean, 1e-9)
        close(found.covariance.values, low_rank().values, 1e-9)
        close(dense(found.covariance), dense(low_rank()), 1e-9)
        assert found.schedule is prior.schedule


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_moments_of_images(dtype):
    prior = GaussianPrior(0.2, low_rank(), VE(), dtype.is_complex)
    images = prior.draw(normal(4000, *SHAPE, dtype=dtype, seed=7))
    found = GaussianPrior.fit(images, 3)
    torch.testing.assert_close(
        dense(found.covariance).to(dtype), dense(low_rank()).to(dtype), atol=0.12, rtol=0
    )
    all_ = GaussianPrior.fit(images)
    flat = (images - images.mean(0)).flatten(1)
    sample = flat.T @ flat.conj() / (len(flat) - 1) / (2 if dtype.is_complex else 1)
    close((all_.covariance @ images[:2]).flatten(1), images[:2].flatten(1) @ sample.T)
    few = GaussianPrior.fit(images[:5])
    assert few.covariance.values.shape == (4,)
    assert few.covariance.rest == pytest.approx(0, abs=1e-12)


def test_a_gaussian_takes_units_range_and_schedule_of_a_prior():
    owner = GaussianPrior(0.0, 1.0, VE()).with_range(0.0, 4.0)
    images = 2 + normal(50, *SHAPE)
    found = GaussianPrior.fit(images, prior=owner)
    assert found.data_range == (0.0, 4.0)
    assert found.schedule is owner.schedule
    close(found.to_public(found.mean)[0], images.mean(0))


def test_what_is_no_denoiser_is_named():
    class Sharpening(GaussianPrior):
        def denoise(self, x_t, t, condition=None):
            return 1.5 * x_t

    with pytest.warns(UserWarning, match="has eigenvalues up to 1.5, those of a denoiser"):
        GaussianPrior.fit(Sharpening(0.0, 1.0, VE()), 2, image_size=SHAPE)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_skip_of_a_gaussian_is_its_exact_flow(name):
    """Sampling it with any skip is the flow without steps, and then DDIM."""
    schedule = SCHEDULES[name]
    prior = GaussianPrior(0.3, low_rank(), schedule)
    prior.channels = 1
    skip = Skip(prior, 2.0)
    calls = []
    plain = prior.denoise
    prior.denoise = lambda x, t, c=None: (calls.append(t), plain(x, t))[1]
    run = schedule.times(30, "karras").tolist()
    found = sample(prior, 2, (3, 4), steps=30, skip=skip).double()
    kept = skip.times(schedule, run)
    assert calls == kept[:-1]
    x_T = starting_std(schedule, run[0]) * ItemNoise(0, [(0,), (1,)]).draw(torch.zeros(2, *SHAPE))
    x = prior.flow(x_T.double(), run[0], kept[0])
    torch.testing.assert_close(
        found, reverse(plain, x, schedule, kept, 0.0, None), atol=1e-5, rtol=0
    )
    exact = prior.flow(x_T.double(), run[0], 0.0)
    gaps = [
        relative(sample(prior, 2, (3, 4), steps=30, skip=s).double(), exact) for s in (skip, None)
    ]
    assert gaps[0] < gaps[1]


def test_the_level_of_a_skip_is_where_the_gaussian_explains_the_prior():
    mixture = GaussianMixturePrior(
        torch.ones(2, dtype=F64),
        torch.stack([0 * normal(*SHAPE), 0 * normal(*SHAPE) + 2]),
        torch.full((2,), 0.3, dtype=F64),
        VE(),
    )
    images = normal(400, *SHAPE) * 0.55 + 2 * (torch.arange(400) % 2).view(-1, 1, 1, 1)
    gaussian = GaussianPrior.fit(images)
    curve = unexplained(mixture, gaussian, images, [50.0, 10.0, 3.0]).mean(1)
    assert curve.tolist() == sorted(curve.tolist())
    loose, strict = (Skip.fit(mixture, images, tolerance, gaussian) for tolerance in (0.1, 0.03))
    assert strict.ratio > loose.ratio
    assert float(unexplained(mixture, gaussian, images, [loose.ratio]).mean()) <= 0.1
    with pytest.raises(errors.ArgumentError, match="tolerance: got 1e-09, accepted: above"):
        Skip.fit(mixture, images, 1e-9, gaussian)


def test_solvers_take_early_steps_without_the_network():
    """Of a Gaussian all estimates are equal, and only those below the level ask the prior."""
    prior, calls = GaussianPrior(0.3, low_rank(), VE()), []
    plain = prior.denoise
    prior.denoise = lambda x, t, c=None: (calls.append(t), plain(x, t))[1]
    y = normal(1, *SHAPE)
    operator = Denoising(SHAPE, 0.5)
    full = DDS(steps=20)(y, operator, prior, seed=0).samples
    before = len(calls)
    applied = Skip(prior, 1.0).applied(prior)
    close(DDS(steps=20)(y, operator, applied, seed=0).samples, full)
    assert 0 < len(calls) - before < 15
    assert max(calls[before:]) <= 1.0
    prior.denoise = plain
    both = applied.denoise(normal(2, *SHAPE), torch.tensor([5.0, 0.5]))
    close(both, plain(normal(2, *SHAPE), torch.tensor([5.0, 0.5])))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: GaussianPrior.fit(normal(1, *SHAPE)), "source: got '1 image'"),
        (lambda p: GaussianPrior.fit(p, image_size=(3, 4)), "image_size: got"),
        (lambda p: GaussianPrior.fit(3), "source: got 3"),
        (lambda p: Skip(p, 0), "ratio: got 0"),
        (lambda p: Skip(3, 1.0), "gaussian: got 3"),
        (lambda p: Skip(p, 1e-9).times(VE(), [2.0, 1.0, 0.0]), "skip: got 1e-09, accepted: at le"),
    ],
)
def test_bad_fits_and_skips_are_named(make, message):
    with pytest.raises(errors.ArgumentError, match=message):
        make(GaussianPrior(0.0, 1.0, VE()))


def test_a_neighbour_is_a_warm_start_for_every_solver():
    """Its estimates above the level lie about it; below, the prior is asked, and called less."""
    prior, truth = GaussianPrior(0.3, low_rank(), VE()), normal(1, *SHAPE)
    neighbour = truth + 0.05 * normal(1, *SHAPE, seed=1)
    skip = Skip.near(neighbour, 0.05, prior)
    assert skip.ratio == pytest.approx(0.1)
    near, times = skip.applied(prior), prior.schedule.times(30, "karras").tolist()[:-1]
    for t in times:
        alpha, sigma = (float(v) for v in prior.schedule(t))
        x_t = alpha * truth + sigma * normal(1, *SHAPE, seed=2)
        above = sigma / alpha > skip.ratio
        wanted = (skip.on(prior.schedule) if above else prior).denoise(x_t, t)
        close(near.denoise(x_t, t), wanted)
    with pytest.raises(errors.ArgumentError, match="spread: got 0"):
        Skip.near(neighbour, 0, prior)
    with pytest.raises(errors.ShapeError, match="image"):
        Skip.near(torch.ones(()), 0.1, prior)
