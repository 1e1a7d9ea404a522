"""Companding, envelopes, grey values and scan conversion, against scipy and geometry."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.signal
import torch
from tests.helpers import random

from wellposed import errors
from wellposed.datasets.ultrasound import (
    Sector,
    b_mode,
    compand,
    envelope,
    expand,
    log_compress,
    scan_convert,
)

SECTOR = Sector(depths=96, beams=40, depth_mm=60.0, degrees=70.0, centre_mhz=0.4)


def polar(batch=2, dtype=torch.float64):
    return random(batch, 1, SECTOR.depths, SECTOR.beams, dtype=dtype).abs()


def test_companding_is_the_mu_law():
    x = torch.linspace(-1, 1, 101, dtype=torch.float64)
    v = x.numpy()
    expected = np.sign(v) * np.log(1 + 255 * np.abs(v)) / np.log(256)
    torch.testing.assert_close(compand(x), torch.from_numpy(expected))
    assert compand(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("mu", [1e-3, 255.0, 1e4])
def test_expanding_undoes_companding(mu, device):
    x = torch.linspace(-1.5, 1.5, 1001, dtype=torch.float64, device=device)
    torch.testing.assert_close(expand(compand(x, mu), mu), x, rtol=1e-9, atol=1e-12)
    assert expand(compand(x.float(), mu), mu).dtype == torch.float32


def test_companding_has_its_slope_at_zero_too():
    x = torch.tensor([-1.2, 0.0, 0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: expand(compand(v) * 0.9), x[[0, 2]])
    (slope,) = torch.autograd.grad(compand(x).sum(), x)
    assert slope[1] == pytest.approx(255 / math.log(256))


@pytest.mark.parametrize("depth", [64, 65])
def test_the_envelope_is_scipys(depth, device):
    rf = random(2, 1, depth, 5)
    padded = 2 * scipy.fft.next_fast_len(depth)
    expected = np.abs(scipy.signal.hilbert(rf.numpy(), padded, axis=-2))[..., :depth, :]
    found = envelope(rf.to(device)).cpu()
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=0.05)


def test_an_echo_cut_off_at_the_bottom_does_not_come_again_at_the_top():
    t = torch.arange(200.0, dtype=torch.float64)[:, None]
    bell = torch.exp(-0.5 * ((t - 199) / 12) ** 2)
    found = envelope(bell * (1.9 * t).cos())
    assert float(found[:20].max()) < 0.01 and float(found[150:195].max()) > 0.9


def test_a_pulse_has_its_envelope():
    t = torch.arange(200.0, dtype=torch.float64)[:, None] - 100
    bell = torch.exp(-0.5 * (t / 12) ** 2)
    torch.testing.assert_close(envelope(bell * (1.9 * t + 0.4).cos()), bell, rtol=0, atol=1e-9)


def test_decibels_become_grey():
    values = torch.tensor([[1.0, 10**-0.5, 0.1, 1e-4, 0.0], [5.0, 0.5, 5.0, 50.0, 5.0]])
    torch.testing.assert_close(
        log_compress(values, 40),
        torch.tensor([[1, 0.75, 0.5, 0, 0], [0.5, 0, 0.5, 1, 0.5]]),
    )
    # A common reference; what is above it is white.
    one = log_compress(values, 40, reference=5.0)
    assert one[1, 3] == 1 and one[1, 1] == pytest.approx(0.5) and one[0, 0] < 0.7
    per_item = log_compress(values, 40, reference=torch.tensor([1.0, 50.0]))
    assert torch.equal(per_item, log_compress(values, 40))


def test_silence_is_black_and_has_a_gradient():
    rf = torch.zeros(1, 1, 16, 2, requires_grad=True)
    grey = b_mode(rf)
    assert not grey.any()
    grey.sum().backward()
    assert rf.grad.isfinite().all()


def test_processing_is_per_item():
    rf = random(3, 1, 64, 6)
    for process in (envelope, b_mode):
        assert torch.equal(process(rf)[1:2], process(rf[1:2]))


def test_everything_is_differentiable():
    rf = random(1, 1, SECTOR.depths, SECTOR.beams)[..., :24, :].requires_grad_()
    few = Sector(depths=24, beams=40, depth_mm=15.0, centre_mhz=0.4)
    weights = random(1, 1, 16, 20)
    assert torch.autograd.gradcheck(
        lambda v: (scan_convert(b_mode(v, 40, 10.0), few, 16) * weights).sum(),
        rf,
        atol=1e-4,
        fast_mode=True,
    )


def test_scan_conversion_is_scipys_interpolation(device):
    image, height = polar(), 120
    pixels = scan_convert(image.to(device), SECTOR, height, fill=-1.0).cpu()
    width, half = pixels.shape[-1], math.radians(35)
    size = 60 / height
    assert width == 2 * math.ceil(height * math.sin(half))
    z = (np.arange(height) + 0.5)[:, None] * size
    x = (np.arange(width) + 0.5 - width / 2)[None] * size
    row = np.hypot(x, z) / 60 * 96 - 0.5
    column = np.arctan2(x, z) / (2 * half) * 40 + 19.5
    expected = np.stack(
        [
            scipy.ndimage.map_coordinates(item[0], [row, column], order=1, mode="nearest")
            for item in image.numpy()
        ]
    )
    outside = (np.hypot(x, z) > 60) | (np.abs(np.arctan2(x, z)) > half)
    expected[:, outside] = -1
    torch.testing.assert_close(pixels[:, 0], torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_scan_conversion_keeps_places_and_areas():
    image = torch.zeros(1, 1, SECTOR.depths, SECTOR.beams)
    image[..., 70, 31] = 1
    height = 400
    pixels = scan_convert(image, SECTOR, height)[0, 0]
    row, column = np.array(scipy.ndimage.center_of_mass(pixels.numpy())) + 0.5
    r, angle = SECTOR.radii()[70], SECTOR.angles()[31]
    mm = 60 / height
    assert row * mm == pytest.approx(float(r * angle.cos()), abs=0.1)
    assert (column - pixels.shape[1] / 2) * mm == pytest.approx(float(r * angle.sin()), abs=0.1)
    inside = scan_convert(torch.ones_like(image), SECTOR, height).sum() * mm**2
    assert float(inside) == pytest.approx(0.5 * math.radians(70) * 60**2, rel=2e-3)


def test_a_sector_knows_its_samples():
    sector = Sector()
    assert sector.radii()[0] == sector.step_mm / 2
    assert sector.radii()[-1] == pytest.approx(140 - sector.step_mm / 2)
    torch.testing.assert_close(sector.angles(), -sector.angles().flip(0))
    assert sector.step_radians * 128 == pytest.approx(math.radians(75))
    # The pulse's envelope and spectrum are half as high where they should be.
    pulse = sector.pulse(rate=8).double()
    bell = envelope(pulse[:, None])[:, 0]
    assert int((bell > 0.5).sum()) == pytest.approx(8 * sector.pulse_width, abs=1.5)
    spectrum = torch.fft.rfft(pulse, 2**14).abs()
    mhz = torch.arange(len(spectrum)) * 8 * sector.sampling_mhz / 2**14
    band = mhz[spectrum > spectrum.max() / 2]
    assert float(band.max() - band.min()) == pytest.approx(0.6 * 1.7, rel=0.02)
    assert float(band.mean()) == pytest.approx(1.7, rel=0.01)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depths": 0}, "depths"),
        ({"beams": 2.5}, "beams"),
        ({"depth_mm": -1.0}, "depth_mm"),
        ({"depth_mm": float("nan")}, "depth_mm"),
        ({"degrees": 180.0}, "degrees"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"beam_width": 0.0}, "beam_width"),
        ({"centre_mhz": 3.0}, "depths: got 1024, accepted: at least 141"),
    ],
)
def test_impossible_sectors(wrong, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Sector(**wrong)


def test_bad_input():
    for call, message in (
        (lambda: compand(torch.ones(1), 0), "mu"),
        (lambda: expand(torch.ones(1), -1), "mu"),
        (lambda: envelope(torch.ones(4, 4, dtype=torch.complex64)), "rf"),
        (lambda: envelope(torch.ones(4, 4, dtype=torch.int16)), "rf"),
        (lambda: log_compress(torch.ones(1, 4), 0), "dynamic_range"),
        (lambda: log_compress(torch.ones(1, 4), 60, 0.0), "reference"),
        (lambda: log_compress(torch.ones(1, 4), 60, torch.ones(3)), "reference"),
        (lambda: log_compress(torch.ones(3, 4), 60, torch.ones(2)), "reference"),
        (lambda: log_compress(torch.ones(1, 4).long()), "envelope: got torch.int64"),
        (lambda: scan_convert(polar().long(), SECTOR), "image: got torch.int64"),
        (lambda: scan_convert(torch.ones(1, 1, 40, 96), SECTOR), "image"),
        (lambda: scan_convert(polar(), SECTOR, 0), "height"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            call()
