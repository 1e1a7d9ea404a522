"""Degradations of photographs: kernels, and the pipeline of random ones."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from wellposed import errors
from wellposed.datasets.images import degradations
from wellposed.datasets.images.degradations import (
    FIRST,
    SECOND,
    RealWorld,
    generalised_gaussian,
    random_kernel,
    sinc_kernel,
)

pytestmark = pytest.mark.usefixtures("single_thread")


def stream(seed):
    return np.random.default_rng(seed)


def picture(channels=3, height=32, width=48, seed=0):
    """A smooth picture with an edge, in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    waves = [0.5 + 0.3 * torch.sin(0.1 * (c + 1) * x + 0.07 * y + seed) for c in range(channels)]
    return (torch.stack(waves) + 0.15 * (x > 20)).clamp(0, 1).float()


# Kernels


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2, -2.0])
@pytest.mark.parametrize("widths", [(1.5, 1.5), (2.0, 0.8)])
def test_a_gaussian_kernel_has_its_covariance(widths, angle):
    kernel = generalised_gaussian(31, widths, angle)
    x = torch.arange(31, dtype=torch.float64) - 15
    mean = [float((kernel * v).sum()) for v in (x, x[:, None])]
    covariance = [float((kernel * v).sum()) for v in (x**2, x * x[:, None], x[:, None] ** 2)]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    expected = turn @ np.diag(np.square(widths)) @ turn.T
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    assert mean == pytest.approx([0, 0], abs=1e-9)
    assert covariance == pytest.approx([expected[0, 0], expected[0, 1], expected[1, 1]], rel=2e-3)


@pytest.mark.parametrize("plateau", [False, True])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_generalised_kernels_follow_their_formula(beta, plateau):
    angle, (wide, narrow) = 0.7, (2.5, 1.2)
    kernel = generalised_gaussian(9, (wide, narrow), angle, beta, plateau)
    covariance = np.diag([wide**2, narrow**2])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(turn @ covariance @ turn.T)
    values = np.zeros((9, 9))
    for row, column in np.ndindex(9, 9):
        place = np.array([column - 4, row - 4])
        power = (place @ inverse @ place) ** beta
        values[row, column] = 1 / (1 + power) if plateau else math.exp(-0.5 * power)
    np.testing.assert_allclose(kernel, values / values.sum(), atol=1e-14)


@pytest.mark.parametrize("cutoff", [1.2, 2.0, math.pi])
def test_a_sinc_kernel_passes_its_disc_and_no_more(cutoff):
    """Its transform, of a large one, is about 1 inside the radius and about 0 outside."""
    size = 301
    kernel = sinc_kernel(size, cutoff)
    spectrum = np.abs(np.fft.fft2(kernel))
    frequency = 2 * np.pi * np.fft.fftfreq(size)
    radius = np.hypot(frequency, frequency[:, None])
    assert np.abs(spectrum[radius < 0.8 * cutoff] - 1).max() < 0.1
    assert spectrum[radius > 1.2 * cutoff].max() < 0.1
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    assert torch.equal(kernel, kernel.flip(0, 1))
    assert float(kernel.min()) < 0  # which is why it rings


@pytest.mark.parametrize("order", [FIRST, SECOND])
def test_random_kernels_keep_the_brightness_and_are_of_all_kinds(order):
    kernels = [random_kernel(order, stream(n)) for n in range(400)]
    assert {len(kernel) for kernel in kernels} == {7, 9, 11, 13, 15, 17, 19, 21}
    assert all(float(kernel.sum()) == pytest.approx(1, abs=1e-12) for kernel in kernels)
    ringing = sum(float(kernel.min()) < 0 for kernel in kernels)
    isotropic = sum(torch.allclose(k, k.T, atol=1e-12) for k in kernels)
    assert ringing / 400 == pytest.approx(0.1, abs=0.045)  # three deviations of a fraction
    # 10 % are rings, all isotropic; of the others .45 + .12 + .12 of 1.
    assert isotropic / 400 == pytest.approx(0.1 + 0.9 * 0.69, abs=0.07)


