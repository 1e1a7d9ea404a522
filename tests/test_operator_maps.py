"""Image and MRI operators against reference libraries and formulas; simulated measurements."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.ndimage
import torch
from tests.helpers import kind, maps, mask, random, relative
from torch.nn import functional

from wellposed import errors
from wellposed.operators.check import dense_matrix
from wellposed.operators.image.blur import Blur
from wellposed.operators.image.inpainting import Inpainting, box_mask, random_mask
from wellposed.operators.image.kernels import gaussian_kernel, motion_kernel
from wellposed.operators.image.super_resolution import (
    SuperResolution,
    average_matrix,
    bicubic_matrix,
)
from wellposed.operators.mri.cartesian import MultiCoilMRI, SingleCoilMRI, fft2c, ifft2c

pytestmark = pytest.mark.usefixtures("single_thread")

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128


LINES = torch.tensor([1.0, 0, 1, 1, 0, 0, 1])
KERNEL = torch.tensor([[0.1, 0.5, 0.0, 0.2], [0.3, 0.0, 0.4, 0.1], [0.0, 0.2, 0.0, 0.05]])


def test_later_changes_of_masks_maps_and_kernels_do_not_matter():
    given = {"mask": mask(3, 5, 5), "lines": mask(5, 6), "maps": maps(2, 5, 6), "kernel": KERNEL}
    given = {name: value.clone() for name, value in given.items()}
    ops = [
        Inpainting(given["mask"]),
        MultiCoilMRI(given["lines"], given["maps"]),
        SingleCoilMRI(given["lines"]),
        Blur(given["kernel"], (1, 5, 5)),
    ]
    images = [random(1, *op.img_size, dtype=kind(op, F32)) for op in ops]
    before = [op.A(x) for op, x in zip(ops, images, strict=True)]
    for value in given.values():
        value.fill_(0.5)
    for op, x, y in zip(ops, images, before, strict=True):
        assert torch.equal(op.A(x), y)


# --- pseudo-inverses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op",
    [
        pytest.param(partial(SuperResolution, (1, 8, 12), 4), id="bicubic"),
        pytest.param(partial(SuperResolution, (2, 9, 6), 3), id="bicubic, odd"),
        pytest.param(partial(SuperResolution, (1, 6, 8), 2, "average"), id="average"),
        pytest.param(partial(Inpainting, mask(2, 5, 6)), id="inpainting"),
        pytest.param(partial(SingleCoilMRI, mask(5, 6)), id="single-coil"),
        pytest.param(partial(Blur, gaussian_kernel(0.5, 3), (2, 7, 6)), id="invertible blur"),
        pytest.param(partial(Blur, KERNEL, (1, 6, 7)), id="asymmetric blur"),
        pytest.param(partial(Blur, torch.ones(2, 3), (1, 6, 6)), id="singular blur"),
    ],
)
def test_pseudo_inverses_satisfy_the_moore_penrose_conditions(op):
    op = op()
    dtype = kind(op, F64)
    A = dense_matrix(op.A, op.img_size, dtype)
    P = dense_matrix(op.A_dagger, op.measurement_size, dtype)
    assert relative(A @ P @ A, A) < 1e-11
    assert relative(P @ A @ P, P) < 1e-11
    assert relative((A @ P).mH, A @ P) < 1e-11
    assert relative((P @ A).mH, P @ A) < 1e-11
    assert (
        relative(
            op.A_dagger(random(2, *op.measurement_size, dtype=dtype).to(kind(op, F32))),
            op.A_dagger(random(2, *op.measurement_size, dtype=dtype)),
        )
        < 1e-4
    )


def test_components_under_the_cutoff_are_left_out():
    for cutoff in (0.05, 0.3):
        op = Blur(5 * gaussian_kernel(1.5, 5), (1, 8, 7), cutoff=cutoff)
        A = dense_matrix(op.A, op.img_size, F64)
        P = dense_matrix(op.A_dagger, op.measurement_size, F64)
        assert relative(P, torch.linalg.pinv(A, rtol=cutoff)) < 1e-10
    sharp = Blur(torch.ones(2, 2), (1, 4, 4), cutoff=0.0)
    assert sharp.A_dagger(random(1, 1, 4, 4)).isfinite().all()


def test_the_pseudo_inverse_by_conjugate_gradients():
    op = MultiCoilMRI(mask(5, 6, keep=0.7), maps(3, 5, 6))
    A = dense_matrix(op.A, op.img_size, C128)
    y = op.A(random(2, *op.img_size, dtype=C128))
    expected = y.flatten(1) @ torch.linalg.pinv(A).T
    assert relative(op.A_dagger(y).flatten(1), expected) < 1e-3
    full = MultiCoilMRI(torch.ones(5, 6), maps(3, 5, 6))
    x = random(2, *op.img_size, dtype=C64)
    assert relative(full.A_dagger(full.A(x)), x) < 1e-3


# --- inpainting and masks -------------------------------------------------------------------


def test_inpainting_keeps_the_pixels_of_the_mask():
    m = mask(4, 5)
    op, x = Inpainting(m, channels=2), random(3, 2, 4, 5)
    y = op.A(x)
    for c in range(2):
        assert torch.equal(y[:, c][:, m == 1], x[:, c][:, m == 1])
        assert not y[:, c][:, m == 0].any()
    assert torch.equal(op.A(y), y)
    assert torch.equal(op.restrict(x), y)
    assert torch.equal(Inpainting(m.bool(), channels=2).A(x), y)
    assert torch.equal(Inpainting(m.long(), channels=2).A(x), y)


@pytest.mark.parametrize(("size", "keep"), [((7, 9), 0.3), ((5, 4), 1.0), ((6, 6), 1e-6)])
def test_random_masks_keep_the_exact_number(size, keep):
    found = random_mask(*size, keep, seed=1)
    assert found.shape == size
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert int(found.sum()) == max(1, round(keep * size[0] * size[1]))
    assert torch.equal(found, random_mask(*size, keep, seed=1))


def test_random_masks_differ_by_seed_and_cover_all_pixels_alike():
    assert not torch.equal(random_mask(16, 16, 0.5), random_mask(16, 16, 0.5, seed=1))
    count = sum(random_mask(4, 6, 0.25, seed=seed) for seed in range(800))
    expected, deviation = 200, math.sqrt(800 * 0.25 * 0.75)
    assert float((count - expected).abs().max()) < 4.5 * deviation


def test_box_masks_lose_their_box():
    found = box_mask(6, 8, (2, 3), (1, 4))
    assert found.shape == (6, 8)
    assert not found[1:3, 4:7].any()
    assert int(found.sum()) == 48 - 6
    assert not box_mask(6, 8, (2, 4))[2:4, 2:6].any()
    assert torch.equal(box_mask(6, 8, (2, 3), (0, 0))[:2, :3], torch.zeros(2, 3))
    assert torch.equal(box_mask(6, 8, (2, 3), (4, 5))[4:, 5:], torch.zeros(2, 3))


# --- super-resolution -----------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "size"), [(2, (16, 20)), (3, (27, 15)), (4, (24, 32))])
def test_bicubic_is_torchs_antialiased_one_under_a_symmetric_boundary(factor, size):
    """torch renormalises at the border; on an image extended by reflection it does not meet it."""
    op, x = SuperResolution((2, *size), factor), random(1, 2, *size)
    resize = partial(functional.interpolate, mode="bicubic", antialias=True, align_corners=False)
    inside = (..., slice(2, -2), slice(2, -2))
    plain = resize(x, scale_factor=1 / factor)
    torch.testing.assert_close(op.A(x)[inside], plain[inside], rtol=0, atol=1e-6)
    width = 3 * factor
    pairs = ((0, 0), (0, 0), (width, width), (width, width))
    extended = torch.from_numpy(np.pad(x.numpy(), pairs, mode="symmetric"))
    expected = resize(extended, scale_factor=1 / factor)[..., 3:-3, 3:-3]
    torch.testing.assert_close(op.A(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_bicubic_has_the_weights_of_the_cubic_kernel(factor):
    """Keys' kernel with a = -1/2, widened by the factor, at an inner output pixel."""
    row = bicubic_matrix(factor * 9, factor)[4]
    u = np.abs(np.arange(factor * 9) - (4.5 * factor - 0.5)) / factor
    keys = np.where(
        u <= 1,
        1.5 * u**3 - 2.5 * u**2 + 1,
        np.where(u < 2, -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2, 0),
    )
    np.testing.assert_allclose(row.numpy(), keys / keys.sum(), atol=1e-15)


