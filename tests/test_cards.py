"""Comparisons of solvers: frozen cards, records that are kept, tables, and the two commands."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from typer.testing import CliRunner

from wellposed import errors
from wellposed.benchmark import card_names, instances, measured, read_card
from wellposed.benchmark import table as tables
from wellposed.benchmark.card import OF_IMAGES
from wellposed.benchmark.problems import DATA, built, frozen, sketch
from wellposed.benchmark.record import place_of, read_pictures
from wellposed.cli.app import app
from wellposed.cli.entrants import entrant, entrants
from wellposed.datasets.ultrasound import Sector, write_hazy_frames
from wellposed.priors import GaussianPrior, Product
from wellposed.solvers import DDRM, Tikhonov, Twisted

pytestmark = pytest.mark.usefixtures("single_thread")

SHAPE = {"channels": 3, "height": 4, "width": 5}

CARD = """
id = "small"
version = 3
title = "Small images"
protocol = "none"
evaluations = 5
num_samples = 2

[data]
source = "random"
licence = "none"
split = "test"
units = "0 to 1"
crop = 16

[prior]
name = "natural"
saw_test_data = false

[operator]
make = "Inpainting"
channels = 3
noise_sigma = 0.1
mask = { make = "random_mask", height = 16, width = 16, keep = 0.5, seed = 0 }
"""


@pytest.fixture
def small(tmp_path):
    """A card and a folder of two images."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = rng.integers(0, 255, (20, 18, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    path = tmp_path / "small.toml"
    path.write_text(CARD)
    return path


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def bench(small, out, *more, solvers="tikhonov,dds steps=2"):
    images = small.parent / "images"
    return run("benchmark", small, "--data", images, "--solvers", solvers, "--out", out, *more)


@pytest.mark.parametrize("name", card_names())
def test_cards_say_what_is_needed(name):
    card = read_card(name)
    assert card.id == name
    assert card.version >= 1
    assert card.protocol
    assert card.evaluations >= 1
    if card.kind in OF_IMAGES:
        assert card.data is not None and card.frozen is not None and card.prior is not None
        assert len(card.frozen.measurements) > 0
        assert bool(card.data.files) != bool(card.data.simulated)
        assert not card.data.files or len(card.data.files) == len(card.frozen.measurements)
        assert all((DATA / file).is_file() for file in card.data.files)
        assert not card.prior.saw_test_data


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] if n.startswith(("ct", "de", "rest")) else [])
        for n in card_names()
        if read_card(n).kind in OF_IMAGES
    ],
)
@pytest.mark.sampled
def test_the_problems_of_a_card_are_those_that_were_frozen(name):
    card = read_card(name)
    found = instances(card)
    assert len(found) == len(card.frozen.measurements)
    stems = [Path(file).stem for file in card.data.files]
    assert [one.name for one in found] == (stems or [one.name for one in found])


def test_a_changed_operator_fails_loudly():
    card = read_card("photographs-random-inpainting")
    other = replace(card, operator={**card.operator, "noise_sigma": 0.03})
    with pytest.raises(errors.ArgumentError, match="the operator has changed since"):
        instances(other)
    with pytest.raises(errors.ArgumentError, match=r"prior: got .natural with the weights"):
        instances(replace(card, frozen=replace(card.frozen, prior="NetworkPrior 0")))
    files = dict.fromkeys(card.frozen.files, "0")
    with pytest.raises(errors.ArgumentError, match=r"sha256 of kodak_04\.png"):
        instances(replace(card, frozen=replace(card.frozen, files=files)))


def test_a_sketch_tells_measurements_apart_and_forgives_rounding():
    y = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert sketch(y) == frozen(y)["sketch"]
    assert frozen(y)["sha256"] != frozen(y + 1e-7)["sha256"]
    torch.testing.assert_close(sketch(y), sketch(y * (1 + 1e-7)))
    assert not torch.tensor(sketch(y)).allclose(torch.tensor(sketch(y.flip(-1))), rtol=0.1)


def test_tables_have_the_same_bytes_but_for_the_seconds(small, tmp_path):
    texts = []
    for name in ("first", "second"):
        result = bench(small, tmp_path / name)
        assert result.exit_code == 0, result.output
        lines = (tmp_path / name / "table.md").read_text()
        texts.append(re.sub(r"\| +[\d.]+ +\|$", "", lines, flags=re.MULTILINE))
    assert texts[0] == texts[1]
    scores = [(tmp_path / name / "scores.csv").read_bytes() for name in ("first", "second")]
    assert scores[0] == scores[1]
    assert "Small images (small, version 3, images of images)" in texts[0]
    assert "dds steps=2" in texts[0]


