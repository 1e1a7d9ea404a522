"""Speckle of scatterers, simulated hearts and haze: statistics, motion and seeds."""

import h5py
import numpy as np
import pytest
import torch
from tests.helpers import relative

from wellposed import errors
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.images.reading import Reading
from wellposed.datasets.ultrasound import (
    Sector,
    autocorrelation_width,
    b_mode,
    envelope,
    gcnr,
    simulate_echoes,
    speckle_snr,
    write_training_frames,
)
from wellposed.datasets.ultrasound.simulation.heart import draw_heart, squeeze
from wellposed.datasets.ultrasound.simulation.scatterers import Scatterers, echoes, spread
from wellposed.datasets.ultrasound.simulation.tissue import electronic_noise

COARSE = Sector(depths=256, beams=64, centre_mhz=0.45, beam_width=2.0)
EVERY = torch.ones(1, dtype=torch.bool)
LEVELS = (-40, -34, -28, -22)


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.fixture(scope="module")
def hearts():
    return simulate_echoes(range(4), "validation")


@pytest.fixture(scope="module")
def beat():
    """Eight frames of a heartbeat, from end-diastole on."""
    return simulate_echoes([3], "test", frames=8)


@pytest.mark.parametrize(
    ("per_cell", "snr"), [(0.25, 0.59), (1, 1.08), (2, 1.37), (10, 1.78), (30, 1.87)]
)
def test_scatterers_in_a_cell_decide_the_speckle(per_cell, snr):
    """As measured for clutter (Byram and Shu, 2016: 1.40), and towards Rayleigh's 1.91."""
    sector = Sector()
    bells = envelope(echoes(spread(sector, per_cell, np.random.default_rng(0)), sector))
    assert speckle_snr(bells[..., 20:-20, :], EVERY).item() == pytest.approx(snr, rel=0.03)


def test_the_moments_of_speckle_are_those_of_the_theory():
    """``<I^2> / <I>^2 = 2 + 3 / n`` with n normal amplitudes in the area ``(∫p^2)^2 / ∫p^4``."""
    sector, per_cell = Sector(), 2.0
    area = np.pi / (4 * np.log(2)) * 2  # of a Gaussian's, over that of its half maximum
    ratios = []
    for seed in range(4):
        points = spread(sector, per_cell, np.random.default_rng(seed))
        intensity = envelope(echoes(points, sector))[..., 20:-20, :].square()
        ratios.append(float(intensity.square().mean() / intensity.mean() ** 2))
    assert np.mean(ratios) == pytest.approx(2 + 3 / (per_cell * area / 2), rel=0.06)


def test_a_scatterer_is_where_it_was_put():
    sector = Sector()
    place = Scatterers(torch.tensor([70.03]), torch.tensor([0.1]), torch.tensor([2.0]))
    bell = envelope(echoes(place, sector))[0, 0]
    row, column = np.unravel_index(int(bell.argmax()), bell.shape)
    assert abs(float(sector.radii()[row]) - 70.03) <= sector.step_mm
    assert abs(float(sector.angles()[column]) - 0.1) <= sector.step_radians
    profile = bell[row] / bell.max()
    assert int((profile > 0.5).sum()) == pytest.approx(sector.beam_width, abs=1)
    nowhere = Scatterers(torch.tensor([300.0]), torch.tensor([0.1]), torch.tensor([2.0]))
    assert not echoes(nowhere, sector).any()


def test_scatterers_that_move_a_little_change_their_phase():
    """By two wave numbers times the way: places are not rounded to samples."""
    sector = Sector()
    way = torch.tensor([0.0, 0.02, 0.05, 0.11])
    frames = [
        echoes(Scatterers(70 + w[None], torch.zeros(1), torch.ones(1)), sector)[0, 0, :, 64]
        for w in way
    ]
    carrier = torch.exp(-4j * torch.pi * 1.7 / 1.54 * sector.radii())
    phase = torch.stack([(f * carrier).sum().angle() for f in frames])
    expected = -4 * torch.pi * 1.7 / 1.54 * way
    torch.testing.assert_close(phase - phase[0], expected, rtol=0.02, atol=0.02)


def test_a_frame_is_the_same_alone_and_in_a_batch():
    few = simulate_echoes([2, 0], sector=COARSE)
    for name in ("tissue", "haze", "cavity", "myocardium"):
        alone = getattr(simulate_echoes([0], sector=COARSE), name)
        assert torch.equal(getattr(few, name)[1:], alone)
        assert alone.shape == (1, 1, 256, 64)
        assert alone.dtype == (torch.float32 if name in ("tissue", "haze") else torch.bool)