@pytest.mark.parametrize("kernel", ["bicubic", "average"])
@pytest.mark.parametrize(("factor", "size"), [(2, (8, 12)), (3, (9, 21)), (4, (4, 24))])
def test_downsampling_keeps_constants_and_samples_ramps(kernel, factor, size):
    op = SuperResolution((1, *size), factor, kernel)
    one = torch.ones(1, 1, *size, dtype=F64)
    torch.testing.assert_close(op.A(one), torch.ones_like(op.A(one)), rtol=0, atol=1e-14)
    ramp = torch.arange(size[1], dtype=F64).expand(1, 1, *size)
    centres = (torch.arange(size[1] // factor, dtype=F64) + 0.5) * factor - 0.5
    found = op.A(ramp)[..., 2:-2]
    expected = centres[2:-2].expand_as(found)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_average_is_average_pooling(factor):
    op = SuperResolution((2, 30, 60), factor, "average")
    x = random(2, 2, 30, 60)
    torch.testing.assert_close(op.A(x), functional.avg_pool2d(x, factor), rtol=0, atol=1e-14)


def test_super_resolution_mirrors_with_the_image():
    op, x = SuperResolution((1, 12, 8), 4), random(1, 1, 12, 8)
    torch.testing.assert_close(op.A(x.flip(-1, -2)), op.A(x).flip(-1, -2), rtol=0, atol=1e-14)
    for matrix in (bicubic_matrix(8, 8), average_matrix(8, 8)):  # one row, wider than the image
        assert matrix.shape == (1, 8)
        torch.testing.assert_close(matrix.sum(1), torch.ones(1, dtype=F64))


# --- blur -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel",
    [random(3, 5), random(1, 3), random(5, 1), gaussian_kernel(1.0, 5), motion_kernel(7)],
    ids=["asymmetric", "row", "column", "gaussian", "motion"],
)
def test_blur_is_scipys_circular_convolution(kernel):
    op, x = Blur(kernel, (2, 9, 8)), random(1, 2, 9, 8)
    expected = np.stack(
        [scipy.ndimage.convolve(c.numpy(), kernel.numpy(), mode="wrap") for c in x[0]]
    )
    np.testing.assert_allclose(op.A(x)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (2, 2), (6, 7)])
