"""Image and MRI operators against dense matrices, reference libraries and formulas."""

import copy
import math
from functools import partial

import deepinv
import numpy as np
import pytest
import scipy.ndimage
import torch
from tests.conftest import random, relative
from torch.nn import functional

from wellposed import errors
from wellposed.operators.base import LinearOperator
from wellposed.operators.check import OperatorReport, check_operator, dense_matrix, operator_norm
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


def mask(*shape, keep=0.6, seed=0):
    return (torch.from_numpy(np.random.default_rng(seed).random(shape)) < keep).float()


def maps(*shape, seed=0):
    return random(*shape, dtype=C64, seed=seed)


KERNEL = torch.tensor([[0.1, 0.5, 0.0, 0.2], [0.3, 0.0, 0.4, 0.1], [0.0, 0.2, 0.0, 0.05]])
LINES = torch.tensor([1.0, 0, 1, 1, 0, 0, 1])

# Each takes the device on which to build; sides are odd, not square, or with one item's own mask.
BUILD = {
    "inpainting (H, W)": lambda d: Inpainting(mask(5, 7).to(d), 2),
    "inpainting (C, H, W)": lambda d: Inpainting(mask(3, 6, 5).to(d)),
    "inpainting per item": lambda d: Inpainting(mask(3, 2, 4, 5).to(d)),
    "bicubic 4": lambda d: SuperResolution((2, 8, 12), 4).to(d),
    "bicubic 3, odd": lambda d: SuperResolution((1, 9, 15), 3).to(d),
    "bicubic 4 to one pixel": lambda d: SuperResolution((1, 4, 8), 4).to(d),
    "average 2": lambda d: SuperResolution((3, 6, 4), 2, "average").to(d),
    "average 5": lambda d: SuperResolution((1, 5, 15), 5, "average").to(d),
    "gaussian blur": lambda d: Blur(gaussian_kernel(1.2, 5).to(d), (2, 9, 6)),
    "motion blur": lambda d: Blur(motion_kernel(7, seed=3).to(d), (1, 7, 10)),
    "even asymmetric blur": lambda d: Blur(KERNEL.to(d), (1, 6, 7)),
    "blur as large as the image": lambda d: Blur(random(5, 4).to(d), (2, 5, 4)),
    "multi-coil, 2-D mask": lambda d: MultiCoilMRI(mask(6, 7).to(d), maps(3, 6, 7).to(d)),
    "multi-coil, odd": lambda d: MultiCoilMRI(mask(5, 7).to(d), maps(2, 5, 7).to(d)),
    "multi-coil, line mask": lambda d: MultiCoilMRI(LINES.to(d), maps(2, 6, 7).to(d)),
    "multi-coil, lines along rows": lambda d: MultiCoilMRI(
        LINES[:, None].expand(7, 4).to(d), maps(2, 7, 4).to(d)
    ),
    "multi-coil, full": lambda d: MultiCoilMRI(torch.ones(4, 5).to(d), maps(2, 4, 5).to(d)),
    "multi-coil per item": lambda d: MultiCoilMRI(mask(3, 5, 6).to(d), maps(3, 2, 5, 6).to(d)),
    "multi-coil, masks per item": lambda d: MultiCoilMRI(mask(3, 5, 6).to(d), maps(2, 5, 6).to(d)),
    "multi-coil, maps per item": lambda d: MultiCoilMRI(LINES.to(d), maps(3, 2, 5, 7).to(d)),
    "multi-coil, lines per item": lambda d: MultiCoilMRI(mask(3, 1, 6).to(d), maps(2, 5, 6).to(d)),
    "single-coil": lambda d: SingleCoilMRI(mask(7, 5).to(d)),
    "single-coil per item": lambda d: SingleCoilMRI(mask(3, 5, 6).to(d)),
}
PER_ITEM = [name for name in BUILD if "per item" in name]
SHARED = [name for name in BUILD if "per item" not in name]
CPU = torch.device("cpu")


