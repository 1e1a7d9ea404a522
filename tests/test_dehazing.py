"""Haze taken out by two priors: the preset, recordings, scores and the command."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from tests import helpers
from typer.testing import CliRunner

from wellposed import errors, solvers
from wellposed.datasets.ultrasound import (
    Sector,
    compand,
    dehazing_scores,
    expand,
    load_recording,
    load_rf_metaimage,
    simulate_echoes,
    write_hazy_frames,
    write_training_frames,
)
from wellposed.datasets.ultrasound.__main__ import write
from wellposed.operators import Blur, Companded, Denoising, Superposition, uniform_kernel
from wellposed.priors import (
    VE,
    Diagonal,
    Flow,
    GaussianPrior,
    NuclearNorm,
    Product,
    Proximal,
    Stationary,
    Tabulated,
)
from wellposed.priors.training import TrainingSettings, train
from wellposed.solvers import (
    Dehazing,
    Problem,
    SeparatedMode,
    VarianceSharing,
    dehaze,
    dehaze_sequence,
)
from wellposed.solvers.separation import sequence

pytestmark = pytest.mark.usefixtures("single_thread")
COARSE = Sector(depths=256, beams=64, centre_mhz=0.45, beam_width=2.0)
FEW = Dehazing(solver=VarianceSharing(steps=12))


def spectrum(images):
    return torch.fft.fft2(images, norm="ortho").abs().square().mean(0).clamp(min=1e-6)


@pytest.fixture(scope="module")
def hearts():
    return simulate_echoes(range(3), "validation", COARSE)


@pytest.fixture(scope="module")
def pair():
    """Gaussian priors with the spectra of companded tissue and of strong haze."""
    train = simulate_echoes(range(12), "train", COARSE)
    schedule = Tabulated.linear()
    frames = compand(train.tissue), compand((0.08 * train.haze).clamp(-1, 1))
    return [GaussianPrior(0.0, Stationary(spectrum(v)), schedule) for v in frames]


def pixelwise(std):
    return GaussianPrior(0.0, Diagonal(torch.tensor(std**2)), Tabulated.linear())


def test_severe_haze_becomes_less(hearts, pair):
    """By spectra alone, which tell little: wide from narrow speckle."""
    hazy = hearts.hazy(-22)
    found = dehaze(hazy, *pair, Dehazing(solver=VarianceSharing(steps=30, rms=(0.3, 0.35))))
    before, after = (
        dehazing_scores(v, hearts.tissue)["psnr_rf"].mean() for v in (hazy, found.tissue)
    )
    assert after > before + 1
    # What was taken for haze is more like it than like the tissue.
    alike = [
        torch.corrcoef(torch.stack([found.haze.flatten(), v.flatten()]))[0, 1]
        for v in (hearts.haze, hearts.tissue)
    ]
    assert alike[0] > alike[1] + 0.2
    assert found.tissue.shape == found.haze.shape == hazy.shape
    assert found.nfe < 30
    assert found.frames_per_second == pytest.approx(3 / found.seconds)


def test_frames_are_by_themselves(hearts, pair):
    hazy = hearts.hazy(-28)
    together = dehaze(hazy, *pair, FEW, seed=3)
    in_batches = dehaze(hazy, *pair, replace(FEW, batch_size=2), seed=3)
    torch.testing.assert_close(in_batches.tissue, together.tissue, atol=1e-4, rtol=1e-3)
    first = dehaze(hazy[:1], *pair, FEW, seed=3)
    torch.testing.assert_close(first.haze, together.haze[:1], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(dehaze(hazy[:1], *pair, FEW, seed=4).tissue, first.tissue)


@pytest.mark.slow
def test_samples_are_averaged_and_their_spread_is_told(hearts, pair):
    y = hearts.hazy(-22)
    found = [dehaze(y, *pair, FEW, num_samples=n, seed=2) for n in (1, 3, 12)]
    assert found[0].spread is None
    assert not torch.allclose(found[1].tissue, found[0].tissue)
    first = dehaze(y[:1], *pair, FEW, num_samples=3, seed=2)
    torch.testing.assert_close(first.spread, found[1].spread[:1], atol=1e-4, rtol=1e-3)
    score = [dehazing_scores(v.tissue, hearts.tissue)["psnr_rf"].mean() for v in found]
    assert score[2] > score[0] + 0.5
    # The mean of n samples is off from a sample by (1 + 1 / n) times the spread's square.
    gap = (found[2].tissue - found[0].tissue).square().mean() / found[2].spread.square().mean()
    assert 0.7 < float(gap) < 1.3


def test_the_parts_add_up_to_the_measurement(hearts, pair):
    """But for what companded values beyond their range round away."""
    y = hearts.hazy(-28)
    for solver in (SeparatedMode(), VarianceSharing(steps=12)):
        found = dehaze(y, *pair, Dehazing(solver=solver, gamma=0.5))
        torch.testing.assert_close(found.tissue + found.haze, y, atol=1e-5, rtol=1e-4)


def problem(y, tissue, haze, weights=(1.0, 1.0)):
    whole = Denoising(tuple(y.shape[1:]))
    operator = Companded(Superposition([whole, whole], weights))
    return Problem.create(compand(y), operator, Product([tissue, haze], (1, 1)))


def test_the_misfit_is_shared_as_a_linearised_posterior_does():
    """Per pixel, against the two-by-two equations in linear values."""
    generator = torch.Generator().manual_seed(0)
    y, x0 = (0.5 * torch.randn(1, c, 6, 5, generator=generator).double() for c in (1, 2))
    solver, weights = VarianceSharing(rms=(0.3, 0.1)), torch.tensor([1.0, 0.7]).double()
    level = torch.tensor(0.2).double()
    at = problem(y.clamp(-1, 1), pixelwise(0.3), pixelwise(0.1), tuple(weights.tolist()))
    found = expand(solver.correction.shared(x0, level, at))
    unsure = [0.2 * r / (0.2**2 + r**2) ** 0.5 for r in (0.3, 0.1)]
    v = x0.clone().requires_grad_()
    slopes = torch.autograd.grad(expand(v).sum(), v)[0]
    variances = torch.tensor(unsure).double().view(1, 2, 1, 1).square() * slopes.square()
    linear, w = expand(x0), weights.view(1, 2, 1, 1)
    gap = y.clamp(-1, 1) - (w * linear).sum(1, keepdim=True)
    gain = variances * w / (w**2 * variances).sum(1, keepdim=True)
    torch.testing.assert_close(found, linear + gain * gap)


def test_sharing_does_not_depend_on_the_units_of_blocks():
    """``rms`` are in units: in units of twice the size half of them mean the same."""
    generator = torch.Generator().manual_seed(0)
    y, x0 = (0.3 * torch.randn(1, c, 6, 5, generator=generator).double() for c in (1, 2))
    wide = pixelwise(0.1)
    wide.data_range = (-2.0, 2.0)
    found, level = [], torch.tensor(1e9).double()
    for haze, rms in ((pixelwise(0.1), (0.3, 0.2)), (wide, (0.3, 0.1))):
        at = problem(y.clamp(-1, 1), pixelwise(0.3), haze, (1.0, 0.7))
        shared = VarianceSharing(rms=rms).correction.shared(at.prior.to_units(x0), level, at)
        found.append(at.to_public(shared))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("mu", [1e-3, 255.0])
def test_the_mode_is_where_no_direction_along_the_data_climbs(mu):
    """Of Gaussians with the given rms; with hardly any companding, it is their posterior mean."""
    generator = torch.Generator().manual_seed(0)
    y = (0.2 * torch.randn(1, 1, 6, 5, generator=generator)).double()
    stds = (0.3, 0.1)
    whole = Denoising(tuple(y.shape[1:]))
    operator = Companded(Superposition([whole, whole]), mu)
    prior = Product([pixelwise(std) for std in stds], (1, 1))
    solver = SeparatedMode(steps=1000, start=30.0, stop=0.012, rms=stds)
    found = solver(compand(y, mu), operator, prior).mean
    torch.testing.assert_close(expand(found, mu).sum(1, keepdim=True), y)
    v = found.clone().requires_grad_()
    slopes = torch.autograd.grad(expand(v, mu).sum(), v)[0]
    x, h = (found / torch.tensor(stds).double().view(1, 2, 1, 1) ** 2 / slopes).split(1, 1)
    torch.testing.assert_close(x, h, atol=0.05, rtol=0.02 if mu < 1 else 0.1)
    if mu < 1:
        torch.testing.assert_close(found[:, :1], 0.9 * compand(y, mu), atol=1e-3, rtol=0.01)


def test_the_mode_needs_few_evaluations(hearts, pair):
    """And is closer to the truth than a sample."""
    y, scores = hearts.hazy(-22), []
    for solver in (SeparatedMode(), VarianceSharing(steps=50)):
        found = dehaze(y, *pair, Dehazing(solver=solver))
        scores.append(float(dehazing_scores(found.tissue, hearts.tissue)["psnr_rf"].mean()))
    assert scores[0] > scores[1] + 0.3
    assert dehaze(y[:1], *pair).nfe == 8


def beat(level, standing=True):
    """Return four frames, hazy and clean."""
    echoes = simulate_echoes([0], "validation", COARSE, 4, haze_from_tissue=not standing)
    return (v.transpose(1, 2).flatten(0, 1) for v in (echoes.hazy(level), echoes.tissue))


@pytest.fixture
def started(monkeypatch):
    """Let frames follow each other whatever their haze, and tell the blocks they start from."""
    monkeypatch.setattr(sequence, "AGREEMENT", -math.inf)
    seen, init = [], sequence.Following.init
    monkeypatch.setattr(
        sequence.Following, "init", lambda self, *at: seen.append(self.blocks) or init(self, *at)
    )
    return seen


def test_frames_start_from_the_haze_before(pair, started):
    """The first frame is that of `dehaze`, and the parts add up."""
    (y, tissue), settings = beat(-22), Dehazing(gamma=0.8)
    alone, found = dehaze(y, *pair, settings), dehaze_sequence(y, *pair, settings)
    assert torch.equal(found.tissue[:1], dehaze(y[:1], *pair, settings).tissue)
    torch.testing.assert_close(found.tissue + found.haze, y, atol=1e-5, rtol=1e-4)
    scores = [float(dehazing_scores(v.tissue, tissue)["psnr_rf"].mean()) for v in (alone, found)]
    assert scores[1] > scores[0] - 0.1
    assert found.nfe == math.ceil((8 + 3 * 3) / 4)
    for n, blocks in enumerate(started):
        x, h = expand(blocks).split(1, 1)
        torch.testing.assert_close(0.8 * h, found.haze[n : n + 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(x + 0.8 * h, y[n + 1 : n + 2], atol=1e-5, rtol=1e-4)


def test_haze_that_moved_is_found_anew():
    """The agreement is that of the haze alone; frames without it are dehazed by themselves."""
    echoes = simulate_echoes([0, 1], "validation", COARSE)
    tissue, haze = echoes.tissue, 0.1 * echoes.haze
    y = tissue + haze
    assert sequence.agreement(y[:1], tissue[:1], haze[:1]) == pytest.approx(1, abs=0.1)
    assert abs(sequence.agreement(y[:1], tissue[1:], haze[1:])) < 0.3
    assert sequence.agreement(y[:1], tissue[:1], torch.zeros_like(y[:1])) == 0
    blocks = pixelwise(0.3), pixelwise(0.2)
    still = torch.cat([y[:1], -y[:1]])  # nothing of the haze before is found in the second
    assert dehaze_sequence(still, *blocks).nfe == 8
    torch.testing.assert_close(
        dehaze_sequence(still, *blocks).haze[1:], dehaze(still[1:], *blocks).haze
    )


def test_sequences_of_any_length(pair):
    y = torch.cat([*beat(-28)][:1])
    assert dehaze_sequence(y[:1], *pair).tissue.shape == y[:1].shape
    y[0] = 0.0
    assert dehaze_sequence(y, *pair).tissue[0].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": FEW}, "settings.solver: got VarianceSharing"),
        ({"start": 0.03}, "start: got 0.03, accepted: more than 0.03"),
        ({"start": 1e4}, "start: got 10000.0, accepted: more than .* and at most"),
        ({"steps": 0}, "steps: got 0"),
        ({"rf": torch.ones(8, 8)}, "rf: got"),
    ],
)
def test_bad_sequences_are_named(change, message):
    good = {"rf": torch.ones(2, 1, 8, 8), "tissue": pixelwise(0.3), "haze": pixelwise(0.3)}
    with pytest.raises(errors.WellposedError, match=message):
        dehaze_sequence(**good | change)


def test_values_that_are_not_finite_end_a_sequence(hearts, started):
    class Failing(GaussianPrior):
        calls = 0

        def denoise(self, x_t, t, condition=None):
            self.calls += 1
            return super().denoise(x_t, t, condition) * (math.nan if self.calls > 8 else 1.0)

    y = hearts.hazy(-28)[:2]
    tissue = Failing(0.0, Diagonal(torch.tensor(0.09)), Tabulated.linear())
    with pytest.raises(errors.SamplingError, match="non-finite values at step 1 of 3"):
        dehaze_sequence(y, tissue, pixelwise(0.2))


def test_the_estimate_goes_on_from_a_checkpoint(tmp_path):
    whole = Denoising((1, 6, 5))
    operator = Companded(Superposition([whole, whole]))
    y = compand(0.3 * torch.rand(1, 1, 6, 5) - 0.1)
    prior, solver = Product([pixelwise(0.3), pixelwise(0.1)], (1, 1)), SeparatedMode()

    def stop(index, state):
        if index == 4:
            raise KeyboardInterrupt

    how = {"checkpoint": tmp_path / "run", "checkpoint_every": 2}
    with pytest.raises(KeyboardInterrupt):
        solver(y, operator, prior, callback=stop, **how)
    again = solver(y, operator, prior, **how)
    assert torch.equal(again.samples, solver(y, operator, prior).samples)


def test_an_estimate_has_no_samples(hearts, pair):
    y = hearts.hazy(-28)[:1]
    with pytest.raises(errors.ArgumentError, match="num_samples: got 2, accepted: 1, or settings"):
        dehaze(y, *pair, num_samples=2)
    assert torch.equal(dehaze(y, *pair, seed=1).tissue, dehaze(y, *pair, seed=2).tissue)


@pytest.mark.parametrize("spacing", ["linspace", "geometric"])
def test_sharing_starts_from_pure_noise(spacing):
    """Also of a flow, whose first time has no signal."""
    blocks = [GaussianPrior(0.0, Diagonal(torch.tensor(v)), Flow()) for v in (0.09, 0.04)]
    at = problem(0.2 * torch.ones(1, 1, 6, 5), *blocks)
    solver = VarianceSharing(steps=6, spacing=spacing, start=math.inf)
    found = solver(at.y, at.operator, at.prior, seed=0).samples
    torch.testing.assert_close(at.operator.A(found[0]), at.y)


def test_sharing_beats_the_published_gradient_steps(hearts, pair):
    """Whose derivative is large where tissue and haze cancel."""
    y, published = hearts.hazy(-22), solvers.NoisyProjection(steps=30, noise="shared", start=1.0)
    scores = [
        dehazing_scores(dehaze(y, *pair, how).tissue, hearts.tissue)["psnr_rf"].mean()
        for how in (Dehazing(solver=VarianceSharing(steps=30)), Dehazing(solver=published))
    ]
    assert scores[0] > scores[1]


@pytest.mark.parametrize(
    ("operator", "solver", "message"),
    [
        (Denoising((2, 8, 8)), VarianceSharing(), "operator: got Denoising, accepted by"),
        (
            Companded(Superposition([Denoising((1, 8, 8))] * 2), compressed_data=False),
            VarianceSharing(),
            "operator: got Companded",
        ),
        (
            Companded(Superposition([Denoising((1, 8, 8))] * 2)),
            VarianceSharing(rms=(1.0,)),
            "rms: got",
        ),
        (
            Companded(Superposition([Denoising((1, 8, 8))] * 2)),
            VarianceSharing(start=1e-6),
            "start: got 1e-06, accepted: at least",
        ),
        (Denoising((2, 8, 8)), SeparatedMode(), "operator: got Denoising, accepted by"),
        (
            Companded(Superposition([Denoising((1, 8, 8))] * 2)),
            SeparatedMode(start=1e4),
            "start: got 10000.0, accepted: more than",
        ),
        (
            Companded(Superposition([Blur(uniform_kernel(3), (1, 8, 8))] * 2)),
            SeparatedMode(),
            "operator: got Companded, accepted by this solver: a Companded Superposition of D",
        ),
    ],
)
def test_what_cannot_be_shared_is_named(operator, solver, message):
    prior = Product([pixelwise(0.3), pixelwise(0.3)], (1, 1))
    with pytest.raises(errors.ArgumentError, match=message):
        solver(0.1 * torch.ones(1, *operator.measurement_size), operator, prior)


def test_gamma_is_the_haze_in_the_measurement(hearts):
    """The same prior explains twice as much with a weight of two."""
    y, loud = hearts.hazy(-22)[:1], pixelwise(0.3)
    taken = [
        float(dehaze(y, loud, pixelwise(0.1), Dehazing(gamma=g)).haze.norm())
        for g in (0.5, 1.0, 2.0)
    ]
    assert taken[0] < taken[1] < taken[2]


def test_tiles_do_not_show(hearts):
    """Of a prior that looks at each pixel alone, tiles give the same."""
    y, blocks = hearts.hazy(-28)[:1], (pixelwise(0.3), pixelwise(0.2))
    whole, tiled = (dehaze(y, *blocks, Dehazing(tile=t)) for t in (None, 48))
    torch.testing.assert_close(tiled.tissue, whole.tissue, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("solver", [solvers.DiffPIR, solvers.DPS])
def test_other_solvers_and_regularisers_take_their_place(solver, hearts):
    """A block need not be a network; and a schedule need not be the other's."""
    low_rank = Proximal(NuclearNorm(5.0), VE(), channels=1)
    how = Dehazing(solver=solver(steps=6, spacing="karras"))
    found = dehaze(hearts.hazy(-28)[:1], pixelwise(0.3), low_rank, how)
    assert found.nfe == 6
    assert bool(found.tissue.isfinite().all())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rf": np.zeros((1, 1, 8, 8))}, errors.DtypeError, "rf: got ndarray"),
        ({"rf": torch.ones(1, 1, 8, 8).long()}, errors.DtypeError, "rf: got torch.int64"),
        ({"rf": torch.ones(8, 8)}, errors.ShapeError, r"rf: got \(8, 8\), accepted: \(B, 1, d"),
        ({"rf": torch.full((1, 1, 8, 8), 9.0)}, errors.ArgumentError, "rf: got .* up to 9"),
        ({"rf": torch.zeros(1, 1, 8, 8)}, errors.ArgumentError, "rf: got .*not all 0"),
        ({"rf": torch.full((1, 1, 8, 8), torch.nan)}, errors.NonFiniteError, "rf"),
        (
            {"tissue": None},
            errors.ArgumentError,
            "tissue: got None, accepted: an instance of Prior",
        ),
        ({"haze": Proximal(NuclearNorm(), data_range=(0, 1))}, errors.ArgumentError, "haze: got"),
    ],
)
def test_bad_input_is_named(change, error, message):
    good = {"rf": torch.ones(1, 1, 8, 8), "tissue": pixelwise(0.3), "haze": pixelwise(0.3)}
    with pytest.raises(error, match=message):
        dehaze(**good | change)


