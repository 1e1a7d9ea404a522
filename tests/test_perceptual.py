"""Perceptual distances against torchmetrics and the authors' code, and what they refuse."""

import numpy as np
import pytest
import torch

from wellposed.errors import ArgumentError, CheckpointError, FileError, ShapeError
from wellposed.perceptual import LPIPS, STLPIPS, frechet_distance, kernel_distance


def pair(*shape):
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.random(shape)).float()
    return a, (a + 0.2 * torch.from_numpy(rng.standard_normal(shape)).float()).clamp(0, 1)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """Random weights of torchvision's names, where torch.hub looks for the trained ones."""
    from torchvision.models import alexnet as network

    folder = tmp_path_factory.mktemp("hub") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = network(weights=None).state_dict()
    path = folder / "alexnet-owt-7be5be79.pth"
    torch.save(weights, path)
    return path


@pytest.mark.slow
def test_lpips_is_that_of_torchmetrics(alexnet, monkeypatch):
    from torchmetrics.functional.image import (
        learned_perceptual_image_patch_similarity as reference,
    )

    monkeypatch.setenv("TORCH_HOME", str(alexnet.parents[2]))
    a, b = pair(2, 3, 64, 48)
    expected = reference(a, b, net_type="alex", normalize=True, reduction="none")
    assert torch.allclose(LPIPS(alexnet)(a, b), expected, rtol=1e-6)


def test_shift_tolerant_lpips_equals_the_authors_code():
    """Computed by stlpips-pytorch 0.0.2 from the same images."""
    a, b = pair(2, 3, 64, 48)
    expected = torch.tensor([0.01065594982355833, 0.013909301720559597])
    assert torch.allclose(STLPIPS()(a, b), expected, rtol=1e-5)


def test_equal_images_are_at_distance_0_grey_or_complex(alexnet):
    image = pair(2, 1, 32, 40)[0]
    for measure in (LPIPS(alexnet), STLPIPS()):
        assert measure(image * torch.exp(torch.tensor(1j)), image.to(torch.complex64)).max() < 1e-6
        assert torch.equal(measure(image, image), torch.zeros(2))


@pytest.mark.slow
def test_other_files_and_images_are_refused(alexnet, tmp_path):
    with pytest.raises(FileError, match=r"weights: .*nothing\.pth"):
        STLPIPS(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="other tensors"):
        STLPIPS(alexnet)
    with pytest.raises(CheckpointError, match="'vgg' network"):
        LPIPS(alexnet, "vgg")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError, match="cannot be read"):
        LPIPS(tmp_path / "text.pth")
    with pytest.raises(ShapeError, match="sides of at least 32"):
        STLPIPS()(*pair(1, 3, 31, 64))
    with pytest.raises(ShapeError, match="1 or 3"):
        STLPIPS()(*pair(1, 2, 64, 64))


def test_distances_of_sets():
    """Of Gaussians the Frechet distance is known; equal distributions have kernel distance 0."""
    rng = np.random.default_rng(1)
    a, b = (torch.from_numpy(rng.standard_normal((20_000, 3))) for _ in range(2))
    shift = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert frechet_distance(a, 2 * b + shift) == pytest.approx(1 + 3, rel=0.05)
    assert abs(kernel_distance(a[:2000], b[:2000])) < 0.02
    assert kernel_distance(a[:2000], b[:2000] + shift) > 0.5


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_distances_of_small_sets_are_refused(distance):
    few, many = torch.zeros(999, 4), torch.zeros(1000, 4)
    with pytest.raises(ArgumentError, match="a: got '999 rows', accepted: at least 1000"):
        distance(few, many)
    with pytest.raises(ShapeError, match="b: got shape"):
        distance(many, torch.zeros(1000, 5))


def test_features_must_not_outnumber_images():
    wide = torch.zeros(1500, 2048)
    with pytest.raises(ArgumentError, match="at least 2049"):
        frechet_distance(wide, wide)
