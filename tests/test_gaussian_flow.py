"""The exact flow of Gaussians, and covariances of low rank."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import F64, close, normal, relative

from wellposed import errors
from wellposed.priors import VE, Diagonal, Flow, Full, GaussianPrior, LowRank, Tabulated
from wellposed.priors.sampling import reverse

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
