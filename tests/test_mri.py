"""Cartesian MRI of volumes and of moving slices, against matrices and slices."""

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from tests import helpers
from tests.helpers import mask

from wellposed.errors import ArgumentError, DtypeError, ShapeError
from wellposed.linalg import conjugate_gradient
from wellposed.operators import (
    Blur,
    SingleCoilMRI,
    Stacked,
    simulate_sensitivity_maps,
    uniform_random_lines,
)
from wellposed.operators.check import dense_matrix
from wellposed.operators.mri import rows
from wellposed.operators.mri.cartesian import DynamicMRI, MultiCoilMRI, MultiCoilMRI3D, fftc, ifftc

pytestmark = pytest.mark.usefixtures("single_thread")

C64, C128 = torch.complex64, torch.complex128
random = partial(helpers.random, dtype=C128)
BUILD = {
    "3-D mask": lambda d: MultiCoilMRI3D(mask(4, 5, 6).to(d), random(2, 4, 5, 6).to(d)),
    "two phase encodings": lambda d: MultiCoilMRI3D(mask(5, 3).to(d), random(2, 4, 5, 3).to(d)),
    "readout along W": lambda d: MultiCoilMRI3D(mask(4, 5, 1).to(d), random(2, 4, 5, 3).to(d)),
    "volume, full": lambda d: MultiCoilMRI3D(torch.ones(3, 4, 2).to(d), random(2, 3, 4, 2).to(d)),
    "volume, masks per item": lambda d: MultiCoilMRI3D(
        mask(3, 3, 4, 5).to(d), random(2, 3, 4, 5).to(d)
    ),
    "volume, maps per item": lambda d: MultiCoilMRI3D(
        mask(3, 4, 5).to(d), random(3, 2, 3, 4, 5).to(d)
    ),
    "frames": lambda d: DynamicMRI(mask(3, 5, 6).to(d), random(2, 5, 6).to(d)),
    "frames of lines": lambda d: DynamicMRI(mask(4, 1, 7).to(d), random(2, 6, 7).to(d)),
    "frames per item": lambda d: DynamicMRI(mask(3, 2, 5, 4).to(d), random(2, 5, 4).to(d)),
    "frames, maps per item": lambda d: DynamicMRI(mask(2, 5, 4).to(d), random(3, 2, 5, 4).to(d)),
}
SHARED = [name for name in BUILD if "per item" not in name]
CPU = torch.device("cpu")


def fourier_matrix(n: int) -> np.ndarray:
    u = np.arange(n) - n // 2
    return np.exp(-2j * np.pi * np.outer(u, u) / n) / np.sqrt(n)


@pytest.mark.parametrize("size", [(4, 5, 6), (3, 2, 7)])
def test_volumes_have_the_three_dimensional_transform(size):
    m, s, x = mask(*size), random(2, *size), random(2, 1, *size)
    F, G, H = (fourier_matrix(n) for n in size)
    expected = m.numpy() * np.einsum("di,hj,wk,bcijk->bcdhw", F, G, H, (s * x).numpy())
    np.testing.assert_allclose(MultiCoilMRI3D(m, s).A(x).numpy(), expected, atol=1e-13)


def test_frames_are_slices_with_their_own_masks():
    m, s, x = mask(3, 5, 6), random(2, 5, 6), random(2, 1, 3, 5, 6)
    op = DynamicMRI(m, s)
    y = op.A(x)
    assert y.shape == (2, 2, 3, 5, 6)
    for t in range(3):
        frame = MultiCoilMRI(m[t], s)
        torch.testing.assert_close(y[:, :, t], frame.A(x[:, :, t]))
        torch.testing.assert_close(op.A_adjoint(y)[:, :, t], frame.A_adjoint(y[:, :, t]))
        torch.testing.assert_close(op.A_adjoint_A(x)[:, :, t], frame.A_adjoint_A(x[:, :, t]))
        rss = frame.coil_combined_rss(y[:, :, t])
        torch.testing.assert_close(op.coil_combined_rss(y)[:, :, t], rss)


