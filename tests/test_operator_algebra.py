"""Products, sums, multiples, adjoints and stacks of operators, matrices and functions."""

import math
import operator as python

import numpy as np
import pytest
import torch
from deepinv.physics import Inpainting as DeepinvInpainting
from tests.helpers import random, relative

from wellposed import errors
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.operators import (
    Blur,
    Decomposable,
    Denoising,
    FunctionOperator,
    Inpainting,
    Joint,
    MatrixOperator,
    PhaseRetrieval,
    SingleCoilMRI,
    Stacked,
    Superposition,
    SuperResolution,
    check_operator,
    random_mask,
)
from wellposed.operators.check import dense_matrix
from wellposed.parallel.part import Part

pytestmark = pytest.mark.usefixtures("single_thread")

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128
SIZE = (1, 6, 4)


def blur(sigma=0.0):
    return Blur(random(3, 2), SIZE, sigma)


def mask(sigma=0.0, seed=0):
    return Inpainting(random_mask(6, 4, 0.5, seed), 1, sigma)


def small(sigma=0.0):
    return SuperResolution(SIZE, 2, "average", sigma)


def mri(sigma=0.0, seed=0):
    return SingleCoilMRI(random_mask(6, 4, 0.5, seed), sigma)


def matrix(dtype=F64, sigma=0.0):
    return MatrixOperator(random(5, 24, dtype=dtype), SIZE, sigma)


def spectrum(x):
    return torch.fft.rfft2(x)


FUNCTION = FunctionOperator(spectrum, SIZE)

# A combination, and its matrix made of those of its parts.
ALGEBRA = {
    "A @ B": (lambda: mask() @ blur(), lambda: D(mask()) @ D(blur())),
    "A @ B @ C": (lambda: small() @ mask() @ blur(), lambda: D(small()) @ D(mask()) @ D(blur())),
    "A + B": (lambda: mask() + blur(), lambda: D(mask()) + D(blur())),
    "A - B": (lambda: mask() - blur(), lambda: D(mask()) - D(blur())),
    "c A": (lambda: -2.5 * (mask() @ blur()), lambda: -2.5 * D(mask()) @ D(blur())),
    "A / c": (lambda: (mask() @ blur()) / 4, lambda: D(mask()) @ D(blur()) / 4),
    "-A": (lambda: -small(), lambda: -D(small())),
    "c A, decomposable": (lambda: -2.5 * small(), lambda: -2.5 * D(small())),
    "A.H": (lambda: (mask() + blur()).H, lambda: (D(mask()) + D(blur())).mH),
    "A.H, decomposable": (lambda: small().H, lambda: D(small()).mH),
    "A.H @ A": (lambda: small().H @ small(), lambda: D(small()).mH @ D(small())),
    "joint": (
        lambda: Joint([mask(), blur(), matrix().H @ matrix()]),
        lambda: torch.cat([D(mask()), D(blur()), D(matrix()).mH @ D(matrix())]),
    ),
    "stacked": (lambda: 2 * Stacked(blur(), 2), lambda: 2 * D(Stacked(blur(), 2))),
    "superposed": (
        lambda: 3 * Superposition([blur(), mask()]),
        lambda: 3 * torch.cat([D(blur()), D(mask())], 1),
    ),
    "superposed, aligned": (
        lambda: 3 * Superposition([mask(), mask()]),
        lambda: 3 * torch.cat([D(mask()), D(mask())], 1),
    ),
    "complex A @ B": (lambda: mri().H @ mri(seed=1), lambda: D(mri()).mH @ D(mri(seed=1))),
    "complex A + B": (lambda: mri() - mri(seed=1), lambda: D(mri()) - D(mri(seed=1))),
    "complex c A": (lambda: (2 - 1j) * (mri() + mri()), lambda: (4 - 2j) * D(mri())),
    "complex c A of one coil": (lambda: (2 - 1j) * mri(), lambda: (2 - 1j) * D(mri())),
    "complex A.H": (lambda: (1j * mri()).H, lambda: (1j * D(mri())).mH),
    "complex joint": (
        lambda: Joint([mri(), mri(seed=1)]),
        lambda: torch.cat([D(mri()), D(mri(seed=1))]),
    ),
    "matrix": (matrix, lambda: random(5, 24)),
    "complex matrix": (lambda: matrix(C128), lambda: random(5, 24, dtype=C128)),
    "complex matrix, conjugate multiple": (
        lambda: ((1 + 2j) * matrix(C128)).H,
        lambda: ((1 + 2j) * random(5, 24, dtype=C128)).mH,
    ),
    "function": (
        lambda: FunctionOperator(lambda x: x.cumsum(-1) @ random(4, 3).to(x.dtype), SIZE),
        lambda: D(lambda x: x.cumsum(-1) @ random(4, 3)),
    ),
    "complex function": (
        lambda: FunctionOperator(lambda x: 1j * torch.fft.fft2(x), SIZE, complex_image=True),
        lambda: D(lambda x: 1j * torch.fft.fft2(x), C128),
    ),
}
PLAIN = {"function", "complex function", "matrix", "complex matrix"}


