"""Coil maps as unknowns: equality with known maps, exact maps of known images."""

from functools import partial
from pathlib import Path

import h5py
import pytest
import torch
from tests.helpers import C128, random

from wellposed import errors
from wellposed.metrics import psnr
from wellposed.noise import ItemNoise
from wellposed.operators import (
    BlindMRI,
    MultiCoilMRI,
    check_operator,
    espirit,
    simulate_sensitivity_maps,
    uniform_random_lines,
)
from wellposed.priors import GaussianPrior, Matern, Product, load
from wellposed.solvers import DPS, HQS, BlindHQS
from wellposed.solvers.estimates.blind_hqs import most_probable

pytestmark = pytest.mark.usefixtures("single_thread")
z = partial(random, dtype=C128)
SIZE = (10, 12)
HEAD = Path(__file__).parents[1] / "examples" / "data" / "studyforrest_slice.h5"


def lines(seed=0, size=SIZE):
    mask = uniform_random_lines(size[1], acceleration=2, center_fraction=0.3, seed=seed)
    return mask.reshape(1, -1).expand(size)


def unknown(items=2):
    operator = BlindMRI(lines(), 3, 0.05)
    maps = simulate_sensitivity_maps(3, *SIZE, seed=0).to(torch.complex128)
    return operator, z(items, 1, *SIZE), maps.expand(items, *maps.shape[-3:])


def smooth(mean, std, size=SIZE):
    return GaussianPrior(mean, Matern(size, 4.0, std), is_complex=True)


def test_both_linear_forms_are_the_known_operator():
    operator, x, maps = unknown()
    known = MultiCoilMRI(lines(), maps)
    for found in (
        operator.A(operator.join(x, maps)),
        operator.given_parameter(maps).A(x),
        operator.given_image(x).A(maps),
    ):
        torch.testing.assert_close(found, known.A(x))
    assert check_operator(operator.given_image(x)).passes(1e-5)


def test_only_products_of_image_and_maps_are_measured():
    operator, x, maps = unknown()
    size = 2 + z(2, 1, *SIZE, seed=3).abs()
    first, second = operator.join(x, maps), operator.join(x * size, maps / size)
    torch.testing.assert_close(operator.A(first), operator.A(second))
    unit = operator.normalised(size * maps).abs().square().sum(1)
    torch.testing.assert_close(unit, torch.ones_like(unit))
    assert not operator.normalised(0 * maps).any()


def test_the_maps_of_a_known_image_are_those_of_the_closed_form():
    operator, x, maps = unknown()
    A, prior = operator.given_image(x), smooth(0.3, 0.3)
    y, sigma = A.measure(maps.contiguous()), torch.full((2,), 0.05).double()
    found = most_probable(A, y, sigma, prior, 0 * maps, 1000)
    exact = torch.cat([prior.posterior(y[i : i + 1], A.item(i)).mean for i in range(2)])
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


def test_with_certain_maps_it_is_the_estimate_of_known_maps():
    operator, x, maps = unknown()
    y, image = (
        MultiCoilMRI(lines(), maps, 0.05).measure(x),
        GaussianPrior(0.0, 1.0, is_complex=True),
    )
    maps = operator.normalised(maps)[:1]
    prior = Product([image, smooth(maps, 1e-7)], channels=[1, 3])
    solver = BlindHQS(steps=3, starts=1, image_steps=8)
    found, _ = operator.split(solver(y, operator, prior, seed=0).mean)
    expected = HQS(steps=8)(y, MultiCoilMRI(lines(), maps, 0.05), image).mean
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_item_is_the_same_alone_and_in_a_batch():
    masks = torch.stack([lines(seed) for seed in range(3)])
    _, x, maps = unknown(3)
    operator = BlindMRI(masks, 3, 0.05)
    y = operator.measure(operator.join(x, maps))
    prior = Product([GaussianPrior(0.0, 1.0, is_complex=True), smooth(maps[:1], 0.2)], [1, 3])
    alone = BlindMRI(masks[1], 3, 0.05)
    for solver in (BlindHQS(steps=4, starts=2, image_steps=2), DPS(steps=4)):
        batch = solver(y, operator, prior, seed=1).samples[0, 1:2]
        one = solver(y[1:2], alone, prior, noise=ItemNoise(1, [(0, 1)])).samples[0]
        torch.testing.assert_close(one, batch, rtol=0, atol=1e-8)


def test_maternal_fields_are_smooth_and_not_periodic():
    covariance = Matern((9, 12), 3.0, std=2.0)
    basis = torch.eye(108).double().reshape(-1, 1, 9, 12)
    C = (covariance @ basis).flatten(1)
    torch.testing.assert_close(C, C.T)
    torch.testing.assert_close(C.diagonal().mean(), torch.tensor(4.0).double())
    root = covariance.spectral(basis, torch.sqrt).flatten(1)
    torch.testing.assert_close(root @ root, C)
    row = C.reshape(9, 12, 9, 12)[4, 0, 4]
    assert (row.diff() < 0).all()
    assert row[-1] < 0.1 * row[0]


@pytest.mark.slow
def test_a_head_is_found_with_rough_maps():
    with h5py.File(HEAD) as file:
        pixels = torch.from_numpy(file["magnitude"][112:208, 80:176].astype("complex64"))
    x, size = pixels[None, None], (96, 96)
    maps = simulate_sensitivity_maps(8, *size, seed=0)
    mask = uniform_random_lines(96, acceleration=3, center_fraction=0.08, seed=0)
    mask = mask.reshape(1, -1).expand(size)
    y, head = MultiCoilMRI(mask, maps, 0.01).measure(x, seed=0), load("brain-mri")
    rough = espirit(y, calibration=None, crop=0)
    operator = BlindMRI(mask, 8, 0.01)
    coils = GaussianPrior(rough, Matern(size, 24.0, 0.3), is_complex=True)
    solver = BlindHQS(steps=30, starts=1, start=0.3, stop=0.02, averaging=0.3)
    found, _ = operator.split(solver(y, operator, Product([head, coils], [1, 8]), seed=0).mean)
    by_rough = HQS()(y, MultiCoilMRI(mask, rough, 0.01), head).mean
    assert psnr(found, x) > psnr(by_rough, x) + 8


def test_what_does_not_fit_is_refused():
    operator, x, maps = unknown()
    with pytest.raises(errors.ShapeError, match="mask"):
        BlindMRI(torch.ones(12), 3)
    with pytest.raises(errors.ArgumentError, match="coils"):
        BlindMRI(lines(), 0)
    with pytest.raises(errors.DtypeError, match="x: got"):
        operator.A(operator.join(x, maps).real)
    with pytest.raises(errors.ShapeError, match=r"mask: got one for each of 3 items, .*of 2"):
        BlindMRI(torch.ones(3, *SIZE), 3).A(operator.join(x, maps))
    with pytest.raises(errors.ShapeError, match="y: got"):
        operator.A_adjoint(x)
    with pytest.raises(errors.ArgumentError, match="size: got"):
        Matern((3, 4, 5), 1.0)
    with pytest.raises(errors.ArgumentError, match="length: got"):
        Matern((3, 4), 0.0)