def build(name):
    return BUILD[name](CPU)


def item(name, i):
    """Return the operator of item i alone."""
    alone = {
        "inpainting per item": lambda: Inpainting(mask(3, 2, 4, 5)[i]),
        "multi-coil per item": lambda: MultiCoilMRI(mask(3, 5, 6)[i], maps(3, 2, 5, 6)[i]),
        "multi-coil, masks per item": lambda: MultiCoilMRI(mask(3, 5, 6)[i], maps(2, 5, 6)),
        "multi-coil, maps per item": lambda: MultiCoilMRI(LINES, maps(3, 2, 5, 7)[i]),
        "multi-coil, lines per item": lambda: MultiCoilMRI(mask(3, 1, 6)[i, 0], maps(2, 5, 6)),
        "single-coil per item": lambda: SingleCoilMRI(mask(3, 5, 6)[i]),
    }
    return alone[name]()


def kind(op, dtype):
    return {F32: C64, F64: C128}[dtype] if op.complex_image else dtype


# --- properties of every operator -----------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", SHARED)
def test_adjoint_and_normal_map_are_those_of_the_dense_matrix(name, dtype):
    op = build(name)
    dtype, tolerance = kind(op, dtype), 2e-6 if dtype == F32 else 1e-13
    A = dense_matrix(op.A, op.img_size, dtype)
    assert A.dtype == dtype
    assert A.shape == (math.prod(op.measurement_size), math.prod(op.img_size))
    assert relative(dense_matrix(op.A_adjoint, op.measurement_size, dtype), A.mH) < tolerance
    assert relative(dense_matrix(op.A_adjoint_A, op.img_size, dtype), A.mH @ A) < tolerance
    x, y = random(3, *op.img_size, dtype=dtype), random(3, *op.measurement_size, dtype=dtype)
    assert relative(op.A(x).flatten(1), x.flatten(1) @ A.T) < tolerance
    assert relative(op.A_adjoint(y).flatten(1), y.flatten(1) @ A.conj()) < tolerance


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", BUILD)
def test_every_operator_passes_the_check(name, dtype, device):
    op = BUILD[name](device)
    report = check_operator(op, dtype=kind(op, dtype))
    assert report.passes(1e-5 if dtype == F32 else 1e-13)
    assert report == check_operator(op, dtype=kind(op, dtype))


@pytest.mark.parametrize("name", BUILD)
def test_the_check_takes_the_kind_and_the_items_of_the_operator(name):
    assert check_operator(build(name)).passes()


@pytest.mark.parametrize("name", SHARED)
def test_the_norm_estimate_is_the_largest_singular_value(name):
    op = build(name)
    A = dense_matrix(op.A, op.img_size, kind(op, F64))
    largest = float(torch.linalg.matrix_norm(A, 2))
    assert 0.97 * largest < check_operator(op, dtype=A.dtype).norm < largest * (1 + 1e-12)


@pytest.mark.parametrize("name", PER_ITEM)
def test_the_norm_of_per_item_operators_is_the_largest_of_all(name):
    norms = [
        float(torch.linalg.matrix_norm(dense_matrix(op.A, op.img_size, kind(op, F64)), 2))
        for op in (item(name, i) for i in range(3))
    ]
    op = build(name)
    found = check_operator(op, dtype=kind(op, F64)).norm
    assert 0.97 * max(norms) < found < max(norms) * (1 + 1e-12)


