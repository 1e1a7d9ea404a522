"""`wellposed restore`: photographs of any size and kind, by restorers of every family."""

import csv
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests import helpers
from tests.helpers import F32, anchored, tiny_training
from torch import nn

from wellposed import errors, priors
from wellposed.datasets import read_array
from wellposed.metrics import psnr, ssim
from wellposed.operators import SuperResolution
from wellposed.priors import MeanReverting, Patchwise, rddm, resshift
from wellposed.priors.training import train
from wellposed.solvers import IRSDE, RDDM, MRSampler, ResShift
from wellposed.solvers.restoration.restore import default_sampler, default_steps, restore

pytestmark = pytest.mark.usefixtures("single_thread")
run = partial(helpers.run, "restore")


def pixels(height, width, seed=0):
    """A smooth random picture (H, W, 3), 8 bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 6
    waves = [np.sin(a * x + c) * np.cos(b * y + c) for a, b, c in rng.uniform(0.4, 2, (3, 3))]
    return np.round(255 * (1 + np.stack(waves, -1)) / 2).astype(np.uint8)


def image_of(path):
    return torch.from_numpy(np.atleast_3d(read_array(path))).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Degraded and clean photographs; the clean ones are four times larger."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("small", "clean", "mixed"):
        (folder / name).mkdir()
    for seed, (height, width) in enumerate([(17, 22), (24, 13)]):
        clean = Image.fromarray(pixels(4 * height, 4 * width, seed))
        clean.save(folder / "clean" / f"{seed}.png")
        clean.resize((width, height)).save(folder / "small" / f"{seed}.png")
    Image.fromarray(pixels(20, 31)).save(folder / "mixed" / "a.jpg")
    Image.fromarray(pixels(33, 18)).save(folder / "mixed" / "b.tiff")
    Image.fromarray(pixels(24, 24)[..., 0]).save(folder / "mixed" / "grey.png")
    (folder / "mixed" / "notes.txt").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def trained(photos, out, **changes):
    return train(tiny_training(photos / "clean", out, steps=2, warmup=1, **changes))


@pytest.fixture(scope="module")
def x4(photos, tmp_path_factory):
    """A tiny restorer of ResShift's kind."""
    out = tmp_path_factory.mktemp("x4")
    return trained(photos, out, process="resshift", degradation="super-resolution")


@pytest.fixture(scope="module")
def deblur(photos, tmp_path_factory):
    """A tiny restorer of IR-SDE's kind."""
    return trained(photos, tmp_path_factory.mktemp("deblur"), process="ir-sde")


# The command


def test_a_photograph_is_restored_as_by_the_library(photos, x4, tmp_path):
    done = run(photos / "small/0.png", "--prior", x4, "--out", tmp_path, "--seed", 3)
    assert done.exit_code == 0, done.output
    assert "| 0.png | 88 x 68 | 15  |" in done.output
    expected = ResShift(steps=15)(
        image_of(photos / "small/0.png"), None, priors.load(x4), seed=3
    ).mean.clamp(0, 1)
    written = image_of(tmp_path / "0.png")
    torch.testing.assert_close(written, expected, rtol=0, atol=0.51 / 255)
    written = [".records", "0-panel.png", "0.png", "results.csv"]
    assert sorted(p.name for p in tmp_path.iterdir()) == written
    again = run(photos / "small/0.png", "--prior", x4, "--out", tmp_path, "--seed", 3)
    assert "0.png: finished already" in again.output


@pytest.mark.slow
def test_folders_of_all_kinds_and_sizes(photos, deblur, tmp_path):
    options = ["--samples", 2, "--steps", 2, "--sampler", "IRSDE", "--set", "method=ode"]
    done = run(photos / "mixed", "--prior", deblur, "--out", tmp_path, *options)
    assert done.exit_code == 0, done.output
    for stem, size in {"a": (31, 20), "b": (18, 33), "grey": (24, 24)}.items():
        for kind in ("1", "2", "mean"):
            with Image.open(tmp_path / f"{stem}-{kind}.png") as image:
                assert image.size == size
        assert (tmp_path / f"{stem}-panel.png").is_file()
    one, two, mean = (image_of(tmp_path / f"a-{kind}.png") for kind in ("1", "2", "mean"))
    assert not torch.equal(one, two)
    torch.testing.assert_close(mean, (one + two) / 2, rtol=0, atol=1.01 / 255)


