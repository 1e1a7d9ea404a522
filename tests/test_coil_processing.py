"""Whitening, compression and combination of coils, on simulated and on measured k-space."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import helpers
from torch import Tensor

from wellposed.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from wellposed.operators.mri.cartesian import MultiCoilMRI, ifft2c
from wellposed.operators.mri.coils import (
    compress_coils,
    mix_coils,
    noise_covariance,
    prewhiten,
    root_sum_of_squares,
)
from wellposed.operators.mri.sensitivity import espirit

C64, C128 = torch.complex64, torch.complex128
BRAIN = Path(__file__).parents[1] / "examples" / "data" / "sigpy_brain_kspace.npy"
random = partial(helpers.random, dtype=C128)


@pytest.fixture(scope="module")
def brain() -> Tensor:
    return torch.from_numpy(np.load(BRAIN))[None]


# --- compression ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [C64, C128])
@pytest.mark.parametrize("shape", [(2, 5, 40), (1, 4, 6, 7), (3, 6, 2, 3, 5)])
def test_virtual_coils_are_the_singular_vectors(shape, dtype):
    kspace = random(*shape, dtype=dtype)
    for coils in (1, shape[1] - 1, shape[1]):
        compressed, matrix = compress_coils(kspace, coils)
        assert compressed.shape == (shape[0], coils, *shape[2:]) and compressed.dtype == dtype
        torch.testing.assert_close(compressed, mix_coils(matrix, kspace))
        identity = torch.eye(coils, dtype=dtype).expand(shape[0], -1, -1)
        torch.testing.assert_close(matrix @ matrix.mH, identity)
        # The best approximation of rank n: what is lost is the tail of the singular values.
        values = torch.linalg.svdvals(kspace.flatten(2))
        restored = matrix.mH @ compressed.flatten(2)
        lost = torch.linalg.vector_norm(kspace.flatten(2) - restored, dim=(1, 2))
        torch.testing.assert_close(lost, values[:, coils:].norm(dim=1), rtol=1e-4, atol=1e-4)
        energy = torch.linalg.vector_norm(compressed.flatten(2), dim=2)
        torch.testing.assert_close(energy, values[:, :coils])


def test_compression_of_an_item_does_not_depend_on_the_batch():
    kspace = random(3, 5, 8, 9)
    together = compress_coils(kspace, 2)[0]
    for i in range(3):
        torch.testing.assert_close(compress_coils(kspace[i : i + 1], 2)[0][0], together[i])


def test_the_measured_brain_survives_in_half_its_coils(brain):
    compressed, matrix = compress_coils(brain, 4)
    energy = compressed.norm().square() / brain.norm().square()
    assert energy > 0.95
    before, after = (root_sum_of_squares(ifft2c(kspace)) for kspace in (brain, compressed))
    assert (before - after).norm() < 0.03 * before.norm()
    # Coil maps follow the coils through the same matrix.
    followed = mix_coils(matrix, espirit(brain, crop=0))
    estimated = espirit(compressed, crop=0)
    overlap = (followed.conj() * estimated).sum(1).abs() / followed.norm(dim=1)
    bright = after[:, 0] > 0.2 * after.amax()
    assert overlap[bright].quantile(0.05) > 0.999


# --- whitening ------------------------------------------------------------------------------


def correlated(samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return noise (2, 4, samples) of a known covariance for each item, and those."""
    L = torch.tril(random(2, 4, 4, seed=9)) + 2 * torch.eye(4)
    return L @ random(2, 4, samples, seed=seed), 2 * L @ L.mH


def test_the_covariance_is_that_of_the_noise():
    noise, covariance = correlated(100_000)
    found = noise_covariance(noise)
    torch.testing.assert_close(found, found.mH)
    assert ((found - covariance).abs() < 0.02 * covariance.abs().amax()).all()
    torch.testing.assert_close(noise_covariance(noise.unflatten(2, (100, 1000))), found)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e6])
