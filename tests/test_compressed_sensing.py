"""Compressed sensing: orthonormal rows, blocks, permutations, Hadamard coefficients."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from tests.helpers import normal, relative

from wellposed import errors
from wellposed.operators.check import check_operator, dense_matrix
from wellposed.operators.image.compressed_sensing import CompressedSensing, WalshHadamard

pytestmark = pytest.mark.usefixtures("single_thread")

F32, F64 = torch.float32, torch.float64

BUILD = {
    "blocks": lambda: CompressedSensing((2, 8, 12), 0.3, 4),
    "blocks, odd": lambda: CompressedSensing((1, 9, 6), 0.5, 3),
    "one block": lambda: CompressedSensing((1, 5, 5), 0.1, 5),
    "blocks, complete": lambda: CompressedSensing((1, 4, 6), 1.0, 2),
    "permuted": lambda: CompressedSensing((2, 8, 12), 0.3, 4, permuted=True),
    "permuted, odd": lambda: CompressedSensing((1, 9, 6), 0.5, 3, permuted=True),
    "hadamard": lambda: WalshHadamard((2, 8, 4), 0.25),
    "hadamard, one row": lambda: WalshHadamard((1, 1, 16), 0.3),
    "hadamard, complete": lambda: WalshHadamard((1, 4, 4), 1.0),
}


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", BUILD)
def test_rows_are_orthonormal_and_all_maps_those_of_the_dense_matrix(name, dtype):
    op, tolerance = BUILD[name](), 2e-6 if dtype == F32 else 1e-13
    A = dense_matrix(op.A, op.img_size, dtype)
    assert A.dtype == dtype
    assert A.shape == (math.prod(op.measurement_size), math.prod(op.img_size))
    assert relative(A @ A.T, torch.eye(len(A), dtype=dtype)) < tolerance
    for inverse in (op.A_adjoint, op.A_dagger):
        assert relative(dense_matrix(inverse, op.measurement_size, dtype), A.T) < tolerance
    gram = dense_matrix(op.A_adjoint_A, op.img_size, dtype)
    assert relative(gram, A.T @ A) < tolerance
    assert relative(gram @ gram, gram) < 2 * tolerance
    assert check_operator(op, dtype=dtype).passes(1e-5 if dtype == F32 else 1e-13)
    x = normal(3, *op.img_size, dtype=dtype)
    assert relative(op.A(x).flatten(1), x.flatten(1) @ A.T) < tolerance


@pytest.mark.parametrize("name", BUILD)
def test_the_proximal_solution_is_that_of_the_dense_system(name):
    op = BUILD[name]()
    A = dense_matrix(op.A, op.img_size, F64)
    z, y = normal(2, *op.img_size), normal(2, *op.measurement_size, seed=1)
    found = op.prox_l2(z, y, torch.tensor([0.5, 7.0]))
    for i, gamma in enumerate((0.5, 7.0)):
        system, right = torch.eye(A.shape[1]) + gamma * A.T @ A, gamma * A.T @ y[i].flatten()
        expected = torch.linalg.solve(system, z[i].flatten() + right)
        torch.testing.assert_close(found[i].flatten(), expected)


@pytest.mark.parametrize("name", BUILD)
def test_the_range_null_step_fits_the_data(name):
    """IDM's and DDNM's ``x - A^T (A x - y)``."""
    op = BUILD[name]()
    z, y = normal(2, *op.img_size), normal(2, *op.measurement_size, seed=1)
    x = z - op.A_adjoint(op.A(z) - y)
    torch.testing.assert_close(op.A(x), y)
    torch.testing.assert_close(x - op.A_dagger(y), z - op.A_dagger(op.A(z)))


@pytest.mark.parametrize("name", BUILD)
def test_moves_and_seeds(name):
    op, x = BUILD[name](), normal(1, *BUILD[name]().img_size)
    expected = op.A(x)
    assert torch.equal(BUILD[name]().A(x), expected)
    torch.testing.assert_close(op.to(F32).A(x), expected, rtol=0, atol=1e-5)
    assert op.A(x.float()).dtype == F32


@pytest.mark.parametrize(("ratio", "rows"), [(0.1, 103), (0.3, 308), (0.5, 512), (1e-9, 1)])
def test_idms_ratios(ratio, rows):
    assert CompressedSensing((1, 32, 64), ratio).measurement_size == (1, 2, rows)


def test_ratios_that_are_whole_numbers_of_rows_are_not_rounded_up():
    assert 0.07 * 100 > 7
    assert CompressedSensing((1, 10, 10), 0.07, 10).measurement_size == (1, 1, 7)


def test_every_square_block_is_measured_by_the_same_matrix():
    op, x = CompressedSensing((2, 6, 9), 0.5, 3), normal(1, 2, 6, 9)
    y = op.A(x)
    assert y.shape == (1, 2, 6, 5)
    for i in range(2):
        for j in range(3):
            block = x[:, :, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].flatten(2)
            torch.testing.assert_close(y[:, :, 3 * i + j], block @ op.basis)


def test_permuted_blocks_are_those_of_idm():
    """All pixels of a channel permuted, in rows of n, times the matrix."""
    op, x = CompressedSensing((2, 6, 9), 0.5, 3, permuted=True, seed=4), normal(3, 2, 6, 9)
    order = op.order
    assert torch.equal(order.sort()[0], torch.arange(54))
    assert not torch.equal(order, torch.arange(54))
    expected = x.view(3, 2, 54)[:, :, order].view(3, 2, 6, 9) @ op.basis
    torch.testing.assert_close(op.A(x), expected)
    spread = torch.zeros(1, 2, 6, 9, dtype=F64)
    spread[:, 0, :3, :3] = 1  # a square of pixels reaches several blocks, of its channel only
    y = op.A(spread)
    assert int((y[0, 0].abs().amax(1) > 0).sum()) >= 3
    assert not y[0, 1].any()


@pytest.mark.parametrize("permuted", [False, True])
def test_seeds_decide_the_matrix(permuted):
    x = normal(1, 1, 8, 8)
    first, again, other = (
        CompressedSensing((1, 8, 8), 0.5, 4, permuted, seed=seed).A(x) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert relative(other, first) > 0.1


def test_the_subspace_is_uniform():
    """The mean projection on random subspaces is the ratio times the identity."""
    bases = [CompressedSensing((1, 3, 3), 1 / 3, 3, seed=seed).basis for seed in range(400)]
    mean = sum(basis @ basis.T for basis in bases) / len(bases)
    assert float((mean - torch.eye(9) / 3).abs().max()) < 0.05


@pytest.mark.parametrize("size", [(4, 8), (8, 2), (1, 16)])
def test_coefficients_are_rows_of_the_hadamard_matrix(size):
    op = WalshHadamard((1, *size), 0.5, seed=3)
    n = math.prod(size)
    rows = scipy.linalg.hadamard(n)[op.kept] / math.sqrt(n)
    np.testing.assert_allclose(dense_matrix(op.A, (1, *size), F64), rows, atol=1e-14)
    assert len(op.kept.unique()) == n // 2


def test_the_choice_of_coefficients_is_uniform():
    count = np.zeros(16)
    for seed in range(400):
        count[WalshHadamard((1, 4, 4), 0.25, seed=seed).kept] += 1
    deviation = math.sqrt(400 * 0.25 * 0.75)
    assert np.abs(count - 100).max() < 4.5 * deviation


def test_bad_construction_names_the_argument():
    for make, changes, error, match in (
        (
            CompressedSensing,
            {"image_size": (1, 9, 8)},
            errors.ShapeError,
            "block 4; crop to 8 x 8",
        ),
        (CompressedSensing, {"image_size": (1, 2, 8)}, errors.ShapeError, "image_size: got 2 x 8"),
        (CompressedSensing, {"image_size": (8, 8)}, errors.ShapeError, "image_size"),
        (CompressedSensing, {"block": 0}, errors.ArgumentError, "block: got 0"),
        (CompressedSensing, {"block": 4.0}, errors.ArgumentError, "block: got 4.0"),
        (CompressedSensing, {"ratio": 0}, errors.ArgumentError, "ratio: got 0"),
        (CompressedSensing, {"ratio": 1.1}, errors.ArgumentError, "ratio: got 1.1"),
        (CompressedSensing, {"ratio": math.nan}, errors.ArgumentError, "ratio"),
        (CompressedSensing, {"noise_sigma": -1}, errors.ArgumentError, "noise_sigma"),
        (WalshHadamard, {"image_size": (1, 6, 8)}, errors.ShapeError, "6 x 8, .*powers of two"),
        (WalshHadamard, {"image_size": (1, 0, 8)}, errors.ArgumentError, "image_size: got 0"),
        (WalshHadamard, {"ratio": -0.5}, errors.ArgumentError, "ratio: got -0.5"),
        (WalshHadamard, {"noise_sigma": math.nan}, errors.ArgumentError, "noise_sigma"),
    ):
        good = {"image_size": (1, 8, 8), "ratio": 0.5}
        good |= {"block": 4} if make is CompressedSensing else {}
        make(**good)
        with pytest.raises(error, match=match):
            make(**good | changes)
