"""Supervised restorers of other projects, on a small network of a known architecture."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import rand, run

from wellposed import errors
from wellposed.benchmark import instances, measured, read_card
from wellposed.cli.entrants import entrant
from wellposed.operators import Denoising, SuperResolution
from wellposed.solvers import from_spandrel

compact = pytest.importorskip("spandrel.architectures.Compact")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The file of a network that enlarges 4 times."""
    torch.manual_seed(0)
    network = compact.Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=1, upscale=4)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save({"params": network.state_dict()}, path)
    return path, network


def test_it_is_the_network_and_tells_the_residual(weights):
    path, network = weights
    operator = SuperResolution((3, 32, 32), 4, "average", 0.02)
    y = operator.measure(rand(2, 3, 32, 32).float(), 0).clamp(0, 1)
    found = from_spandrel(path)(y, operator)
    torch.testing.assert_close(found.mean, network(y))
    assert found.nfe == 1
    assert found.solver == "spandrel:RealESRGAN Compact"
    error = (operator.A(found.mean) - y).flatten(1).norm(dim=1) / (0.02 * y[0].numel() ** 0.5)
    torch.testing.assert_close(found.residual[0], error, rtol=1e-4, atol=0)


def test_it_takes_part_in_a_comparison(weights, tmp_path):
    problem = instances(read_card("photographs-super-resolution"))[0]
    label = f"spandrel:{weights[0]}"
    record = measured(problem, label, entrant(label), 4, 0, tmp_path)
    assert record.samples == 1
    assert record.scores["PSNR"] > 5
    with pytest.raises(errors.ArgumentError, match="no settings"):
        entrant(f"{label} steps=3")


def test_the_command_compares_it(weights, tmp_path):
    Image.fromarray(np.full((40, 36, 3), 128, np.uint8)).save(tmp_path / "a.png")
    words = ("compare", tmp_path / "a.png", "--operator", "super-resolution", "--factor", 4)
    solvers = f"spandrel:{weights[0]},tikhonov"
    done = run(*words, "--noise-sigma", 0.02, "--solvers", solvers, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = [line.split("|")[1:3] for line in done.output.splitlines() if "small.pth" in line]
    assert rows and all(float(psnr) > 5 for _, psnr in rows)


def test_what_does_not_fit_is_refused(weights, tmp_path):
    solver = from_spandrel(weights[0])
    with pytest.raises(
        errors.ShapeError, match=r"accepted by small\.pth: real images of 3 channels"
    ):
        solver(rand(1, 3, 8, 8), Denoising((3, 8, 8), 0.1))
    with pytest.raises(errors.ArgumentError, match="num_samples: got 2"):
        solver(rand(1, 3, 8, 8), SuperResolution((3, 32, 32), 4), num_samples=2)
    with pytest.raises(errors.FileError, match="no such file"):
        from_spandrel(tmp_path / "x.pth")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(errors.FileError, match="spandrel cannot read"):
        from_spandrel(tmp_path / "other.pth")
