"""Codes as the start of solvers."""

import pytest
import torch
from tests.helpers import F64, close, normal, relative

from wellposed import errors
from wellposed.inversion import BDIA
from wellposed.operators import Denoising, Inpainting
from wellposed.priors import VE, GaussianPrior, Stationary, Tabulated
from wellposed.priors.sampling import reverse
from wellposed.solvers import DDS

pytestmark = pytest.mark.usefixtures("single_thread")

SHAPE = (1, 8, 8)


def smooth(schedule=None):
    distance = torch.fft.fftfreq(8, dtype=F64)[:, None].hypot(torch.fft.fftfreq(8, dtype=F64))
    return GaussianPrior(0.1, Stationary(2 / (1 + 40 * distance**2) ** 2), schedule or VE())


def test_a_solver_starts_from_the_code():
    prior, image = smooth(), normal(2, *SHAPE)
    code = BDIA(steps=40).encode(image, prior)
    first = code.noise(seed=3).draw(torch.zeros(2, *SHAPE, dtype=F64))
    close(first * code.std, code.x_T)
    # Hardly anything is measured: DDIM from the code.
    operator = Denoising(SHAPE, 1e6)
    with pytest.warns(UserWarning, match="noise_sigma"):
        found = DDS(steps=40, spacing="karras", eta=0.0)(
            torch.ones(2, *SHAPE, dtype=F64), operator, prior, noise=code.noise()
        ).samples[0]
    times = prior.schedule.times(40, "karras").tolist()
    expected = reverse(prior.denoise, code.x_T, prior.schedule, times, 0.0, None)
    close(found, expected, 1e-8)


def test_what_follows_the_first_draw_is_the_solvers_own_stream():
    prior, y = smooth(Tabulated.linear()), normal(2, *SHAPE)
    code = BDIA(steps=10).encode(y, prior)
    operator, solver = Denoising(SHAPE, 0.3), DDS(steps=10, eta=0.8)
    plain = solver(y, operator, prior, seed=5).samples
    close(solver(y, operator, prior, noise=code.noise(5, mix=1.0)).samples, plain)
    half = code.noise(5, mix=0.5)
    zero = torch.zeros(2, *SHAPE, dtype=F64)
    mixed, second = half.draw(zero), half.draw(zero)
    fresh = code.noise(5, mix=1.0)
    close(mixed, 0.75**0.5 * code.x_T / code.std + 0.5 * fresh.draw(zero))
    assert half.position == 2
    half.position = 1
    close(half.draw(zero), second)


def test_an_inverted_start_has_no_spread():
    """The measured warning of `Code.noise`, on an exact Gaussian."""
    prior, truth = smooth(), smooth().draw(normal(1, *SHAPE, seed=4))
    mask = (normal(8, 8, seed=5) > 0).to(F64)
    operator = Inpainting(mask[None], noise_sigma=0.1)
    y = operator.A(truth) + 0.1 * mask * normal(1, *SHAPE, seed=6)
    code = BDIA(steps=30).encode(operator.A_dagger(y), prior)
    mean = prior.posterior(y, operator).mean
    solver = DDS(steps=30, eta=0.0)
    starts = [solver(y, operator, prior, noise=code.noise(seed)).samples for seed in (0, 1)]
    assert torch.equal(*starts)
    fresh = solver(y, operator, prior, seed=0, num_samples=50)
    assert relative(starts[0][0], mean) > relative(fresh.mean, mean)
    assert float(fresh.std.mean()) > 0.05


def test_a_code_fits_the_images():
    prior = smooth()
    code = BDIA(steps=5).encode(normal(1, *SHAPE), prior)
    with pytest.raises(
        errors.ShapeError, match=r"noise: a code of shape \(1, 1, 8, 8\), accepted"
    ):
        code.noise().draw(torch.zeros(1, 1, 4, 4))
    with pytest.raises(errors.ArgumentError, match="mix: got 2"):
        code.noise(mix=2)
    with pytest.raises(errors.ArgumentError, match="seed: got -1"):
        code.noise(seed=-1)
