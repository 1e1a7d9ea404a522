"""The shipped priors and example data, as a user of the package finds them."""

import re
from functools import cache, partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from wellposed import operators, priors
from wellposed.datasets import read_array
from wellposed.datasets.ultrasound import compand, dehazing_scores, simulate_echoes
from wellposed.metrics import psnr
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.solvers import MRSampler, ResShift, dehaze
from wellposed.solvers.restoration.restore import enlarged, restore

ROOT = Path(__file__).parent.parent


HELD_OUT = ROOT / "tests/data/held_out"


def photograph():
    return torch.from_numpy(read_array(HELD_OUT / "kodak_08.png")).permute(2, 0, 1)[None]


def abdomen():
    hounsfield = torch.from_numpy(read_array(HELD_OUT / "andrei_abdomen.npy").astype(np.float32))
    return ((hounsfield + 1000) / 2000).clamp(0, 1)[None, None]


def brain():
    with h5py.File(ROOT / "examples/data/studyforrest_slice.h5") as file:
        magnitude = torch.from_numpy(file["magnitude"][68:260, 40:232].astype(np.float32))
    return torch.polar(magnitude, torch.full_like(magnitude, 0.7))[None, None]


@cache
def rf(kind):
    """The middle depths of a companded frame of the test split, haze at a usual level."""
    echoes = simulate_echoes([0], "test")
    frame = {"tissue": echoes.tissue, "haze": 0.03 * echoes.haze}[kind]
    return compand(frame[:, :, 320:704].clamp(-1, 1))


IMAGES = {
    "natural": photograph,
    "ct": abdomen,
    "brain-mri": brain,
    "tissue-rf": partial(rf, "tissue"),
    "haze-rf": partial(rf, "haze"),
}


def noisy(image, sigma):
    return image + sigma * ItemNoise(0, [(0,)], MEASUREMENT).draw(image)


def error_db(estimate, image):
    """Mean squared error in dB, over real and imaginary parts."""
    gap = estimate - image
    parts = torch.view_as_real(gap) if gap.is_complex() else gap
    return float(10 * parts.square().mean().log10())


@cache
def estimated(name):
    """An image that the prior has not seen, with noise of .1 of its peak, and the estimate."""
    image, prior = IMAGES[name](), priors.load(name)
    y = noisy(image, 0.1)
    return image, y, prior(y, 0.1)


# What each prior takes off the noise of images it has not seen, in dB, at sigma / peak.
GAINS = {
    "natural": {0.05: 6.0, 0.1: 8.0, 0.3: 11.3},
    "ct": {0.05: 7.3, 0.1: 10.0, 0.3: 14.2},
    "brain-mri": {0.05: 5.6, 0.1: 8.2, 0.3: 13.0},
    "tissue-rf": {0.05: 4.7, 0.1: 6.5, 0.3: 9.6},
    "haze-rf": {0.05: 9.5, 0.1: 10.5, 0.3: 13.0},
}


@pytest.mark.parametrize("name", GAINS)
def test_priors_denoise_what_they_have_not_seen(name):
    """At three times the side of the crops they were trained on."""
    image, prior = IMAGES[name](), priors.load(name)
    for sigma, gain in GAINS[name].items():
        y = noisy(image, sigma)
        estimate = estimated(name)[2] if sigma == 0.1 else prior(y, sigma)
        assert error_db(y, image) - error_db(estimate, image) > gain, sigma


@pytest.mark.parametrize("name", GAINS)
def test_priors_do_as_well_on_whole_images_as_on_crops(name):
    (image, y, whole), prior = estimated(name), priors.load(name)
    pieces = torch.cat(
        [torch.cat([prior(p, 0.1) for p in row.split(64, -1)], -1) for row in y.split(64, -2)], -2
    )
    assert error_db(whole, image) < error_db(pieces, image) + 0.02


@pytest.mark.parametrize("name", GAINS)
@pytest.mark.sampled
def test_tiles_leave_no_seam(name):
    """Where tiles end, steps from pixel to pixel are those of the whole image's estimate."""
    image, y, whole = estimated(name)
    tiled = priors.Patchwise(priors.load(name), 112, 32)(y, 0.1)
    gap = (tiled - whole).abs()
    jump = gap.diff(dim=-1).abs()
    # Networks of RF, which comes in waves, look further than half an overlap.
    share = 0.01 if name.endswith("-rf") else 0.003
    assert float(gap.mean()) < share * float((whole - y).abs().mean())
    assert float(jump[..., 75:115].max()) < 0.006  # tiles end at 80 and 112
    assert error_db(tiled, image) < error_db(whole, image) + 0.002


