"""`wellposed inspect`, run as a user would, on checkpoints of several families."""

from functools import partial

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import run

from wellposed.datasets.images.phantoms import dead_leaves

pytestmark = pytest.mark.usefixtures("single_thread")


inspect = partial(run, "inspect")


@pytest.fixture(scope="module")
def shipped():
    """What is said of a shipped prior, tested on the default images."""
    return inspect("ct")


def unet():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.UNet2DModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
            add_attention=False,
        )


def test_a_shipped_prior_is_described_and_tested(shipped):
    result = shipped
    facts = dict(
        [cell.strip() for cell in line.split("|")[1:3]]
        for line in result.stdout.splitlines()
        if line.count("|") == 3
    )
    assert facts["family"] == "wellposed"
    assert facts["channels"] == "1 real"
    assert facts["public values of -1 and 1"] == "0 and 1"
    assert facts["prediction"] == "edm"
    assert "sigma / alpha up to 157.4" in facts["schedule"]
    assert "gain in dB" in result.stdout
    assert result.exit_code == 0, result.output
    assert "nothing looks wrong" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["irsde-deblur", "resshift-x4"])
def test_a_shipped_restorer_is_described_and_tested(name):
    result = inspect(name)
    assert "| degraded images" in result.stdout
    assert "| t / T" in result.stdout
    assert result.exit_code == 0, result.output
    assert "nothing looks wrong" in result.stdout


@pytest.mark.slow
def test_a_random_network_is_recognised_and_warned_of(tmp_path):
    diffusers.DDPMPipeline(unet(), diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    result = inspect(tmp_path)
    assert result.exit_code == 1
    assert "| diffusers" in result.stdout
    assert "DiffusersPrior" in result.stdout
    assert "| noise" in result.stdout
    assert "warning: it does not denoise" in result.stderr


@pytest.mark.slow
def test_a_latent_prior_is_tested_in_its_own_space(tmp_path):
    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=4,
    )
    diffusers.LDMPipeline(autoencoder, unet(), diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    result = inspect(tmp_path)
    assert "| Latent" in result.stdout
    assert "gain in dB" in result.stdout


@pytest.mark.slow
def test_own_images_are_used_at_one_size(shipped, tmp_path):
    for n, side in enumerate((30, 40)):
        pixels = dead_leaves(1, 1, side, seed=n)[0, 0].numpy() * 255
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{n}.png")
    own, small = (
        inspect("ct", *more).stdout
        for more in (
            ("--image", tmp_path / "0.png", "--image", tmp_path / "1.png"),
            ("--image", tmp_path / "0.png", "--size", 16),
        )
    )
    assert len({shipped.stdout, own, small}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nature",), "Did you mean 'natural'"),
        (("lost.safetensors",), "does not exist"),
        (("ct", "--image", "lost.png"), "no such file 'lost.png'"),
        (("ct", "--image", "COLOUR"), "made for 1 channels"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "colour.png")
    result = inspect(*(tmp_path / "colour.png" if a == "COLOUR" else a for a in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
