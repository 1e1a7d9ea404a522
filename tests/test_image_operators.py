"""Image operators: boundaries, decompositions, proximal solutions, MATLAB's bicubic."""

import math

import deepinv
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from tests.helpers import kind, random, relative

from wellposed import errors
from wellposed.operators.check import dense_matrix
from wellposed.operators.decomposable import Decomposable
from wellposed.operators.image.blur import Blur, PaddedBlur, SeparableBlur
from wellposed.operators.image.inpainting import Denoising, Inpainting, random_mask
from wellposed.operators.image.kernels import gaussian_kernel, motion_kernel, uniform_kernel
from wellposed.operators.image.super_resolution import SuperResolution, bicubic_matrix
from wellposed.operators.proximal import proximal_by_cg

pytestmark = pytest.mark.usefixtures("single_thread")

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128


ROW, COLUMN = random(1, 4, seed=1), random(3, 1, seed=2)
MASKS = torch.stack([random_mask(5, 6, keep, 3).expand(2, -1, -1) for keep in (0.3, 0.6, 0.9)])

# Odd sides, not square, even kernels, kernels as large as the image.
NEW = {
    "denoising": lambda: Denoising((2, 5, 6)),
    "denoising, volume": lambda: Denoising((1, 2, 3, 4)),
    "denoising, complex": lambda: Denoising((1, 4, 5), complex_image=True),
    "separable gaussian": lambda: SeparableBlur(gaussian_kernel(1.2, 5), (2, 9, 6)),
    "separable, even": lambda: SeparableBlur(COLUMN * ROW, (1, 6, 7)),
    "separable row": lambda: SeparableBlur(ROW, (1, 5, 4)),
    "separable reflect": lambda: SeparableBlur(COLUMN * ROW, (1, 7, 4), boundary="reflect"),
    "separable, one pixel high": lambda: SeparableBlur(ROW, (2, 1, 5), boundary="reflect"),
    "padded motion": lambda: PaddedBlur(motion_kernel(5, seed=3), (2, 7, 9)),
    "padded, even": lambda: PaddedBlur(random(4, 3), (1, 6, 7)),
    "padded, large": lambda: PaddedBlur(random(5, 4), (1, 5, 4)),
    "valid": lambda: PaddedBlur(random(4, 3), (2, 6, 7), boundary="valid"),
    "valid, one pixel left": lambda: PaddedBlur(random(5, 4), (1, 5, 4), boundary="valid"),
}
KNOWN = {
    "inpainting": lambda: Inpainting(random_mask(5, 7, 0.6), 2),
    "inpainting per item": lambda: Inpainting(MASKS),
    "bicubic": lambda: SuperResolution((1, 9, 15), 3),
    "average": lambda: SuperResolution((2, 8, 4), 2, "average"),
    "blur": lambda: Blur(random(4, 3), (2, 6, 7)),
    "blur, odd": lambda: Blur(gaussian_kernel(0.8, 3), (1, 5, 7)),
    "singular blur": lambda: Blur(torch.ones(2, 3), (1, 6, 6)),
}
BUILD = NEW | KNOWN
SHARED = [name for name in BUILD if "per item" not in name]
DECOMPOSED = [name for name in SHARED if "padded" not in name and "valid" not in name]


# --- properties -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECOMPOSED)
def test_singular_values_are_those_of_the_dense_matrix(name):
    op = BUILD[name]()
    found = op.singular_values.to(F64).unique()
    expected = torch.linalg.svdvals(dense_matrix(op.A, op.img_size, kind(op, F64))).unique()
    gap = (found[:, None] - expected).abs()
    assert float(gap.amin(0).max()) < 1e-12  # each one of the matrix is listed,
    listed = found[found > 1e-12]
    assert float((listed[:, None] - expected).abs().amin(1).max()) < 1e-12  # and no other


@pytest.mark.parametrize("name", DECOMPOSED)
def test_noise_has_unit_variance_in_the_coordinates_of_v(name):
    """Coordinates of the identity's rows: their squares are the diagonal of V^H V."""
    op = BUILD[name]()
    n = math.prod(op.img_size)
    rows = op.V_adjoint(torch.eye(n, dtype=kind(op, F64)).reshape(n, *op.img_size))
    variance = rows.abs().square().sum(0)
    torch.testing.assert_close(variance, torch.ones_like(variance))


