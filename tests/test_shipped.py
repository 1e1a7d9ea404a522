"""The shipped priors and example data, as a user of the package finds them."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from wellposed import priors
from wellposed.metrics import psnr

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def brain():
    with h5py.File(ROOT / "examples/data/studyforrest_slice.h5") as file:
        magnitude = torch.from_numpy(file["magnitude"][100:228, 60:188].astype(np.float32))
    return torch.polar(magnitude, torch.full_like(magnitude, 0.7))[None, None]


@pytest.mark.parametrize(("sigma", "gain"), [(0.03, 1.0), (0.1, 5.0), (0.3, 8.0)])
def test_brain_mri_denoises_a_brain_it_has_not_seen(brain, sigma, gain):
    """Gains in dB at noise sigma per real and imaginary part, at twice the training size."""
    rng = np.random.default_rng(0)
    noise = torch.view_as_complex(torch.from_numpy(rng.standard_normal((*brain.shape, 2))))
    noisy = brain + sigma * noise.to(torch.complex64)
    error = lambda x: psnr((x - brain).abs(), torch.zeros(brain.shape))  # noqa: E731
    assert float(error(priors.load("brain-mri")(noisy, sigma)) - error(noisy)) > gain


def test_every_shipped_prior_is_listed_small_and_has_a_card():
    folders = [p.parent for p in (ROOT / "priors/weights").glob("*/config.json")]
    assert {f.name for f in folders} == set(priors.available()) >= {"brain-mri"}
    for folder in folders:
        assert (folder / "model.safetensors").stat().st_size < 20e6
        assert "licence of the data" in (folder / "README.md").read_text()


def test_files_named_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", text) if not t.startswith("http")]
    assert targets
    assert all((ROOT / t).exists() for t in targets), targets
