"""What every operator is held to: a row in `LINEAR` or `NONLINEAR` is all that a new one needs."""

import copy
import math
import pickle
import pydoc
from functools import partial

import numpy as np
import pytest
import torch
from tests.helpers import kind, maps, mask, random, relative

from wellposed import errors, operators
from wellposed.operators import (
    JPEG,
    BlindBlur,
    BlindCT,
    BlindMRI,
    Blur,
    Channels,
    Companded,
    CompressedSensing,
    ConeBeamCT,
    Decomposable,
    Denoising,
    DynamicMRI,
    EachItem,
    FanBeamCT,
    FunctionOperator,
    Inpainting,
    Joint,
    MatrixOperator,
    MultiCoilMRI,
    MultiCoilMRI3D,
    NonCartesianMRI,
    OffResonanceMRI,
    PaddedBlur,
    ParallelBeamCT,
    PhaseRetrieval,
    Separable,
    SeparableBlur,
    SingleCoilMRI,
    Stacked,
    Superposition,
    SuperResolution,
    WalshHadamard,
    Whitened,
    check_operator,
    gaussian_kernel,
    motion_kernel,
    uniform_random_lines,
)
from wellposed.operators.check import dense_matrix
from wellposed.operators.image.channels import with_gains

pytestmark = pytest.mark.usefixtures("single_thread")

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128
EVERY = slice(None)


def levels(*shape):
    return 0.5 + torch.from_numpy(np.random.default_rng(1).random(shape))


def trajectory(*shape):
    return torch.from_numpy(np.random.default_rng(1).uniform(-2, 2, shape))


def own_operators(i):
    """An operator for each of three items, with masks that vary along one axis or both."""
    masks = [uniform_random_lines(6, 2, seed=0), mask(5, 6), mask(5, 6, seed=1)]
    made = [MultiCoilMRI(m, maps(2, 5, 6, seed=n), 0.1) for n, m in enumerate(masks)]
    return EachItem(made) if i == EVERY else made[i]


def running_sum(x):
    return x.cumsum(-1) - 0.5 * x.flip(-2)


KERNEL = torch.tensor([[0.1, 0.5, 0.0, 0.2], [0.3, 0.0, 0.4, 0.1], [0.0, 0.2, 0.0, 0.05]])
LINES = torch.tensor([1.0, 0, 1, 1, 0, 0, 1])
ROW, COLUMN = random(1, 4, seed=1), random(3, 1, seed=2)

# --- the rows -------------------------------------------------------------------------------