def test_a_blurred_point_is_the_kernel_about_it(shape):
    kernel = random(*shape)
    x = torch.zeros(1, 1, 6, 7, dtype=F64)
    x[0, 0, 4, 2] = 1
    expected = torch.zeros(6, 7, dtype=F64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            expected[(4 + i - shape[0] // 2) % 6, (2 + j - shape[1] // 2) % 7] += kernel[i, j]
    torch.testing.assert_close(Blur(kernel, (1, 6, 7)).A(x)[0, 0], expected, rtol=0, atol=1e-14)


def test_a_kernel_of_one_pixel_is_the_identity():
    x = random(2, 3, 5, 6)
    torch.testing.assert_close(Blur(torch.ones(1, 1), (3, 5, 6)).A(x), x)
    torch.testing.assert_close(Blur(torch.ones(1, 1, 1), (3, 5, 6)).A(x), x)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 8, 10, 15, 61])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_motion_kernels_are_weights_of_sum_one(size, seed):
    kernel = motion_kernel(size, 0.5, seed)
    assert kernel.shape == (size, size)
    assert kernel.dtype == F64
    assert bool((kernel >= 0).all())
    assert abs(float(kernel.sum()) - 1) < 1e-12
    assert torch.equal(kernel, motion_kernel(size, 0.5, seed))
    place = torch.arange(size, dtype=F64)  # the path has its mean at the centre
    assert abs(float(kernel.sum(0) @ place) - size // 2) < 1e-9
    assert abs(float(kernel.sum(1) @ place) - size // 2) < 1e-9
    if size > 2:
        assert not torch.equal(kernel, motion_kernel(size, 0.5, seed + 10))
        assert int((kernel > 0).sum()) >= 3


def test_motion_kernels_stray_more_with_intensity():
    """The path of a weak shake is nearly straight: one singular value of its moments vanishes."""

    def flatness(intensity):
        values = []
        for seed in range(20):
            w = motion_kernel(41, intensity, seed)
            u = torch.stack(torch.meshgrid(*[torch.arange(41, dtype=F64)] * 2, indexing="ij"))
            u = (u - (w * u).sum((1, 2), keepdim=True)).flatten(1)
            low, high = torch.linalg.eigvalsh((w.flatten() * u) @ u.T)
            values.append(float(low / high))
        return np.median(values)

    assert flatness(0.01) < 0.02 < flatness(0.5)


@pytest.mark.parametrize(("sigma", "size"), [(3.0, 61), (0.7, 5), (2.0, 8), (1e-3, 3)])
def test_gaussian_kernels(sigma, size):
    kernel = gaussian_kernel(sigma, size)
    assert kernel.shape == (size, size)
    assert abs(float(kernel.sum()) - 1) < 1e-14
    assert torch.equal(kernel, kernel.T)
    assert kernel.argmax() == size // 2 * (size + 1)
    if size > 10 * sigma > 1:
        u = torch.arange(size, dtype=F64) - size // 2
        variance = (kernel.sum(1) * u**2).sum()
        torch.testing.assert_close(variance, torch.tensor(sigma**2, dtype=F64))


# --- magnetic resonance ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (4, 9), (1, 6)])
def test_the_fourier_transform_is_unitary_and_centred(size):
    x = random(2, *size, dtype=C128)
    k = fft2c(x)
    torch.testing.assert_close(k.norm(), x.norm())
    torch.testing.assert_close(ifft2c(k), x)
    torch.testing.assert_close(fft2c(ifft2c(x)), x)
    point = torch.zeros(size, dtype=C128)
    point[size[0] // 2, size[1] // 2] = 1
    flat = torch.full(size, 1 / math.sqrt(math.prod(size)), dtype=C128)
    torch.testing.assert_close(fft2c(point), flat)
    torch.testing.assert_close(fft2c(flat), point, rtol=0, atol=1e-14)


def fourier_matrix(n):
    u = np.arange(n) - n // 2
    return np.exp(-2j * np.pi * np.outer(u, u) / n) / np.sqrt(n)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (4, 5)])
def test_multi_coil_equals_the_formula(size):
    m, s = mask(*size), maps(3, *size).to(C128)
    op, x = MultiCoilMRI(m, s), random(2, 1, *size, dtype=C128)
    F, G = (fourier_matrix(n) for n in size)
    expected = m.numpy() * np.einsum("ij,bcjk,lk->bcil", F, (s * x).numpy(), G)
    np.testing.assert_allclose(op.A(x).numpy(), expected, atol=1e-13)
    y = random(2, 3, *size, dtype=C128)
    images = np.einsum("ji,bcjk,kl->bcil", F.conj(), (m * y).numpy(), G.conj())
    expected = (s.numpy().conj() * images).sum(1, keepdims=True)
    np.testing.assert_allclose(op.A_adjoint(y).numpy(), expected, atol=1e-13)


def test_line_masks_are_spread_over_the_rows():
    s, x = maps(2, 6, 7), random(1, 1, 6, 7, dtype=C64)
    full = MultiCoilMRI(LINES.expand(6, 7), s).A(x)
    for lines in (LINES, LINES[None], LINES.bool(), LINES[None, None]):
        assert torch.equal(MultiCoilMRI(lines, s).A(x), full)


def test_line_masks_take_one_dimensional_transforms():
    """Which is where their speed comes from; the sums of the matrix test cannot see it."""
    s = maps(2, 7, 7)
    assert MultiCoilMRI(LINES, s)._axes == (-1,)
    assert MultiCoilMRI(LINES[:, None].expand(7, 7), s)._axes == (-2,)
    assert MultiCoilMRI(mask(7, 7), s)._axes == (-2, -1)
    mixed = torch.stack([LINES.expand(7, 7), LINES[:, None].expand(7, 7)])
    assert MultiCoilMRI(mixed, s)._axes == (-2, -1)


def test_restrict_zeroes_what_is_not_measured():
    op = MultiCoilMRI(mask(3, 5, 6), maps(3, 2, 5, 6))
    y = random(3, *op.measurement_size, dtype=C64)
    kept = mask(3, 5, 6)[:, None].expand_as(y) == 1
    assert torch.equal(op.restrict(y)[kept], y[kept])
    assert not op.restrict(y)[~kept].any()
    assert torch.equal(op.A_adjoint(op.restrict(y)), op.A_adjoint(y))


def test_single_coil_is_multi_coil_with_maps_of_one():
    m, x = mask(6, 5), random(2, 1, 6, 5, dtype=C64)
    multi = MultiCoilMRI(m, torch.ones(1, 6, 5, dtype=C64))
    assert torch.equal(SingleCoilMRI(m).A(x), multi.A(x))
    torch.testing.assert_close(SingleCoilMRI(m).A(x), m * fft2c(x))


def test_root_sum_of_squares():
    op = MultiCoilMRI(torch.ones(4, 5), maps(2, 4, 5))
    x = random(2, *op.img_size, dtype=C64)
    rss = op.coil_combined_rss(op.A(x))
    expected = (op.sensitivity_maps * x).abs().square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(rss, expected)
    with pytest.raises(errors.ShapeError, match="y"):
        op.coil_combined_rss(op.A(x)[:, :1])


# --- simulated measurements -----------------------------------------------------------------


NOISY = {
    "inpainting": lambda s: Inpainting(mask(3, 40, 50), noise_sigma=s),
    "super-resolution": lambda s: SuperResolution((3, 80, 60), 2, noise_sigma=s),
    "blur": lambda s: Blur(KERNEL, (3, 40, 40), s),
    "multi-coil": lambda s: MultiCoilMRI(mask(40, 30), maps(4, 40, 30), s),
    "single-coil": lambda s: SingleCoilMRI(mask(70, 60), s),
}


def parts(value):
    return [value.real, value.imag] if value.is_complex() else [value]


@pytest.mark.parametrize("how", ["measure", "deepinv"])
@pytest.mark.parametrize("name", NOISY)
def test_noise_has_its_level_in_each_part_and_only_where_measured(name, how):
    op = NOISY[name](0.3)
    x = random(1, *op.img_size, dtype=kind(op, F32))
    noise = (op.measure(x) if how == "measure" else op(x)) - op.A(x)
    measured = op.restrict(torch.ones_like(noise)) != 0
    assert not noise[~measured].any()
    for part in parts(noise[measured]):
        n = part.numel()
        assert n > 1000
        assert abs(float(part.std()) / 0.3 - 1) < 4 / math.sqrt(2 * n)
        assert abs(float(part.mean())) < 4 * 0.3 / math.sqrt(n)
    if noise.is_complex():
        real, imag = parts(noise[measured])
        assert abs(float((real * imag).mean())) < 4 * 0.09 / math.sqrt(len(real))


@pytest.mark.parametrize("name", NOISY)
def test_measurements_are_a_function_of_seed_and_item(name):
    op = NOISY[name](0.1)
    x = random(3, *op.img_size, dtype=kind(op, F32))
    state = torch.get_rng_state()
    y = op.measure(x, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(y, op.measure(x, seed=7))
    noise, other = y - op.A(x), op.measure(x, seed=8) - op.A(x)
    zero = op.measure(x) - op.A(x)
    for a, b in ((noise, other), (noise, zero), (noise[:1], noise[1:2]), (noise[1:2], noise[2:])):
        assert relative(a, b) > 0.5
    for count in (1, 2):
        torch.testing.assert_close(op.measure(x[:count], seed=7), y[:count], rtol=0, atol=1e-6)
    double = op.measure(x.to(kind(op, F64)), seed=7)
    torch.testing.assert_close(double.to(y.dtype), y, rtol=0, atol=1e-5)


def test_the_noise_level_may_differ_by_item():
    levels = torch.tensor([0.0, 0.1, 2.0])
    op = SingleCoilMRI(torch.ones(40, 40), levels)
    x = random(3, 1, 40, 40, dtype=C64)
    noise = op.measure(x) - op.A(x)
    assert not noise[0].any()
    found = noise.real.flatten(1).std(1)
    torch.testing.assert_close(found, levels, rtol=0.1, atol=0)
    for count in (1, 2):
        with pytest.raises(errors.ShapeError, match="noise_sigma: got 3 levels"):
            op.measure(x[:count])
    one = SingleCoilMRI(torch.ones(40, 40), levels[2:])
    assert one.measure(x).shape == x.shape


def test_without_noise_a_measurement_is_clean():
    op = Blur(gaussian_kernel(1.2, 5), (2, 9, 6))
    x = random(2, *op.img_size)
    assert torch.equal(op.measure(x), op.A(x))