def test_what_is_finished_is_kept_and_shares_make_one_table(small, tmp_path):
    out = tmp_path / "out"
    assert bench(small, out, "--shard", "1/2").exit_code == 0
    first = {p: p.stat().st_mtime_ns for p in (out / "records").rglob("*.json")}
    assert len(first) == 2
    result = bench(small, out, "--shard", "2/2")
    assert result.exit_code == 0
    assert len(list((out / "records").rglob("*.json"))) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())
    assert "tikhonov" in result.output
    pictures = read_pictures(place_of(out, "dds steps=2", "a").with_suffix(".npz"))
    assert {"truth", "mean", "sample", "deviation", "error"} <= set(pictures)
    assert pictures["mean"].shape == (3, 16, 16)


def test_more_evaluations_than_allowed_are_marked(small, tmp_path):
    result = bench(small, tmp_path / "out", solvers="dds steps=6")
    assert "6!" in result.output


@dataclass
class Broken:
    """A solver of somebody else."""

    def __call__(self, y, operator, prior, *, num_samples, seed):
        raise RuntimeError("no such kernel")


def test_failures_are_told_and_tried_again(small, tmp_path):
    card = read_card(small)
    problem = instances(card, small.parent / "images")[0]
    record = measured(problem, "broken", Broken(), 1, 0, tmp_path)
    assert record.error == "no such kernel"
    assert "no such kernel" in tables.text([record])
    good = measured(problem, "broken", Tikhonov(weight=0.1), 1, 0, tmp_path)
    assert not good.error


def test_point_estimates_are_one_image_and_particles_enough():
    (problem,) = instances(replace(read_card("levy"), cells=("identity",), problems=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wellposed.benchmark.record.write_text", lambda *a: None)
        record = measured(problem, "twisted", Twisted(particles=2, steps=2), 3, 0, Path("none"))
    assert record.samples == 3


def test_random_problems_are_scored_against_their_posteriors(tmp_path):
    card = replace(read_card("mixture"), cells=((8, 2),), problems=1)
    (problem,) = instances(card)
    record = measured(problem, "ddrm", DDRM(steps=5), 50, 0, tmp_path)
    assert record.scores["distance"] > 2 * record.scores["floor"] > 0
    card = replace(read_card("levy"), cells=("identity",), problems=2)
    record = measured(instances(card)[0], "ddrm", DDRM(steps=5), 20, 0, tmp_path)
    assert set(record.scores) == {"gap in dB", "coverage of regions"}


def test_cubes_are_scored_by_bands_and_measured_ones_take_their_place(tmp_path):
    card = read_card("hyperspectral-denoising")
    cube = np.random.default_rng(0).random((12, 14, 5))
    scipy.io.savemat(tmp_path / "field.mat", {"cube": cube})
    (problem,) = instances(card, tmp_path)
    assert problem.name == "field" and problem.y.shape == (1, 5, 12, 14)
    record = measured(problem, "tikhonov", Tikhonov(weight=0.1), 1, 0, tmp_path)
    assert {"PSNR", "MPSNR", "MSSIM", "SAM"} <= set(record.scores)
    pictures = read_pictures(place_of(tmp_path, "tikhonov", "field").with_suffix(".npz"))
    assert pictures["truth"].shape == (3, 12, 14)
    wrong = replace(card, data=replace(card.data, simulated={"cubes": 1}))
    with pytest.raises(errors.ArgumentError, match=r"data: simulated: .*'cubes'"):
        instances(wrong)


def test_echoes_are_scored_by_their_tissue(tmp_path):
    card, sector = read_card("dehazing"), Sector(depths=256, beams=64, centre_mhz=0.45)
    write_hazy_frames(tmp_path / "heart.h5", 1, -34.0, sector=sector)
    prior = Product([GaussianPrior(0.0, 0.08)] * 2, (1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wellposed.benchmark.problems.prior_of", lambda facts: prior)
        (problem,) = instances(replace(card, frozen=None), tmp_path)
    assert problem.y.shape == (1, 1, 256, 64)
    solver = entrant("variance-sharing steps=3 rms=[0.29,0.26]")
    record = measured(problem, "shared", solver, 1, 0, tmp_path)
    assert set(record.scores) == {"PSNR", "PSNR, B-mode", "gCNR", "KS"}
    assert record.scores["PSNR"] > 20
    refused = measured(problem, "tikhonov", Tikhonov(), 1, 0, tmp_path)
    assert "Companded is not linear" in refused.error
    with h5py.File(tmp_path / "heart.h5", "a") as file:
        del file["tissue"]
    with pytest.raises(errors.FileError, match="no data set 'tissue'"):
        instances(replace(card, frozen=None), tmp_path)


def test_reference_rows_are_compared(tmp_path):
    text = CARD + '\n[[reference]]\nsolver = "x"\nscores = { PSNR = 30.0 }\n'
    card_text = text + "tolerance = { PSNR = 0.1 }\n"
    path = tmp_path / "c.toml"
    path.write_text(card_text)
    card = read_card(path)
    record = tables.Record(solver="x", instance="a", identity="", scores={"PSNR": 30.2})
    assert "30.2" in tables.deviations(card, [record])[0]
    assert not tables.deviations(card, [replace(record, scores={"PSNR": 30.05})])


def test_solvers_are_named_with_their_settings(tmp_path):
    found = entrants("hqs, dds steps=7 gamma=2,deepinv:DiffPIR max_iter=4")
    assert list(found) == ["hqs", "dds steps=7 gamma=2", "deepinv:DiffPIR max_iter=4"]
    assert found["dds steps=7 gamma=2"].gamma == 2
    (tmp_path / "mine.py").write_text("from wellposed.solvers import DDS\nclass Mine(DDS): ...\n")
    assert entrant(f"{tmp_path}/mine.py:Mine steps=3").steps == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hqz", "unknown name 'hqz'. Did you mean 'hqs'"),
        ("hqs,,dds", "names separated by commas"),
        ("hqs,hqs", "'hqs' twice"),
        ("dds gama=3", "unknown name 'gama'. Did you mean 'gamma'"),
        ("dds gamma", "accepted: name=value"),
        ("deepinv:DPX", "unknown name 'DPX'"),
        ("dds-3d", "accepted: solvers of images"),
    ],
)
def test_wrong_solvers_are_named(words, message):
    with pytest.raises(errors.WellposedError) as caught:
        entrants(words)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("version = 3", ""), "version"),
        (("version = 3", 'version = "3"'), "version"),
        (("crop = 16", "crip = 16"), "unknown name 'crip'. Did you mean 'crop'"),
        (("[operator]", "[operatr]"), "unknown name 'operatr'"),
        (('make = "Inpainting"', 'make = "Inpaintin"'), "Did you mean 'Inpainting'"),
        (("channels = 3", "chanels = 3"), "Inpainting"),
        (("id =", "id"), "cannot read"),
        (("crop = 16", "crop = 64"), "accepted: 64 pixels or more"),
    ],
)
def test_a_wrong_card_is_named(small, change, message):
    small.write_text(CARD.replace(*change, 1))
    with pytest.raises(errors.WellposedError) as caught:
        instances(read_card(small), small.parent / "images")
    assert message in str(caught.value)