@pytest.mark.slow
def test_the_truth_adds_figures(photos, x4, tmp_path):
    options = ["--num-samples", 2, "--steps", 2, "--truth", photos / "clean"]
    done = run(photos / "small", "--prior", x4, "--out", tmp_path, *options)
    assert done.exit_code == 0, done.output
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["input"], row["picture"]) for row in rows] == [
        (f"{name}.png", kind) for name in "01" for kind in ("input", "one sample", "mean of 2")
    ]
    clean = image_of(photos / "clean" / "1.png")
    small = image_of(photos / "small" / "1.png")
    enlarged = F.interpolate(small, scale_factor=4.0, mode="bicubic").clamp(0, 1)
    assert float(rows[3]["PSNR"]) == pytest.approx(float(psnr(enlarged, clean)), abs=0.01)
    mean = image_of(tmp_path / "1-mean.png")
    assert float(rows[5]["SSIM"]) == pytest.approx(float(ssim(mean, clean)), abs=0.01)
    assert (tmp_path / "1-panel.png").is_file()


def test_known_operators_pull_to_the_data(photos, x4, tmp_path):
    file = photos / "small" / "0.png"
    known = ["--operator", "super-resolution", "--kernel", "average", "--set", "gamma=100"]
    for out, options in {"blind": [], "known": known}.items():
        common = ["--prior", x4, "--out", tmp_path / out, "--steps", 2]
        assert run(file, *common, *options).exit_code == 0
    y, operator = image_of(file), SuperResolution((3, 68, 88), 4, "average")
    known, blind = (
        float((operator.A(image_of(tmp_path / out / "0.png")) - y).norm())
        for out in ("known", "blind")
    )
    assert known < 0.2 * blind


def test_restorers_are_listed():
    lines = helpers.run("list").output.splitlines()
    assert any("irsde-deblur" in line and "restorer" in line for line in lines)