def test_shapes_are_in_the_published_ranges(monkeypatch):
    """Generalised Gaussians from .5 to 4, plateaus from 1 to 2, where half of them are 1."""
    seen = {False: [], True: []}

    def noted(size, widths, angle, beta=1.0, plateau=False):
        seen[plateau].append(beta)
        return generalised_gaussian(size, widths, angle, beta, plateau)

    monkeypatch.setattr(degradations, "generalised_gaussian", noted)
    for n in range(2000):
        random_kernel(FIRST, stream(n))
    shaped = np.array([beta for beta in seen[False] if beta != 1])
    assert 0.5 <= shaped.min() < 0.6 and 3.9 < shaped.max() <= 4
    assert np.mean(shaped < 1) == pytest.approx(0.5, abs=0.1)
    plateaus = np.array(seen[True])
    assert plateaus.min() == 1 and 1.9 < plateaus.max() <= 2
    assert np.mean(plateaus == 1) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generalised_gaussian(8, (1, 1)), "size: got 8, accepted: an odd number"),
        (lambda: generalised_gaussian(7.5, (1, 1)), "size: got 7.5"),
        (lambda: generalised_gaussian(7, (0, 1)), "widths: got 0"),
        (lambda: generalised_gaussian(7, (1, math.nan)), "widths: got"),
        (lambda: generalised_gaussian(7, (1, 1), beta=-1), "beta: got -1"),
        (lambda: sinc_kernel(6, 1.0), "size: got 6"),
        (lambda: sinc_kernel(7, 0.0), r"cutoff: got 0\.0"),
        (lambda: sinc_kernel(7, 3.5), r"cutoff: got 3\.5"),
        (lambda: RealWorld(0), "factor: got 0"),
        (lambda: RealWorld(2.5), "factor: got 2.5"),
    ],
)
def test_impossible_kernels_and_factors_are_named(call, message):
    with pytest.raises(errors.ArgumentError, match=message):
        call()


# Steps of the pipeline


def test_filtering_is_convolution_with_the_border_repeated():
    image, kernel = picture(2, 12, 15), torch.from_numpy(stream(1).random((5, 5)))
    ours = degradations._filtered(image, kernel)
    for channel, plane in zip(ours, image, strict=True):
        expected = convolve(plane.numpy().astype(float), kernel.flip(0, 1).numpy(), mode="nearest")
        np.testing.assert_allclose(channel, expected, atol=1e-5)


def test_noise_has_its_size_and_is_of_grey_or_colours():
    flat = torch.full((3, 64, 64), 0.5)
    kinds, spreads = set(), []
    for seed in range(200):
        noise = degradations._noisy(flat, FIRST, stream(seed)) - flat
        kinds.add(bool((noise[0] == noise[1]).all()))
        spreads.append(float(noise[0].std()))
        assert abs(float(noise.mean())) < 0.02
    assert kinds == {True, False}
    # Gaussian: 1 to 30 of 255. Poisson: .05 to 3 sqrt(.5 / 255), a part of which is clipped.
    assert 0.9 * 0.05 * math.sqrt(0.5 / 255) < min(spreads)
    assert max(spreads) < 1.1 * 3 * math.sqrt(0.5 / 255)
    assert np.median(spreads) > 5 / 255


def test_poisson_noise_grows_with_the_brightness():
    dark, bright = torch.full((1, 64, 64), 0.05), torch.full((1, 64, 64), 0.6)
    ratios = []
    for seed in range(60):
        pair = [degradations._noisy(v, SECOND, stream(seed)).std() for v in (dark, bright)]
        ratios.append(float(pair[1] / pair[0]))
    poisson = [ratio for ratio in ratios if ratio > 1.5]
    assert 0.3 < len(poisson) / 60 < 0.7  # the others are Gaussian, as large in both
    assert max(poisson) == pytest.approx(math.sqrt(0.6 / 0.05), rel=0.15)


# The pipeline


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_become_smaller_and_worse(factor, channels):
    clean = picture(channels)
    before = clean.clone()
    small = torch.nn.functional.interpolate(
        clean[None], (32 // factor, 48 // factor), mode="area"
    )[0]
    errors_ = []
    for seed in range(12):
        degraded = RealWorld(factor)(clean, stream(seed))
        assert degraded.shape == small.shape
        assert degraded.dtype == torch.float32
        assert bool(((degraded >= 0) & (degraded <= 1)).all())
        errors_.append(float((degraded - small).square().mean().sqrt()))
    assert min(errors_) > 0.005
    assert max(errors_) < 0.35  # it is still that picture
    assert torch.equal(clean, before)


def test_the_generator_decides_everything():
    clean, before = picture(), (torch.get_rng_state(), np.random.get_state()[1].copy())  # noqa: NPY002
    first, again, other = (RealWorld()(clean, stream(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("shape", [(3, 32), (2, 32, 32), (3, 30, 32), (1, 3, 32, 32)])
def test_images_that_cannot_be_degraded_are_named(shape):
    with pytest.raises(errors.ShapeError, match=r"clean: got \(.*\), accepted: \(1 or 3, H, W\)"):
        RealWorld(4)(torch.zeros(shape), stream(0))