def D(operator, dtype=F64):
    """The matrix of an operator, or of a function of images of `SIZE`."""
    if not hasattr(operator, "A"):
        return dense_matrix(operator, SIZE, dtype)
    return dense_matrix(operator.A, operator.img_size, kind(operator.complex_image, dtype))


def kind(is_complex, dtype=F64):
    return {F32: C64, F64: C128}[dtype] if is_complex else dtype


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", ALGEBRA)
def test_combinations_are_those_of_the_matrices(name, dtype):
    build, expected = ALGEBRA[name]
    op, M, tolerance = build(), expected(), 1e-5 if dtype == F32 else 1e-12
    images, data = kind(op.complex_image, dtype), kind(op.complex_measurement, dtype)
    A = dense_matrix(op.A, op.img_size, images)
    assert A.dtype == data
    assert relative(A, M.to(data)) < tolerance
    adjoint = dense_matrix(op.A_adjoint, op.measurement_size, data)
    assert relative(adjoint, M.mH.to(images)) < tolerance
    normal = dense_matrix(op.A_adjoint_A, op.img_size, images)
    assert relative(normal, (M.mH @ M).to(images)) < tolerance
    assert check_operator(op, dtype=images).passes(tolerance)


@pytest.mark.parametrize("name", ALGEBRA)
def test_pseudo_inverses_and_proximal_solutions_fit(name):
    op = ALGEBRA[name][0]()
    x = random(2, *op.img_size, dtype=kind(op.complex_image))
    y = op.A(x)
    assert relative(op.A(op.A_dagger(y)), y) < 1e-3
    gamma = torch.tensor([0.5, 3.0], dtype=F64)
    z = random(*x.shape, dtype=x.dtype, seed=1)
    u = op.prox_l2(z, y, gamma)
    weight = gamma.reshape(-1, *[1] * (x.ndim - 1))
    pulled = weight * op.A_adjoint(op.A(u) - y) + u - z
    assert float(pulled.norm()) < 2e-6 * float((weight * op.A_adjoint(y - op.A(z))).norm())


@pytest.mark.parametrize("name", ALGEBRA)
def test_combinations_measure_where_they_are(name, device):
    op = ALGEBRA[name][0]().to(device)
    x = random(2, *op.img_size, dtype=kind(op.complex_image)).to(device)
    y = op.measure(x, 3)
    assert y.shape == (2, *op.measurement_size)
    assert y.device.type == device.type
    assert torch.equal(op.restrict(op.A(x)), op.A(x))


@pytest.mark.parametrize(
    ("build", "level"),
    [
        (lambda: mask(0.3) @ blur(0.4), 0.3),
        (lambda: mask(0.3) + blur(0.4), 0.5),
        (lambda: mask(0.3) - blur(0.4), 0.5),
        (lambda: mask(0.3) + blur(), 0.3),
        (lambda: -2 * mask(0.3), 0.6),
        (lambda: mri(0.5) * (3 + 4j), 2.5),
        (lambda: mask(0.3) / 0.3, 1.0),
        (lambda: mask(0.3).H, 0.0),
        (lambda: Joint([mask(0.3), blur(0.3)]), 0.3),
        (lambda: 2 * Superposition([mask(), mask()], None, 0.3), 0.6),
        (lambda: 2 * Stacked(mask(0.3), 2), 0.6),
        (lambda: matrix(sigma=0.3), 0.3),
    ],
)
def test_noise_levels_follow_from_those_of_the_parts(build, level):
    op = build()
    assert float(op.noise_model.sigma) == pytest.approx(level, rel=1e-6, abs=0)
    x = random(2, *op.img_size, dtype=kind(op.complex_image))
    noise = ItemNoise(0, [(0,), (1,)], MEASUREMENT).draw(op.A(x))
    expected = op.restrict(op.noise_model.sigma.double() * noise)
    torch.testing.assert_close(op.measure(x) - op.A(x), expected, rtol=1e-5, atol=1e-7)