def test_only_the_operators_of_the_package_are_made():
    with pytest.raises(errors.UnknownNameError):
        built({"make": "os.system", "command": "true"})
    assert built({"make": "gaussian_kernel", "sigma": 1.0, "size": 5}).shape == (5, 5)
    made = built({"make": "Denoising", "image_size": ["channels", 2, "width"]}, SHAPE)
    assert tuple(made.img_size) == (3, 2, 5)


def test_missing_arguments_of_the_command_are_named(small, tmp_path):
    assert "mri-4x" in run("benchmark").output
    assert "--solvers" in run("benchmark", small).stderr
    assert "--out" in run("benchmark", small, "--solvers", "hqs").stderr
    assert "Did you mean 'mri-4x'" in run("benchmark", "mri-4", "--solvers", "hqs").stderr
    (tmp_path / "empty").mkdir()
    words = ("benchmark", small, "--solvers", "hqs", "--out", tmp_path / "o", "--data")
    assert "no such folder" in run(*words, tmp_path / "nowhere").stderr
    assert "--data: got" in run(*words, tmp_path / "empty").stderr


def test_compare_scores_images_of_the_user(small, tmp_path):
    files = small.parent / "images"
    out = tmp_path / "out"
    common = ("--operator", "deblurring", "--noise-sigma", 0.05, "--out", out)
    words = ("--solvers", "tikhonov,dds steps=2", "--num-samples", 2)
    result = run("compare", files, *common, *words)
    assert result.exit_code == 0, result.output
    assert "dds steps=2" in result.output
    assert (out / "scores.csv").read_text().count("\n") == 5


def test_images_of_one_name_are_refused(small, tmp_path):
    """Records are kept by the name of the image."""
    files = small.parent / "images" / "a.png"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.png").write_bytes(files.read_bytes())
    words = ("--operator", "deblurring", "--solvers", "tikhonov", "--out", tmp_path / "out")
    result = run("compare", files, tmp_path / "other" / "a.png", *words)
    assert "several files are named 'a.png'" in result.stderr