def test_settings_that_cannot_be_are_named():
    for change, message in (
        ({"gamma": 0.0}, "gamma: got 0.0"),
        ({"mu": float("inf")}, "mu: got inf"),
        ({"rms": (0.3, 0.0)}, "rms: got"),
        ({"rms": (0.3,)}, "rms: got"),
        ({"rms": 0.3}, "rms: got 0.3"),
        ({"rms": (0.3, "a")}, "rms: got"),
        ({"gamma": "a"}, "gamma: got 'a'"),
        ({"solver": "dps"}, "solver: got 'dps'"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"steps": 0}, "steps: got 0"),
        ({"tile": 1}, "tile: got 1"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            Dehazing(**change)


# Recordings and scores


def test_recordings_come_back_as_simulated(hearts, tmp_path):
    path = write_hazy_frames(tmp_path / "a.h5", 3, -28, "validation", sector=COARSE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
    back = load_recording(path)
    torch.testing.assert_close(back.rf, hearts.hazy(-28))
    for name, values in back.known.items():
        torch.testing.assert_close(values, getattr(hearts, name))
    assert set(back.known) == {"tissue", "cavity", "myocardium"}
    assert back.sector == COARSE
    assert back.scale == 1


def test_a_beat_becomes_frames(tmp_path):
    path = write_hazy_frames(tmp_path / "a.h5", 1, frames=3, sector=COARSE)
    beat = simulate_echoes([0], "test", COARSE, frames=3)
    torch.testing.assert_close(load_recording(path).rf[:, 0], beat.hazy(-34)[0, 0])


def test_measured_numbers_are_scaled_and_need_no_grid(tmp_path):
    stored = np.random.default_rng(0).integers(-900, 900, (2, 32, 16))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["rf"] = stored
    back = load_recording(tmp_path / "a.h5")
    assert back.scale == np.abs(stored).max()
    torch.testing.assert_close(back.rf[:, 0] * back.scale, torch.tensor(stored).float())
    assert back.sector is None
    assert back.known == {}


def test_metaimages_are_recordings():
    liver = Path(__file__).parent / "data" / "mouse_liver_rf.mha"
    back, stored = load_recording(liver), load_rf_metaimage(liver)
    assert torch.equal(back.rf, stored.rf)
    assert back.scale == stored.scale > 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "a.h5 has no data set 'rf'"),
        ({"rf": np.zeros((2, 8, 8))}, "only zeros"),
        ({"rf": np.full((2, 8, 8), np.nan)}, "rf"),
        ({"rf": np.ones((2, 8, 8)), "tissue": np.ones((1, 8, 8))}, "'tissue' of shape"),
        ({"rf": np.ones(8)}, "'rf' in a.h5 has shape"),
        ({"rf": np.ones((8, 8), complex)}, "'rf' of complex128"),
        ({"rf": np.ones((0, 8, 8))}, "'rf' of .*non-empty"),
        ({"rf": np.full((8, 8), 1e300)}, "'rf' in a.h5 has 64 NaN or infinite"),
        ({"rf": np.ones((8, 8)), "tissue": np.full((8, 8), np.nan)}, "'tissue' in a.h5 has 64"),
        ({"rf": np.ones((8, 8)), "tissue": np.full((8, 8), 1j)}, "'tissue' of complex128"),
        ({"rf": np.ones((8, 8)), "cavity": "all"}, "'cavity' in a.h5 has shape"),
        ({"rf": np.ones((8, 8)), "cavity": np.zeros((8, 8))}, "frames whose 'cavity' is empty"),
    ],
)
def test_recordings_that_cannot_be_read_are_named(content, message, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in content.items():
            file[name] = value
    with pytest.raises(errors.FileError, match=message):
        load_recording(tmp_path / "a.h5")


def test_faint_rf_is_scaled_and_masks_may_be_numbers(tmp_path):
    stored = 1e-5 * np.random.default_rng(0).normal(size=(2, 8, 8))
    mask = (stored > 0).astype(np.uint8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["rf"], file["tissue"], file["cavity"] = stored, stored / 2, 255 * mask
    back = load_recording(tmp_path / "a.h5")
    assert back.rf.abs().max() == 1
    torch.testing.assert_close(back.known["tissue"], back.rf / 2)
    assert torch.equal(back.known["cavity"][:, 0], torch.from_numpy(mask).bool())


def test_grids_that_cannot_be_are_named_with_the_file(tmp_path):
    path = write_hazy_frames(tmp_path / "a.h5", 1, sector=COARSE)
    with h5py.File(path, "a") as file:
        file.attrs["centre_mhz"] = 100.0
    with pytest.raises(errors.FileError, match=r"a\.h5 has an invalid grid: depths"):
        load_recording(path)


def test_files_that_cannot_be_written_are_named(tmp_path):
    path = tmp_path / "missing" / "a.h5"
    for written in (
        lambda: write_hazy_frames(path, 1, sector=COARSE),
        lambda: write_training_frames(path, "haze", 1, sector=COARSE),
    ):
        with pytest.raises(errors.FileError, match=r"path: cannot write .*missing/a\.h5"):
            written()
    with pytest.raises(errors.ArgumentError, match="level_db: got nan"):
        write_hazy_frames(tmp_path / "a.h5", 1, math.nan, sector=COARSE)
    narrow = replace(COARSE, beams=8)
    with pytest.raises(errors.ArgumentError, match=r"sector: got .*enough depths and beams"):
        write_hazy_frames(tmp_path / "a.h5", 1, sector=narrow)


def test_frames_are_written_from_the_command_line(tmp_path):
    run = typer.Typer()
    run.command()(write)
    out = tmp_path / "a.h5"
    arguments = ["tissue", str(out), "--frames", "1", "--split", "test"]
    wrong = CliRunner().invoke(run, [*arguments, "--level", "-20"])
    assert wrong.exit_code == 2
    assert "--level and --beat are for hazy frames" in wrong.output
    assert not out.exists()
    assert CliRunner().invoke(run, arguments).exit_code == 0
    with h5py.File(out) as file:
        assert file["rf"].shape == (1, 1024, 128)
    hazy = ["hazy", str(out), "--frames", "1"]
    assert CliRunner().invoke(run, [*hazy, "--level", "-20"]).exit_code == 0
    loud = load_recording(out).rf
    assert CliRunner().invoke(run, hazy).exit_code == 0
    torch.testing.assert_close(load_recording(out).rf, simulate_echoes([0], "train").hazy(-34))
    assert float(loud.norm()) > float(load_recording(out).rf.norm())


def test_files_of_other_kinds_are_named(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    for name, message in (("a.h5", "cannot read"), ("b.h5", "no such file"), ("a.png", "h5")):
        with pytest.raises(errors.FileError, match=message):
            load_recording(tmp_path / name)
    with pytest.raises(errors.ArgumentError, match="path"):
        write_hazy_frames(tmp_path / "a.npy", 1, sector=COARSE)


def test_scores_fall_with_haze(hearts):
    regions = hearts.cavity, hearts.myocardium
    clean = dehazing_scores(hearts.tissue, hearts.tissue, *regions)
    assert bool((clean["ks"] == 0).all())
    assert bool(clean["psnr_b_mode"].isinf().all())
    rows = [dehazing_scores(hearts.hazy(v), hearts.tissue, *regions) for v in (-34, -22)]
    for name, sign in (("psnr_rf", 1), ("psnr_b_mode", 1), ("gcnr", 1), ("ks", -1)):
        assert float((sign * (rows[0][name] - rows[1][name])).mean()) > 0, name
    assert set(dehazing_scores(hearts.tissue, hearts.tissue)) == {"psnr_rf", "psnr_b_mode"}
    with pytest.raises(errors.ShapeError, match="tissue"):
        dehazing_scores(hearts.tissue, hearts.tissue[:1])


# The command


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A folder of a prior that has hardly been trained."""
    folder = tmp_path_factory.mktemp("prior")
    np.save(folder / "rf.npy", 0.1 * np.random.default_rng(0).normal(size=(20, 32, 16)))
    tiny = dict(image_size=(8,), aspect=2.0, widths=(8, 8), layers=1, steps=1, batch_size=2)
    signed = dict(data_range=(-1.0, 1.0), polarity=True, companding=255.0)
    return train(
        TrainingSettings(data=(str(folder / "rf.npy"),), out=str(folder / "p"), **tiny, **signed)
    )


invoke = partial(helpers.run, "dehaze")


def test_the_command_writes_rf_pictures_and_metrics(prior, tmp_path):
    path = write_hazy_frames(tmp_path / "hazy.h5", 1, -28, frames=3, sector=COARSE)
    out = tmp_path / "out"
    options = ("--tissue", prior, "--haze", prior, "--steps", 8, "--batch-size", 2)
    result = invoke(path, "--out", out, *options)
    assert result.exit_code == 0, result.output
    names = ["b_mode.gif", "b_mode.png", "dehazed.h5", "metrics.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"residual", "haze_db", "hazy_gcnr", "gcnr", "ks", "psnr_rf"} <= metrics.keys()
    assert all(f"{name} " in result.output for name in metrics)
    y = load_recording(path)
    with h5py.File(out / "dehazed.h5") as file:
        x, h = (torch.from_numpy(file[name][()])[:, None] for name in ("rf", "haze"))
        assert file.attrs["depth_mm"] == COARSE.depth_mm
    assert metrics["residual"] == pytest.approx(float((y.rf - x - h).norm() / y.rf.norm()))
    score = dehazing_scores(x, **y.known)["psnr_rf"].mean()
    assert metrics["psnr_rf"] == pytest.approx(float(score), rel=1e-4)
    with Image.open(out / "b_mode.png") as png, Image.open(out / "b_mode.gif") as gif:
        assert gif.n_frames == 3
        assert png.size == gif.size
        assert png.size[0] % 4 == 0  # hazy, dehazed, haze, clean
    assert invoke(path, "--out", tmp_path / "seq", *options, "--sequence").exit_code == 0
    with h5py.File(tmp_path / "seq" / "dehazed.h5") as file:
        torch.testing.assert_close(torch.from_numpy(file["rf"][:1])[:, None], x[:1])


def test_the_command_takes_measured_frames(prior, tmp_path):
    stored = np.random.default_rng(0).integers(-900, 900, (32, 16))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["rf"] = stored
    options = ("--tissue", prior, "--haze", prior, "--steps", 8, "--num-samples", 2)
    refused = invoke(tmp_path / "a.h5", "--out", tmp_path / "out", *options)
    assert refused.exit_code == 2
    assert "--solver variance-sharing" in refused.output.replace("\n", " ")
    options = (*options, "--solver", "variance-sharing")
    assert invoke(tmp_path / "a.h5", "--out", tmp_path / "out", *options).exit_code == 0
    names = ["b_mode.png", "dehazed.h5", "metrics.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    with h5py.File(tmp_path / "out" / "dehazed.h5") as file:
        assert np.abs(file["rf"][()]).max() > 5  # in the values of the input
        assert file["spread"].shape == file["rf"].shape
        assert 0 < np.mean(file["spread"][()]) < np.abs(file["rf"][()]).max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.h5",), "error: path: no such file"),
        (("missing.h5", "--set", "gamma=0"), "error: gamma: got 0"),
        (("missing.h5", "--steps", "0"), "error: steps: got 0"),
        (
            ("missing.h5", "--sequence", "--solver", "dps"),
            "error: --solver: got 'dps'",
        ),
        (("missing.h5", "--sequence", "--num-samples", "2"), "error: --num-samples: got 2"),
        (("missing.h5", "--device", "gpu"), "error: --device: got 'gpu', accepted: cpu"),
    ],
)
def test_the_command_names_what_is_wrong(arguments, message, tmp_path):
    result = invoke(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()
