"""The comparison of dehazing at toy size."""

import importlib
import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from wellposed.datasets.ultrasound import Sector, write_training_frames
from wellposed.priors import Diagonal, GaussianPrior, Tabulated
from wellposed.priors.training import TrainingSettings, train

pytestmark = pytest.mark.usefixtures("single_thread")
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    dehazing, methods, unet = (
        importlib.import_module(name) for name in ("dehazing", "dehazing_methods", "dehazing_unet")
    )
COARSE = Sector(depths=256, beams=64, centre_mhz=0.45, beam_width=2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Frames, priors of a few steps, and a supervised network of as many."""
    folder = tmp_path_factory.mktemp("dehazing")
    for kind in ("tissue", "haze"):
        file = str(write_training_frames(folder / f"{kind}.h5", kind, 4, sector=COARSE))
        tiny = dict(image_size=(8,), aspect=2.0, widths=(8, 8), layers=1, steps=2, batch_size=2)
        signed = dict(data_range=(-1.0, 1.0), polarity=True, companding=255.0)
        train(
            TrainingSettings(data=(file,), out=str(folder / kind), held_out=0.25, **tiny, **signed)
        )
    supervise(folder / "unet.pt", folder, steps=4)
    return folder


def supervise(out, folder, steps):
    data = [f"--tissue={folder / 'tissue.h5'}", f"--haze={folder / 'haze.h5'}", f"--out={out}"]
    small = ["--batch-size=2", "--width=8", "--widths", "8", "8", "--layers=1", "--save-every=2"]
    unet.main([*data, *small, f"--steps={steps}"])
    return torch.load(out, weights_only=True)


@pytest.mark.slow
def test_the_comparison_has_all_rows_and_goes_on(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(methods, "PUBLISHED_STEPS", 6)
    # Minutes and an optional package elsewhere.
    monkeypatch.setattr(methods, "by_bm3d", lambda rf, sigma: (1 - sigma) * rf)
    with h5py.File(tmp_path / "measured.h5", "w") as file:
        file["rf"] = np.random.default_rng(0).normal(size=(1, 128, 32))
    options = [
        *(f"--tissue={folder / 'tissue'}", f"--haze={folder / 'haze'}"),
        *(f"--unet={folder / 'unet.pt'}", f"--out={tmp_path / 'out'}"),
        *("--hearts=1", "--frames=2", "--tuning=1", "--steps=6", "--speed", "4", "6"),
        *("--levels", "-34", "-22", "--real", str(tmp_path / "measured.h5")),
    ]
    dehazing.main(options, COARSE)
    record = json.loads((tmp_path / "out" / "dehazing.json").read_text())
    names = {"hazy", "BM3D", "nuclear norm", "U-Net", "one prior", "white noise as second"}
    for level in ("-34", "-22"):
        rows = record["levels"][level]
        assert set(rows) == names | {
            "two priors",
            "two priors, mean of 4",
            "two priors, projection",
            "two priors, estimate",
            "two priors, sequence",
        }
        assert all(math.isfinite(row[s]) for row in rows.values() for s in dehazing.SCORES)
        assert (tmp_path / "out" / f"dehazing{level}.png").exists()
    few, more = (record["speed"][f"{steps} steps, cpu"] for steps in (4, 6))
    assert few["nfe"] < more["nfe"]
    assert 0 <= record["real"]["measured.h5"]["ks"] <= 1
    assert (tmp_path / "out" / "dehazing-measured.png").exists()
    assert "two priors" in capsys.readouterr().out
    monkeypatch.setattr(methods, "dehaze", None)  # nothing is run again
    dehazing.main(options, COARSE)
    with pytest.raises(SystemExit, match="take another one"):
        dehazing.main([*options, "--steps=7"], COARSE)


def test_training_the_network_goes_on_to_the_same_weights(folder, tmp_path, monkeypatch):
    whole = torch.load(folder / "unet.pt", weights_only=True)
    drawn = unet.HazyCrops.__getitem__

    def interrupted(crops, step):
        if step == 3:
            raise KeyboardInterrupt
        return drawn(crops, step)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(unet.HazyCrops, "__getitem__", interrupted)
        supervise(tmp_path / "a.pt", folder, steps=4)
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == 2
    again = supervise(tmp_path / "a.pt", folder, steps=4)
    assert whole["step"] == again["step"] == 4
    for name, value in whole["average"].items():
        assert torch.equal(value, again["average"][name])


def test_a_fresh_network_returns_what_it_was_given():
    rf = torch.linspace(-0.9, 0.9, 16 * 8).view(1, 1, 16, 8)
    torch.testing.assert_close(unet.Dehazer((8, 8), 1).dehaze(rf), rf, atol=1e-5, rtol=1e-4)


def test_still_haze_is_of_low_rank():
    """A constant frame of haze behind sparse moving echoes is found."""
    rng = torch.Generator().manual_seed(0)
    still = torch.randn(1, 1, 24, 16, generator=rng).expand(16, -1, -1, -1)
    moving = (torch.rand(16, 1, 24, 16, generator=rng) < 0.05).float() * 3
    found = methods.by_nuclear_norm(still + moving, 16, 1.0, 200)
    assert float((found - moving).norm() / moving.norm()) < 0.2


def test_depths_are_resampled_to_the_pulse():
    """A sinusoid of a quarter cycle a sample becomes one of the priors' cycles a sample."""
    sector, n = Sector(), torch.arange(400.0)
    rf = torch.sin(2 * torch.pi * 0.25 * n)[None, None, :, None].expand(1, 1, -1, 4)
    found = dehazing.to_pulse(rf, sector)
    cycles = sector.centre_mhz / sector.sampling_mhz
    assert found.shape[-2] == round(400 * 0.25 / cycles)
    spectrum = torch.fft.rfft(found[0, 0, :, 0]).abs()
    assert int(spectrum.argmax()) == 100
    assert float(found.abs().max()) == pytest.approx(1, abs=0.02)


def test_white_noise_denoises_by_its_level():
    other = GaussianPrior(0.0, Diagonal(torch.tensor(1.0)), Tabulated.linear())
    x = torch.full((1, 1, 4, 4), 0.3)
    torch.testing.assert_close(methods.white_noise(other, 0.2)(x, 0.2), 0.15 + 0 * x)