MISTAKES = {
    "no such file": (["missing.png"], "no such file 'missing.png'"),
    "no image": (["broken.png"], "cannot read 'broken.png' as an image"),
    "empty folder": (["empty"], "in 'empty'"),
    "two of a name": (["small", "clean"], "several files are named '0'"),
    "model": (["small", "--prior", "x4-resshif"], "prior: unknown name 'x4-resshif'"),
    "sampler": (["small", "--solver", "dds"], "--solver: unknown name 'dds'"),
    "steps": (["small", "--steps", 0], "steps: got 0"),
    "setting": (["small", "--set", "gama=1"], "Did you mean 'gamma'"),
    "assignment": (["small", "--load", "steps"], "--load: got 'steps', accepted: name=value"),
    "option": (["small", "--load", "steps=4"], "options: got {'steps': 4}"),
    "option of no family": (["small", "--load", "source=4"], "options: got {'source': 4}"),
    "samples": (["small", "--num-samples", 0], "num_samples: got 0"),
    "tile": (["small", "--tile", 32], "tile: got 32"),
    "operator": (["small", "--operator", "mri"], "--operator: unknown name 'mri'"),
    "mask": (["small", "--operator", "inpainting"], "mask: got None"),
    "truth of many": (["small", "--truth", "clean/0.png"], "a folder for several images"),
    "no truth": (["mixed", "--truth", "clean"], "no image named 'a'"),
    "other truth": (["small/0.png", "--truth", "small/0.png"], "accepted: (68, 88), 4 times"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_give_one_clear_line(mistake, photos, x4, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    arguments, words = MISTAKES[mistake]
    done = run("--prior", x4, "--out", tmp_path / "out", *arguments)
    assert done.exit_code == 2, done.output
    line = next(line for line in done.output.splitlines() if line.startswith("error: "))
    assert words in line
    assert not (tmp_path / "out").exists()


def test_nothing_is_enlarged_by_a_restorer_of_the_same_size(photos, deblur, tmp_path):
    options = ["--prior", deblur, "--out", tmp_path, "--operator", "super-resolution"]
    done = run(photos / "mixed", *options)
    assert done.exit_code == 2
    assert (
        "--operator: got 'super-resolution', accepted: an operator that keeps the size"
        in done.output
    )


@pytest.mark.parametrize("truth", [False, True])
def test_no_file_that_is_read_is_written_over(photos, x4, truth):
    options = ["--truth", photos / "clean"] if truth else []
    folder = photos / ("clean" if truth else "small")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = run(photos / "small", "--prior", x4, "--out", f"{folder}/../{folder.name}", *options)
    assert done.exit_code == 2
    assert "--out: got the folder of" in done.output
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_colours_are_refused_by_grey_restorers(photos, tmp_path):
    grey = tmp_path / "grey"
    grey.mkdir()
    for path in (photos / "clean").iterdir():
        Image.open(path).convert("L").save(grey / path.name)
    own = tiny_training(grey, tmp_path / "own", process="rddm", steps=1, warmup=1)
    model, out = train(own), tmp_path / "out"
    for arguments in ([grey / "0.png", "--truth", photos / "clean"], [photos / "mixed"]):
        done = run(*arguments, "--prior", model, "--out", out)
        assert done.exit_code == (2 if "--truth" in arguments else 1), done.output
        assert "is in colours, accepted: grey images" in done.output
        assert out.exists() == ("--truth" not in arguments)
    assert (out / "grey.png").is_file() and not (out / "a.png").exists()


# The library


class Smooth(nn.Module):
    def forward(self, seen, label, degraded):
        return F.avg_pool2d(seen + degraded.anchor, 3, 1, 1) / 2


class Code(nn.Module):
    factor, image_channels, latent_channels = 4, 3, 3

    def encode(self, x):
        return F.avg_pool2d(x, 4)

    def decode(self, z):
        return F.interpolate(z, scale_factor=4, mode="nearest")


rand = partial(helpers.rand, dtype=F32)


def test_solvers_suit_the_prior():
    for schedule, sees, cls, steps in (
        (MeanReverting(), "difference", MRSampler, 20),
        (resshift(15), "pixel", ResShift, 15),
        (resshift(4), "latent", ResShift, 4),
        (rddm(1000), "plain", RDDM, 5),
    ):
        restorer = anchored(Smooth(), schedule, input=sees)
        assert default_sampler(restorer) is cls
        assert default_steps(restorer, cls) == steps


def test_large_images_go_tile_by_tile():
    restorer, sampler = anchored(Smooth(), resshift(4), upsample=2), ResShift(steps=2)
    image = rand(1, 3, 40, 36)
    result = restore(image, restorer, sampler, seed=0, tile=64)
    expected = sampler(image, None, Patchwise(restorer, 64, 16), seed=0)
    assert torch.equal(result.samples, expected.samples.clamp(0, 1))
    whole = sampler(image, None, restorer, seed=0)
    untiled = restore(image, restorer, sampler, seed=0, tile=80).samples
    assert torch.equal(untiled, whole.samples.clamp(0, 1))
    assert not torch.equal(untiled, result.samples)


@pytest.mark.parametrize(
    ("upsample", "sides", "padded"), [(1, (37, 42), (40, 44)), (2, (9, 7), (10, 8))]
)
def test_sides_that_latents_lack_are_reflected(upsample, sides, padded):
    restorer = anchored(Smooth(), resshift(4), upsample=upsample, autoencoder=Code())
    image, sampler = rand(2, 3, *sides), IRSDE(steps=2)
    result = restore(image, restorer, sampler, num_samples=2, seed=0)
    height, width = (upsample * n for n in sides)
    assert result.samples.shape == (2, 2, 3, height, width)
    pad = (0, padded[1] - sides[1], 0, padded[0] - sides[0])
    whole = sampler(F.pad(image, pad, "reflect"), None, restorer, num_samples=2, seed=0)
    assert torch.equal(result.samples, whole.samples[..., :height, :width].clamp(0, 1))


def test_images_of_other_channels_are_refused():
    with pytest.raises(errors.ShapeError, match="made for 3 channels"):
        restore(rand(1, 2, 8, 8), anchored(Smooth(), resshift(4)), ResShift(steps=2))
