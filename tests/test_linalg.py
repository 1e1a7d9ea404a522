"""Conjugate gradients against dense solvers, the textbook and their own promises."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tests.helpers import random, relative

from wellposed import errors
from wellposed.linalg import (
    as_real,
    conjugate_gradient,
    inner,
    like,
    norm,
    per_item,
)

pytestmark = pytest.mark.usefixtures("single_thread")

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128
SHAPE = (2, 3, 5)  # of one item: 30 unknowns
SCALES = [1e-12, 1e-6, 1.0, 1e6]


def hermitian(eigenvalues, dtype=F64, seed=0):
    """Return a Hermitian matrix of given eigenvalues and random eigenvectors."""
    eigenvalues = torch.as_tensor(np.array(eigenvalues), dtype=F64)
    n = len(eigenvalues)
    Q = torch.linalg.qr(random(n, n, dtype=C128 if dtype.is_complex else F64, seed=seed))[0]
    return (Q * eigenvalues @ Q.mH).to(dtype)


def graded(n, condition):
    return np.logspace(0, -math.log10(condition), n)


def product(matrices):
    """Return the map that multiplies item i, of any shape, by matrix i."""

    def apply(x):
        return (matrices @ x.flatten(1)[..., None])[..., 0].view_as(x)

    return apply


def true_residual(matrices, x, b):
    """Return ||b - A x|| / ||b|| of each item in double precision."""
    wide = C128 if b.is_complex() else F64
    return norm(b.to(wide) - product(matrices.to(wide))(x.to(wide))) / norm(b.to(wide))


def textbook(A, b, x, steps):
    """Hestenes and Stiefel (1952) for one system, in numpy."""
    r = b - A @ x
    p, rr = r, np.vdot(r, r).real
    for _ in range(steps):
        q = A @ p
        alpha = rr / np.vdot(p, q).real
        x, r = x + alpha * p, r - alpha * q
        rr, last = np.vdot(r, r).real, rr
        p = r + rr / last * p
    return x


def varied(dtype=F64, conditions=(1.0, 10.0, 1e3, 1e5)):
    """Return one system for each condition number, the matrices and a right-hand side."""
    A = torch.stack([hermitian(graded(30, c), dtype, i) for i, c in enumerate(conditions)])
    return A, random(len(conditions), *SHAPE, dtype=dtype, seed=9)


# --- what it computes -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, C128])
def test_solves_a_batch_of_different_systems(dtype):
    A, b = varied(dtype)
    found = conjugate_gradient(product(A), b, iterations=500, tolerance=1e-13)
    exact = torch.linalg.solve(A, b.flatten(1)[..., None])[..., 0].view_as(b)
    assert found.x.dtype == dtype
    assert found.residuals.dtype == F64
    assert bool((norm(found.x - exact) < 1e-9 * norm(exact)).all())
    assert bool(found.converged[:3].all())
    assert found.iterations[0] == 1
    assert found.iterations.tolist() == sorted(found.iterations.tolist())


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("dtype", [F64, C128])
def test_takes_exactly_the_steps_of_the_textbook(dtype, steps, warm):
    A, b = varied(dtype, (5.0, 50.0, 1e3))
    x0 = random(*b.shape, dtype=dtype, seed=4) if warm else None
    found = conjugate_gradient(product(A), b, x0, iterations=steps)
    assert found.iterations.tolist() == [steps] * 3
    assert found.residuals.shape == (steps + 1, 3)
    start = torch.zeros_like(b) if x0 is None else x0
    for i in range(3):
        args = (value[i].flatten().numpy() for value in (b, start))
        expected = textbook(A[i].numpy(), *args, steps)
        np.testing.assert_allclose(found.x[i].flatten().numpy(), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("distinct", [1, 2, 4])
def test_ends_after_as_many_steps_as_there_are_distinct_eigenvalues(distinct):
    A = hermitian(np.resize(np.linspace(1, 3, distinct), 30))[None]
    b = random(1, *SHAPE)
    found = conjugate_gradient(product(A), b, iterations=50)
    assert found.residuals[distinct] < 1e-13 < found.residuals[distinct - 1]
    assert found.iterations.item() <= distinct + 1
    assert found.converged.all()
    assert true_residual(A, found.x, b) < 1e-14


@pytest.mark.parametrize("dtype", [F64, C128])
def test_a_preconditioner_saves_steps(dtype):
    """An exact inverse leaves one step, CG inside CG a few; the solution is the same."""
    A, b = varied(dtype, (10.0, 100.0, 1e3))
    exact = torch.linalg.solve(A, b.flatten(1)[..., None])[..., 0].view_as(b)
    near = product(torch.linalg.inv(A + 0.01 * torch.eye(30)))

    def inner_steps(r):
        return conjugate_gradient(product(A), r, iterations=12).x

    for preconditioner, most in (
        (product(3 * torch.linalg.inv(A)), 1),
        (near, 25),
        (inner_steps, 25),
    ):
        found = conjugate_gradient(
            product(A), b, iterations=60, tolerance=1e-9, preconditioner=preconditioner
        )
        assert bool(found.converged.all())
        assert int(found.iterations.max()) <= most
        assert bool((norm(found.x - exact) < 1e-3 * norm(exact)).all())
    plain = conjugate_gradient(product(A), b, iterations=60, tolerance=1e-9)
    assert int(plain.iterations.max()) > 30


def test_the_energy_norm_of_the_error_falls_at_every_step():
    A, b = varied(F64, (100.0,))
    exact = torch.linalg.solve(A, b.flatten(1)[..., None])[..., 0].view_as(b)
    energies = []
    for steps in range(25):
        error = conjugate_gradient(product(A), b, iterations=steps).x - exact
        energies.append(float(inner(error, product(A)(error))))
    assert all(after < before for before, after in pairwise(energies))


@pytest.mark.parametrize("dtype", [F64, C128])
def test_the_history_is_the_true_residual_and_comes_down(dtype):
    A, b = varied(dtype, (2.0, 100.0))
    found = conjugate_gradient(product(A), b, iterations=20)
    for k, residual in enumerate(found.residuals):
        x = conjugate_gradient(product(A), b, iterations=k).x
        torch.testing.assert_close(residual, true_residual(A, x, b), rtol=1e-6, atol=1e-14)
    assert bool((found.residuals[0] == 1).all())
    assert bool((found.residuals[-1] < torch.tensor([1e-9, 0.05])).all())


# --- warm starts ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, C128])
def test_a_warm_start_solves_for_the_correction(dtype):
    A, b = varied(dtype, (10.0, 1e3))
    x0 = random(*b.shape, dtype=dtype, seed=2)
    found = conjugate_gradient(product(A), b, x0, iterations=7)
    correction = conjugate_gradient(product(A), b - product(A)(x0), iterations=7)
    assert relative(found.x, x0 + correction.x) < 1e-12


def test_a_warm_start_at_the_solution_takes_no_step():
    A, b = varied(F64, (1.0, 10.0))
    exact = conjugate_gradient(product(A), b, iterations=100).x
    found = conjugate_gradient(product(A), b, exact, iterations=100, tolerance=1e-10)
    assert found.iterations.tolist() == [0, 0]
    assert found.converged.all()
    assert relative(found.x, exact) < 1e-15
    eye = conjugate_gradient(lambda x: x, b, b, iterations=3)
    assert torch.equal(eye.x, b)
    assert eye.iterations.tolist() == [0, 0]


def test_arguments_are_left_alone():
    A, b = varied(F64, (10.0, 1e3))
    x0 = random(*b.shape, seed=1)
    kept = b.clone(), x0.clone()
    conjugate_gradient(product(A), b, x0, iterations=5)
    assert torch.equal(b, kept[0])
    assert torch.equal(x0, kept[1])


# --- stopping -------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", [F32, C64, F64])
def test_tolerance_stops_each_item_at_its_first_good_iterate(dtype, tolerance):
    A, b = varied(dtype, (1.5, 10.0, 100.0))
    found = conjugate_gradient(product(A), b, iterations=500, tolerance=tolerance)
    # Single precision cannot meet 1e-6 on all of them: those stop at rounding and say so.
    assert found.converged.all() or (tolerance == 1e-6 and dtype != F64)
    assert len(found.residuals) == found.iterations.max() + 1
    assert bool((true_residual(A, found.x, b) < 1.05 * tolerance + 5e-6 * (dtype != F64)).all())
    for i, k in enumerate(found.iterations.tolist()):
        assert bool(found.residuals[k, i] <= tolerance) == bool(found.converged[i])
        assert tolerance < found.residuals[k - 1, i]
        assert bool((found.residuals[k:, i] == found.residuals[k, i]).all())


def test_unmet_tolerance_is_reported():
    A, b = varied(F64, (1.0, 1e4))
    found = conjugate_gradient(product(A), b, iterations=10, tolerance=1e-8)
    assert found.converged.tolist() == [True, False]
    assert found.iterations.tolist() == [1, 10]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("tolerance", [None, 1e-5])
@pytest.mark.parametrize("dtype", [F32, F64, C64])
def test_an_item_does_not_depend_on_its_batch_mates(dtype, tolerance, warm):
    """Bit for bit, for an operator that is itself the same in any batch."""
    spectra = [scale * graded(30, c) for scale, c in ((1, 1), (1e4, 3), (1e-5, 30), (7, 1e3))]
    d = torch.from_numpy(np.stack([*spectra, -spectra[1]])).view(-1, *SHAPE).to(dtype)
    size = torch.tensor([1e-9, 1e5, 3.0, 1e-2, 1.0], dtype=d.real.dtype)
    b = per_item(size, d) * random(*d.shape, dtype=dtype)
    x0 = per_item(size, d) * random(*d.shape, dtype=dtype, seed=1) if warm else None
    options = {"iterations": 12 if tolerance is None else 300, "tolerance": tolerance}
    together = conjugate_gradient(lambda x: d * x, b, x0, **options)
    assert len(set(together.iterations.tolist())) > 2
    for i in range(len(d)):
        one = slice(i, i + 1)
        start = None if x0 is None else x0[one]
        single = conjugate_gradient(lambda x, one=one: d[one] * x, b[one], start, **options)
        assert torch.equal(together.x[one], single.x)
        assert torch.equal(together.iterations[one], single.iterations)
        assert torch.equal(together.converged[one], single.converged)
        count = len(single.residuals)
        assert torch.equal(together.residuals[:count, one], single.residuals)


def test_an_item_does_not_depend_on_its_batch_mates_through_matrix_products():
    A, b = varied(F64, (1.0, 3.0, 30.0, 300.0))
    together = conjugate_gradient(product(A), b, iterations=8)
    for i in range(4):
        single = conjugate_gradient(product(A[i : i + 1]), b[i : i + 1], iterations=8)
        assert relative(together.x[i], single.x[0]) < 1e-10


def test_a_finished_item_stays_bit_for_bit():
    A, b = varied(F32, (2.0, 1e4))
    few = conjugate_gradient(product(A), b, iterations=60, tolerance=1e-3)
    more = conjugate_gradient(product(A), b, iterations=400, tolerance=1e-3)
    assert few.iterations[0] == more.iterations[0] < 15
    assert few.iterations[1] < more.iterations[1]
    assert torch.equal(few.x[0], more.x[0])


@pytest.mark.parametrize("tolerance", [None, 1e-6])
@pytest.mark.parametrize("dtype", [F32, C128])
def test_a_zero_right_hand_side_gives_zero(dtype, tolerance):
    A, b = varied(dtype, (10.0, 10.0))
    b[0] = 0
    found = conjugate_gradient(product(A), b, iterations=20, tolerance=tolerance)
    assert not found.x[0].any()
    assert found.iterations[0] == 0
    assert bool((found.residuals[:, 0] == 0).all())
    assert found.converged[0]
    single = conjugate_gradient(product(A[1:]), b[1:], iterations=20, tolerance=tolerance)
    assert relative(found.x[1], single.x[0]) < 1e-5


def test_a_zero_right_hand_side_pulls_a_warm_start_to_zero():
    A, b = varied(F64, (2.0, 20.0))
    x0 = random(*b.shape, seed=3)
    found = conjugate_gradient(product(A), 0 * b, x0, iterations=200, tolerance=1e-9)
    assert found.converged.all()
    assert bool((found.residuals[0] == 1).all())
    assert float(found.x.norm()) < 1e-7 * float(x0.norm())


# --- precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("scale", [1e-30, *SCALES, 1e30])
def test_scaling_the_data_scales_the_answer(scale, warm):
    """A constant added to a curvature, or an absolute tolerance, costs 25 % at 1e-6."""
    A, b = varied(F32, (10.0, 100.0))
    x0 = random(*b.shape, dtype=F32, seed=5) if warm else None
    moved = None if x0 is None else scale * x0
    few, many = (
        conjugate_gradient(product(A), scale * b, moved, iterations=steps).x.double() / scale
        for steps in (3, 300)
    )
    reference = conjugate_gradient(product(A), b, x0, iterations=3).x
    assert relative(few, reference.double()) < 2e-6
    exact = torch.linalg.solve(A.double(), b.double().flatten(1)[..., None])[..., 0]
    assert relative(many.flatten(1), exact) < 2e-5


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-40, 2.0**20, 2.0**100])
def test_powers_of_two_are_exact(scale):
    A, b = varied(F32, (10.0, 1e3))
    options = {"iterations": 300, "tolerance": 1e-4}
    reference = conjugate_gradient(product(A), b, **options)
    found = conjugate_gradient(product(A), scale * b, **options)
    assert torch.equal(found.x / scale, reference.x)
    assert torch.equal(found.iterations, reference.iterations)
    assert torch.equal(found.residuals, reference.residuals)


@pytest.mark.parametrize("scale", SCALES)
def test_scaling_the_operator_scales_the_answer_back(scale):
    A, b = varied(F32, (10.0, 100.0))
    reference = conjugate_gradient(product(A), b, iterations=4).x
    found = conjugate_gradient(product(scale * A), b, iterations=4).x
    assert relative(found.double() * scale, reference.double()) < 1e-5


@pytest.mark.parametrize("ratio", [1e-30, 1e30])
def test_a_warm_start_of_another_scale_stays_finite(ratio):
    A, b = varied(F32, (10.0, 100.0))
    found = conjugate_gradient(product(A), b * ratio, torch.ones_like(b), iterations=50)
    assert found.x.isfinite().all()
    assert found.residuals[-1].max() < 1e-2 * found.residuals[0].min()


@pytest.mark.parametrize("condition", [1e3, 1e4])
def test_single_precision_stays_at_the_accuracy_it_attains(condition):
    """Without a stop at rounding the residual explodes, in underflow or along null vectors."""
    A, b = varied(F32, (condition,) * 3)
    runs = {n: conjugate_gradient(product(A), b, iterations=n) for n in (200, 400, 2000)}
    early, middle, late = (true_residual(A, runs[n].x, b) for n in (200, 400, 2000))
    assert bool((late <= 1.01 * early).all())
    assert bool((late <= 1.01 * middle).all())
    assert bool((late < 1e-7 * condition).all())
    assert runs[2000].converged.all()
    forward = torch.linalg.solve(A.double(), b.double().flatten(1)[..., None])[..., 0]
    assert relative(runs[2000].x.flatten(1).double(), forward) < 1e-6 * condition


@pytest.mark.parametrize("dtype", [F32, C64, F64])
@pytest.mark.parametrize("low", [1e-1, 1e-3])
def test_a_singular_system_keeps_its_least_norm_solution(dtype, low):
    """The right-hand side is in the range but for rounding, which must not blow up."""
    spectrum = np.concatenate([graded(30, 1 / low), np.zeros(30)])
    A = torch.stack([hermitian(spectrum, dtype, seed) for seed in range(6)])
    b = product(A)(product(A)(random(6, 60, dtype=dtype)))
    found = conjugate_gradient(product(A), b, iterations=1000)
    wide = C128 if dtype.is_complex else F64
    inverse = torch.linalg.pinv(A.to(wide), rtol=low / 10, hermitian=True)
    least = product(inverse)(b.to(wide))
    eps = torch.finfo(dtype).eps
    assert bool((norm(found.x.to(wide) - least) < 50 * eps / low * norm(least)).all())


# --- breakdown ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("tolerance", [None, 1e-6])
def test_breakdown_freezes_the_item_and_no_other(dtype, tolerance):
    n = 6
    systems = {
        "zero": torch.zeros(n),
        "negative": -torch.ones(n),
        "indefinite": torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]),
        "out of range": torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
        "good": torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0, 3.0]),
    }
    d = torch.stack(list(systems.values())).to(dtype)
    b = torch.ones(len(d), n, dtype=dtype)
    found = conjugate_gradient(lambda x: d * x, b, iterations=50, tolerance=tolerance)
    assert found.x.isfinite().all()
    assert found.residuals.isfinite().all()
    assert found.converged.tolist() == [False] * 4 + [True]
    assert found.iterations[:3].tolist() == [0, 0, 0]
    assert not found.x[:3].any()
    assert relative(d[4] * found.x[4], b[4]) < 1e-6


def test_breakdown_keeps_the_iterate_reached():
    """The second direction has a negative curvature: the result is that of one step."""
    d = torch.tensor([[3.0, 3.0, -0.5]], dtype=F64)
    b = torch.tensor([[1.0, 2.0, 0.5]], dtype=F64)
    found = conjugate_gradient(lambda x: d * x, b, iterations=30)
    assert found.iterations.item() == 1
    step = inner(b, b) / inner(b, d * b)
    torch.testing.assert_close(found.x, step * b)


@pytest.mark.parametrize("seed", range(4))
def test_systems_without_a_solution_stay_finite(seed):
    spectrum = np.concatenate([graded(15, 10), np.zeros(15)])
    A = hermitian(spectrum, F32, seed)[None]
    found = conjugate_gradient(product(A), random(1, 30, dtype=F32), iterations=500)
    assert found.x.isfinite().all()
    assert found.residuals.isfinite().all()
    assert not found.converged.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nan_is_not_hidden_and_stays_in_its_item(bad):
    A, b = varied(F64, (10.0, 10.0))
    clean = conjugate_gradient(product(A), b, iterations=10).x
    spoilt = b.clone()
    spoilt[0, 0, 0, 0] = bad
    broken = A.clone()
    broken[0, 0, 0] = bad
    for matrices, right in ((A, spoilt), *([(broken, b)] if math.isnan(bad) else [])):
        found = conjugate_gradient(product(matrices), right, iterations=10)
        assert found.x[0].isnan().any()
        assert relative(found.x[1], clean[1]) < 1e-12
        assert found.converged[0].logical_not()


# --- derivatives ----------------------------------------------------------------------------


def test_gradients():
    A = hermitian(np.linspace(1, 2, 4))[None]
    b = random(1, 4).requires_grad_()
    solve = torch.linalg.inv(A[0])

    def run(right):
        return conjugate_gradient(product(A), right, iterations=4).x

    assert torch.autograd.gradcheck(run, b)
    (jacobian,) = torch.autograd.functional.jacobian(run, (b,))
    torch.testing.assert_close(jacobian[0, :, 0], solve, rtol=1e-6, atol=1e-8)


def test_gradients_of_frozen_items_are_finite():
    d = torch.tensor([[1.0, 2.0], [1.0, 1.0], [0.0, 0.0], [1.0, -1.0]], dtype=F64)
    b = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], dtype=F64)
    b.requires_grad_()
    conjugate_gradient(lambda x: d * x, b, iterations=5).x.square().sum().backward()
    assert b.grad.isfinite().all()
    torch.testing.assert_close(b.grad[1], torch.full((2,), 2.0, dtype=F64))


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"iterations": -1}, errors.ArgumentError, "iterations: got -1"),
        ({"iterations": 2.0}, errors.ArgumentError, "iterations: got 2.0"),
        ({"iterations": None}, errors.ArgumentError, "iterations: got None"),
        ({"tolerance": 0.0}, errors.ArgumentError, "tolerance: got 0.0"),
        ({"tolerance": -1e-3}, errors.ArgumentError, "tolerance"),
        ({"tolerance": math.nan}, errors.ArgumentError, "tolerance: got nan"),
        ({"x0": torch.zeros(1, 3)}, errors.ShapeError, r"x0: got shape \(1, 3\).*\(2, 3\)"),
        ({"x0": torch.zeros(2, 3, 1)}, errors.ShapeError, "x0"),
        ({"apply": lambda x: x[:, :2]}, errors.ShapeError, r"apply: maps shape.*square"),
        ({"apply": lambda x: x.sum(1)}, errors.ShapeError, "apply"),
    ],
)
def test_bad_arguments_are_named(options, error, match):
    good = {"apply": lambda x: x, "b": torch.ones(2, 3), "iterations": 3}
    with pytest.raises(error, match=match):
        conjugate_gradient(**good | options)


def test_a_non_square_map_is_refused_with_a_warm_start_too():
    with pytest.raises(errors.ShapeError, match="apply"):
        conjugate_gradient(lambda x: x[:, :2], torch.ones(2, 3), torch.ones(2, 3), iterations=1)


# --- the small helpers ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64, C64, C128])
def test_inner_products_and_norms_are_of_each_item(dtype):
    a, b = random(3, *SHAPE, dtype=dtype), random(3, *SHAPE, dtype=dtype, seed=1)
    expected = [np.vdot(u.numpy(), v.numpy()).real for u, v in zip(a, b, strict=True)]
    found = inner(a, b)
    assert found.dtype == a.real.dtype
    tolerance = 1e-5 if a.real.dtype == F32 else 1e-13
    np.testing.assert_allclose(found.numpy(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(norm(a).square(), inner(a, a))


def test_the_inner_product_of_real_and_complex_takes_the_real_part():
    a, b = random(3, *SHAPE, dtype=C128), random(3, *SHAPE, seed=1)
    for found in (inner(a, b), inner(b, a), inner(b, a.conj())):
        torch.testing.assert_close(found, inner(a.real.contiguous(), b))


@pytest.mark.parametrize("dtype", [F64, C128])
def test_views_as_real_and_back(dtype):
    a = random(2, 3, dtype=dtype)
    assert as_real(a).shape == ((2, 3, 2) if dtype.is_complex else (2, 3))
    assert torch.equal(like(as_real(a), a), a)
    assert torch.equal(like(as_real(a.conj()), a), a.conj())
    assert per_item(torch.arange(2), a).shape == (2, 1)