@pytest.mark.parametrize("method", ["A", "A_adjoint", "A_adjoint_A", "A_dagger"])
@pytest.mark.parametrize("name", BUILD)
def test_a_batch_of_three_equals_its_items(name, method):
    op = build(name)
    size = op.img_size if method in ("A", "A_adjoint_A") else op.measurement_size
    value = random(3, *size, dtype=kind(op, F64))
    iterative = method == "A_dagger" and type(op) is MultiCoilMRI
    if iterative:
        value = op.A(random(3, *op.img_size, dtype=C128))
    together = getattr(op, method)(value)
    for i in range(3):
        one = item(name, i) if name in PER_ITEM else op
        alone = getattr(one, method)(value[i : i + 1])
        assert relative(alone, together[i : i + 1]) < (1e-5 if iterative else 1e-12)


@pytest.mark.parametrize("name", PER_ITEM)
def test_another_number_of_items_is_refused(name):
    op = build(name)
    assert op.items == 3
    x = random(1, *op.img_size, dtype=kind(op, F32))
    with pytest.raises(errors.ShapeError, match="x: got 1 items, accepted: 3"):
        op.A(x)
    with pytest.raises(errors.ShapeError, match="x: got 4 items"):
        op.A_adjoint_A(x.repeat(4, 1, 1, 1))
    with pytest.raises(errors.ShapeError, match="y: got 2 items"):
        op.A_adjoint(random(2, *op.measurement_size, dtype=kind(op, F32)))


@pytest.mark.parametrize("name", BUILD)
def test_the_gradient_of_the_misfit_is_the_adjoint(name):
    op = build(name)
    x = random(3, *op.img_size, dtype=kind(op, F64)).requires_grad_()
    y = random(3, *op.measurement_size, dtype=x.dtype, seed=1)
    (gradient,) = torch.autograd.grad(0.5 * (op.A(x) - y).abs().square().sum(), x)
    residual = (op.A(x) - y).detach()
    torch.testing.assert_close(gradient, op.A_adjoint(residual))
    normal = op.A_adjoint_A(x)
    (gradient,) = torch.autograd.grad(normal.abs().square().sum(), x)
    torch.testing.assert_close(gradient, 2 * op.A_adjoint_A(normal.detach()))


@pytest.mark.parametrize("name", BUILD)
def test_arguments_are_left_alone(name):
    op = build(name)
    x = random(3, *op.img_size, dtype=kind(op, F32))
    y = random(3, *op.measurement_size, dtype=kind(op, F32))
    kept = x.clone(), y.clone()
    for function, value in ((op.A, x), (op.A_adjoint_A, x), (op.A_adjoint, y), (op.A_dagger, y)):
        function(value)
        op.restrict(y)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


@pytest.mark.parametrize("name", BUILD)
def test_moving_to_another_precision_keeps_the_operator(name):
    op = build(name)
    x = random(3, *op.img_size, dtype=kind(op, F64))
    expected = op.A(x)
    for other in (op.to(F64), copy.deepcopy(op).double(), copy.deepcopy(op).float()):
        torch.testing.assert_close(other.A(x), expected, rtol=0, atol=1e-5)
    single = kind(op, F32)
    assert op.A(x.to(single)).dtype == op.A_adjoint_A(x.to(single)).dtype == single


@pytest.mark.parametrize("name", BUILD)
def test_bad_data_are_refused(name):
    op = build(name)
    x = random(3, *op.img_size, dtype=kind(op, F32))
    y = random(3, *op.measurement_size, dtype=kind(op, F32))
    calls = [("x", op.A, x), ("x", op.A_adjoint_A, x), ("y", op.A_adjoint, y)]
    for argument, function, good in [*calls, ("y", op.A_dagger, y)]:
        for bad in (good[0], good[..., :-1], good[:, :0], torch.cat([good, good], 1), good[None]):
            with pytest.raises(errors.ShapeError, match=f"{argument}: got shape"):
                function(bad)
        other = good.real if good.is_complex() else good.to(C64)
        for bad in (other, torch.ones_like(good.real).long()):
            with pytest.raises(errors.DtypeError, match=f"{argument}: got dtype"):
                function(bad)
        with pytest.raises(errors.DtypeError, match=f"{argument}: got ndarray"):
            function(good.numpy())
        with pytest.raises(errors.DeviceError, match=f"{argument}: lives on meta"):
            function(good.to("meta"))


