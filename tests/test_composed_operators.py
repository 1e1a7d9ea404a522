"""Operators made of others (whitened, stacked), and what every operator refuses."""

import numpy as np
import pytest
import torch
from tests.helpers import kind, random

from wellposed import errors
from wellposed.operators.base import LinearOperator
from wellposed.operators.check import check_operator, dense_matrix
from wellposed.operators.decomposable import Separable
from wellposed.operators.image.blur import Blur
from wellposed.operators.image.inpainting import Denoising, Inpainting, random_mask
from wellposed.operators.image.jpeg import JPEG
from wellposed.operators.image.nonlinear import PhaseRetrieval
from wellposed.operators.mri.cartesian import MultiCoilMRI
from wellposed.operators.stacked import Stacked
from wellposed.operators.whitened import Whitened

pytestmark = pytest.mark.usefixtures("single_thread")

F64, C128 = torch.float64, torch.complex128
MASKS = torch.stack([random_mask(6, 5, keep)[None] for keep in (0.3, 0.5, 0.8)])


def deviations(*shape):
    return 0.5 + torch.from_numpy(np.random.default_rng(1).random(shape))


def mri(items=1):
    return MultiCoilMRI(random_mask(6, 5, 0.5), random(items, 2, 6, 5, dtype=C128))


BUILD = {
    "whitened blur": lambda d: Whitened(
        Blur(random(3, 2), (2, 6, 5)).to(d), deviations(2, 6, 5).to(d)
    ),
    "whitened, std per item": lambda d: Whitened(
        Denoising((1, 4, 5)).to(d), deviations(3, 1, 4, 5).to(d)
    ),
    "whitened, masks per item": lambda d: Whitened(
        Inpainting(MASKS).to(d), deviations(1, 6, 5).to(d)
    ),
    "whitened, both per item": lambda d: Whitened(
        Inpainting(MASKS).to(d), deviations(3, 1, 6, 5).to(d)
    ),
    "whitened mri": lambda d: Whitened(mri().to(d), deviations(2, 6, 5).to(d)),
    "stacked blur": lambda d: Stacked(Blur(random(3, 2), (2, 6, 5)).to(d), 3),
    "stacked mri": lambda d: Stacked(mri().to(d), np.int64(2)),
}


@pytest.mark.parametrize("name", BUILD)
def test_composed_operators_live_where_their_parts_do(name, device):
    here, there = BUILD[name]("cpu"), BUILD[name](device)
    assert there.device.type == device.type
    assert check_operator(there, dtype=kind(there)).passes(1e-12)
    x = random(3, *here.img_size, dtype=kind(here))
    y = here.A(x)
    torch.testing.assert_close(there.A(x.to(device)).cpu(), y)
    torch.testing.assert_close(there.A_adjoint(y.to(device)).cpu(), here.A_adjoint(y))
    torch.testing.assert_close(there.measure(x.to(device)).cpu(), here.measure(x))


@pytest.mark.parametrize("name", ["whitened blur", "whitened mri", "stacked blur", "stacked mri"])
def test_the_adjoint_is_that_of_the_dense_matrix(name):
    op = BUILD[name]("cpu")
    A = dense_matrix(op.A, op.img_size, kind(op))
    adjoint = dense_matrix(op.A_adjoint, op.measurement_size, kind(op))
    torch.testing.assert_close(adjoint, A.mH)


@pytest.mark.parametrize(
    ("operator", "std", "error", "match"),
    [
        (
            lambda: Denoising((1, 4, 5)),
            0.1,
            errors.DtypeError,
            "std: got float, accepted: a",
        ),
        (lambda: Denoising((1, 4, 5)), torch.ones(1, 4, 5) + 0j, errors.DtypeError, "complex64"),
        (lambda: Denoising((1, 4, 5)), torch.ones(1, 4, 5).long(), errors.DtypeError, "int64"),
        (
            lambda: Denoising((1, 4, 5)),
            torch.ones(0, 1, 4, 5),
            errors.ShapeError,
            r"got shape \(0, 1",
        ),
        (lambda: Denoising((1, 4, 5)), torch.tensor(0.1), errors.ShapeError, r"std: got \(\)"),
        (
            lambda: Inpainting(MASKS),
            torch.ones(2, 1, 6, 5),
            errors.ShapeError,
            r"std: got \(2, 1, 6, 5\), accepted: \(1 or 3, 1, 6, 5\)",
        ),
    ],
)
def test_deviations_that_do_not_fit_are_named(operator, std, error, match):
    with pytest.raises(error, match=match):
        Whitened(operator(), std)


ANY = {
    **{name: lambda build=build: build("cpu") for name, build in BUILD.items()},
    "mri": mri,
    "jpeg": lambda: JPEG((3, 9, 8), np.int64(50)),
    "phase": lambda: PhaseRetrieval((np.int64(1), 8, 8)),
}


@pytest.mark.parametrize("name", ["mri", "jpeg", "phase", "whitened blur"])
def test_noise_levels_for_other_batches_are_named(name):
    op = ANY[name]()
    op.noise_model.sigma = torch.tensor([0.1, 0.2])
    x = random(3, *op.img_size, dtype=C128 if name == "mri" else F64)
    with pytest.raises(errors.ShapeError, match="noise_sigma: got 2 levels, accepted: 1, or one"):
        op.measure(x)


@pytest.mark.parametrize("slices", [0, -1, 2.0, True, "3", None])
def test_slices_are_counted(slices):
    with pytest.raises(errors.ArgumentError, match=r"slices: got .*, accepted: an integer of"):
        Stacked(Denoising((1, 4, 5)), slices)


@pytest.mark.parametrize("side", [0, 4.0, True])
def test_sides_of_images_are_integers(side):
    class Identity(LinearOperator):
        forward_map = adjoint_map = lambda self, x: x

    assert Identity((1, np.int64(4), 5), (1, 4, 5)).img_size == (1, 4, 5)
    for sizes, name in ((((1, side), (1, 4)), "image"), (((1, 4), (1, side)), "measurement")):
        with pytest.raises(errors.ArgumentError, match=f"{name}_size: got {side} in"):
            Identity(*sizes)


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        (torch.tensor([[1.0, np.nan]]), errors.NonFiniteError, "rows: 1 of 2 values are NaN"),
        (
            torch.ones(3),
            errors.ShapeError,
            r"rows: got shape \(3,\), accepted: a non-empty matrix",
        ),
        (torch.ones(0, 3), errors.ShapeError, r"rows: is empty, got shape \(0, 3\)"),
        (torch.ones(2, 3).long(), errors.DtypeError, r"rows: got torch\.int64, accepted: a real"),
        (np.ones((2, 3)), errors.DtypeError, "rows: got ndarray"),
        (None, errors.DtypeError, "rows: got NoneType"),
    ],
)
def test_matrices_of_separable_operators_are_checked(rows, error, match):
    good = torch.ones(2, 3)
    with pytest.raises(error, match=match):
        Separable(rows, good, 1)
    with pytest.raises(error, match=match.replace("rows", "columns")):
        Separable(good, rows, 1)
    with pytest.raises(errors.ArgumentError, match="channels: got 0"):
        Separable(good, good, 0)