# Small, with odd sides or not square. Each row is a function that makes the operator.
SHARED = {
    "inpainting (H, W)": lambda: Inpainting(mask(5, 7), 2),
    "inpainting (C, H, W)": lambda: Inpainting(mask(3, 6, 5)),
    "denoising": lambda: Denoising((2, 5, 6)),
    "channels": lambda: Channels((3, 4, 5), [2, 0]),
    "channels, complex": lambda: Channels((3, 4, 5), [1], complex_image=True),
    "channel gains": lambda: with_gains(Denoising((2, 4, 5)), [0.5, 2.0]),
    "denoising, volume": lambda: Denoising((1, 2, 3, 4)),
    "denoising, complex": lambda: Denoising((1, 4, 5), complex_image=True),
    "bicubic 4": lambda: SuperResolution((2, 8, 12), 4),
    "bicubic 3, odd": lambda: SuperResolution((1, 9, 15), 3),
    "bicubic 4 to one pixel": lambda: SuperResolution((1, 4, 8), 4),
    "average 2": lambda: SuperResolution((3, 6, 4), 2, "average"),
    "average 5": lambda: SuperResolution((1, 5, 15), 5, "average"),
    "gaussian blur": lambda: Blur(gaussian_kernel(1.2, 5), (2, 9, 6)),
    "motion blur": lambda: Blur(motion_kernel(7, seed=3), (1, 7, 10)),
    "even asymmetric blur": lambda: Blur(KERNEL, (1, 6, 7)),
    "blur as large as the image": lambda: Blur(random(5, 4), (2, 5, 4)),
    "singular blur": lambda: Blur(torch.ones(2, 3), (1, 6, 6)),
    "separable": lambda: Separable(random(4, 5), random(7, 6), 2),
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
    "blocks": lambda: CompressedSensing((2, 8, 12), 0.3, 4),
    "blocks, odd": lambda: CompressedSensing((1, 9, 6), 0.5, 3),
    "permuted": lambda: CompressedSensing((2, 8, 12), 0.3, 4, permuted=True),
    "hadamard": lambda: WalshHadamard((2, 8, 4), 0.25),
    "hadamard, one row": lambda: WalshHadamard((1, 1, 16), 0.3),
    "matrix": lambda: MatrixOperator(random(5, 24), (1, 6, 4)),
    "complex matrix": lambda: MatrixOperator(random(5, 24, dtype=C128), (1, 6, 4)),
    "function": lambda: FunctionOperator(running_sum, (1, 6, 4)),
    "multi-coil, 2-D mask": lambda: MultiCoilMRI(mask(6, 7), maps(3, 6, 7)),
    "multi-coil, odd": lambda: MultiCoilMRI(mask(5, 7), maps(2, 5, 7)),
    "multi-coil, line mask": lambda: MultiCoilMRI(LINES, maps(2, 6, 7)),
    "multi-coil, lines along rows": lambda: MultiCoilMRI(
        LINES[:, None].expand(7, 4), maps(2, 7, 4)
    ),
    "multi-coil, full": lambda: MultiCoilMRI(torch.ones(4, 5), maps(2, 4, 5)),
    "single-coil": lambda: SingleCoilMRI(mask(7, 5)),
    "volume mri": lambda: MultiCoilMRI3D(mask(4, 5, 3), maps(2, 4, 5, 3)),
    "volume mri, readout along W": lambda: MultiCoilMRI3D(mask(4, 5, 1), maps(2, 4, 5, 3)),
    "frames": lambda: DynamicMRI(mask(3, 5, 6), maps(2, 5, 6)),
    "frames of lines": lambda: DynamicMRI(mask(4, 1, 7), maps(2, 6, 7)),
    "few samples": lambda: NonCartesianMRI(trajectory(8, 2), maps(3, 6, 7)),
    "many samples": lambda: NonCartesianMRI(trajectory(36, 2), maps(2, 6, 7)),
    "samples of a volume": lambda: NonCartesianMRI(trajectory(6, 3), maps(2, 5, 4, 6)),
    "off resonance": lambda: OffResonanceMRI(
        trajectory(3, 5, 2), maps(2, 6, 7), 90 * random(6, 7), torch.linspace(1e-3, 9e-3, 5)
    ),
    "parallel beam": lambda: ParallelBeamCT((9, 8), 7),
    "fan beam": lambda: FanBeamCT((7, 9), 8, 30.0, 50.0),
    "cone beam": lambda: ConeBeamCT((4, 5, 6), 5, 20.0, 30.0),
    "stacked blur": lambda: Stacked(Blur(random(3, 2), (2, 6, 5)), 3),
    "stacked mri": lambda: Stacked(MultiCoilMRI(mask(6, 5), maps(2, 6, 5)), np.int64(2)),
    "superposed": lambda: Superposition([Denoising((1, 6, 4)), Blur(KERNEL, (2, 6, 4))][:1] * 2),
    "superposed, several": lambda: Superposition(
        [SuperResolution((1, 6, 4), 2), SuperResolution((1, 6, 4), 2, "average")], (1.0, -0.5)
    ),
    "whitened blur": lambda: Whitened(Blur(random(3, 2), (2, 6, 5)), levels(2, 6, 5)),
    "whitened mri": lambda: Whitened(MultiCoilMRI(mask(6, 5), maps(2, 6, 5)), levels(2, 6, 5)),
    "A @ B": lambda: Inpainting(mask(6, 7), 1) @ Blur(KERNEL, (1, 6, 7)),
    "A + B": lambda: Inpainting(mask(6, 7), 1) - 2 * Blur(KERNEL, (1, 6, 7)),
    "c * A": lambda: (2 - 1j) * MultiCoilMRI(mask(6, 5), maps(2, 6, 5)),
    "c * A, decomposable": lambda: -3 * SuperResolution((1, 6, 4), 2),
    "A.H": lambda: (Inpainting(mask(6, 7), 1) @ Blur(KERNEL, (1, 6, 7))).H,
    "A.H, decomposable": lambda: SuperResolution((1, 6, 4), 2).H,
    "joint": lambda: Joint([Inpainting(mask(6, 7), 1), Blur(KERNEL, (1, 6, 7))]),
}
# Those with a mask or maps for each of three items: functions of the items that are taken.
PER_ITEM = {
    "inpainting per item": lambda i: Inpainting(mask(3, 2, 4, 5)[i]),
    "multi-coil per item": lambda i: MultiCoilMRI(mask(3, 5, 6)[i], maps(3, 2, 5, 6)[i]),
    "multi-coil, masks per item": lambda i: MultiCoilMRI(mask(3, 5, 6)[i], maps(2, 5, 6)),
    "multi-coil, maps per item": lambda i: MultiCoilMRI(LINES, maps(3, 2, 5, 7)[i]),
    "multi-coil, lines per item": lambda i: MultiCoilMRI(mask(3, 1, 6)[i], maps(2, 5, 6)),
    "single-coil per item": lambda i: SingleCoilMRI(mask(3, 5, 6)[i]),
    "volume mri per item": lambda i: MultiCoilMRI3D(mask(3, 3, 4, 5)[i], maps(2, 3, 4, 5)),
    "frames per item": lambda i: DynamicMRI(mask(3, 2, 5, 4)[i], maps(2, 5, 4)),
    "samples, maps per item": lambda i: NonCartesianMRI(trajectory(8, 2), maps(3, 2, 5, 4)[i]),
    "whitened, std per item": lambda i: Whitened(Denoising((1, 4, 5)), levels(3, 1, 4, 5)[i]),
    "whitened, masks per item": lambda i: Whitened(
        Inpainting(mask(3, 1, 6, 5)[i]), levels(1, 6, 5)
    ),
    "A @ B per item": lambda i: Inpainting(mask(3, 1, 6, 5)[i]) @ Blur(KERNEL, (1, 6, 5)),
    "operators of each item": lambda i: own_operators(i),
    "2 * A per item": lambda i: 2 * Inpainting(mask(3, 1, 6, 5)[i]),
}
NONLINEAR = {
    "jpeg": lambda: JPEG((3, 9, 8), 50),
    "blind blur": lambda: BlindBlur((1, 8, 6), 3),
    "blind ct": lambda: BlindCT(ParallelBeamCT(8, 6), 3),
    "blind mri": lambda: BlindMRI(mask(8, 6), 2),
    "phase retrieval": lambda: PhaseRetrieval((1, 8, 6)),
    "companded": lambda: Companded(Blur(KERNEL, (1, 6, 7))),
    "companded sum": lambda: Companded(Superposition([Denoising((1, 4, 5))] * 2)),
}
LINEAR = SHARED | {name: partial(row, EVERY) for name, row in PER_ITEM.items()}
OPERATORS = LINEAR | NONLINEAR
DECOMPOSABLE = [name for name, row in LINEAR.items() if isinstance(row(), Decomposable)]
GRIDDED = ("many samples", "off resonance")
"""Whose ``A^H A`` is a convolution on a finer grid, right up to 5e-6."""