@pytest.mark.parametrize("name", BUILD)
def test_every_device_gives_the_same(name, device):
    op, there = build(name), BUILD[name](device)
    x = random(3, *op.img_size, dtype=kind(op, F64))
    y = random(3, *op.measurement_size, dtype=kind(op, F64))
    assert relative(there.A(x.to(device)).cpu(), op.A(x)) < 1e-12
    assert relative(there.A_adjoint(y.to(device)).cpu(), op.A_adjoint(y)) < 1e-12
    assert relative(there.A_adjoint_A(x.to(device)).cpu(), op.A_adjoint_A(x)) < 1e-12
    assert torch.equal(there.restrict(y.to(device)).cpu(), op.restrict(y))
    assert {buffer.device.type for buffer in there.buffers()} == {device.type}


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
    op = build("multi-coil per item")
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
    op = build("multi-coil, full")
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
        with pytest.raises(errors.ShapeError, match="noise_sigma: holds 3 levels"):
            op.measure(x[:count])
    one = SingleCoilMRI(torch.ones(40, 40), levels[2:])
    assert one.measure(x).shape == x.shape


def test_without_noise_a_measurement_is_clean():
    op = build("gaussian blur")
    x = random(2, *op.img_size)
    assert torch.equal(op.measure(x), op.A(x))


# --- the check itself -----------------------------------------------------------------------


def tampered(name, **methods):
    """Return an operator some of whose methods are functions of it and their argument."""
    op = build(name)
    for method, function in methods.items():
        honest = getattr(op, method)
        setattr(op, method, lambda v, f=function, h=honest: f(h, v))
    return op


REAL, MRI = "gaussian blur", "multi-coil, 2-D mask"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (REAL, lambda h, y: 1.05 * h(y)),
        (REAL, lambda h, y: h(y).roll(1, -1)),
        (REAL, lambda h, y: h(y) + 0.02),
        (REAL, lambda h, y: h(y).flip(-1)),
        ("inpainting (H, W)", lambda h, y: y),
        ("bicubic 4", lambda h, y: 16 * h(y)),
        (MRI, lambda h, y: 1.05 * h(y)),
        (MRI, lambda h, y: h(y).conj()),
        (MRI, lambda h, y: 1j * h(y)),
        (MRI, lambda h, y: h(y).roll(1, -2)),
        (MRI, lambda h, y: h(y).real.to(y.dtype)),
    ],
)
def test_a_wrong_adjoint_is_found(name, wrong):
    report = check_operator(tampered(name, A_adjoint=wrong))
    assert report.adjoint > 0.02
    assert report.linearity < 1e-5
    assert not report.passes()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (REAL, lambda h, x: h(x) + 0.1),
        (REAL, lambda h, x: h(x.abs())),
        (REAL, lambda h, x: h(x).clamp(-0.2, 0.2)),
        (MRI, lambda h, x: h(x.conj())),
        (MRI, lambda h, x: h(x.real.to(x.dtype))),
    ],
)
def test_a_map_that_is_not_linear_is_found(name, wrong):
    report = check_operator(tampered(name, A=wrong))
    assert report.linearity > 0.02
    assert not report.passes()


@pytest.mark.parametrize("wrong", [lambda h, x: 1.01 * h(x), lambda h, x: math.nan * h(x)])
@pytest.mark.parametrize("name", [REAL, MRI])
def test_a_wrong_normal_map_is_found(name, wrong):
    report = check_operator(tampered(name, A_adjoint_A=wrong))
    assert not report.normal < 0.009
    assert report.adjoint < 1e-5
    assert not report.passes()


def test_nan_never_passes():
    good = {"adjoint": 0.0, "linearity": 0.0, "normal": 0.0}
    assert OperatorReport(**good, norm=1.0).passes()
    for name in good:
        for bad in (math.nan, math.inf, 1e-4):
            assert not OperatorReport(**good | {name: bad}, norm=1.0).passes()


