"""The example of joint contrasts: registration, and its table at toy size."""

import importlib
import runpy
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from tests.helpers import tiny_training

from wellposed.priors.training import train

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.usefixtures("single_thread")
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(EXAMPLES)
    joint_data = importlib.import_module("joint_data")


def blobs(shift=0.0):
    """A volume of 8 slices of 4 mm pixels, bright where the other contrast is dark or not."""
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (8, 40, 40)), indexing="ij")
    head = (y**2 + 1.3 * x**2 + 4 * z**2 < 220).astype(np.float32)
    spots = np.cos((y + shift / 4) / 2.5) * np.sin(x / 3 + 0.5) * np.cos(z / 2)
    rolled = np.clip((shift / 4 + y) ** 2 + 1.3 * x**2 + 4 * z**2 < 220, 0, 1)
    return head, (rolled * (0.5 + 0.4 * spots)).astype(np.float32)


def scan(values):
    return joint_data.Scan(values, np.array([4.0, 4.0, 4.0]), 0)


def test_registration_finds_the_shift():
    """Of another contrast of the same head, 6 mm away."""
    fixed = scan(blobs()[1])
    moving = scan(np.where(blobs(6.0)[1] > 0, 1.1 - blobs(6.0)[1], 0).astype(np.float32))
    motion = joint_data.registration(fixed, moving)
    assert joint_data.SHIFT * motion[4] == pytest.approx(-6.0, abs=1.0)
    assert np.abs(joint_data.TURN * motion[:3]).max() < 0.05


@pytest.mark.slow
def test_the_table(tmp_path, monkeypatch, capsys):
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(8, 40, 40, 1, generator=generator)
    images = base * torch.tensor([0.5, 0.8, 1.0])
    with h5py.File(tmp_path / "joint.h5", "w") as file:
        file["images"], file["subject"] = images.numpy(), ["a"] * 4 + ["b"] * 4
    run = tiny_training(
        tmp_path / "joint.h5", tmp_path / "prior", steps=2, channel_axis=-1, key="images",
        group_key="subject", held_out=0.4,
    )  # fmt: skip
    command = ["joint_contrasts.py", "--data", str(tmp_path / "joint.h5"), "--out", str(tmp_path)]
    short = ["--prior", str(train(run)), "--steps", "2", "--samples", "2", "--side", "32"]
    monkeypatch.setattr(sys, "argv", command + short)
    runpy.run_path(str(EXAMPLES / "joint_contrasts.py"), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 7
    assert sum("joint prior" in row for row in rows) == 3
    assert len(list(tmp_path.glob("joint-*.png"))) == 3