def test_whitened_noise_is_white_of_unit_standard_deviation(scale):
    noise, covariance = correlated(50_000, seed=1)
    white, matrix = prewhiten(scale * noise, scale**2 * covariance)
    torch.testing.assert_close(white, mix_coils(matrix, scale * noise))
    assert (noise_covariance(white) - 2 * torch.eye(4)).abs().max() < 0.05
    parts = torch.view_as_real(white).std((0, 2))
    torch.testing.assert_close(parts, torch.ones_like(parts), rtol=0.02, atol=0)


def test_whitening_by_the_sample_covariance_is_exact():
    noise, _ = correlated(300)
    white, matrix = prewhiten(noise, noise_covariance(noise))
    torch.testing.assert_close(noise_covariance(white), 2 * torch.eye(4).expand(2, 4, 4).to(C128))
    assert not matrix.triu(1).any()
    one = noise_covariance(noise)[1]
    torch.testing.assert_close(prewhiten(noise, one)[0][1], white[1])
    single = prewhiten(noise.to(C64), noise_covariance(noise.to(C64)))
    assert single[0].dtype == single[1].dtype == C64
    torch.testing.assert_close(single[0], white.to(C64), rtol=1e-4, atol=1e-4)


# --- combination ----------------------------------------------------------------------------


def test_root_sum_of_squares_is_the_magnitude_over_coils(brain):
    images = ifft2c(brain)
    expected = images.abs().square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(root_sum_of_squares(images), expected)
    operator = MultiCoilMRI(torch.ones(brain.shape[2:]), torch.ones_like(brain[0]))
    torch.testing.assert_close(operator.coil_combined_rss(brain), expected)
    # A unitary mixture of the coils leaves it alone.
    compressed, _ = compress_coils(brain, brain.shape[1])
    torch.testing.assert_close(
        root_sum_of_squares(ifft2c(compressed)), expected, rtol=1e-3, atol=1e-5
    )


# --- bad arguments --------------------------------------------------------------------------

EYE = torch.eye(3, dtype=C128)


def test_bad_arguments_are_refused():
    for call, error, match in (
        (lambda k: compress_coils(k.real, 1), DtypeError, "kspace: got torch.float64"),
        (lambda k: compress_coils(k[0], 1), ShapeError, r"kspace: got \(3, 8\)"),
        (lambda k: compress_coils(k[:0], 1), ShapeError, "is empty"),
        (lambda k: compress_coils(k / 0, 1), NonFiniteError, "kspace"),
        (lambda k: compress_coils(k, 0), ArgumentError, "coils: got 0.*from 1 to 3"),
        (lambda k: compress_coils(k, 4), ArgumentError, "coils: got 4"),
        (lambda k: compress_coils(k, 2.0), ArgumentError, "coils: got 2.0"),
        (lambda k: compress_coils(None, 2), DtypeError, "kspace: got NoneType"),
        (lambda k: mix_coils(EYE[:2, :2], k), ShapeError, r"matrix: got \(2, 2\)"),
        (lambda k: mix_coils(EYE.expand(3, 3, 3), k), ShapeError, "matrix"),
        (lambda k: mix_coils(EYE, k.real), DtypeError, "data"),
        (lambda k: noise_covariance(k[..., :2]), ArgumentError, "noise: got '2 samples'"),
        (lambda k: noise_covariance(k.real), DtypeError, "noise"),
        (lambda k: prewhiten(k.real, EYE), DtypeError, "kspace"),
        (lambda k: prewhiten(k, EYE[:2, :2]), ShapeError, r"covariance: got \(2, 2\)"),
        (lambda k: prewhiten(k, EYE.expand(3, 3, 3)), ShapeError, "covariance"),
        (lambda k: prewhiten(k, EYE / 0), NonFiniteError, "covariance"),
        (lambda k: prewhiten(k, 0 * EYE), ArgumentError, "covariance: .*positive definite"),
        (lambda k: prewhiten(k, -EYE), ArgumentError, "positive definite"),
        (lambda k: prewhiten(k, EYE + EYE.roll(1, 0)), ArgumentError, "Hermitian"),
    ):
        with pytest.raises(error, match=match):
            call(random(2, 3, 8))