def deepinv_blur():
    return deepinv.physics.BlurFFT((1, 7, 8), filter=KERNEL[None, None, :, :3])


def deepinv_inpainting():
    return deepinv.physics.Inpainting((2, 5, 6), mask=mask(2, 5, 6))


@pytest.mark.parametrize(
    ("make", "size"), [(deepinv_blur, (1, 7, 8)), (deepinv_inpainting, (2, 5, 6))]
)
def test_deepinvs_physics_is_checked_too(make, size):
    report = check_operator(make(), size)
    assert report.passes()
    A = dense_matrix(make().A, size, F32)
    assert abs(report.norm / float(torch.linalg.matrix_norm(A, 2)) - 1) < 0.03
    for wrong in (lambda h, y: 1.05 * h(y), lambda h, y: h(y).roll(1, -1)):
        physics = make()
        honest = physics.A_adjoint
        physics.A_adjoint = lambda y, f=wrong, h=honest: f(h, y)
        report = check_operator(physics, size)
        assert report.adjoint > 0.02
        assert not report.passes()


def test_bad_arguments_of_the_check():
    plain = deepinv.physics.LinearPhysics(A=lambda x: x, A_adjoint=lambda y: y)
    with pytest.raises(errors.ArgumentError, match="image_size: got None"):
        check_operator(plain)
    assert check_operator(plain, (2, 3, 4)).passes()
    for pairs in (0, -1):
        with pytest.raises(errors.ArgumentError, match=f"pairs: got {pairs}"):
            check_operator(plain, (2, 3, 4), pairs=pairs)
    with pytest.raises(errors.DtypeError, match=r"dtype: got torch\.int64"):
        check_operator(plain, (2, 3, 4), torch.int64)
    shorter = deepinv.physics.LinearPhysics(A=lambda x: x, A_adjoint=lambda y: y[..., :-1])
    with pytest.raises(errors.ShapeError, match=r"A_adjoint returns \(8, 2, 3, 3\)"):
        check_operator(shorter, (2, 3, 4))
    real = deepinv.physics.LinearPhysics(A=fft2c, A_adjoint=lambda y: ifft2c(y))
    with pytest.raises(errors.DtypeError, match=r"A_adjoint returns torch\.complex64"):
        check_operator(real, (1, 3, 4))


def test_power_iterations():
    matrix = torch.diag(torch.tensor([0.5, 3.0, 1.0], dtype=F64))
    start = random(1, 3)
    assert abs(operator_norm(lambda x: x @ matrix, start) - 3) < 1e-12
    assert operator_norm(lambda x: 0 * x, start) == 0
    per_item = torch.tensor([[2.0], [5.0], [0.0]], dtype=F64)
    assert abs(operator_norm(lambda x: per_item * x, random(3, 4)) - 5) < 1e-12


# --- the base class -------------------------------------------------------------------------


class Half(LinearOperator):
    """Halves an image of two pixels, and adds a third value."""

    def __init__(self, **options):
        super().__init__((2,), (3,), **options)

    def forward_map(self, x):
        return torch.cat([0.5 * x, x.sum(1, keepdim=True)], 1)

    def adjoint_map(self, y):
        return 0.5 * y[:, :2] + y[:, 2:]


def test_a_subclass_needs_two_maps():
    op = Half(noise_sigma=0.1)
    assert isinstance(op, deepinv.physics.LinearPhysics)
    assert check_operator(op).passes()
    x = random(4, 2)
    torch.testing.assert_close(op.A_adjoint_A(x), op.A_adjoint(op.A(x)))
    torch.testing.assert_close(op.A_dagger(op.A(x)), x)
    y = random(4, 3)
    assert op.restrict(y) is y
    A = dense_matrix(op.A, (2,), F64)
    torch.testing.assert_close(op.A_dagger(y), y @ torch.linalg.pinv(A).T)
    assert op.noise_std(y).item() == pytest.approx(0.1)
    assert op.measurement_size == (3,)
    assert op.img_size == (2,)