@pytest.mark.slow
def test_priors_of_rf_take_haze_out():
    """And the one of haze does so better than white noise of the same power in its place."""
    echoes = simulate_echoes([1], "test")
    middle = {name: v[:, :, 448:576] for name, v in vars(echoes).items()}
    added = 0.03 * middle["haze"]
    white = float(compand(added).std())

    def scores(rf):
        found = dehazing_scores(rf, middle["tissue"], middle["cavity"], middle["myocardium"])
        return {name: float(value) for name, value in found.items()}

    tissue, haze = priors.load("tissue-rf"), priors.load("haze-rf")
    noise = priors.GaussianPrior(0.0, priors.Diagonal(torch.tensor(white**2)), tissue.schedule)
    y = middle["tissue"] + added
    before = scores(y)
    with_haze, with_white = (scores(dehaze(y, tissue, h).tissue) for h in (haze, noise))
    assert with_haze["psnr_rf"] > before["psnr_rf"] + 1
    assert with_haze["gcnr"] > before["gcnr"] + 0.1
    assert with_haze["psnr_rf"] > with_white["psnr_rf"] + 1


SIZE = (3, 192, 192)
RESTORERS = {
    "irsde-deblur": (
        operators.Blur(operators.gaussian_kernel(1.5, 15), SIZE, 0.03),
        MRSampler(steps=5),
        0.6,
    ),
    "resshift-x4": (operators.SuperResolution(SIZE, 4, "bicubic", 0.01), ResShift(steps=4), 0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESTORERS)
def test_restorers_restore_what_they_have_not_seen(name):
    """A sample beats the degraded photograph; the mean beats a sample, and has less detail."""
    operator, sampler, gain = RESTORERS[name]
    image, restorer = photograph(), priors.load(name)
    y = operator.measure(image, seed=0)
    found = restore(y, restorer, sampler, num_samples=2, seed=0)
    before = float(psnr(enlarged(y, restorer), image))
    assert float(psnr(found.samples[0], image)) > before + gain
    assert float(psnr(found.mean, image)) > float(psnr(found.samples[0], image)) + 0.1
    sharp = [float(x.diff(dim=-1).square().mean()) for x in (found.samples[0], found.mean, image)]
    assert sharp[1] < sharp[0] < 1.2 * sharp[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", RESTORERS)
def test_tiles_of_restorers_leave_no_seam(name):
    operator, sampler, _ = RESTORERS[name]
    restorer = priors.load(name)
    y = operator.measure(photograph(), seed=0)
    whole = sampler(y, None, restorer, seed=0).samples[0]
    gap = sampler(y, None, priors.Patchwise(restorer, 128, 32), seed=0).samples[0] - whole
    assert float(gap.abs().max()) < 0.004
    assert float(gap.diff(dim=-1).abs().max()) < 0.004


def test_every_shipped_restorer_is_listed_small_and_has_a_card():
    folders = [p.parent for p in (ROOT / "priors/weights/restorers").glob("*/config.json")]
    assert {f.name for f in folders} == set(RESTORERS) <= set(priors.available())
    for folder in folders:
        assert (folder / "model.safetensors").stat().st_size < 20e6
        card = (folder / "README.md").read_text()
        for part in ("licence of the data", "hardware", "psnr_degraded"):
            assert part in card, (folder.name, part)


def test_every_shipped_prior_is_listed_small_and_has_a_card():
    folders = [p.parent for p in (ROOT / "priors/weights").glob("*/config.json")]
    assert {f.name for f in folders} == set(priors.available()) - set(RESTORERS) >= set(IMAGES)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert max(sizes) < 20e6
    assert sum(sizes) < 80e6
    for folder in folders:
        card = (folder / "README.md").read_text()
        for part in ("licence of the data", "hardware", "| step | training | held-out |", "BM3D"):
            assert part in card, (folder.name, part)


def test_files_named_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", text) if not t.startswith("http")]
    assert targets
    assert all((ROOT / t).exists() for t in targets), targets
