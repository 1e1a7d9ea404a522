"""Training spread over processes that speak by gloo."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.helpers import forks, run_in_processes, tiny_training

from wellposed.priors.training import train

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for n in range(4):
        np.save(folder / f"{n}.npy", np.random.default_rng(n).random((20, 24), np.float32))
    return folder


def command(data, out, batch_size):
    options = {"--data": data, "--out": out, "--image-size": "8,16", "--widths": "8,16"}
    options |= {"--layers": 1, "--steps": 6, "--batch-size": batch_size, "--save-every": 3}
    options |= {"--warmup": 2, "--learning-rate": 5e-3, "--image-every": 100}
    return ["train", *(part for pair in options.items() for part in pair)]


def torchrun(processes, data, out, batch_size):
    """Run `wellposed train` as a user would start it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = command(data, out, batch_size)
    return subprocess.run(
        [sys.executable, *launcher, "-m", "wellposed", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def curve(folder):
    with open(folder / "loss.csv", newline="") as file:
        heads, *rows = csv.reader(file)
    return heads, np.array(rows, float)


@forks
@pytest.mark.slow
def test_two_processes_follow_the_losses_of_one(data, tmp_path):
    sizes = dict(image_size=(8, 16), steps=6, batch_size=8, save_every=3, learning_rate=5e-3)
    one = train(tiny_training(data, tmp_path / "one", **sizes))
    two = tmp_path / "two"
    output = run_in_processes(2, command(data, two, batch_size=8), tmp_path / "told")
    assert output.count("wrote the prior") == 1

    (heads, ours), (expected_heads, expected) = curve(two), curve(one)
    assert heads == expected_heads
    assert len(ours) == 2
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    states = [torch.load(f / "checkpoint.pt", weights_only=True) for f in (two, one)]
    for part in ("network", "average"):
        # Adam turns the rounding of a gradient near zero into a part of a step of 5e-4.
        torch.testing.assert_close(states[0][part], states[1][part], rtol=1e-3, atol=1e-4)
    assert states[0]["settings"] == states[1]["settings"]  # one may continue the other

    names = lambda folder: sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))  # noqa: E731
    assert names(two) == names(one)
    config = json.loads((two / "config.json").read_text())
    assert config["training"]["hardware"] == "CPU, 2 process(es)"


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_ends_every_process(data, tmp_path):
    done = torchrun(2, data, tmp_path / "out", batch_size=4)
    assert done.returncode != 0
    assert "batch_size: got 4, which is 1 crop(s) of 16 pixels" in done.stderr
    assert not (tmp_path / "out").exists()
