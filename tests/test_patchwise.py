"""Patchwise denoising: what a local prior would say of the whole image, without a seam."""

import pytest
import torch
from torch import nn

from wellposed import errors
from wellposed.operators import Inpainting, random_mask
from wellposed.priors import GaussianPrior, NetworkPrior, Patchwise, Tabulated
from wellposed.solvers import DDS

VP = Tabulated.linear()


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


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
@pytest.mark.parametrize("overlap", [0, 5, 12])
def test_pixelwise_priors_are_unchanged(shape, overlap):
    prior = GaussianPrior(0.2, 0.3, VP)
    x_t = random(2, 3, *shape)
    for t in (10, torch.tensor([3.0, 500.0])):
        out = Patchwise(prior, 24, overlap).denoise(x_t, t)
        torch.testing.assert_close(out, prior.denoise(x_t, t), rtol=1e-12, atol=1e-12)


def test_complex_images():
    prior = GaussianPrior(0.0, 0.3, VP, is_complex=True)
    x_t = random(1, 1, 40, 50, dtype=torch.complex128)
    torch.testing.assert_close(Patchwise(prior, 24, 8).denoise(x_t, 9), prior.denoise(x_t, 9))


def test_the_overlap_hides_missing_context():
    """Where a tile lacks context its weight is small: the error falls with the overlap."""
    prior = NetworkPrior(Reach(2), VP, "sample")
    x_t = random(1, 1, 88, 88) + 3
    exact = prior.denoise(x_t, 5)
    errors_ = [
        float((Patchwise(prior, 48, overlap).denoise(x_t, 5) - exact).abs().max())
        for overlap in (0, 8, 24)
    ]
    assert errors_[0] > 0.3
    assert errors_[1] < errors_[0] / 4
    assert errors_[2] < errors_[1] / 4


def test_tiles_bound_the_memory():
    network = Reach(1)
    Patchwise(NetworkPrior(network, VP, "sample"), 16, 4).denoise(random(1, 1, 200, 30), 5)
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
    x_t = random(1, 1, 40, 30).requires_grad_()
    Patchwise(NetworkPrior(Reach(1), VP, "sample"), 16, 4).denoise(x_t, 5).sum().backward()
    assert bool((x_t.grad > 0).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0), "size: got 1"),
        ((64, -1), "overlap: got -1"),
        ((64, 33), "overlap: got 33, accepted: from 0 to half the size"),
    ],
)
def test_bad_tiles_are_named(arguments, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Patchwise(GaussianPrior(0.0, 1.0, VP), *arguments)