@pytest.mark.parametrize("gamma", [0.3, 50.0, torch.tensor([0.0, 1.0, 20.0], dtype=F64)])
@pytest.mark.parametrize("name", SHARED)
def test_the_proximal_solution_is_that_of_the_dense_system(name, gamma):
    op = BUILD[name]()
    A = dense_matrix(op.A, op.img_size, kind(op, F64))
    z = random(3, *op.img_size, dtype=A.dtype, seed=3)
    y = random(3, *op.measurement_size, dtype=A.dtype, seed=4)
    double, low = op.prox_l2(z, y, gamma), kind(op, F32)
    single = op.prox_l2(z.to(low), y.to(low), gamma)
    assert (double.dtype, single.dtype) == (A.dtype, low)
    eye, square = torch.eye(A.shape[1], dtype=A.dtype), torch.linalg.matrix_norm(A, 2) ** 2
    for i, g in enumerate(torch.as_tensor(gamma, dtype=F64).expand(3).tolist()):
        # Conjugate gradients stop at a residual of 1e-6; the error is up to the condition larger.
        iterative = 0 if isinstance(op, Decomposable) else 1e-6 * float(1 + g * square)
        system, right = eye + g * A.mH @ A, z[i].flatten() + g * A.mH @ y[i].flatten()
        expected = torch.linalg.solve(system, right).reshape(op.img_size)
        assert relative(single[i].to(A.dtype), expected) < max(iterative, 1e-5)
        g_i = gamma[i : i + 1] if isinstance(gamma, torch.Tensor) else gamma
        alone = op.prox_l2(z[i : i + 1], y[i : i + 1], g_i)
        for found in (double[i], alone[0]):
            assert relative(found, expected) < max(iterative, 1e-10)


def test_the_proximal_solution_with_a_mask_for_each_item():
    op = BUILD["inpainting per item"]()
    z, y = random(3, 2, 5, 6), op.restrict(random(3, 2, 5, 6, seed=1))
    gamma = torch.tensor([1.0, 3.0, 0.0])
    weight = gamma.view(3, 1, 1, 1) * op.mask
    torch.testing.assert_close(op.prox_l2(z, y, gamma), (z + weight * y) / (1 + weight))


@pytest.mark.parametrize("name", ["average", "bicubic", "inpainting", "blur, odd"])
def test_a_large_weight_projects_on_the_data(name):
    op = BUILD[name]()
    z = random(2, *op.img_size)
    y = op.A(random(2, *op.img_size, seed=1))
    projected = z + op.A_dagger(y - op.A(z))
    torch.testing.assert_close(op.prox_l2(z, y, 1e12), projected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(op.A(projected), y)


@pytest.mark.parametrize("name", ["blur", "valid"])
def test_bad_weights_are_refused(name):
    op = BUILD[name]()
    z, y = random(2, *op.img_size), random(2, *op.measurement_size)
    for gamma in (-1.0, math.nan, math.inf, "1", None, torch.ones(3)):
        with pytest.raises(errors.ArgumentError, match="gamma: got"):
            op.prox_l2(z, y, gamma)


@pytest.mark.parametrize("name", ["bicubic", "valid"])
def test_bad_images_and_measurements_of_proximal_solutions_are_refused(name):
    op = BUILD[name]()
    z, y = random(3, *op.img_size), random(2, *op.measurement_size)
    with pytest.raises(errors.ShapeError, match="z: got shape"):
        op.prox_l2(y, y, 1.0)
    with pytest.raises(errors.ShapeError, match="y: got shape"):
        op.prox_l2(z, z, 1.0)
    with pytest.raises(errors.ShapeError, match="y: got 2 items, accepted: 1, or 3"):
        op.prox_l2(z, y, 1.0)
    one = op.prox_l2(z, y[:1], 1.0)
    torch.testing.assert_close(one, op.prox_l2(z, y[:1].expand(3, -1, -1, -1), 1.0))


def test_conjugate_gradients_find_the_closed_form():
    op = BUILD["blur"]()
    z, y = random(2, *op.img_size), random(2, *op.measurement_size)
    by_cg = proximal_by_cg(op.A_adjoint_A, op.A_adjoint(y), z, 4.0, op.preconditioner)
    torch.testing.assert_close(by_cg, op.prox_l2(z, y, 4.0), rtol=1e-5, atol=1e-5)


# --- blur -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [COLUMN * ROW, ROW, COLUMN, uniform_kernel(3)])
@pytest.mark.parametrize(("boundary", "mode"), [("zero", "constant"), ("reflect", "mirror")])
def test_separable_blur_is_scipys_convolution(kernel, boundary, mode):
    op, x = SeparableBlur(kernel, (2, 5, 8), boundary=boundary), random(1, 2, 5, 8)
    expected = [scipy.ndimage.convolve(c.numpy(), kernel.numpy(), mode=mode) for c in x[0]]
    np.testing.assert_allclose(op.A(x)[0].numpy(), np.stack(expected), atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (4, 3), (1, 2), (9, 8)])
