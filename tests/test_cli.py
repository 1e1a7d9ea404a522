"""The command line, run as a user would."""

import os
import re

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import run

from wellposed import Reconstruction
from wellposed.cli.app import main
from wellposed.cli.names import find_class
from wellposed.priors.networks.conv_unet import ConvUNet
from wellposed.priors.stored.store import save_prior
from wellposed.priors.training.settings import TrainingSettings
from wellposed.solvers import Solver
from wellposed.solvers.catalogue import named_solvers


def tiny_prior(folder, channels, complex_):
    torch.manual_seed(0)
    network = ConvUNet(channels, (16, 32), 1)
    training = {"name": "tiny", "sources": [], "licence": "none", "image_size": [16]}
    training |= {"steps_done": 0, "batch_size": 1, "zoom": [1, 1], "gain": [1, 1], "history": []}
    training |= {"curve": [], "millions": 0, "hardware": "none", "noise_levels": "uniform"}
    config = {
        "network": network.settings,
        "schedule": "linear",
        "prediction": "sample",
        "sigma_data": None,
        "channels": channels // 2 if complex_ else channels,
        "complex": complex_,
        "data_range": [-1, 1] if complex_ else [0, 1],
        "training": training,
    }
    save_prior(folder, network, config)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One file of each kind that the command reads, and priors for them."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    photo = (255 * rng.random((24, 32, 3))).astype(np.uint8)
    Image.fromarray(photo).save(folder / "photo.png")
    Image.fromarray(photo).save(folder / "photo.jpg")
    Image.fromarray(photo[..., 0]).save(folder / "grey.png")
    np.save(folder / "grey.npy", rng.random((24, 32)).astype(np.float32))
    np.save(folder / "nan.npy", np.full((24, 32), np.nan, np.float32))
    with h5py.File(folder / "grey.h5", "w") as file:
        file["image"] = rng.random((24, 32))
    import nibabel

    volume = (1000 * rng.random((32, 24, 5))).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "volume.nii.gz")
    kspace = rng.standard_normal((3, 32, 32)) + 1j * rng.standard_normal((3, 32, 32))
    kspace[:, ::2, ::3] = 0
    kspace[:, 8:24, 8:24] = rng.standard_normal((3, 16, 16))
    np.save(folder / "kspace.npy", kspace.astype(np.complex64))
    (folder / "truncated.png").write_bytes((folder / "photo.png").read_bytes()[:100])
    tiny_prior(folder / "rgb", 3, False)
    tiny_prior(folder / "grey", 1, False)
    tiny_prior(folder / "complex", 2, True)
    return folder


JOBS = {
    "photo inpainting": ("photo.png", "inpainting", "rgb", ["--simulate", "--keep", "0.3"]),
    "photo x4": ("photo.jpg", "super-resolution", "rgb", ["--factor", "2"]),
    "photo x4 simulated": ("photo.png", "super-resolution", "rgb", ["--simulate"]),
    "deblurring": ("photo.png", "deblurring", "rgb", ["--blur-sigma", "1"]),
    "mri of a picture": ("grey.png", "mri", "complex", ["--simulate", "--noise-sigma", "0.01"]),
    "mri of an array": ("grey.npy", "mri", "complex", ["--simulate", "--acceleration", "2"]),
    "mri of a volume": ("volume.nii.gz", "mri", "complex", ["--simulate", "--slice", "2"]),
    "measured mri": ("kspace.npy", "mri", "complex", ["--noise-sigma", "0.05"]),
    "ct": ("grey.h5", "ct", "grey", ["--simulate", "--views", "12"]),
}


@pytest.mark.parametrize(("name", "operator", "prior", "more"), JOBS.values(), ids=JOBS.keys())
@pytest.mark.sampled
def test_reconstruct_writes_result_and_panel(files, tmp_path, name, operator, prior, more):
    done = run(
        *("reconstruct", files / name, "--operator", operator, "--prior", files / prior),
        *("--out", tmp_path / "out", "--steps", 3, "--num-samples", 2, *more),
    )
    assert done.exit_code == 0, done.output
    result = Reconstruction.load(tmp_path / "out" / "reconstruction.h5")
    assert result.samples.shape[:2] == (2, 1)
    assert result.settings["steps"] == 3
    assert (tmp_path / "out" / "reconstruction.png").stat().st_size > 1000
    assert ("PSNR" in done.output) == ("--simulate" in more)


@pytest.mark.parametrize("name", ["photo.png", "kspace.npy"])
def test_reconstruct_writes_a_report_if_asked(files, tmp_path, name):
    operator, prior, *more = {n: (o, p, *m) for n, o, p, m in JOBS.values()}[name]
    done = run(
        *("reconstruct", files / name, "--operator", operator, "--prior", files / prior),
        *("--out", tmp_path, "--steps", 2, "--num-samples", 2, "--report", *more),
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "report.html").read_text()
    assert "mean of 2" in text and f"<td>{name}</td>" in text
    assert (">error<" in text) == ("--simulate" in more)
    assert str(files) not in text


