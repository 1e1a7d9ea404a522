"""Contrast, speckle statistics and resolution, against numpy, scipy and known distributions."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from tests.helpers import random

from wellposed import errors
from wellposed.datasets.ultrasound import (
    autocorrelation_width,
    cnr,
    contrast,
    gcnr,
    ks_statistic,
    speckle_snr,
)

LEFT = torch.zeros(1, 1, 200, 400, dtype=torch.bool)
LEFT[..., :200] = True
EVERY = torch.ones(1, dtype=torch.bool)


def halves(shift, batch=2):
    """Normal numbers, on the left larger by ``shift``."""
    return random(batch, 1, 200, 400) + shift * LEFT


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_gcnr_is_one_minus_the_overlap(shift, device):
    """Of normal distributions that overlap by 2 Phi(-shift / 2)."""
    found = gcnr(halves(shift).to(device), LEFT.to(device), ~LEFT.to(device), 100)
    expected = 1 - 2 * scipy.stats.norm.cdf(-shift / 2)
    assert found.tolist() == pytest.approx([expected] * 2, abs=0.035)


def test_gcnr_is_that_of_numpys_histograms():
    image, mask = halves(1.0), LEFT[0]
    for item, found in zip(image, gcnr(image, LEFT, ~LEFT, 64), strict=True):
        a, b = item[mask].numpy(), item[~mask].numpy()
        edges = np.histogram_bin_edges(np.concatenate([a, b]), 64)
        f, g = (np.histogram(v, edges)[0] / len(v) for v in (a, b))
        assert float(found) == pytest.approx(1 - np.minimum(f, g).sum(), abs=2e-4)


def test_gcnr_has_its_limits():
    assert gcnr(LEFT.double() * 3 - 1, LEFT, ~LEFT).item() == 1
    assert gcnr(torch.full((1, 1, 200, 400), 0.3), LEFT, ~LEFT).item() == 0
    image = halves(1.0)
    monotone = gcnr(image * 7 - 100, LEFT, ~LEFT)
    torch.testing.assert_close(monotone, gcnr(image, LEFT, ~LEFT), rtol=0, atol=1e-3)


def test_contrast_and_cnr_are_their_formulas():
    image = halves(1.0).abs() + 0.1
    a, b = image[:1, :, :, :200], image[:1, :, :, 200:]
    assert contrast(image, LEFT, ~LEFT)[0].item() == pytest.approx(
        20 * math.log10(a.numpy().mean() / b.numpy().mean())
    )
    noise = np.sqrt((a.numpy().var() + b.numpy().var()) / 2)
    assert cnr(image, LEFT, ~LEFT)[0].item() == pytest.approx(
        20 * math.log10(abs(a.numpy().mean() - b.numpy().mean()) / noise)
    )


def test_rayleigh_speckle_has_191():
    envelope = torch.hypot(random(1, 1, 400, 400, seed=1), random(1, 1, 400, 400, seed=2))
    expected = math.sqrt(math.pi / (4 - math.pi))
    assert speckle_snr(envelope, EVERY).item() == pytest.approx(expected, rel=0.01)


def test_the_distance_of_distributions_is_scipys(device):
    image, other = halves(0.4), random(2, 1, 200, 400, seed=3).round(decimals=1)
    found = ks_statistic(image.to(device), other.to(device), LEFT.to(device)).cpu()
    for item, reference, value in zip(image, other, found, strict=True):
        expected = scipy.stats.ks_2samp(item[LEFT[0]].numpy(), reference[LEFT[0]].numpy())
        assert value.item() == pytest.approx(expected.statistic, abs=1e-12)
    assert ks_statistic(image, image, LEFT).tolist() == [0, 0]
    assert ks_statistic(image, image + 100, LEFT).tolist() == [1, 1]


def test_speckle_has_the_width_of_its_filter():
    """White noise under a Gaussian of width s: the autocorrelation is one of sqrt(2) s."""
    white = random(3, 1, 400, 400).numpy()
    smooth = scipy.ndimage.gaussian_filter(white, (0, 0, 5, 2.5), mode="wrap")
    widths = autocorrelation_width(torch.from_numpy(smooth)).mean(0)
    fwhm = 2 * math.sqrt(2 * math.log(2)) * math.sqrt(2)
    assert widths.tolist() == pytest.approx([fwhm * 5, fwhm * 2.5], rel=0.04)


def test_what_does_not_fall_to_a_half_has_no_width():
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 6, 16)
    assert autocorrelation_width(stripes)[0, 1] == pytest.approx(1 / (1 + 15 / 16), rel=1e-3)
    assert autocorrelation_width(stripes)[0, 0] == pytest.approx(6)  # a triangle over 6 rows
    assert autocorrelation_width(torch.ones(1, 1, 6, 16)).isinf().all()


def test_metrics_are_per_item_and_differentiable():
    image = halves(1.0, batch=3).abs()
    mask = random(3, 1, 200, 400, seed=4) > 0
    for metric in (
        lambda x, m: gcnr(x, m, ~m),
        lambda x, m: contrast(x, m, ~m),
        lambda x, m: cnr(x, m, ~m),
        speckle_snr,
        lambda x, m: ks_statistic(x, x.sqrt(), m),
        lambda x, m: autocorrelation_width(x),
    ):
        torch.testing.assert_close(metric(image, mask)[1:2], metric(image[1:2], mask[1:2]))
    x = image[:1, :, :6, :6].clone().requires_grad_()
    some = mask[:1, :, :6, :6]
    for metric in (contrast, cnr):
        assert torch.autograd.gradcheck(lambda v, m=metric: m(v, some, ~some), x)
    assert torch.autograd.gradcheck(lambda v: speckle_snr(v, some), x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: gcnr(x, LEFT.double(), ~LEFT), "first: got torch.float64"),
        (lambda x: gcnr(x, LEFT, LEFT & False), "second: got 'an empty region'"),
        (lambda x: cnr(x, LEFT[..., :3], LEFT), "first: got"),
        (lambda x: gcnr(x, LEFT, ~LEFT, 1), "bins"),
        (lambda x: speckle_snr(x, EVERY[:0]), "region"),
        (lambda x: ks_statistic(x, x[:, :, :5], LEFT), "reference"),
        (lambda x: autocorrelation_width(x[0]), "envelope"),
        (lambda x: autocorrelation_width(x.long()), "envelope: got torch.int64"),
        (lambda x: gcnr(x.long(), LEFT, ~LEFT), "image: got torch.int64"),
        (lambda x: ks_statistic(x.long(), x.long(), LEFT), "image: got torch.int64"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(errors.ArgumentError, match=message):
        call(halves(1.0))