def test_levels_of_items_are_kept():
    levels = torch.tensor([0.3, 0.1])
    total = (mask(levels) + blur(0.4)).noise_model.sigma
    torch.testing.assert_close(total, torch.tensor([0.5, math.hypot(0.1, 0.4)]))


def test_only_entries_that_nothing_measures_are_cut():
    first, second, ones = mask(), mask(seed=1), torch.ones(1, *SIZE)
    expected = (first.restrict(ones) + second.restrict(ones)).clamp(max=1)
    assert torch.equal((first + second).restrict(ones), expected)
    assert torch.equal((first @ blur()).restrict(ones), first.restrict(ones))
    joint = Joint([first, second])
    both = torch.cat([ones, ones], 1)
    assert torch.equal(
        joint.restrict(both), torch.cat([o.restrict(ones) for o in (first, second)], 1)
    )
    for part, own in zip(joint.split(joint.A(ones)), (first, second), strict=True):
        assert torch.equal(part, own.A(ones))


def test_the_adjoint_of_the_adjoint_is_the_operator():
    op = mask() + blur()
    assert op.H.H is op
    assert op.H.img_size == op.measurement_size
    shrunk = small().H
    assert (shrunk.img_size, shrunk.measurement_size) == ((1, 3, 2), SIZE)


@pytest.mark.parametrize("name", [n for n in ALGEBRA if "decomposable" in n or "matrix" in n])
def test_multiples_and_adjoints_stay_decomposable(name):
    op = ALGEBRA[name][0]()
    assert isinstance(op, Decomposable)
    x = random(2, *op.img_size, dtype=kind(op.complex_image))
    coordinates = op.V_adjoint(x)
    torch.testing.assert_close(op.U(op.singular_values * coordinates), op.A(x))
    torch.testing.assert_close(op.V_adjoint(op.V(coordinates)), coordinates)
    torch.testing.assert_close(op.U_adjoint(op.U(coordinates)), coordinates)
    assert (op.singular_values >= 0).all()


def test_masks_of_items_go_together():
    masks = torch.stack([random_mask(6, 4, keep)[None] for keep in (0.3, 0.5, 0.8)])
    many = Inpainting(masks)
    for op in (
        many @ blur(),
        blur() @ many,
        many + blur(),
        2 * many,
        many.H,
        Joint([many, blur()]),
    ):
        assert op.items == 3
        assert check_operator(op, dtype=F64).passes(1e-12)
        with pytest.raises(errors.ShapeError, match=r"got 2 items, accepted: 3"):
            op.A(random(2, *op.img_size))
    with pytest.raises(errors.ArgumentError, match=r"@: got .* parameters for 2 and 3"):
        many @ Inpainting(masks[:2])
    with pytest.raises(errors.ArgumentError, match=r"operators: got operators with parameters"):
        Joint([many, Inpainting(masks[:2])])