def test_compare_writes_a_report(files, tmp_path):
    compared = ("dds steps=2", "diffpir steps=2")
    done = run(
        *("compare", files / "photo.png", "--operator", "inpainting", "--prior", files / "rgb"),
        *("--solvers", ",".join(compared), "--num-samples", 2, "--out", tmp_path),
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "report.html").read_text()
    assert all(f"{name}: mean" in text for name in compared)
    assert text.count("fingerprint of the prior") == 1


@pytest.mark.parametrize("solver", ["dds", "red-diff", "dps", "ddim-projection"])
def test_every_solver_is_offered_and_seeded(files, tmp_path, solver):
    outputs = []
    for attempt in range(2):
        out = tmp_path / str(attempt)
        done = run(
            *("reconstruct", files / "photo.png", "--operator", "inpainting", "--simulate"),
            *("--prior", files / "rgb", "--solver", solver, "--set", "steps=2", "--out", out),
            *("--seed", 5, "--num-samples", 1),
        )
        assert done.exit_code == 0, done.output
        outputs.append(Reconstruction.load(out / "reconstruction.h5").samples)
    assert torch.equal(*outputs)


def base(files, **change):
    options = {
        "--operator": "inpainting",
        "--prior": files / "rgb",
        "--out": files / "nowhere",
        **{k: v for k, v in change.items() if k.startswith("--")},
    }
    name = change.get("input", "photo.png")
    flat = [a for k, v in options.items() for a in ([k] if v is True else [k, v])]
    return ["reconstruct", files / name, *flat]


MISTAKES = {
    "no such file": ({"input": "no.png"}, "no such file"),
    "truncated file": ({"input": "truncated.png", "--simulate": True}, "truncated.png"),
    "unknown kind of file": ({"input": "rgb/README.md"}, "accepted: .png"),
    "nan": ({"input": "nan.npy", "--simulate": True}, "not finite"),
    "operator": ({"--operator": "inpaintin"}, "Did you mean 'inpainting'"),
    "solver": ({"--solver": "red-dif"}, "Did you mean 'red-diff'"),
    "prior": ({"--prior": "brain-mry", "--simulate": True}, "prior: unknown name 'brain-mry'"),
    "prior of other channels": (
        {"input": "grey.npy", "--operator": "ct", "--simulate": True},
        "3 channels",
    ),
    "hyper-parameter": ({"--solver": "dds", "--set": "gama=3"}, "Did you mean 'gamma'"),
    "assignment": ({"--solver": "dds", "--set": "gamma"}, "name=value"),
    "value": ({"--solver": "dds", "--set": "gamma=-3"}, "gamma: got -3"),
    "no hyper-parameter": (
        {"--solver": "dds", "--set": "linear_only=true"},
        "--set: unknown name 'linear_only'",
    ),
    "a sampler that ignores the input": ({"--solver": "ir-sde"}, "--set data_steps=5"),
    "text value": ({"--solver": "dds", "--set": "eta=high"}, "eta"),
    "noise": ({"--noise-sigma": -1}, "noise_sigma: got -1"),
    "no mask": ({}, "--simulate"),
    "not a number": ({"--operator": "deblurring", "--blur-sigma": "nan"}, "blur_sigma: got nan"),
    "seed": ({"--seed": -1}, "seed: got -1"),
    "a word for a switch": ({"--solver": "dps", "--set": "clip=maybe"}, "clip: got 'maybe'"),
    "simulated k-space": (
        {"--operator": "mri", "input": "kspace.npy", "--simulate": True},
        "acceleration: got 4.0, accepted: None for k-space",
    ),
    "factor": ({"--operator": "super-resolution", "--factor": 1}, "factor: got 1"),
    "real k-space": ({"--operator": "mri", "input": "grey.png"}, "accepted: complex k-space"),
    "samples": ({"--simulate": True, "--num-samples": 0}, "num_samples: got 0"),
    "slice": ({"--operator": "ct", "input": "volume.nii.gz", "--slice": 9}, "slice: got 9"),
}


