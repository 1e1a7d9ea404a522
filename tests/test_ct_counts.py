"""Photon counts, Hounsfield units, unequal noise, stacks of slices."""

import math

import pytest
import torch
from tests.helpers import rand

from wellposed import errors
from wellposed.operators import Inpainting, MultiCoilMRI, ParallelBeamCT, random_mask
from wellposed.operators.check import check_operator
from wellposed.operators.ct import FanBeamCT
from wellposed.operators.ct.counts import (
    from_hounsfield,
    line_integral_noise,
    simulate_counts,
    to_hounsfield,
    to_line_integrals,
)
from wellposed.operators.stacked import Stacked
from wellposed.operators.whitened import Whitened

pytestmark = pytest.mark.usefixtures("single_thread")

F64 = torch.float64


def test_hounsfield_units():
    mu = torch.tensor([0.0, 0.0193, 0.0386], dtype=F64)
    torch.testing.assert_close(to_hounsfield(mu), torch.tensor([-1000.0, 0, 1000], dtype=F64))
    torch.testing.assert_close(from_hounsfield(to_hounsfield(mu)), mu)
    assert from_hounsfield(torch.tensor(-1024.0)) == 0
    assert to_hounsfield(torch.tensor(0.02), mu_water=0.02) == 0
    with pytest.raises(errors.ArgumentError, match="mu_water: got 0"):
        to_hounsfield(mu, 0)


def test_counts_have_the_statistics_of_poisson():
    lines = torch.full((2, 1, 200, 200), 1.5, dtype=F64)
    counts = simulate_counts(lines, 1000.0, seed=3)
    mean = 1000 * math.exp(-1.5)
    assert counts.dtype == F64
    assert float(counts.mean()) == pytest.approx(mean, rel=2e-3)
    assert float(counts.var()) == pytest.approx(mean, rel=0.02)
    back = to_line_integrals(counts, 1000.0)
    assert float(back.mean()) == pytest.approx(1.5 + 0.5 / mean, abs=1e-3)  # Jensen
    assert float(back.std()) == pytest.approx(float(line_integral_noise(counts).mean()), rel=0.03)


def test_counts_are_those_of_item_and_seed():
    lines = rand(3, 1, 4, 5)
    counts = simulate_counts(lines, 50.0, seed=1)
    assert torch.equal(counts[:2], simulate_counts(lines[:2], 50.0, seed=1))
    assert not torch.equal(counts[:1], simulate_counts(lines[1:2], 50.0, seed=1))
    assert not torch.equal(counts, simulate_counts(lines, 50.0, seed=2))


def test_flat_and_dark_fields():
    lines, flat, dark = rand(2, 1, 4, 5), 1000 + 100 * rand(5), 10 * rand(5)
    counts = dark + (flat - dark) * (-lines).exp()
    torch.testing.assert_close(to_line_integrals(counts, flat, dark), lines)
    assert bool(to_line_integrals(torch.zeros(1, 1, 1, 5, dtype=F64), flat).isfinite().all())
    with pytest.raises(errors.ArgumentError, match="photons: got"):
        to_line_integrals(counts, dark, flat)
    with pytest.raises(errors.ShapeError, match="photons, dark: got"):
        to_line_integrals(counts, flat[:3])
    with pytest.raises(errors.NonFiniteError, match="counts: 1 of"):
        to_line_integrals(torch.tensor([[math.nan, 1.0]]), 2.0)
    for photons in (0.0, -5.0, math.inf):
        with pytest.raises(errors.ArgumentError, match="photons: got"):
            simulate_counts(lines, photons)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_counts_of_integers_are_counts(dtype):
    counts = torch.tensor([[5, 50, 120]], dtype=dtype)
    expected = to_line_integrals(counts.float(), 120.9, 10.0)
    assert torch.equal(to_line_integrals(counts, 120.9, 10.0), expected)
    assert float(expected.min()) > 0
    torch.testing.assert_close(line_integral_noise(counts), counts.float().rsqrt())


def test_transmissions_are_no_counts():
    with pytest.raises(errors.ArgumentError, match=r"photons: got .0\.5.* accepted: counts"):
        to_line_integrals(torch.tensor([[0.9, 0.1]]), 1.0 + 1e-6, 0.5)


