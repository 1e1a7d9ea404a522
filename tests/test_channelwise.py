"""Joint priors of several channels: imputation against exact posteriors, ranges of channels."""

import h5py
import pytest
import torch
from tests.helpers import F64, close, normal, relative, tiny_training

from wellposed import errors
from wellposed.operators import (
    Channels,
    Denoising,
    Inpainting,
    Joint,
    SingleCoilMRI,
    check_operator,
)
from wellposed.operators.decomposable import Decomposable
from wellposed.priors import Channelwise, Full, GaussianPrior, NetworkPrior, load
from wellposed.priors.sampling import sample
from wellposed.priors.training import train
from wellposed.solvers import DDRM, DDS, MMPS, recommend

pytestmark = pytest.mark.usefixtures("single_thread")

SIDE = 4
SHAPE = (3, SIDE, SIDE)
AMONG = torch.tensor([[1, 0.8, 0.3], [0.8, 1, 0.3], [0.3, 0.3, 1]], dtype=F64)
RANGES = [(-1000.0, 1000.0), (0.0, 1.0), (-5.0, 3.0)]


def within():
    """Return the covariance of the pixels of one channel."""
    axis = torch.arange(SIDE, dtype=F64)
    y, x = (v.flatten() for v in torch.meshgrid(axis, axis, indexing="ij"))
    far = (y[:, None] - y).hypot(x[:, None] - x)
    return 0.2 * torch.exp(-far / 2)


def kronecker():
    """Return the joint Gaussian: each channel a smooth field, correlated among them."""
    mean = torch.tensor([0.1, -0.2, 0.3], dtype=F64).view(3, 1, 1)
    prior = GaussianPrior(mean, Full(torch.kron(AMONG, within())))
    prior.channels = 3
    return prior


def seen(share, noise=0.05):
    """Return an operator that sees a share of the first channel, nothing of the others."""
    mask = torch.zeros(SHAPE, dtype=F64)
    mask[0] = (
        normal(SIDE, SIDE, seed=7) < torch.distributions.Normal(0, 1).icdf(torch.tensor(share))
    ).to(F64)
    return Inpainting(mask, noise_sigma=noise)


def measured(operator, seed=1):
    truth = kronecker().draw(normal(2, *SHAPE, seed=seed))
    return operator.measure(truth, seed=seed)


def test_a_missing_channel_is_regressed_on_the_seen_one():
    """All of a channel seen exactly: the covariance within channels drops out."""
    prior, operator = (
        kronecker(),
        Inpainting(torch.eye(3, dtype=F64)[0].view(3, 1, 1).expand(SHAPE)),
    )
    truth = prior.draw(normal(2, *SHAPE))
    posterior = prior.posterior(operator.A(truth), operator, 1e-5)
    gap = truth[:, :1] - prior.mean[0]
    for channel in (1, 2):
        expected = prior.mean[channel] + AMONG[channel, 0] * gap[:, 0]
        close(posterior.mean[:, channel], expected, 1e-6)
    n = SIDE**2
    rest = AMONG[1:, 1:] - AMONG[1:, :1] * AMONG[:1, 1:]
    close(posterior.covariance()[n:, n:], torch.kron(rest, within()), 1e-6)


def test_solvers_impute_channels():
    """Mean and spread of every channel, seen and missing, against the exact posterior."""
    prior, operator = kronecker(), seen(0.6)
    y = measured(operator)[:1]
    exact = prior.posterior(y, operator)
    spread = exact.covariance().diagonal().sqrt().view(SHAPE)
    found = MMPS(steps=50, spacing="karras", spread_steps=2)(
        y, operator, prior, seed=0, num_samples=200
    )
    off = (found.mean - exact.mean)[0].square().mean((-2, -1)).sqrt()
    assert bool((off < 0.1 * spread.mean((-2, -1)) + 0.01).all()), off
    ratio = (found.std[0] / spread).mean((-2, -1))
    assert bool(((ratio > 0.9) & (ratio < 1.1)).all()), ratio


def test_a_mask_on_whole_channels_and_their_selection_agree():
    prior = kronecker()
    picked = Channels(SHAPE, [2], noise_sigma=0.1)
    masked = Inpainting(torch.eye(3, dtype=F64)[2].view(3, 1, 1).expand(SHAPE), noise_sigma=0.1)
    x = prior.draw(normal(2, *SHAPE))
    close(picked.A_adjoint(picked.A(x)), masked.A(x))
    close(
        prior.posterior(picked.A(x), picked).mean, prior.posterior(masked.A(x), masked).mean, 1e-10
    )