@pytest.mark.parametrize(
    "sigma",
    [
        -0.1,
        math.nan,
        math.inf,
        torch.tensor([0.1, -1.0]),
        torch.zeros(0),
        "much",
        None,
        [[0.1], 2],
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda s: Half(noise_sigma=s),
        lambda s: Inpainting(torch.ones(3, 4), noise_sigma=s),
        lambda s: SuperResolution((1, 4, 4), 2, noise_sigma=s),
        lambda s: Blur(KERNEL, (1, 6, 6), noise_sigma=s),
        lambda s: SingleCoilMRI(torch.ones(3, 4), noise_sigma=s),
        lambda s: MultiCoilMRI(torch.ones(3, 4), maps(2, 3, 4), noise_sigma=s),
    ],
)
def test_bad_noise_levels_are_refused(make, sigma):
    with pytest.raises(errors.ArgumentError, match="noise_sigma: got"):
        make(sigma)


# --- bad construction -----------------------------------------------------------------------


def spoilt(value, bad=math.nan):
    value = value.clone()
    value.view(-1)[1] = bad
    return value


BAD = {
    Inpainting: [
        ({"mask": spoilt(torch.ones(3, 4))}, errors.NonFiniteError, "mask: . of"),
        ({"mask": spoilt(torch.ones(3, 4), 0.5)}, errors.ArgumentError, "mask: got .*zeros and"),
        ({"mask": spoilt(torch.ones(3, 4), -1)}, errors.ArgumentError, "mask"),
        ({"mask": torch.zeros(3, 4)}, errors.ArgumentError, "mask: got .only zeros"),
        (
            {"mask": torch.stack([torch.ones(1, 3, 4), torch.zeros(1, 3, 4)])},
            errors.ArgumentError,
            r"mask: got .only zeros in item \[1\]",
        ),
        ({"mask": torch.ones(0, 4)}, errors.ArgumentError, "mask: is empty"),
        ({"mask": torch.ones(4)}, errors.ShapeError, "mask: got 1 axes"),
        ({"mask": torch.ones(1, 1, 1, 3, 4)}, errors.ShapeError, "mask: got 5 axes"),
        ({"mask": torch.ones(3, 4, dtype=C64)}, errors.DtypeError, "mask: got torch.complex64"),
        ({"channels": 0}, errors.ArgumentError, "channels: got 0"),
        ({"channels": 1.5}, errors.ArgumentError, "channels: got 1.5"),
    ],
    SuperResolution: [
        ({"factor": 3}, errors.ShapeError, "image_size: got 8 x 12, .*crop to 6 x 12"),
        ({"factor": 16}, errors.ShapeError, "image_size"),
        ({"factor": 1}, errors.ArgumentError, "factor: got 1"),
        ({"factor": 2.0}, errors.ArgumentError, "factor: got 2.0"),
        ({"factor": -2}, errors.ArgumentError, "factor: got -2"),
        ({"kernel": "bicubi"}, errors.UnknownNameError, "kernel: .*Did you mean 'bicubic'"),
        ({"kernel": "lanczos"}, errors.UnknownNameError, "kernel: unknown name 'lanczos'"),
        ({"image_size": (8, 12)}, errors.ShapeError, r"image_size: got \(8, 12\)"),
        ({"image_size": (1, 1, 8, 12)}, errors.ShapeError, "image_size"),
        ({"image_size": (1, 0, 12)}, errors.ArgumentError, "image_size: got 0"),
        ({"image_size": (1, 8.0, 12)}, errors.ArgumentError, "image_size: got 8.0"),
    ],
    Blur: [
        ({"kernel": torch.ones(9, 3)}, errors.ShapeError, r"kernel: got \(9, 3\).*6 x 7"),
        ({"kernel": torch.ones(3, 8)}, errors.ShapeError, "kernel"),
        ({"kernel": torch.ones(3, 3, 3)}, errors.ShapeError, "kernel: .*one for all channels"),
        ({"kernel": torch.ones(3)}, errors.ShapeError, "kernel: got 1 axes"),
        ({"kernel": torch.zeros(3, 3)}, errors.ArgumentError, "kernel: got 'all zeros'"),
        ({"kernel": torch.ones(0, 3)}, errors.ArgumentError, "kernel: is empty"),
        ({"kernel": spoilt(torch.ones(3, 3))}, errors.NonFiniteError, "kernel: 1 of 9"),
        ({"kernel": spoilt(torch.ones(3, 3), math.inf)}, errors.NonFiniteError, "kernel"),
        ({"kernel": torch.ones(3, 3, dtype=C64)}, errors.DtypeError, "kernel"),
        ({"image_size": (6, 7)}, errors.ShapeError, "image_size"),
        ({"image_size": (1, -6, 7)}, errors.ArgumentError, "image_size: got -6"),
        ({"cutoff": -0.1}, errors.ArgumentError, "cutoff: got -0.1"),
        ({"cutoff": 1.0}, errors.ArgumentError, "cutoff"),
        ({"cutoff": math.nan}, errors.ArgumentError, "cutoff"),
    ],
    MultiCoilMRI: [
        ({"mask": spoilt(torch.ones(5, 6))}, errors.NonFiniteError, "mask: 1 of"),
        ({"mask": spoilt(torch.ones(5, 6), 0.5)}, errors.ArgumentError, "mask: got"),
        ({"mask": torch.zeros(6)}, errors.ArgumentError, "mask: got .only zeros"),
        (
            {"mask": torch.stack([torch.zeros(5, 6), torch.ones(5, 6)])},
            errors.ArgumentError,
            r"only zeros in item \[0\]",
        ),
        ({"mask": torch.ones(6, 5)}, errors.ShapeError, r"mask: got \(1, 6, 5\).*\(5, 6\)"),
        ({"mask": torch.ones(5)}, errors.ShapeError, "mask"),
        ({"mask": torch.ones(2, 6)}, errors.ShapeError, "mask"),
        ({"mask": torch.ones(1, 1, 5, 6)}, errors.ShapeError, "mask: got 4 axes"),
        ({"mask": torch.ones(5, 6, dtype=C64)}, errors.DtypeError, "mask"),
        (
            {"mask": torch.ones(3, 5, 6), "sensitivity_maps": maps(2, 2, 5, 6)},
            errors.ShapeError,
            "mask: got 3 of them for 2 sets of maps",
        ),
        ({"sensitivity_maps": maps(2, 5, 6).real}, errors.DtypeError, "sensitivity_maps: got"),
        ({"sensitivity_maps": spoilt(maps(2, 5, 6))}, errors.NonFiniteError, "sensitivity_maps"),
        ({"sensitivity_maps": maps(5, 6)}, errors.ShapeError, "sensitivity_maps: got 2 axes"),
        (
            {"sensitivity_maps": torch.zeros(0, 5, 6, dtype=C64)},
            errors.ArgumentError,
            "sensitivity_maps: is empty",
        ),
    ],
    SingleCoilMRI: [
        ({"mask": torch.ones(6)}, errors.ShapeError, "mask: got 1 axes"),
        ({"mask": torch.ones(1, 1, 5, 6)}, errors.ShapeError, "mask: got 4 axes"),
        ({"mask": torch.ones(0, 6)}, errors.ArgumentError, "mask: is empty"),
        ({"mask": torch.zeros(5, 6)}, errors.ArgumentError, "mask"),
        ({"mask": 0.5 * torch.ones(5, 6)}, errors.ArgumentError, "mask"),
        ({"mask": spoilt(torch.ones(5, 6))}, errors.NonFiniteError, "mask"),
    ],
    random_mask: [
        ({"keep": 0}, errors.ArgumentError, "keep: got 0"),
        ({"keep": -0.1}, errors.ArgumentError, "keep"),
        ({"keep": 1.01}, errors.ArgumentError, "keep"),
        ({"keep": math.nan}, errors.ArgumentError, "keep"),
        ({"height": 0}, errors.ArgumentError, "height: got 0"),
        ({"width": -3}, errors.ArgumentError, "width: got -3"),
        ({"width": 3.5}, errors.ArgumentError, "width: got 3.5"),
    ],
    box_mask: [
        ({"box": (6, 2)}, errors.ArgumentError, "box: got .*a box inside 5 x 6"),
        ({"box": (2, 7)}, errors.ArgumentError, "box"),
        ({"box": (0, 2)}, errors.ArgumentError, "box"),
        ({"box": (2, -1)}, errors.ArgumentError, "box"),
        ({"box": 2}, errors.ArgumentError, "box: got 2, accepted: two integers"),
        ({"box": (2, 2, 2)}, errors.ArgumentError, "box"),
        ({"box": (2.0, 2)}, errors.ArgumentError, "box"),
        ({"corner": (-1, 0)}, errors.ArgumentError, "box"),
        ({"corner": (4, 0)}, errors.ArgumentError, "box"),
        ({"corner": (0, 5)}, errors.ArgumentError, "box"),
        ({"corner": 3}, errors.ArgumentError, "corner: got 3"),
        ({"corner": ()}, errors.ArgumentError, "corner"),
    ],
    gaussian_kernel: [
        ({"sigma": 0.0}, errors.ArgumentError, "sigma: got 0.0"),
        ({"sigma": -1.0}, errors.ArgumentError, "sigma"),
        ({"sigma": math.nan}, errors.ArgumentError, "sigma"),
        ({"sigma": math.inf}, errors.ArgumentError, "sigma"),
        ({"size": 0}, errors.ArgumentError, "size: got 0"),
        ({"size": 4.5}, errors.ArgumentError, "size: got 4.5"),
    ],
    motion_kernel: [
        ({"intensity": 0.0}, errors.ArgumentError, "intensity: got 0.0"),
        ({"intensity": 1.1}, errors.ArgumentError, "intensity"),
        ({"intensity": -0.5}, errors.ArgumentError, "intensity"),
        ({"intensity": math.nan}, errors.ArgumentError, "intensity"),
        ({"size": 0}, errors.ArgumentError, "size: got 0"),
        ({"size": -3}, errors.ArgumentError, "size"),
    ],
}
GOOD = {
    Inpainting: {"mask": torch.ones(3, 4)},
    SuperResolution: {"image_size": (1, 8, 12), "factor": 4},
    Blur: {"kernel": KERNEL, "image_size": (1, 6, 7)},
    MultiCoilMRI: {"mask": torch.ones(5, 6), "sensitivity_maps": maps(2, 5, 6)},
    SingleCoilMRI: {"mask": torch.ones(5, 6)},
    random_mask: {"height": 5, "width": 6, "keep": 0.5},
    box_mask: {"height": 5, "width": 6, "box": (2, 2)},
    gaussian_kernel: {"sigma": 1.0, "size": 5},
    motion_kernel: {"size": 7, "intensity": 0.5},
}


@pytest.mark.parametrize(
    ("make", "changes", "error", "match"),
    [
        pytest.param(make, *case, id=f"{make.__name__}-{case[2]}")
        for make, cases in BAD.items()
        for case in cases
    ],
)
def test_bad_construction_names_the_argument(make, changes, error, match):
    make(**GOOD[make])
    with pytest.raises(error, match=match):
        make(**GOOD[make] | changes)