def test_seeds_split_without_overlap():
    frames = {
        (split, item): simulate_echoes([item], split, COARSE)
        for split in ("train", "validation", "test")
        for item in (0, 1, 2)
    }
    for name in ("tissue", "haze"):
        rows = torch.stack([getattr(f, name).flatten() for f in frames.values()])
        correlation = torch.corrcoef(rows) - torch.eye(len(rows))
        assert correlation.abs().max() < 0.5  # coarse frames have few independent values


def test_the_global_generator_is_left_alone():
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    simulate_echoes([0], sector=COARSE)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpys, np.random.get_state()[1])  # noqa: NPY002


def test_units_and_sums(hearts):
    assert hearts.tissue.flatten(1).abs().amax(1).tolist() == pytest.approx([1] * 4)
    assert hearts.haze.square().flatten(1).mean(1).tolist() == pytest.approx([1] * 4, rel=1e-4)
    expected = hearts.tissue + 10 ** (-34 / 20) * hearts.haze
    torch.testing.assert_close(hearts.hazy(-34), expected)


def test_haze_costs_contrast(hearts):
    """At the levels of slight to severe haze; from .98 down to about .5."""
    peak = envelope(hearts.tissue).flatten(1).amax(1)

    def mean_gcnr(rf):
        grey = b_mode(rf, 60, peak)
        return float(gcnr(grey, hearts.cavity, hearts.myocardium).mean())

    values = [mean_gcnr(hearts.tissue), *(mean_gcnr(hearts.hazy(level)) for level in LEVELS)]
    assert values == pytest.approx([0.98, 0.93, 0.855, 0.71, 0.51], abs=0.09)
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.95


def test_tissue_is_ordered_as_in_an_echocardiogram(hearts):
    bells = envelope(hearts.tissue)
    for item, cavity, wall in zip(bells, hearts.cavity, hearts.myocardium, strict=True):
        blood, muscle = item[cavity].mean(), item[wall].mean()
        assert 20 < 20 * float((muscle / blood).log10()) < 45
        assert 1500 < int(cavity.sum()) and 1000 < int(wall.sum())
    assert not (hearts.cavity & hearts.myocardium).any()


def test_haze_is_a_veil_in_front(hearts):
    """Near rather than deep, and out of focus."""
    power = hearts.haze.square().mean((0, 1, 3))
    assert power[150:350].mean() > 6 * power[700:].mean()
    (_, across), (_, tissue) = (
        autocorrelation_width(envelope(rf)[..., 300:700, :]).mean(0)
        for rf in (hearts.haze, echoes(spread(Sector(), 20, np.random.default_rng(0)), Sector()))
    )
    assert across > 1.7 * tissue


def test_noise_grows_with_the_time_gain_in_the_pulses_band():
    noise = electronic_noise(Sector(), np.random.default_rng(0))[0, 0]
    power = noise.square().mean(1)
    assert float(power[-40:].mean()) == pytest.approx(1, rel=0.1)
    rise = 10 * torch.log10(power[-40:].mean() / power[10:50].mean())
    assert float(rise) == pytest.approx(12, abs=1)
    spectrum = torch.fft.rfft(noise[700:], dim=0).abs().square().mean(1)
    mhz = torch.fft.rfftfreq(324, 1 / Sector().sampling_mhz)
    inside = spectrum[(mhz > 1.3) & (mhz < 2.1)].mean()
    assert inside > 20 * spectrum[mhz < 0.3].mean()


def test_a_beat_squeezes_the_ventricle(beat):
    assert beat.tissue.shape == (1, 1, 8, 1024, 128)
    area = beat.cavity.sum((0, 1, 3, 4)).double() / beat.cavity[0, 0, 0].sum()
    wall = beat.myocardium.sum((0, 1, 3, 4)).double() / beat.myocardium[0, 0, 0].sum()
    assert int(area.argmin()) == 3 and area[3] < 0.8  # end-systole at 35 % of the beat
    assert area[7] > 0.9
    assert wall[3] > 1.1  # walls thicken
    assert squeeze(0.0) == squeeze(1.0) == pytest.approx(0)
    assert squeeze(0.35) == pytest.approx(1)


def test_a_contraction_keeps_areas_in_the_wall():
    """Its Jacobian determinant is 1 near the blood, and the apex rests."""
    heart = draw_heart(np.random.default_rng(0))
    a, b = heart.ventricle.semi
    place = torch.tensor([[1.02 * a, 0.0], [0.72 * a, -0.72 * b]], dtype=torch.float64)

    def moved(v):
        return torch.stack(heart.moved(v[0], v[1], 0.35))

    for v in place:
        jacobian = torch.autograd.functional.jacobian(moved, v)
        assert float(torch.linalg.det(jacobian)) == pytest.approx(1, abs=0.03)
    apex = moved(torch.tensor([0.0, -b], dtype=torch.float64))
    assert apex.tolist() == pytest.approx([0, -b], abs=1e-3)
    far = torch.tensor([3 * a, 0.0], dtype=torch.float64)
    assert (moved(far) - far).norm() < 0.1