def test_padded_blur_is_scipys_convolution(shape):
    kernel, x = random(*shape), random(1, 2, 9, 8)
    zero = [scipy.ndimage.convolve(c.numpy(), kernel.numpy(), mode="constant") for c in x[0]]
    found = PaddedBlur(kernel, (2, 9, 8)).A(x)[0]
    np.testing.assert_allclose(found.numpy(), np.stack(zero), atol=1e-12)
    valid = [scipy.signal.convolve2d(c.numpy(), kernel.numpy(), mode="valid") for c in x[0]]
    found = PaddedBlur(kernel, (2, 9, 8), boundary="valid").A(x)[0]
    np.testing.assert_allclose(found.numpy(), np.stack(valid), atol=1e-12)


def test_the_three_blurs_agree_away_from_the_boundary():
    kernel, x = gaussian_kernel(1.0, 5), random(1, 1, 12, 11)
    inside = (..., slice(2, -2), slice(2, -2))
    valid = PaddedBlur(kernel, (1, 12, 11), boundary="valid").A(x)
    for op in (
        Blur(kernel, (1, 12, 11)),
        SeparableBlur(kernel, (1, 12, 11)),
        SeparableBlur(kernel, (1, 12, 11), boundary="reflect"),
        PaddedBlur(kernel, (1, 12, 11)),
    ):
        torch.testing.assert_close(op.A(x)[inside], valid)


def test_separable_blur_takes_kernels_in_single_precision():
    op = SeparableBlur(gaussian_kernel(3.0, 15).float(), (1, 20, 16))
    exact = SeparableBlur(gaussian_kernel(3.0, 15), (1, 20, 16))
    x = random(1, 1, 20, 16)
    assert relative(op.A(x), exact.A(x)) < 1e-6


@pytest.mark.parametrize("boundary", ["zero", "reflect"])
@pytest.mark.parametrize("cutoff", [1e-3, 0.03, 0.3])
def test_the_pseudo_inverse_of_separable_blur_leaves_out_what_is_lost(cutoff, boundary):
    op = SeparableBlur(gaussian_kernel(1.0, 5), (1, 8, 7), 0.0, cutoff, boundary)
    A = dense_matrix(op.A, op.img_size, F64)
    P = dense_matrix(op.A_dagger, op.measurement_size, F64)
    assert relative(P, torch.linalg.pinv(A, rtol=cutoff)) < 1e-10


@pytest.mark.parametrize("boundary", ["zero", "valid"])
def test_the_pseudo_inverse_of_padded_blur_by_conjugate_gradients(boundary):
    op = PaddedBlur(torch.tensor([[0.0, 0.1, 0], [0.2, 1, 0.1], [0, 0.1, 0]]), (1, 7, 6))
    A = dense_matrix(op.A, op.img_size, F64)
    y = random(2, *op.measurement_size)
    expected = y.flatten(1) @ torch.linalg.pinv(A).T
    assert relative(op.A_dagger(y).flatten(1), expected) < 1e-4


def test_uniform_kernels():
    kernel = uniform_kernel(4)
    assert kernel.shape == (4, 4)
    assert kernel.dtype == F64
    torch.testing.assert_close(kernel, torch.full((4, 4), 1 / 16, dtype=F64))
    with pytest.raises(errors.ArgumentError, match="size: got 0"):
        uniform_kernel(0)


