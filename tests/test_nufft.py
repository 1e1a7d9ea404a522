"""The gridding NUFFT against direct sums, dense matrices and the centred FFT."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from tests import helpers
from tests.helpers import relative
from torch import Tensor

from wellposed.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from wellposed.operators.check import dense_matrix
from wellposed.operators.mri.cartesian import fftc
from wellposed.operators.mri.gridding import Gridding, KaiserBessel
from wellposed.operators.mri.nufft import MAX_IMAGES, NUFFT, ToeplitzNormal

pytestmark = pytest.mark.usefixtures("single_thread")

C64, C128 = torch.complex64, torch.complex128
SIZES = [(9,), (16,), (6, 8), (7, 5), (1, 6), (4, 5, 6)]
random = partial(helpers.random, dtype=C128)


def frequencies(samples: int, size: tuple[int, ...], seed: int = 0) -> Tensor:
    """Return random frequencies in the band, both edges of it among them."""
    k = torch.from_numpy(np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, len(size))))
    k[0], k[1] = 0.5, -0.5
    return k * torch.tensor(size)


def direct_matrix(k: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the transform's matrix (M, prod(size)) from its definition."""
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in size]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, len(size))
    cycles = (k[:, None] * places / torch.tensor(size)).sum(-1)
    return torch.exp(-2j * math.pi * cycles) / math.sqrt(math.prod(size))


# --- kernel and interpolation ---------------------------------------------------------------


@pytest.mark.parametrize(("width", "oversampling"), [(3, 1.25), (6, 2), (8, 1.25), (7, 1.5)])
def test_the_kernels_transform_is_its_integral(width, oversampling):
    kernel = KaiserBessel.matched(width, oversampling)
    u = torch.linspace(-width / 2, width / 2, 40_001, dtype=torch.float64)
    for x in (0.0, 0.1, 0.5 / oversampling):
        expected = torch.trapezoid(kernel(u) * torch.cos(2 * math.pi * x * u), u)
        found = kernel.transform(torch.tensor(x, dtype=torch.float64))
        assert float(found) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)
    assert float(kernel.transform(torch.zeros((), dtype=torch.float64))) == pytest.approx(1)
    assert not kernel(torch.tensor([-width, 0.5 * width + 0.01])).any()


def test_interpolation_and_spreading_are_transposes_and_wrap_around():
    kernels = [KaiserBessel.matched(4, 2.0), KaiserBessel.matched(5, 2.0)]
    cells = torch.tensor([[0.2, 3.3], [7.9, -0.4], [-3.1, 4.4], [5.1, 9.99]], dtype=torch.float64)
    gridding = Gridding(cells, (8, 10), kernels)
    A = gridding.interpolate(torch.eye(80, dtype=torch.float64))
    assert torch.equal(gridding.spread(torch.eye(4, dtype=torch.float64)), A.T)
    around = Gridding(cells + torch.tensor([8.0, -10.0]), (8, 10), kernels)
    # Equal but for the rounding of the shifted positions.
    torch.testing.assert_close(around.interpolate(torch.eye(80, dtype=torch.float64)), A)
    weights = [
        kernel(cells[:, a, None] - torch.arange(-20.0, 20.0, dtype=torch.float64))
        * torch.tensor([1.0, -1.0]).repeat(20)
        for a, kernel in enumerate(kernels)
    ]
    rows, columns = (
        torch.stack([w[:, (torch.arange(40) - 20) % n == i].sum(1) for i in range(n)], 1)
        for w, n in zip(weights, (8, 10), strict=True)
    )
    expected = (rows[:, :, None] * columns[:, None]).flatten(1)
    torch.testing.assert_close(A, expected, rtol=1e-6, atol=1e-7)


# --- accuracy -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_transform_is_the_direct_sum(size):
    k = frequencies(30, size)
    F, D = NUFFT(k, size, width=8, oversampling=2), direct_matrix(k, size)
    assert relative(dense_matrix(F, size, C128), D) < 5e-7
    assert relative(dense_matrix(NUFFT(k, size), size, C128), D) < 1.2e-5