def test_items_have_their_own_masks_and_maps():
    x = random(3, 1, 3, 4, 5)
    masks, maps = mask(3, 3, 4, 5), random(3, 2, 3, 4, 5)
    y = MultiCoilMRI3D(masks, maps).A(x)
    for i in range(3):
        torch.testing.assert_close(MultiCoilMRI3D(masks[i], maps[i]).A(x[i : i + 1])[0], y[i])
    with pytest.raises(ShapeError, match="x: got 2 items, accepted: 3"):
        MultiCoilMRI3D(masks, maps).A(x[:2])


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("3-D mask", (-3, -2, -1)),
        ("two phase encodings", (-2, -1)),
        ("readout along W", (-3, -2)),
        ("volume, full", (-1,)),
        ("frames", (-2, -1)),
        ("frames of lines", (-1,)),
    ],
)
def test_the_normal_operator_leaves_out_transforms_that_cancel(name, axes):
    assert BUILD[name](CPU)._axes == axes


@pytest.mark.parametrize("axes", [(-1,), (-3, -1), (-3, -2, -1)])
def test_the_transform_over_any_axes_is_unitary_and_centred(axes):
    x = random(2, 4, 5, 6)
    k = fftc(x, axes)
    torch.testing.assert_close(ifftc(k, axes), x)
    torch.testing.assert_close(k.norm(), x.norm())
    flat = fftc(torch.ones(2, 4, 5, 6, dtype=C128), axes)
    centre = tuple(x.shape[a] // 2 if a - 4 in axes else slice(None) for a in range(4))
    size = math.prod(x.shape[a] for a in axes)
    torch.testing.assert_close(flat[centre], torch.full_like(flat[centre], math.sqrt(size)))


def test_the_gradient_of_the_misfit_is_the_adjoint():
    for name in SHARED:
        op = BUILD[name](CPU)
        x, y = random(1, *op.img_size).requires_grad_(), random(1, *op.measurement_size, seed=1)
        (0.5 * (op.A(x) - y).abs().square().sum()).backward()
        torch.testing.assert_close(x.grad, op.A_adjoint(op.A(x.detach()) - y))


VOLUME = {"mask": torch.ones(3, 4, 5), "sensitivity_maps": random(2, 3, 4, 5)}
FRAMES = {"mask": torch.ones(3, 4, 5), "sensitivity_maps": random(2, 4, 5)}


def test_bad_arguments_are_refused():
    for make, good, changes, error, match in (
        (MultiCoilMRI3D, VOLUME, {"mask": torch.ones(3, 5, 4)}, ShapeError, r"\(3, 4, 5\) as for"),
        (MultiCoilMRI3D, VOLUME, {"mask": torch.ones(4)}, ShapeError, r"got \(1, 1, 1, 4\)"),
        (MultiCoilMRI3D, VOLUME, {"mask": torch.ones(())}, ShapeError, "mask: got 0 axes"),
        (MultiCoilMRI3D, VOLUME, {"mask": torch.zeros(3, 4, 5)}, ArgumentError, "only zeros"),
        (MultiCoilMRI3D, VOLUME, {"mask": 0.5 * torch.ones(3, 4, 5)}, ArgumentError, "mask"),
        (MultiCoilMRI3D, VOLUME, {"sensitivity_maps": random(2, 4, 5)}, ShapeError, "got 3 axes"),
        (MultiCoilMRI3D, VOLUME, {"sensitivity_maps": torch.ones(2, 3, 4, 5)}, DtypeError, "maps"),
        (
            MultiCoilMRI3D,
            VOLUME | {"mask": torch.ones(2, 3, 4, 5)},
            {"sensitivity_maps": random(3, 2, 3, 4, 5)},
            ShapeError,
            "mask: got 2 masks for 3 sets of maps",
        ),
        (DynamicMRI, FRAMES, {"mask": torch.ones(4, 5)}, ShapeError, r"mask: got \(4, 5\).*T, H"),
        (DynamicMRI, FRAMES, {"mask": torch.ones(3, 5, 4)}, ShapeError, r"\(3, 4, 5\) as for"),
        (DynamicMRI, FRAMES, {"sensitivity_maps": random(2, 3, 3, 4, 5)}, ShapeError, "5 axes"),
    ):
        make(**good)
        with pytest.raises(error, match=match):
            make(**good | changes)


LINES = {
    "along H": lambda: MultiCoilMRI(mask(1, 7), random(3, 9, 7)),
    "along W": lambda: MultiCoilMRI(mask(9, 1).expand(9, 7), random(3, 9, 7)),
    "masks per item": lambda: MultiCoilMRI(mask(2, 1, 7).expand(2, 9, 7), random(3, 9, 7)),
    "maps per item": lambda: MultiCoilMRI(mask(7), random(2, 3, 9, 7)),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("dtype", [C64, C128])
def test_the_inverse_of_lines_is_exact_row_by_row(name, dtype):
    """With no more rows than blocks, each row has its own matrix."""
    op = LINES[name]().to(dtype.to_real())
    weight = torch.tensor([0.5, 2.0], dtype=dtype.to_real()).view(2, 1, 1, 1)
    x = random(2, 1, 9, 7).to(dtype)
    found = op.preconditioner(weight)(op.A_adjoint_A(x) + weight * x)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-12 if dtype == C128 else 2e-5)


def decay(values):
    """A function of eigenvalues, another for each of two items."""
    rate = torch.tensor([0.5, 2.0], dtype=values.dtype)
    return torch.exp(-rate.view(-1, *[1] * (values.ndim - 1)) * values)


@pytest.mark.parametrize("name", [*LINES, "scaled", "single coil", "blur", "stacked"])
def test_functions_of_the_normal_operator_are_those_of_its_matrix(name):
    make = {
        "scaled": lambda: 0.5j * LINES["along H"](),
        "single coil": lambda: SingleCoilMRI(mask(9, 7)[:1].expand(9, 7)),
        "blur": lambda: Blur(helpers.random(3, 3), (1, 6, 5)),
        "stacked": lambda: Stacked(LINES["along H"](), 3),
    }
    op = (LINES | make)[name]().double()
    dtype = C128 if op.complex_image else torch.float64
    x = helpers.random(2, *op.img_size, dtype=dtype)
    found = op.normal_function(decay, x)
    one = [op.item(k) if op.items > 1 else op for k in range(2)]
    for k in range(2):
        normal = dense_matrix(one[k].A, op.img_size, dtype)
        normal = normal.mH @ normal
        expected = torch.linalg.matrix_exp(-(0.5, 2.0)[k] * normal) @ x[k].flatten()
        torch.testing.assert_close(found[k].flatten(), expected, rtol=0, atol=1e-10)


def test_other_operators_have_no_functions_of_their_normal_operator(monkeypatch):
    x = random(1, 1, 9, 7)
    assert MultiCoilMRI(mask(9, 7), random(3, 9, 7)).normal_function(decay, x) is None
    monkeypatch.setattr(rows, "LARGEST", 8 * 7 * 7 * 16)
    monkeypatch.setattr(rows, "BLOCKS", 4)
    op = LINES["along H"]()
    assert op.normal_function(decay, x) is None
    assert op.preconditioner(torch.ones(1, 1, 1, 1).double()) is not None


def test_lines_of_smooth_maps_are_inverted_in_a_few_steps(monkeypatch):
    """Rows share their factors where memory does not suffice for all."""
    monkeypatch.setattr(rows, "LARGEST", 2**20)
    maps = simulate_sensitivity_maps(8, 72, 60, seed=0)
    op = MultiCoilMRI(uniform_random_lines(60, 4, seed=0), maps)
    b = op.A_adjoint_A(random(2, 1, 72, 60).to(C64))
    weight = torch.tensor([1e-4, 1e-2]).view(2, 1, 1, 1)

    def steps(preconditioner):
        solved = conjugate_gradient(
            lambda x: op.A_adjoint_A(x) + weight * x,
            b,
            iterations=100,
            tolerance=1e-6,
            preconditioner=preconditioner,
        )
        return solved.iterations.tolist()

    few, many = steps(op.preconditioner(weight)), steps(None)
    assert few[0] < 30 and few[1] < 10
    assert many[0] == 100 and many[1] > 30


def test_only_masks_of_lines_have_an_inverse():
    weight = torch.ones(1, 1, 1, 1)
    assert MultiCoilMRI(mask(9, 7), random(3, 9, 7)).preconditioner(weight) is None
    assert BUILD["frames of lines"](CPU).preconditioner(weight) is None
    op = LINES["along H"]()
    assert op.preconditioner(0 * weight) is None  # A^H A has no inverse
    x = random(3, 1, 9, 7)
    solve = op.preconditioner(weight.double())
    twin = pickle.loads(pickle.dumps(op)).preconditioner(weight.double())
    assert solve(x).shape == x.shape
    assert torch.equal(twin(x), solve(x))


def test_the_inverse_of_an_item_does_not_depend_on_the_others():
    line, maps, x = mask(7), random(2, 3, 9, 7), random(2, 1, 9, 7)
    maps[1] *= 1000
    weight = torch.full((1, 1, 1, 1), 1e-6, dtype=torch.float64)
    together = MultiCoilMRI(line, maps).preconditioner(weight)(x)
    alone = MultiCoilMRI(line, maps[:1]).preconditioner(weight)(x[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-9, atol=0)