@pytest.mark.parametrize("cls", [SeparableBlur, PaddedBlur])
def test_bad_blurs_are_refused(cls):
    for changes, error, match in (
        ({"kernel": torch.ones(9, 3)}, errors.ShapeError, r"kernel: got \(9, 3\).*6 x 7"),
        ({"kernel": torch.ones(3, 3, 3)}, errors.ShapeError, "kernel: .*one for all channels"),
        ({"kernel": torch.zeros(3, 3)}, errors.ArgumentError, "kernel: got 'all zeros'"),
        ({"kernel": torch.ones(3, 3) * math.nan}, errors.NonFiniteError, "kernel: 9 of 9"),
        ({"kernel": torch.ones(3, 3, dtype=C64)}, errors.DtypeError, "kernel"),
        ({"image_size": (6, 7)}, errors.ShapeError, "image_size"),
        ({"image_size": (1, -6, 7)}, errors.ArgumentError, "image_size: got -6"),
        ({"boundary": "circular"}, errors.UnknownNameError, "boundary: unknown name 'circular'"),
        ({"noise_sigma": -1}, errors.ArgumentError, "noise_sigma: got -1"),
    ):
        good = {"kernel": torch.ones(3, 3), "image_size": (1, 6, 7)}
        cls(**good)
        with pytest.raises(error, match=match):
            cls(**good | changes)


def test_kernels_that_are_not_separable_are_refused():
    with pytest.raises(errors.ArgumentError, match=r"rank above 1.*use PaddedBlur"):
        SeparableBlur(motion_kernel(5), (1, 8, 8))
    with pytest.raises(errors.ArgumentError, match="cutoff: got 1"):
        SeparableBlur(ROW, (1, 8, 8), cutoff=1)


# --- super-resolution -----------------------------------------------------------------------


def imresize_matrix(side, factor):
    """MATLAB's imresize as its documentation defines it, in 1-based loops.

    Output pixel i lies at u = i / scale + (1 - 1 / scale) / 2; the kernel is stretched to the
    width 4 / scale, its weights are normalised, and indices outside mirror the image.
    """
    scale = 1 / factor

    def cubic(x):
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    mirror = [*range(1, side + 1), *range(side, 0, -1)]
    matrix = np.zeros((math.ceil(side * scale), side))
    for i in range(1, len(matrix) + 1):
        u, width = i / scale + 0.5 * (1 - 1 / scale), 4 / scale
        left = math.floor(u - width / 2)
        taps = range(left, left + math.ceil(width) + 2)
        weights = np.array([scale * cubic(scale * (u - tap)) for tap in taps])
        for tap, weight in zip(taps, weights / weights.sum(), strict=True):
            matrix[i - 1, mirror[(tap - 1) % (2 * side)] - 1] += weight
    return matrix


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("pixels", [1, 2, 3, 7])
def test_bicubic_is_matlabs_imresize(factor, pixels):
    expected = imresize_matrix(factor * pixels, factor)
    np.testing.assert_allclose(bicubic_matrix(factor * pixels, factor), expected, atol=1e-14)


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_is_deepinvs_matlab_downsampling(factor):
    """Up to the border. Its other one, a strided filter, is a whole pixel off at factor 4."""
    x = random(1, 3, 24, 32, dtype=F32)
    ours = SuperResolution((3, 24, 32), factor).A(x)
    theirs = deepinv.physics.DownsamplingMatlab(factor=factor).A(x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("items", [1, 2])
def test_a_mask_of_one_channel_hides_the_same_pixels_in_all(items, channels):
    mask = torch.stack([random_mask(6, 5, 0.5, seed) for seed in range(items)])[:, None]
    operator = Inpainting(mask, channels)
    x = torch.rand(2, 3, 6, 5)
    expected = Inpainting(mask.expand(-1, 3, -1, -1))
    for name in ("A", "A_adjoint", "A_dagger", "A_adjoint_A"):
        assert torch.equal(getattr(operator, name)(x), getattr(expected, name)(x)), name
    assert torch.equal(operator.prox_l2(x, x, 2.0), expected.prox_l2(x, x, 2.0))


def test_channels_have_random_pixels_of_their_own():
    mask = random_mask(6, 5, 0.3, seed=2, channels=4)
    assert mask.shape == (4, 6, 5) and mask.sum() == round(0.3 * 4 * 6 * 5)
    assert not torch.equal(mask[0], mask[1])
    assert torch.equal(random_mask(6, 5, 0.3, seed=2, channels=1)[0], random_mask(6, 5, 0.3, 2))


def test_a_mask_of_other_channels_is_named():
    with pytest.raises(errors.ShapeError, match=r"^mask: got 2 channels, accepted: 1 or 3"):
        Inpainting(torch.ones(2, 4, 4), channels=3)
    with pytest.raises(errors.ShapeError, match=r"^x: got shape"):
        Inpainting(torch.ones(1, 4, 4)).A(torch.ones(1, 3, 4, 5))