def build(name):
    return OPERATORS[name]()


def item(name, i):
    """Return the operator of item i alone."""
    return PER_ITEM[name](i) if name in PER_ITEM else build(name)


def images(op, count=3, dtype=F64, seed=0):
    return random(count, *op.img_size, dtype=kind(op, dtype), seed=seed)


def data(op, count=3, dtype=F64, seed=1):
    return random(count, *op.measurement_size, dtype=kind(op, dtype), seed=seed)


def inverse_tolerance(op, exact):
    """Conjugate gradients stop at a relative residual."""
    return exact if isinstance(op, Decomposable) else 1e-3


# --- linear operators -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", [F32, F64])
@pytest.mark.parametrize("name", SHARED)
def test_adjoint_and_normal_map_are_those_of_the_dense_matrix(name, precision):
    op = build(name)
    dtype, tolerance = kind(op, precision), 2e-6 if precision == F32 else 1e-13
    A = dense_matrix(op.A, op.img_size, dtype)
    assert A.dtype == dtype
    assert A.shape == (math.prod(op.measurement_size), math.prod(op.img_size))
    assert relative(dense_matrix(op.A_adjoint, op.measurement_size, dtype), A.mH) < tolerance
    gridded = 5e-6 if name in GRIDDED else 0
    normal = dense_matrix(op.A_adjoint_A, op.img_size, dtype)
    assert relative(normal, A.mH @ A) < max(2 * tolerance, gridded)
    x, y = images(op).to(dtype), data(op).to(dtype)
    assert relative(op.A(x).flatten(1), x.flatten(1) @ A.T) < tolerance
    assert relative(op.A_adjoint(y).flatten(1), y.flatten(1) @ A.conj()) < tolerance