@pytest.mark.parametrize(("change", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_give_one_clear_line_and_exit_code_2(files, change, words):
    done = run(*base(files, **change))
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert "Traceback" not in done.output
    assert not (files / "nowhere").exists()


def test_a_measurement_keeps_its_units(files, tmp_path):
    """Only clean images of --simulate are scaled to [0, 1]."""
    noisy = 3 * np.load(files / "grey.npy") - 1
    np.save(tmp_path / "noisy.npy", noisy)
    done = run(
        *("reconstruct", tmp_path / "noisy.npy", "--operator", "deblurring", "--blur-sigma", 1),
        *("--prior", files / "grey", "--solver", "dps", "--set", "steps=2", "--set", "clip=false"),
        *("--out", tmp_path, "--num-samples", 1),
    )
    assert done.exit_code == 0, done.output
    with h5py.File(tmp_path / "reconstruction.h5") as file:
        shown = file["input"][()]
    from wellposed.cli.settings import InputOptions
    from wellposed.cli.tasks import build_task

    task = build_task(tmp_path / "noisy.npy", "deblurring", InputOptions(blur_sigma=1.0))
    np.testing.assert_array_equal(task.y[0, 0].numpy(), noisy)
    np.testing.assert_array_equal(shown, task.y.numpy())


def test_a_colour_array_is_one_image(files, tmp_path):
    from wellposed.cli.settings import InputOptions
    from wellposed.cli.tasks import build_task

    np.save(tmp_path / "colour.npy", np.random.default_rng(0).random((24, 32, 3)))
    task = build_task(tmp_path / "colour.npy", "inpainting", InputOptions(simulate=True))
    assert task.truth.shape == (1, 3, 24, 32)


def test_list_has_one_line_about_each():
    lines = run("list").output.splitlines()
    for name in ("inpainting", "super-resolution", "mri", "ct", "dds", "red-diff", "dps"):
        assert any(line.split()[0] == name and len(line.split()) > 2 for line in lines), name


def test_train_then_reconstruct(files, tmp_path):
    done = run(
        *("train", "--data", files / "photo.png", "--data", files / "photo.jpg"),
        *("--out", tmp_path / "prior", "--image-size", 16, "--widths", "8,16", "--steps", 2),
        *("--batch-size", 2, "--layers", 1),
    )
    assert done.exit_code == 0, done.output
    assert f"use it with --prior {tmp_path / 'prior'}" in " ".join(done.output.split())
    assert (tmp_path / "prior" / "loss.csv").is_file()
    done = run(
        *base(
            files,
            **{
                "--prior": tmp_path / "prior",
                "--simulate": True,
                "--steps": 2,
                "--out": tmp_path / "o",
            },
        )
    )
    assert done.exit_code == 0, done.output


@pytest.fixture
def asked_for(monkeypatch):
    """What `wellposed train` would train: settings and device."""
    calls = []
    monkeypatch.setattr(
        "wellposed.priors.training.train",
        lambda settings, device, progress: calls.append((settings, device)) or settings.out,
    )
    return calls


SETTINGS = {
    "data": ("a", "b"),
    "out": "o",
    "name": "n",
    "licence": "CC0",
    "key": "k",
    "group_key": "g",
    "channel_axis": -1,
    "window": (-1000.0, 400.0),
    "percentile": 99.0,
    "volume_key": "v",
    "valid_key": "w",
    "channels": 3,
    "skip_broken": True,
    "init_from": "p",
    "data_range": (-1.0, 1.0),
    "channel_ranges": (),
    "held_out": 0.1,
    "image_size": (32, 64),
    "axes": (0,),
    "aspect": 2.0,
    "zoom": (0.5, 2.0),
    "flips": "sideways",
    "gain": (0.9, 1.1),
    "polarity": True,
    "companding": 255.0,
    "foreground": 0.1,
    "complex_phase": False,
    "schedule": "flow",
    "prediction": "sample",
    "noise_levels": "uniform",
    "log_noise": (-2.0, 1.5),
    "sigma_data": 0.3,
    "image_noise": 0.0,
    "widths": (8, 16),
    "layers": 3,
    "block": "gated",
    "steps": 7,
    "batch_size": 5,
    "learning_rate": 1e-3,
    "warmup": 9,
    "decay": 0.4,
    "ema": 0.9,
    "clip": 2.0,
    "seed": 8,
    "bf16": True,
    "compile": True,
    "workers": 2,
    "save_every": 11,
    "image_every": 12,
}

PLAIN = ("aspect", "flips", "polarity", "companding", "complex_phase")
PLAIN += ("channel_ranges", "schedule", "noise_levels", "log_noise", "sigma_data", "image_noise")
RESTORER = {name: value for name, value in SETTINGS.items() if name not in PLAIN} | {
    "process": "resshift",
    "process_steps": 4,
    "kappa": 1.5,
    "min_noise": 0.2,
    "max_sigma": 20.0,
    "sum_scale": 0.5,
    "loss": "l1",
    "lpips": 0.1,
    "networks": 1,
    "autoencoder": "vae",
    "degradation": "super-resolution",
    "degraded": None,
    "noise": (0.0, 0.1),
    "blur": (1.0, 2.0),
    "factor": 2,
    "kernel": "average",
    "keep": 0.4,
    "acceleration": 6.0,
    "views": 30,
    "margin": 4,
}


def spelled(name, value):
    """A setting as the command line has it."""
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    if value is False:
        return [f"--no-{name.replace('_', '-')}"]
    if name == "data":
        return [part for path in value for part in (option, path)]
    if name in ("image_size", "axes", "widths"):
        return [option, ",".join(map(str, value))]
    return [option, *(value if isinstance(value, tuple) else [value])]


def test_every_setting_of_a_training_is_an_option(asked_for):
    assert (SETTINGS | RESTORER).keys() == TrainingSettings.__dataclass_fields__.keys()
    for chosen in (SETTINGS, RESTORER):
        given = {name: value for name, value in chosen.items() if value not in (None, ())}
        options = [part for name, value in given.items() for part in spelled(name, value)]
        done = run("train", *options, "--device", "cuda")
        assert done.exit_code == 0, done.output
    lists = ("--axes", "0,1,2", "--channel-ranges=-1,1,0,2.5")
    done = run("train", "--data", "a", "--out", "o", *lists)
    assert done.exit_code == 0, done.output
    ranges = (-1.0, 1.0, 0.0, 2.5)
    defaults = TrainingSettings(data=("a",), out="o", axes=(0, 1, 2), channel_ranges=ranges)
    whole = [(TrainingSettings(**chosen), "cuda") for chosen in (SETTINGS, RESTORER)]
    assert asked_for == [*whole, (defaults, "cpu")]


TRAINING_MISTAKES = {
    "text for integers": (["--widths", "a,b"], "--widths: got 'a,b', accepted: integers, e.g"),
    "no integer": (["--image-size", ","], "--image-size: got ','"),
    "size": (["--image-size", "18"], "image_size: got 18, accepted: a positive multiple"),
    "prediction": (["--prediction", "nois"], "Did you mean 'noise'"),
    "schedule": (["--schedule", "cosin"], "Did you mean 'cosine'"),
    "process": (["--process", "resshif"], "Did you mean 'resshift'"),
    "without a process": (["--kappa", "3"], "kappa: got 3.0, accepted: 2.0; other values with a"),
    "with a process": (
        ["--process", "rddm", "--schedule", "flow"],
        "schedule: got 'flow', accepted: 'linear'; other values without a process",
    ),
    "device": (["--device", "gpu"], "device: got 'gpu', accepted: cpu"),
    "small images": (["--image-size", "64"], "but photo.png has slices of "),
    "other channels": (["--data", "grey.png"], "grey.png has 1 channels, accepted: 3"),
    "no file": (["--data", "missing.png"], "no such file"),
    "truncated file": (["--data", "truncated.png"], "truncated.png"),
    "complex": (["--complex-phase", "--data-range", "-1", "1"], "3 channels, accepted: 1"),
    "group": (["--group-key", "patient"], "group_key: photo.png has no keys"),
}


@pytest.mark.parametrize("mistake", TRAINING_MISTAKES)
def test_mistakes_in_training_give_one_clear_line(files, tmp_path, monkeypatch, mistake):
    options, words = TRAINING_MISTAKES[mistake]
    monkeypatch.chdir(files)
    small = ["--image-size", 16, "--steps", 1, "--widths", "8,16"]
    done = run("train", "--data", "photo.png", "--out", tmp_path / "out", *small, *options)
    assert done.exit_code == 2, done.output
    line = next(line for line in done.output.splitlines() if line.startswith("error: "))
    assert words in line
    assert "Traceback" not in done.output
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_solvers_have_one_name_each_whatever_hyphens_and_capitals():
    for name, cls in named_solvers().items():
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name)
        assert find_class("--solver", cls.__name__, named_solvers(), Solver) is cls
    for spelling, name in (
        ("diff-pir", "diffpir"),
        ("flow-chef", "flowchef"),
        ("dds3d", "dds-3d"),
    ):
        assert find_class("--solver", spelling, named_solvers(), Solver).name == name


@pytest.mark.parametrize("chosen", [None, "0"])
def test_the_command_asks_for_large_pages_unless_told_otherwise(monkeypatch, chosen):
    name = "THP_MEM_ALLOC_ENABLE"
    monkeypatch.setenv(name, "0")
    if chosen is None:
        monkeypatch.delenv(name)
    monkeypatch.setattr("wellposed.cli.app.app", lambda: None)
    main()
    assert os.environ[name] == (chosen or "1")


def test_version_and_help():
    assert run("--version").output.startswith("wellposed 0.")
    for command in ("reconstruct", "train", "list"):
        assert run(command, "--help").exit_code == 0
