"""Commands that cannot be done end with one line; interrupted ones say what is kept."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from wellposed.cli.app import app
from wellposed.cli.ending import kept


def ends(*arguments):
    """Return the one line that a command ends with."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 2, (result.output, result.exception)
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    return lines[-1]


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_config_nested_too_deeply_is_bad_input(tmp_path):
    (tmp_path / "config.json").write_text('{"a":' + 100_000 * "[")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "nested too deeply" in ends("inspect", tmp_path)


def test_out_that_is_a_file_is_bad_input(photo):
    assert "photo.png" in ends("train", "--data", photo, "--out", photo, "--image-size", "16")
    assert "photo.png" in ends(
        "reconstruct",
        photo,
        "--operator",
        "inpainting",
        "--simulate",
        "--out",
        photo,
        "--steps",
        1,
    )


def test_impossible_paths_are_bad_input(photo, tmp_path):
    path = "a" * 5000
    assert len(ends("inspect", path)) < 300
    assert len(ends("reconstruct", path, "--operator", "mri", "--out", tmp_path)) < 300
    assert len(ends("restore", path, "--prior", "irsde-deblur", "--out", tmp_path)) < 300
    assert len(ends("train", "--data", path, "--out", tmp_path / "out")) < 300


def test_too_many_steps_are_bad_input(photo, tmp_path):
    command = ["reconstruct", photo, "--operator", "inpainting", "--simulate", "--out", tmp_path]
    assert "steps" in ends(*command, "--steps", 10**12)


def test_what_an_interrupted_command_keeps_is_told(tmp_path):
    (tmp_path / "run").mkdir()
    options = SimpleNamespace(out=tmp_path / "out", checkpoint=None)
    assert kept(options).startswith("nothing was written; ")
    assert "--checkpoint" in kept(options)
    (tmp_path / "run" / "run.json").write_text("{}")
    options.checkpoint = tmp_path / "run"
    assert kept(options) == (
        f"the state of the run is in {tmp_path / 'run'}; the same command goes on from there"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"")
    assert "as last saved" in kept(SimpleNamespace(out=tmp_path / "out"))


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.slow
def test_an_interrupted_training_says_how_to_go_on(photo, tmp_path):
    out = tmp_path / "prior"
    command = [sys.executable, "-m", "wellposed", "train", "--data", photo, "--out", out]
    command += ["--image-size", 16, "--widths", "8", "--batch-size", 1, "--save-every", 1]
    # Background jobs of a shell ignore this signal, and so would their children.
    mine = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, mine)
    for _ in range(1200):
        if (out / "checkpoint.pt").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "the same command goes on from there" in told


def reconstructing(photo, *options):
    base = ["reconstruct", photo, "--operator", "inpainting", "--simulate", "--steps", 1]
    return ends(*base, "--out", photo.parent / "out", *options)


def test_options_that_nothing_uses_are_bad_input(photo):
    assert "--views: got 9, accepted: only with --operator ct" in reconstructing(
        photo, "--views", 9
    )
    assert "--slice: got 99, accepted: none" in reconstructing(photo, "--slice", 99)
    assert "--axis: got 1, accepted: none" in reconstructing(photo, "--axis", 1)
    assert "--checkpoint-every: got 5" in reconstructing(photo, "--checkpoint-every", 5)
    assert "--size: got 64, accepted: only with --image" in ends("inspect", "ct", "--size", 64)
    assert "--size: got 0" in ends("inspect", "ct", "--image", photo, "--size", 0)
    restoring = ["restore", photo, "--prior", "irsde-deblur", "--out", photo.parent / "out"]
    assert "--mask: got '" in ends(*restoring, "--mask", photo)


def test_counts_that_no_machine_has_are_bad_input(photo):
    training = ["train", "--data", photo, "--out", photo.parent / "out", "--image-size", "16"]
    assert "--threads: got 5000" in ends(*training, "--threads", 5000)
    assert "coils: got 100000" in ends(
        "reconstruct", photo, "--operator", "mri", "--out", photo, "--coils", 100_000
    )


@pytest.mark.parametrize("empty", [["--prior", ""], ["--out="], ["--solver", ""]])
def test_empty_values_are_bad_input(photo, empty):
    """As of a variable of the shell that is not set; not the default."""
    assert f"{empty[0].rstrip('=')}: got ''" in reconstructing(photo, *empty)


def test_warnings_are_one_line(photo):
    options = ["--noise-sigma", 9, "--out", photo.parent / "out", "--steps", 1]
    command = ["reconstruct", photo, "--operator", "deblurring", *options, "--num-samples", 1]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.output
    assert "\nwarning: noise_sigma: got 9" in f"\n{result.stderr}"
    assert "UserWarning" not in result.stderr