def test_one_contrast_in_k_space_and_another_as_an_image():
    lines = torch.tensor([1.0, 0, 1, 0])
    first, second = (
        Channels(SHAPE, [c], noise_sigma=s, complex_measurement=True)
        for c, s in ((0, 0.0), (1, 0.1))
    )
    operator = Joint([SingleCoilMRI(lines.expand(SIDE, SIDE), 0.1) @ first, second])
    prior, report = kronecker(), check_operator(operator)
    assert report.passes(1e-5)
    y = operator.measure(prior.draw(normal(1, *SHAPE)), seed=0)
    exact = prior.posterior(y, operator)
    found = MMPS(steps=50, spacing="karras")(y, operator, prior, num_samples=100, seed=0).mean
    assert relative(found, exact.mean) < 0.1


def as_public(u):
    prior = Channelwise(kronecker(), RANGES)
    return prior.to_public(u)


@pytest.mark.parametrize("solver", [DDS(steps=8), MMPS(steps=8), DDRM(steps=8)])
def test_ranges_change_units_only(solver):
    """The solution in public values is the one in units: gains go with the operator."""
    plain, ranged = kronecker(), Channelwise(kronecker(), RANGES)
    operator = seen(0.6, noise=50.0)  # HU
    in_units = seen(0.6, noise=0.05)
    u = measured(in_units)
    expected = solver(u, in_units, plain, seed=0).samples
    y = operator.restrict(ranged.to_public(u))
    found = solver(y, operator, ranged, seed=0).samples
    close(ranged.to_units(found[0]), expected[0], 1e-9)
    acting = ranged.in_units(operator)
    assert isinstance(acting, Decomposable) and acting.U_adjoint is not None
    assert isinstance(recommend(operator, ranged, "samples"), MMPS)


def test_volumes_and_public_values():
    prior = Channelwise(kronecker(), RANGES)
    close(
        prior.to_public(torch.ones(1, 3, 2, 4, 4, dtype=F64))[0, :, 0, 0, 0],
        torch.tensor([high for _, high in RANGES], dtype=F64),
    )
    x = normal(2, *SHAPE)
    close(prior.to_units(prior.to_public(x)), x, 1e-12)
    equal = Channelwise(kronecker(), [(0.0, 2.0)] * 3)
    operator = Denoising(SHAPE)
    assert equal.in_units(operator) is operator


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: Channelwise(p, RANGES[:2]), "ranges: got"),
        (lambda p: Channelwise(p, [(1, 0), *RANGES[1:]]), "data_range: got"),
        (lambda p: Channelwise(p, RANGES).with_range(0, 1), "has no one range"),
        (lambda p: Channelwise(Channelwise(p, RANGES), RANGES), "prior: got 'Channelwise'"),
        (lambda p: Channelwise(p, RANGES).in_units(object()), "operator: got object"),
        (lambda p: Channels(SHAPE, [0, 3]), "kept: got"),
        (lambda p: Channels(SHAPE, [0, 0]), "kept: got"),
        (lambda p: Channels(SHAPE, []), "kept: got"),
    ],
)
def test_what_does_not_fit(make, match):
    with pytest.raises(errors.ArgumentError, match=match):
        make(kronecker())


def test_a_prior_trained_with_ranges_of_channels(tmp_path):
    """CT in HU and a magnitude as one image; stored, loaded and sampled in their values."""
    generator = torch.Generator().manual_seed(0)
    first = 2000 * torch.rand(12, 24, 24, generator=generator) - 1000
    images = torch.stack([first, (first + 1000) / 2000], -1)
    with h5py.File(tmp_path / "joint.h5", "w") as file:
        file["images"] = images.numpy()
    run = tiny_training(
        tmp_path / "joint.h5",
        tmp_path / "out",
        steps=2,
        channel_axis=-1,
        channel_ranges=(-1000.0, 1000.0, 0.0, 1.0),
    )
    prior = load(train(run))
    assert isinstance(prior, Channelwise) and isinstance(prior.prior, NetworkPrior)
    assert prior.ranges == ((-1000.0, 1000.0), (0.0, 1.0))
    drawn = sample(prior, 1, (16, 16), steps=2)
    close(prior.to_public(prior.to_units(drawn)), drawn, 1e-3)
    assert float(drawn[:, 0].std()) > 50 * float(drawn[:, 1].std())


@pytest.mark.parametrize("ranges", [(0.0,), (1.0, 0.0), (0.0, float("inf"))])
def test_ranges_for_training_must_be_pairs(ranges, tmp_path):
    with pytest.raises(errors.ArgumentError, match="channel_ranges: got"):
        tiny_training(tmp_path, tmp_path, channel_ranges=ranges)