@pytest.mark.parametrize(
    ("oversampling", "width", "error"),
    [(1.25, 4, 7e-3), (1.25, 8, 2e-5), (1.5, 5, 3e-4), (1.5, 7, 8e-6), (2, 6, 7e-6), (2, 8, 2e-7)],
)
def test_errors_are_those_the_docstring_names(oversampling, width, error):
    size, k = (48, 40), frequencies(300, (48, 40))
    x = random(1, *size)
    exact = x.flatten(1) @ direct_matrix(k, size).T
    F = NUFFT(k, size, width, oversampling)
    for dtype in (C64, C128):
        found = relative(F(x.to(dtype)).to(C128), exact)
        assert error / 3 < found < 1.5 * error


@pytest.mark.parametrize("size", SIZES)
def test_whole_frequencies_are_those_of_the_centred_fft(size):
    k = torch.stack(
        torch.meshgrid(*[torch.arange(n) - n // 2 for n in size], indexing="ij"), -1
    ).double()
    x = random(2, *size)
    F = NUFFT(k, size, width=8, oversampling=2)
    expected = fftc(x, tuple(range(-len(size), 0)))
    assert relative(F(x), expected.flatten(1)) < 1e-6
    assert relative(F.adjoint(expected.flatten(1)), x) < 1e-6


# --- properties -----------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(C64, 2e-6), (C128, 4e-15)])
@pytest.mark.parametrize("size", SIZES)
def test_the_adjoint_is_exact_for_each_element(size, dtype, tolerance):
    F = NUFFT(frequencies(20, size), size)
    A = dense_matrix(F, size, dtype)
    adjoint = dense_matrix(F.adjoint, (20,), dtype)
    assert A.dtype == adjoint.dtype == dtype
    assert (adjoint - A.mH).abs().max() < tolerance * A.abs().max()


def test_any_number_of_images_in_any_shape_gives_the_same_as_one():
    size, count = (6, 7), 2 * MAX_IMAGES + 2
    F = NUFFT(frequencies(15, size), size)
    x, y = random(3, count // 3, *size), random(3, count // 3, 15)
    assert F(x).shape == (3, count // 3, 15)
    for i in range(3):
        for j in range(count // 3):
            torch.testing.assert_close(F(x)[i, j], F(x[i, j]), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(F.adjoint(y)[i, j], F.adjoint(y[i, j]))


@pytest.mark.slow
def test_gradients_are_those_of_the_linear_map():
    size = (4, 5)
    F = NUFFT(frequencies(9, size), size, width=4)
    x, y = (random(2, *s).requires_grad_() for s in (size, (9,)))
    torch.autograd.gradcheck(F, (x,), check_forward_ad=True, check_batched_grad=False)
    torch.autograd.gradcheck(F.adjoint, (y,), check_forward_ad=True)
    torch.autograd.gradgradcheck(F, (x,))


@pytest.mark.parametrize("size", SIZES)
def test_the_toeplitz_form_is_the_normal_operator(size):
    k = frequencies(40, size, seed=3)
    normal = ToeplitzNormal(NUFFT(k, size, width=8, oversampling=2))
    T, D = dense_matrix(normal, size, C128), direct_matrix(k, size)
    assert relative(T, D.mH @ D) < 1e-6
    assert (T - T.mH).abs().max() < 1e-14 * T.abs().max()
    x = random(2, MAX_IMAGES, *size, dtype=C64)
    expected = x.flatten(2) @ (D.mH @ D).T.to(C64)
    assert normal(x).dtype == C64
    assert relative(normal(x).flatten(2), expected) < 1e-6


def test_every_device_gives_the_same(device):
    size = (12, 9)
    F = NUFFT(frequencies(50, size), size)
    x, y = random(10, *size, dtype=C64), random(10, 50, dtype=C64)
    here, there = (F(x), F.adjoint(y)), F.to(device)
    for a, b in zip(here, (there(x.to(device)), there.adjoint(y.to(device))), strict=True):
        torch.testing.assert_close(b.cpu(), a)


# --- bad arguments --------------------------------------------------------------------------


def spoilt(value: float) -> Tensor:
    k = frequencies(5, (6, 8))
    k[2, 1] = value
    return k


def test_bad_arguments_are_refused():
    for changes, error, match in (
        ({"trajectory": spoilt(math.nan)}, NonFiniteError, "trajectory: 1 of 10"),
        ({"trajectory": spoilt(4.01)}, ArgumentError, "got '4.01 cycles.* axis 1.*at most 4"),
        ({"trajectory": spoilt(-4.01)}, ArgumentError, "trajectory: got '4.01"),
        ({"trajectory": frequencies(5, (6, 8, 4))}, ShapeError, r"got shape \(5, 3\).*\(..., 2\)"),
        ({"trajectory": torch.zeros(2)}, ShapeError, "trajectory"),
        ({"trajectory": torch.zeros(0, 2)}, ArgumentError, "trajectory: is empty"),
        ({"trajectory": torch.zeros(5, 2, dtype=torch.int64)}, DtypeError, "got torch.int64"),
        ({"trajectory": torch.zeros(5, 2, dtype=C64)}, DtypeError, "trajectory"),
        ({"trajectory": [[0.0, 1.0]]}, DtypeError, "trajectory: got list"),
        ({"image_size": (6, 0)}, ArgumentError, "image_size: got 0"),
        ({"image_size": (6, 8.0)}, ArgumentError, "image_size"),
        ({"image_size": 6}, ArgumentError, "image_size"),
        ({"image_size": (6, 8, 3, 2)}, ArgumentError, "one to three"),
        ({"width": 2}, ArgumentError, "width: got 2"),
        ({"width": 6.0}, ArgumentError, "width: got 6.0"),
        ({"width": 17}, ArgumentError, "width"),
        ({"oversampling": 1.2}, ArgumentError, "oversampling: got 1.2"),
        ({"oversampling": math.nan}, ArgumentError, "oversampling"),
    ):
        good = {"trajectory": frequencies(5, (6, 8)), "image_size": (6, 8)}
        NUFFT(**good)
        with pytest.raises(error, match=match):
            NUFFT(**good | changes)


IMAGES, SAMPLES = random(2, 6, 8), random(2, 5)


@pytest.mark.parametrize("make", [lambda F: F.forward, ToeplitzNormal, lambda F: F.adjoint])
def test_values_that_do_not_fit_are_refused(make):
    apply = make(NUFFT(frequencies(5, (6, 8)), (6, 8)))
    adjoint = getattr(apply, "__name__", "") == "adjoint"
    good, name = (SAMPLES, "samples") if adjoint else (IMAGES, "images")
    torch.testing.assert_close(apply(good)[0], apply(good[0]))  # no batch is one too
    for bad in (good[..., :-1], torch.cat([good, good], -1), good[:0], good[0, ..., 0]):
        with pytest.raises(ShapeError, match=rf"{name}: got shape .*accepted: \(\.\.\., "):
            apply(bad)
    for bad in (good.real, good.numpy(), None):
        with pytest.raises(DtypeError, match=f"{name}: got .*, accepted: a complex tensor"):
            apply(bad)


def test_larger_images_are_no_images_of_a_toeplitz_operator():
    """They would fit into its grid of twice the sides, and come out cut."""
    normal = ToeplitzNormal(NUFFT(frequencies(5, (6, 8)), (6, 8)))
    with pytest.raises(ShapeError, match=r"images: got shape \(10, 8\), accepted: \(..., 6, 8\)"):
        normal(random(10, 8))


def test_the_edge_of_the_band_may_be_rounded():
    k = spoilt(4 * (1 + 1e-7))
    size = (6, 8)
    assert relative(dense_matrix(NUFFT(k, size), size, C128), direct_matrix(k, size)) < 1.2e-5
