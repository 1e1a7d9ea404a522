"""Tiles: what a local prior or restorer would say of the whole image, without a seam."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import anchored, randn
from torch import nn

from wellposed import errors
from wellposed.operators import Inpainting, random_mask
from wellposed.priors import (
    GaussianPrior,
    NetworkPrior,
    Patchwise,
    Tabulated,
    resshift,
)
from wellposed.priors.networks.conv_unet import RestorationUNet
from wellposed.solvers import DDS, IRSDE

VP = Tabulated.linear()


class Reach(nn.Module):
    """Averages over a square of 2 reach + 1 pixels, zeros outside, as padded convolutions do."""

    def __init__(self, reach):
        super().__init__()
        self.pool = nn.AvgPool2d(2 * reach + 1, 1, reach)
        self.largest = 0

    def forward(self, x, label):
        self.largest = max(self.largest, x.shape[-1] * x.shape[-2])
        return self.pool(x)


@pytest.mark.parametrize("shape", [(64, 64), (65, 91), (40, 64), (24, 33), (23, 17)])
@pytest.mark.parametrize("overlap", [0, 1, 2, 5, 12])
def test_pixelwise_priors_are_unchanged(shape, overlap):
    prior = GaussianPrior(0.2, 0.3, VP)
    x_t = randn(2, 3, *shape)
    for t in (10, torch.tensor([3.0, 500.0])):
        out = Patchwise(prior, 24, overlap).denoise(x_t, t)
        torch.testing.assert_close(out, prior.denoise(x_t, t), rtol=1e-12, atol=1e-12)


def test_complex_images():
    prior = GaussianPrior(0.0, 0.3, VP, is_complex=True)
    x_t = randn(1, 1, 40, 50, dtype=torch.complex128)
    torch.testing.assert_close(Patchwise(prior, 24, 8).denoise(x_t, 9), prior.denoise(x_t, 9))


def test_the_overlap_hides_missing_context():
    """The outer quarter of an overlap does not count: beyond four times the reach all is exact."""
    prior = NetworkPrior(Reach(2), VP, "sample", data_range=(-1.0, 1.0))
    x_t = randn(1, 1, 88, 88) + 3
    exact = prior.denoise(x_t, 5)
    errors_ = [
        float((Patchwise(prior, 48, overlap).denoise(x_t, 5) - exact).abs().max())
        for overlap in (0, 8, 24)
    ]
    assert errors_[0] > 0.3
    assert max(errors_[1:]) < 1e-12
    nearly = (Patchwise(prior, 48, 4).denoise(x_t, 5) - exact).abs().max()
    assert 1e-3 < float(nearly) < errors_[0] / 4


class Blocks(nn.Module):
    """Averages over squares of eight pixels, as a U-Net's coarse levels see them."""

    def forward(self, x, label):
        return nn.functional.interpolate(nn.functional.avg_pool2d(x, 8), scale_factor=8)


def test_tiles_start_where_a_strided_network_sees_them_as_in_the_whole_image():
    prior = NetworkPrior(Blocks(), VP, "sample", data_range=(-1.0, 1.0))
    x_t = randn(1, 1, 104, 88)
    torch.testing.assert_close(Patchwise(prior, 48, 16).denoise(x_t, 5), prior.denoise(x_t, 5))


def test_tiles_bound_the_memory():
    network = Reach(1)
    prior = NetworkPrior(network, VP, "sample", data_range=(-1.0, 1.0))
    Patchwise(prior, 16, 4).denoise(randn(1, 1, 200, 30), 5)
    assert network.largest == 16 * 16


def test_sampling_counts_an_image_as_one_evaluation():
    prior = Patchwise(GaussianPrior(0.5, 0.1, VP), 16, 4)
    operator = Inpainting(random_mask(40, 30, 0.5, 0), 1, 0.05)
    y = operator.measure(torch.full((1, 1, 40, 30), 0.4))
    result = DDS(steps=5)(y, operator, prior, seed=0)
    assert result.nfe == 5
    whole = DDS(steps=5)(y, operator, GaussianPrior(0.5, 0.1, VP), seed=0)
    torch.testing.assert_close(result.mean, whole.mean, rtol=1e-4, atol=1e-4)


def test_gradients_pass():
    x_t = randn(1, 1, 40, 30).requires_grad_()
    Patchwise(NetworkPrior(Reach(1), VP, "sample", data_range=(-1.0, 1.0)), 16, 4).denoise(
        x_t, 5
    ).sum().backward()
    assert bool((x_t.grad > 0).all())


# Restorers