def test_fields_that_do_not_fit_each_other_are_named():
    with pytest.raises(errors.ShapeError, match=r"photons, dark: got \(5,\) and \(3,\)"):
        to_line_integrals(torch.ones(1, 5), 10 * torch.ones(5), torch.ones(3))


def test_impossible_integrals_are_named():
    with pytest.raises(errors.ArgumentError, match=r"line_integrals: got .a mean count of"):
        simulate_counts(torch.tensor([[-60.0]]), 100.0)
    assert simulate_counts(torch.zeros(1, 3, dtype=torch.float16), 1e6).isfinite().all()


def whitened():
    operator = FanBeamCT(8, 6, 20.0, 30.0)
    return Whitened(operator, 0.1 + rand(2, *operator.measurement_size)), operator


def test_whitened_operators():
    op, plain = whitened()
    assert check_operator(op, dtype=F64).passes(1e-12)
    x = rand(2, *op.img_size)
    torch.testing.assert_close(op.A(x), op.whiten(plain.A(x)))
    assert float(op.noise_model.sigma) == 1
    noise = op.measure(x, seed=0) - op.A(x)
    assert float(noise.std()) == pytest.approx(1, rel=0.1)
    start = op.A_dagger(op.whiten(plain.A(x)))  # small singular values make images differ
    torch.testing.assert_close(plain.A(start), plain.A(x), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda s: s[..., 1:], errors.ShapeError),
        (lambda s: 0 * s, errors.ArgumentError),
        (lambda s: s / 0, errors.ArgumentError),
    ],
)
def test_impossible_noise_is_named(change, error):
    _, operator = whitened()
    with pytest.raises(error, match="std: "):
        Whitened(operator, change(torch.ones(operator.measurement_size)))


def stacks():
    maps = torch.randn(3, 6, 5, dtype=torch.complex128)
    return {
        "ct": Stacked(ParallelBeamCT((6, 5), 4, noise_sigma=0.1), 3),
        "mri": Stacked(MultiCoilMRI((rand(5) > 0.3).double(), maps), 4),
        "pixels": Stacked(Inpainting(random_mask(6, 5, 0.5), 2), 3),
    }


@pytest.mark.parametrize("name", ["ct", "mri", "pixels"])
def test_stacks_measure_slice_by_slice(name):
    op = stacks()[name]
    dtype = torch.complex128 if op.complex_image else F64
    assert check_operator(op, dtype=dtype).passes(1e-12)
    x = rand(2, *op.img_size).to(dtype)
    y = op.A(x)
    for k in range(op.img_size[1]):
        torch.testing.assert_close(y[:, :, k], op.operator.A(x[:, :, k]))
    torch.testing.assert_close(op.A_dagger(y)[:, :, 1], op.operator.A_dagger(y[:, :, 1]))
    torch.testing.assert_close(op.restrict(y)[:, :, 1], op.operator.restrict(y[:, :, 1]))


def test_slices_may_have_maps_of_their_own():
    mask, maps = (rand(5) > 0.3).double(), torch.randn(4, 3, 6, 5, dtype=torch.complex128)
    op = Stacked(MultiCoilMRI(mask, maps), 4)
    assert check_operator(op, dtype=torch.complex128).passes(1e-12)
    x = rand(2, *op.img_size).to(torch.complex128)
    y, back = op.A(x), op.A_adjoint_A(x)
    for k in range(4):
        one = MultiCoilMRI(mask, maps[k])
        torch.testing.assert_close(y[:, :, k], one.A(x[:, :, k]))
        torch.testing.assert_close(back[:, :, k], one.A_adjoint_A(x[:, :, k]))


def test_what_cannot_be_stacked_is_named():
    with pytest.raises(errors.ArgumentError, match="operator: got 3"):
        Stacked(3, 2)
    each = Inpainting(torch.ones(2, 1, 4, 4), noise_sigma=torch.tensor([0.1, 0.2]))
    with pytest.raises(errors.ArgumentError, match="operator: got '2 levels'"):
        Stacked(each, 2)
    with pytest.raises(errors.ArgumentError, match="slices: got 0"):
        Stacked(ParallelBeamCT(6, 4), 0)
    with pytest.raises(errors.ArgumentError, match="parameters for 2 images"):
        Stacked(Inpainting(torch.ones(2, 1, 4, 4)), 3)
    with pytest.raises(errors.ArgumentError, match="accepted: parameters for all images"):
        Stacked(Stacked(ParallelBeamCT(6, 4), 2), 2)