@pytest.mark.parametrize("name", LINEAR)
def test_every_operator_passes_the_check(name, device):
    op = build(name).to(device)
    for dtype in (F32, F64):
        report = check_operator(op, dtype=kind(op, dtype))
        assert report.passes(1e-5 if dtype == F32 or name in GRIDDED else 1e-12)
    assert report == check_operator(op, dtype=kind(op, dtype))


@pytest.mark.parametrize("name", LINEAR)
def test_the_check_takes_the_kind_and_the_items_of_the_operator(name):
    assert check_operator(build(name)).passes()


@pytest.mark.parametrize("name", LINEAR)
def test_the_norm_estimate_is_the_largest_singular_value(name):
    op = build(name)
    alone = [item(name, i) for i in range(3 if name in PER_ITEM else 1)]
    matrices = [dense_matrix(one.A, one.img_size, kind(one, F64)) for one in alone]
    largest = max(float(torch.linalg.matrix_norm(A, 2)) for A in matrices)
    found = check_operator(op, dtype=kind(op, F64)).norm
    assert 0.97 * largest < found < largest * (1 + 1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_a_batch_of_three_equals_its_items(name):
    op, alone = build(name), [item(name, i) for i in range(3)]
    x, y = images(op), op.A(images(op))
    for method, value in (("A", x), ("A_adjoint", y), ("A_adjoint_A", x), ("A_dagger", y)):
        together = getattr(op, method)(value)
        tolerance = inverse_tolerance(op, 1e-12) if method == "A_dagger" else 1e-12
        for i in range(3):
            one = getattr(alone[i], method)(value[i : i + 1])
            assert relative(one, together[i : i + 1]) < tolerance, method


@pytest.mark.parametrize("name", [*PER_ITEM, "average 2", "multi-coil, odd"])
def test_the_operator_of_an_item_is_that_item_alone(name):
    op, x = build(name), images(build(name), 2)
    for i in range(3):
        one, alone = op.item(i), item(name, i)
        y, weight = alone.A(x), torch.ones(2, *[1] * (x.ndim - 1), dtype=F64)
        for found, wanted in (
            (one.A(x), y),
            (one.A_adjoint(y), alone.A_adjoint(y)),
            (one.A_adjoint_A(x), alone.A_adjoint_A(x)),
            (one.restrict(torch.ones_like(y)), alone.restrict(torch.ones_like(y))),
        ):
            assert relative(found, wanted) < 1e-12
        op.preconditioner(weight)  # what the whole has found is not that of an item
        inverses = [o.preconditioner(weight) for o in (one, alone)]
        if inverses[1] is not None:
            assert relative(inverses[0](x), inverses[1](x)) < 1e-12


def test_the_operator_of_an_item_has_its_noise_level():
    op = Inpainting(mask(3, 1, 6, 5), noise_sigma=torch.tensor([0.1, 0.2, 0.3]))
    for part, level in ((op, 0.2), (2 * op, 0.4), (op @ Blur(KERNEL, (1, 6, 5)), 0.2)):
        assert float(part.item(1).noise_model.sigma) == pytest.approx(level)


@pytest.mark.parametrize("name", PER_ITEM)
def test_another_number_of_items_is_refused(name):
    op = build(name)
    assert op.items == 3
    with pytest.raises(errors.ShapeError, match="x: got 1 items, accepted: 3"):
        op.A(images(op, 1))
    with pytest.raises(errors.ShapeError, match="x: got 4 items"):
        op.A_adjoint_A(images(op, 4))
    with pytest.raises(errors.ShapeError, match="y: got 2 items"):
        op.A_adjoint(data(op, 2))


@pytest.mark.parametrize("name", LINEAR)
def test_the_gradient_of_the_misfit_is_the_adjoint(name):
    op = build(name)
    x, y = images(op).requires_grad_(), data(op)
    (gradient,) = torch.autograd.grad(0.5 * (op.A(x) - y).abs().square().sum(), x)
    residual = (op.A(x) - y).detach()
    torch.testing.assert_close(gradient, op.A_adjoint(residual))
    normal = op.A_adjoint_A(x)
    (gradient,) = torch.autograd.grad(normal.abs().square().sum(), x)
    torch.testing.assert_close(gradient, 2 * op.A_adjoint_A(normal.detach()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_the_proximal_solution_is_where_the_gradient_vanishes(name):
    op, gamma = build(name), torch.tensor([0.0, 0.5, 20.0])
    z, y = images(op, seed=3), data(op, seed=4)
    x = op.prox_l2(z, y, gamma)
    weight = gamma.to(F64).reshape(-1, *[1] * (x.ndim - 1))
    pull = weight * op.A_adjoint(y - op.A(z))
    gap = weight * op.A_adjoint(op.A(x) - y) + x - z
    # The normal operator of gridded samples, by which it is solved, is right up to 5e-6.
    tolerance = 1e-4 if name in GRIDDED else inverse_tolerance(op, 1e-10)
    assert float(gap.norm()) < tolerance * float(pull.norm())
    torch.testing.assert_close(x[0], z[0])


@pytest.mark.parametrize("name", LINEAR)
def test_restricted_data_have_the_same_adjoint(name):
    op, x = build(name), images(build(name))
    y = op.restrict(data(op))
    assert torch.equal(op.restrict(y), y)
    torch.testing.assert_close(op.A_adjoint(y), op.A_adjoint(data(op)))
    assert torch.equal(op.restrict(op.A(x)), op.A(x))


@pytest.mark.parametrize("name", LINEAR)
def test_the_pseudo_inverse_fits_the_data(name):
    op = build(name)
    y = op.A(images(op))
    if "beam" in name:  # filtered back-projection, no pseudo-inverse
        assert op.A_dagger(y).shape == (3, *op.img_size)
    else:
        assert relative(op.A(op.A_dagger(y)), y) < 2e-3


@pytest.mark.parametrize("name", [name for name in DECOMPOSABLE if name not in PER_ITEM])
def test_the_decomposition_is_one(name):
    """A = U s V^H, both U and V isometric: V V^H and U U^H are orthogonal projections."""
    op = build(name)
    dtype, s = kind(op, F64), op.singular_values.to(F64)
    A = dense_matrix(op.A, op.img_size, dtype)
    assert bool((s >= 0).all())
    product = dense_matrix(lambda x: op.U(s * op.V_adjoint(x)), op.img_size, dtype)
    assert relative(product, A) < 1e-12
    for size, out, back in (
        (op.img_size, op.V, op.V_adjoint),
        (op.measurement_size, op.U, op.U_adjoint),
    ):
        P = dense_matrix(lambda x, out=out, back=back: out(back(x)), size, dtype)
        assert relative(P @ P, P) < 1e-12
        assert relative(P.mH, P) < 1e-12
        c = back(random(2, *size, dtype=dtype))
        torch.testing.assert_close(back(out(c)), c)


# --- all operators --------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_an_item_is_measured_alike_alone_and_in_a_batch(name):
    op, x = build(name), images(build(name))
    y = op.A(x)
    assert y.shape == (3, *op.measurement_size)
    for i in range(3):
        torch.testing.assert_close(item(name, i).A(x[i : i + 1]), y[i : i + 1])
    assert torch.equal(op.measure(x, 4), op.measure(x, 4))


@pytest.mark.parametrize("name", OPERATORS)
def test_arguments_are_left_alone(name):
    op = build(name)
    x, y = images(op, dtype=F32), data(op, dtype=F32)
    kept = x.clone(), y.clone()
    for function, value in ((op.A, x), (op.A_adjoint, y), (op.A_dagger, y), (op.restrict, y)):
        function(value)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


@pytest.mark.parametrize("name", OPERATORS)
def test_moving_to_another_precision_keeps_the_operator(name):
    op, x = build(name), images(build(name))
    expected, single = op.A(x), kind(op, F32)
    for other in (op.to(F64), copy.deepcopy(op).double(), copy.deepcopy(op).float()):
        torch.testing.assert_close(other.A(x), expected, rtol=1e-5, atol=1e-5)
    assert op.A(x.to(single)).dtype == single
    assert op.A_adjoint(op.A(x.to(single))).dtype == single


@pytest.mark.parametrize("name", OPERATORS)
def test_bad_data_are_refused(name):
    op = build(name)
    x, y = images(op, dtype=F32), data(op, dtype=F32)
    calls = [("x", op.A, x), ("y", op.A_adjoint, y), ("y", op.A_dagger, y)]
    calls += [("x", op.A_adjoint_A, x)] if name in LINEAR else []
    for argument, function, good in calls:
        for bad in (good[0], good[..., :-1], good[:, :0], torch.cat([good, good], 1), good[:0]):
            with pytest.raises(errors.ShapeError, match=f"{argument}: got shape"):
                function(bad)
        other = good.real if good.is_complex() else good.to(C64)
        for bad in (other, torch.ones_like(good.real).long()):
            with pytest.raises(errors.DtypeError, match=f"{argument}: got dtype"):
                function(bad)
        with pytest.raises(errors.DtypeError, match=f"{argument}: got ndarray"):
            function(good.numpy())
        if name in LINEAR:
            with pytest.raises(errors.DeviceError, match=f"{argument}: is on meta"):
                function(good.to("meta"))


@pytest.mark.parametrize("name", OPERATORS)
def test_every_device_gives_the_same(name, device):
    op, there = build(name), build(name).to(device)
    x, y = images(op), data(op)
    torch.testing.assert_close(there.A(x.to(device)).cpu(), op.A(x))
    torch.testing.assert_close(there.A_adjoint(y.to(device)).cpu(), op.A_adjoint(y))
    assert torch.equal(there.restrict(y.to(device)).cpu(), op.restrict(y))
    torch.testing.assert_close(there.measure(x.to(device)).cpu(), op.measure(x))
    assert {buffer.device.type for buffer in there.buffers()} == {device.type}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_pickle(name):
    op = build(name)
    again = pickle.loads(pickle.dumps(op))
    x, y = images(op), data(op)
    for method, value in (("A", x), ("A_adjoint", y), ("A_dagger", y), ("measure", x)):
        assert torch.equal(getattr(again, method)(value), getattr(op, method)(value)), method
    assert repr(again) == repr(op)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_told_in_a_line_with_their_shapes(name):
    op = build(name)
    assert repr(op).startswith(f"{type(op).__name__}(")
    assert f"{tuple(op.img_size)} -> {tuple(op.measurement_size)}, noise_sigma=" in repr(op)
    assert "\n" not in repr(op)
    assert len(repr(op)) < 150


@pytest.mark.parametrize("name", OPERATORS)
def test_names_are_the_operators_own(name):
    op = build(name)
    shown = {n for n in dir(op) if not n.startswith("_")}
    assert {"A", "A_adjoint", "A_dagger", "measure", "restrict", "img_size", "to"} <= shown
    assert all(hasattr(op, n) for n in shown)
    assert not shown & {"compute_norm", "add_module", "sensor_model", "SVD", "state_dict"}
    assert len(pydoc.render_doc(type(op), renderer=pydoc.plaintext).splitlines()) < 150


def test_the_help_of_an_operator_is_short():
    text = pydoc.render_doc(MultiCoilMRI, renderer=pydoc.plaintext)
    assert len(text.splitlines()) < 125  # of which 10 are the example
    for name in ("A_adjoint", "prox_l2", "measure", "restrict", "H", "coil_combined_rss"):
        assert f"|  {name}" in text


def test_every_public_operator_has_a_row():
    def classes(cls):
        return {cls}.union(*(classes(c) for c in cls.__subclasses__()))

    public = {getattr(operators, name) for name in operators.__all__}
    base = {operators.LinearOperator, operators.NonlinearOperator}
    known = classes(operators.LinearOperator) | classes(operators.NonlinearOperator)
    tested = {cls for row in OPERATORS.values() for cls in type(row()).__mro__}
    assert not {cls.__name__ for cls in (public & known) - base - tested}