BAD = {
    "composed sizes": (
        lambda: blur() @ small(),
        errors.ShapeError,
        r"@: the right operator has measurements \(1, 3, 2\), accepted: \(1, 6, 4\), the image",
    ),
    "composed kinds": (
        lambda: mri() @ blur(),
        errors.DtypeError,
        "@: got real tensors for an operator on complex tensors, accepted: operators on the same",
    ),
    "sum of images": (
        lambda: Denoising((1, 4, 4)) + blur(),
        errors.ShapeError,
        r"\+: got operators on images \(1, 4, 4\) and \(1, 6, 4\)",
    ),
    "sum of measurements": (
        lambda: blur() - small(),
        errors.ShapeError,
        r"\+: got measurements \(1, 6, 4\) and \(1, 3, 2\)",
    ),
    "sum of kinds": (lambda: blur() + mri(), errors.DtypeError, r"\+: got complex tensors"),
    "sum of levels": (
        lambda: blur(torch.ones(2)) + blur(torch.ones(3)),
        errors.ShapeError,
        "noise levels for 2 and 3 items",
    ),
    "joint sides": (
        lambda: Joint([blur(), small()]),
        errors.ShapeError,
        r"operators: got measurements \(1, 6, 4\) and \(1, 3, 2\), accepted: measurements that",
    ),
    "joint levels": (
        lambda: Joint([blur(0.1), mask(0.2)]),
        errors.ArgumentError,
        "noise levels .* accepted: one noise level; divide each operator and its data",
    ),
    "joint of none": (lambda: Joint([]), errors.ArgumentError, r"operators: got \[\], accepted"),
    "joint of one": (lambda: Joint(blur()), errors.ArgumentError, "operators: got Blur"),
    "joint of others": (
        lambda: Joint([blur(), PhaseRetrieval((1, 6, 4))]),
        errors.ArgumentError,
        "(?s)operators: got .* accepted: one or more .*LinearOperator",
    ),
    "times 0": (lambda: 0 * blur(), errors.ArgumentError, r"\*: got 0, accepted: a finite number"),
    "over 0": (lambda: blur() / 0, errors.ArgumentError, "/: got 0, accepted: a finite number"),
    "times infinity": (lambda: math.inf * blur(), errors.ArgumentError, r"\*: got inf"),
    "times nan": (lambda: blur() * math.nan, errors.ArgumentError, r"\*: got nan"),
    "times a bool": (lambda: blur() * True, errors.ArgumentError, r"\*: got True"),
    "times text": (lambda: blur() * "2", errors.ArgumentError, r"\*: got '2'"),
    "times an operator": (lambda: blur() * mask(), errors.ArgumentError, "to compose .*, A @ B"),
    "times i": (
        lambda: 1j * blur(),
        errors.DtypeError,
        r"\*: got 1j for real measurements, accepted: a real number",
    ),
    "superposition times i": (
        lambda: 1j * Superposition([blur(), mask()]),
        errors.DtypeError,
        r"\*: got 1j for real",
    ),
    "deepinv's stack": (
        lambda: blur().stack(mask()),
        errors.ArgumentError,
        r"stack: .* accepted: operators.Joint\(\[A, B\]\)",
    ),
    "part of a shared volume": (
        lambda: Stacked(blur(), 2, part()) + Stacked(blur(), 2, part()),
        errors.ArgumentError,
        r"\+: got 'a part of a volume that processes share'",
    ),
}


def part():
    part = Part()
    part.processes = 2
    return part


def test_what_does_not_go_together_is_named():
    for build, error, match in BAD.values():
        with pytest.raises(error, match=match):
            build()


def test_operators_go_with_wellposed_operators_alone():
    for combine in (python.matmul, python.add, python.sub):
        for other in (3, "A", torch.ones(6, 4), None, DeepinvInpainting((1, 6, 4))):
            with pytest.raises(TypeError, match="unsupported operand"):
                combine(blur(), other)


def test_numbers_of_numpy_are_numbers():
    x = random(1, *SIZE)
    for number in (np.float32(2), np.int64(2), np.float64(2)):
        for op in (number * blur(), blur() * number):
            assert torch.equal(op.A(x), 2 * blur().A(x))
            assert type(op.factor) is float


def test_operators_on_several_devices_are_named():
    with pytest.raises(errors.DeviceError, match=r"\+: got operators on cpu and meta"):
        blur() + blur().to("meta")


# --- matrices and functions -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (
            torch.ones(3, 4),
            errors.ShapeError,
            r"matrix: got \(3, 4\), accepted: \(m, 24\)",
        ),
        (torch.ones(0, 24), errors.ShapeError, r"matrix: is empty, got shape \(0, 24\)"),
        (torch.ones(24), errors.ShapeError, r"matrix: got \(24,\)"),
        (
            torch.ones(3, 24).long(),
            errors.DtypeError,
            "matrix: got torch.int64",
        ),
        (np.ones((3, 24)), errors.DtypeError, "matrix: got ndarray"),
        ([[1.0] * 24], errors.DtypeError, "matrix: got list"),
        (torch.full((1, 24), math.nan), errors.NonFiniteError, "matrix: 24 of 24 values"),
    ],
)
def test_matrices_are_checked(given, error, match):
    with pytest.raises(error, match=match):
        MatrixOperator(given, SIZE)