class Local(nn.Module):
    """A restorer's network that reaches ``reach`` pixels; of all tiles it notes the largest."""

    def __init__(self, reach):
        super().__init__()
        self.pool = nn.AvgPool2d(2 * reach + 1, 1, reach)
        self.largest = 0

    def forward(self, seen, label, degraded):
        self.largest = max(self.largest, seen.shape[-1] * seen.shape[-2])
        image = F.interpolate(degraded.image, seen.shape[-2:], mode="nearest")
        return self.pool(0.5 * seen + 0.2 * degraded.anchor + 0.3 * image) * label.cos()[0]


class Moody(Local):
    """Depends on the mean of all that it sees, as normalised networks do."""

    def forward(self, seen, label, degraded):
        return super().forward(seen, label, degraded) - 3 * seen.mean((-1, -2), keepdim=True)


class Code(nn.Module):
    """Latents of images by averages over ``factor`` squared pixels and their neighbours."""

    image_channels = latent_channels = 3

    def __init__(self, factor):
        super().__init__()
        self.factor, self.blur = factor, nn.AvgPool2d(3, 1, 1)
        self.largest = 0

    def encode(self, x):
        self.largest = max(self.largest, x.shape[-1] * x.shape[-2])
        return self.blur(F.avg_pool2d(x, self.factor))

    def decode(self, z):
        return self.blur(F.interpolate(z, scale_factor=self.factor, mode="nearest"))


def restored(restorer, shape, **options):
    y = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return IRSDE(steps=3, **options)(y, None, restorer, num_samples=2, seed=0).samples


@pytest.mark.parametrize(
    ("upsample", "factor", "shape"),
    [
        (1, None, (1, 3, 61, 150)),
        (3, None, (2, 3, 37, 21)),
        (4, 4, (1, 3, 40, 33)),
        (2, 4, (1, 3, 70, 42)),
        (1, 4, (1, 3, 132, 108)),
    ],
)
def test_tiled_restorers_are_the_whole_ones(upsample, factor, shape):
    """The same samples of the same seed, of any size and scale: noise and tiles agree."""
    network, code = Local(1), None if factor is None else Code(factor)
    whole = anchored(network, resshift(4), upsample=upsample, autoencoder=code)
    expected = restored(whole, shape)
    network.largest = 0
    torch.testing.assert_close(restored(Patchwise(whole, 64, 24), shape), expected)
    assert 0 < network.largest <= (64 // (factor or 1)) ** 2
    inner = whole if code is None else whole.prior
    assert inner.network is network
    if code is not None:
        assert code.largest > 64**2
        code.largest = 0
        restored(Patchwise(whole, 64, 24), shape)
        assert 0 < code.largest <= 64**2


def test_the_shipped_network_tiled_is_the_whole_one():
    network = RestorationUNet(3, (8, 16), 1).double()  # which reaches 32 pixels at most
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    whole = anchored(network, resshift(4), "residual")
    expected = restored(whole, (1, 3, 24, 384))
    found = restored(Patchwise(whole, 272, 136), (1, 3, 24, 384))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_networks_that_look_everywhere_show_no_seam():
    """Steps of the picture across the tiles' borders are those of any other place."""
    whole, shape = anchored(Moody(1), resshift(4), upsample=2), (1, 3, 30, 128)

    def seam(overlap):
        restorer = Patchwise(whole, 64, overlap)
        tiles = restorer.tiles.along(256)
        borders = sorted({e for t in tiles for e in (t.start, t.stop)} - {0, 256})
        steps = restored(restorer, shape).diff(dim=-1).abs().mean((0, 1, 2, 3))
        at = torch.zeros(255, dtype=torch.bool)
        at[[b - 1 for b in borders]] = True
        return float(steps[at].mean() / steps[~at].mean())

    assert seam(0) > 1.5
    assert seam(32) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0), "size: got 1"),
        ((64, -1), "overlap: got -1"),
        ((64, 33), "overlap: got 33, accepted: a number from 0 to half the size"),
    ],
)
def test_bad_tiles_are_named(arguments, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Patchwise(GaussianPrior(0.0, 1.0, VP), *arguments)


def test_bad_tiles_of_restorers_are_named():
    restorer = anchored(Local(1), resshift(4), upsample=3)
    with pytest.raises(errors.ArgumentError, match="overlap: got 25, accepted: a number from 0"):
        Patchwise(restorer, 48, 25)
    with pytest.raises(errors.ArgumentError, match="size: got 40, accepted: at least 48"):
        Patchwise(restorer, 40, 8)