def test_tissue_moves_with_its_speckle_and_haze_stands(beat):
    tissue, haze = beat.tissue[0, 0], beat.haze[0, 0]
    assert torch.equal(haze[1:], haze[:-1])
    first, third = tissue[0], tissue[3]
    assert relative(third[:40], first[:40]) < 0.2  # the chest wall rests
    blood = beat.cavity[0, 0, 0] & beat.cavity[0, 0, 1]
    bells = envelope(tissue[:2])
    assert correlation(bells[0][blood], bells[1][blood]) < 0.3  # it streams
    # Speckle of the septum is found again nearer to the apex, and no longer where it was.
    septum = bells[0, 307:367, 25:34]
    found = [correlation(septum, bells[1, 307 - n : 367 - n, 25:34]) for n in range(15)]
    assert found[0] < 0.2 and max(found) > 0.6
    assert 4 < np.argmax(found) < 10
    # A longer beat begins with the same heart.
    again = simulate_echoes([3], "test", frames=2)
    assert relative(again.tissue[0, 0, 0], first) < 0.1


def test_haze_from_tissue_depends_on_it(beat):
    """Late and out of focus, moving as the heart does; dark where the way passed blood alone."""
    dependent = simulate_echoes([3], "test", frames=8, haze_from_tissue=True)
    assert torch.equal(dependent.tissue, beat.tissue)
    haze = dependent.haze[0, 0]
    assert float(haze.square().mean()) == pytest.approx(1, rel=1e-4)
    assert relative(haze[3], haze[0]) > 0.3
    for name, frames in (("dependent", haze), ("independent", beat.haze[0, 0])):
        logs = [envelope(v[0]).log() for v in (frames, beat.tissue[0, 0])]
        assert (correlation(*logs) > 0.15) == (name == "dependent")


@pytest.mark.parametrize(("kind", "low", "high"), [("tissue", -10, 0), ("haze", -48, -20)])
def test_training_frames_are_rf_at_random_levels(kind, low, high, tmp_path):
    done = []
    path = tmp_path / "frames.h5"
    assert write_training_frames(path, kind, 6, "test", COARSE, done.append) == path
    assert done == [1, 2, 3, 4, 5, 6]
    assert [p.name for p in tmp_path.iterdir()] == ["frames.h5"]
    echo = getattr(simulate_echoes(range(6), "test", COARSE), kind)[:, 0]
    with h5py.File(path) as file:
        stored = torch.from_numpy(file["rf"][()]).float()
        assert file.attrs["kind"] == kind
        assert Sector(**{k: file.attrs[k].item() for k in vars(COARSE)}) == COARSE
    assert stored.shape == (6, 256, 64) and stored.abs().max() <= 1
    scale = (stored * echo).sum((1, 2)) / echo.square().sum((1, 2))
    decibels = 20 * scale.abs().log10()
    assert (decibels > low - 1).all() and (decibels < high + 1).all()
    assert set(scale.sign().tolist()) == {-1, 1}
    assert relative(stored, scale[:, None, None] * echo) < 0.15  # half precision, clipping
    # As `wellposed train` reads it: slices of one channel.
    assert Collection([path], Reading(key="rf")).shapes == [(6, 256, 64, 1)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: simulate_echoes([]), "items"),
        (lambda _: simulate_echoes([-1], sector=COARSE), "seed: got -1"),
        (lambda _: simulate_echoes([0], "training"), "split: .*Did you mean 'train'"),
        (lambda _: simulate_echoes([0], sector=COARSE, frames=0), "frames"),
        (lambda _: spread(COARSE, 0, np.random.default_rng(0)), "per_cell"),
        (lambda folder: write_training_frames(folder / "a.npy", "haze", 1), "path"),
        (lambda folder: write_training_frames(folder / "a.h5", "fog", 1), "kind"),
        (lambda folder: write_training_frames(folder / "a.h5", "haze", 0), "frames"),
        (lambda folder: write_training_frames(folder / "a.h5", "haze", 1, "all"), "split"),
    ],
)
def test_bad_input(call, message, tmp_path):
    with pytest.raises(errors.ArgumentError, match=message):
        call(tmp_path)
    assert not list(tmp_path.iterdir())