def test_real_images_may_have_complex_measurements():
    assert FUNCTION.complex_measurement
    assert not FUNCTION.complex_image
    assert check_operator(FUNCTION, dtype=F64).passes(1e-12)
    x = random(2, *SIZE).requires_grad_()
    y = spectrum(random(2, *SIZE, seed=1))
    (gradient,) = torch.autograd.grad(0.5 * (FUNCTION.A(x) - y).abs().square().sum(), x)
    torch.testing.assert_close(gradient, FUNCTION.A_adjoint((FUNCTION.A(x) - y).detach()))
    assert relative((2j * FUNCTION).A_adjoint(y), FUNCTION.A_adjoint(-2j * y)) < 1e-12
    assert check_operator(2j * FUNCTION, dtype=F64).passes(1e-12)


def test_the_adjoint_of_a_function_is_differentiable():
    op, x = ALGEBRA["function"][0](), random(2, *SIZE).requires_grad_()
    normal = op.A_adjoint_A(x)
    (gradient,) = torch.autograd.grad(normal.square().sum(), x)
    torch.testing.assert_close(gradient, 2 * op.A_adjoint_A(normal.detach()))
    with torch.no_grad():
        assert not op.A_adjoint_A(x).requires_grad


def test_modules_move_with_their_operator(device):
    layer = torch.nn.Conv2d(1, 2, 3, bias=False)
    op = FunctionOperator(layer, SIZE).to(device)
    assert check_operator(op).passes(1e-4)
    assert next(op.parameters()).device.type == device.type
    assert op.device.type == device.type
    assert not op.A(random(1, *SIZE, dtype=F32).to(device)).isnan().any()


FUNCTIONS = {
    "square": (lambda x: x.square(), errors.ArgumentError, "accepted: a linear function; others"),
    "affine": (lambda x: x + 1, errors.ArgumentError, "f: got 'errors of linearity"),
    "abs": (lambda x: x.abs(), errors.ArgumentError, "subclasses of operators.NonlinearOperator"),
    "nan": (lambda x: x / 0 * 0, errors.ArgumentError, "f: got"),
    "zero": (lambda x: 0 * x, errors.ArgumentError, "f: got"),
    "mixed items": (lambda x: x + x.mean(0), errors.ArgumentError, "mixes the items of a batch"),
    "mixed by order": (lambda x: x.flip(0), errors.ArgumentError, "mixes the items of a batch"),
    "detached": (lambda x: x.detach() * 2, errors.ArgumentError, "f: got 'no gradient'"),
    "constant": (lambda x: torch.ones(2, 3), errors.ArgumentError, "f: got 'no gradient'"),
    "numpy": (lambda x: x.numpy(), errors.ArgumentError, "f: fails on images of shape"),
    "other sizes": (lambda x: x @ torch.ones(9, 9), errors.ArgumentError, "f: fails on images"),
    "one number": (lambda x: x.sum(), errors.ShapeError, r"f: returns \(\) for 2 images"),
    "other items": (lambda x: x[:1], errors.ShapeError, r"returns \(1, 1, 6, 4\) for 2 images"),
    "nothing": (lambda x: x[:, :0], errors.ShapeError, r"f: returns \(2, 0, 6, 4\)"),
    "integers": (lambda x: x.long(), errors.DtypeError, "f: returns torch.int64"),
    "None": (lambda x: None, errors.DtypeError, "f: returns NoneType"),
    "no function": (3, errors.ArgumentError, "f: got 3, accepted: a function"),
}


def test_functions_that_are_no_linear_operator_are_refused():
    for f, error, match in FUNCTIONS.values():
        with pytest.raises(error, match=match):
            FunctionOperator(f, SIZE)


def test_complex_functions_are_linear_over_complex_numbers():
    with pytest.raises(errors.ArgumentError, match="f: got 'errors of linearity"):
        FunctionOperator(torch.conj, SIZE, complex_image=True)
    with pytest.raises(errors.ArgumentError, match="f: got 'errors of linearity"):
        FunctionOperator(torch.real, SIZE, complex_image=True)
