"""Slicewise: what a loop over slices would say, whatever the chunk, the axis or the device."""

import collections

import pytest
import torch
from tests.helpers import randn
from torch import nn

from wellposed import errors
from wellposed.operators import Inpainting, Stacked, random_mask
from wellposed.priors import Flow, GaussianPrior, NetworkPrior, Tabulated
from wellposed.priors.adapters.slicewise import Slicewise
from wellposed.runs.allocation import LivePeak
from wellposed.solvers import DDS, DPS

pytestmark = pytest.mark.usefixtures("single_thread")

VP = Tabulated.linear()


class Mixing(nn.Module):
    """Couples neighbouring pixels of a slice and depends on time; counts what it is given."""

    def __init__(self, channels=1, dtype=torch.float64):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False, dtype=dtype)
        values = randn(self.conv.weight.numel(), seed=3).view_as(self.conv.weight)
        self.conv.weight.data.copy_(0.3 * values)
        self.batches = []

    def forward(self, x, label):
        self.batches.append(len(x))
        level = label.view(-1, 1, 1, 1) / 1000
        return torch.tanh(self.conv(x) + level)


def mixing_prior(channels=1, dtype=torch.float64, is_complex=False):
    network = Mixing(2 * channels if is_complex else channels, dtype)
    return NetworkPrior(network, VP, "sample", channels=channels, is_complex=is_complex)


def one_by_one(prior, x_t, t, axis):
    """The inner prior on single slices."""
    slices = [prior.denoise(x_t.select(axis, k), t) for k in range(x_t.shape[axis])]
    return torch.stack(slices, axis)


@pytest.mark.parametrize("axis", [2, 3, 4])
@pytest.mark.parametrize("chunk", [1, 2, 5, None])
def test_it_is_the_inner_prior_slice_by_slice(axis, chunk):
    x_t = randn(2, 3, 5, 6, 7)
    prior = mixing_prior(channels=3)
    out = Slicewise(prior, (axis,), chunk).denoise(x_t, 40)
    torch.testing.assert_close(out, one_by_one(prior, x_t, 40, axis), rtol=1e-12, atol=1e-12)
    assert out.stride() == x_t.stride()


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_no_more_slices_at_once_than_a_chunk(chunk):
    prior = mixing_prior()
    Slicewise(prior, (3,), chunk).denoise(randn(2, 1, 4, 8, 5), 40)
    assert max(prior.network.batches) == chunk
    assert sum(prior.network.batches) == 2 * 8


def test_complex_volumes():
    x_t = randn(1, 2, 5, 6, 7, dtype=torch.complex128)
    prior = mixing_prior(channels=2, is_complex=True)
    out = Slicewise(prior, (4,), 3).denoise(x_t, 40)
    assert out.is_complex()
    torch.testing.assert_close(out, one_by_one(prior, x_t, 40, 4), rtol=1e-12, atol=1e-12)


def test_each_volume_has_its_own_time_and_axis():
    prior = mixing_prior()
    slicewise = Slicewise(prior, (2, 4), 3)
    times = torch.tensor([1.0, 981.0, 40.0, 7.0])
    assert len({slicewise.axis_at(t) for t in times}) == 2
    x_t = randn(4, 1, 5, 6, 7)
    alone = [slicewise.denoise(x_t[b : b + 1], times[b]) for b in range(4)]
    assert torch.equal(slicewise.denoise(x_t, times), torch.cat(alone))


@pytest.mark.parametrize("schedule", [VP, Flow()])
@pytest.mark.parametrize("axes", [(2, 3), (2, 3, 4)])
def test_the_axis_follows_from_the_time_alone_and_all_take_part(schedule, axes):
    slicewise = Slicewise(GaussianPrior(0.0, 1.0, schedule), axes)
    times = schedule.times(200).tolist()[:-1]
    taken = [slicewise.axis_at(t) for t in times]
    again = Slicewise(GaussianPrior(0.0, 1.0, schedule), axes, chunk=1)
    assert [again.axis_at(torch.tensor(t, dtype=torch.float64)) for t in times] == taken
    counts = collections.Counter(taken)
    assert set(counts) == set(axes)
    assert max(counts.values()) < 1.3 * len(times) / len(axes)


def test_the_axis_of_a_time_is_cut():
    prior = mixing_prior()
    slicewise, x_t = Slicewise(prior, (2, 3, 4)), randn(1, 1, 5, 6, 7)
    for t in (1, 21, 41, 61, 81, 101):
        expected = one_by_one(prior, x_t, t, slicewise.axis_at(t))
        torch.testing.assert_close(slicewise.denoise(x_t, t), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 4, 7])
def test_chunks_sent_elsewhere_come_back_in_place(chunk):
    """By the same two lanes that overlap on CUDA, where here copies are plain."""
    prior, x_t = mixing_prior(), randn(2, 1, 7, 6, 5)
    with torch.no_grad():
        here = Slicewise(prior, (2, 3), chunk).denoise(x_t, 40)
        there = Slicewise(prior, (2, 3), chunk, device="cpu").denoise(x_t, 40)
    assert torch.equal(there, here)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_host_volumes_through_a_gpu():
    x_t = randn(2, 1, 37, 64, 48, dtype=torch.float32)
    prior = mixing_prior(dtype=torch.float32)
    expected = Slicewise(prior, chunk=5).denoise(x_t, 40)
    there = Slicewise(prior.to("cuda"), chunk=5, device="cuda")
    there.check_image(x_t)
    with torch.no_grad():
        out = there.denoise(x_t, 40)
    assert out.device.type == "cpu"
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_precision_is_that_of_the_inner_prior_alone(precision):
    x_t = randn(1, 1, 4, 8, 8, dtype=torch.float32)
    prior = mixing_prior(dtype=torch.float32)
    full = Slicewise(prior).denoise(x_t, 40)
    out = Slicewise(prior, precision=precision).denoise(x_t, 40)
    assert out.dtype == torch.float32
    error = float((out - full).detach().abs().max())
    eps = torch.finfo(precision).eps
    assert 0.01 * eps < error < 10 * eps


def test_gradients_pass():
    prior, x_t, v = mixing_prior(), randn(2, 1, 6, 5, 7), randn(2, 1, 6, 5, 7, seed=1)
    x = x_t.clone().requires_grad_()
    expected = torch.autograd.grad(one_by_one(prior, x, 40, 3), x, v)[0]
    for device in (None, "cpu"):
        slicewise = Slicewise(prior, (3,), 2, device=device)
        x = x_t.clone().requires_grad_()
        out = slicewise.denoise(x, 40)
        for _ in range(2):  # as MMPS does, several products with one graph
            found = torch.autograd.grad(out, x, v, retain_graph=True)[0]
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_hold_no_activations():
    """Of all the network's arrays less than two for each volume stay."""
    x_t = randn(1, 1, 32, 16, 16).requires_grad_()
    prior = Slicewise(mixing_prior(), chunk=2)
    with LivePeak() as count:
        out = prior.denoise(x_t, 40)
        assert count.live < 2 * x_t.nbytes
    assert out.requires_grad


def stacked(depth=5):
    operator = Stacked(Inpainting(random_mask(8, 6, 0.5, 0), 1, 0.05), depth)
    return operator.measure(randn(1, 1, depth, 8, 6).sigmoid()), operator


@pytest.mark.parametrize("solver", [DDS(steps=5), DPS(steps=5)])
def test_solvers_see_one_prior_whatever_the_chunk(solver):
    y, operator = stacked()
    results = [
        solver(y, operator, Slicewise(mixing_prior(), (2, 3), chunk), seed=0)
        for chunk in (None, 1, 2)
    ]
    assert {r.nfe for r in results} == {5}
    for other in results[1:]:
        torch.testing.assert_close(other.mean, results[0].mean, rtol=1e-9, atol=1e-9)


def test_of_independent_pixels_it_is_the_prior_over_the_volume():
    y, operator = stacked()
    prior = GaussianPrior(0.5, 0.1, VP)
    by_slice = DDS(steps=5)(y, operator, Slicewise(prior, (2, 3, 4), 3), seed=0)
    whole = DDS(steps=5)(y, operator, prior, seed=0)
    torch.testing.assert_close(by_slice.mean, whole.mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axes": 2}, "axes: got 2"),
        ({"axes": ()}, "axes: got"),
        ({"axes": (1,)}, "axes: got"),
        ({"axes": (2, 2)}, "axes: got"),
        ({"chunk": 0}, "chunk: got 0"),
        ({"chunk": True}, "chunk: got True"),
        ({"precision": torch.float64}, "precision: got torch.float64"),
        ({"device": "gpu"}, "device: got 'gpu'"),
        ({"prior": torch.nn.Identity()}, "prior: got Identity.., accepted: an instance of Prior"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Slicewise(**{"prior": GaussianPrior(0.0, 1.0, VP), **arguments})


def test_images_are_refused():
    prior = Slicewise(mixing_prior())
    with pytest.raises(errors.ShapeError, match=r"x_t: got shape \(1, 1, 8, 8\)"):
        prior.denoise(randn(1, 1, 8, 8), 5)
    operator = Inpainting(random_mask(8, 6, 0.5, 0), 1, 0.05)
    with pytest.raises(errors.ShapeError, match="volumes"):
        DDS()(operator.measure(randn(1, 1, 8, 6)), operator, prior)
    assert prior.prior.network.batches == []


class Even(GaussianPrior):
    """Refuses sides that are not multiples of 4, as priors of diffusers' networks do."""

    def check_image(self, x):
        super().check_image(x)
        if x.ndim != 4 or any(side % 4 for side in x.shape[-2:]):
            raise errors.ShapeError("prior: made for images with sides in multiples of 4")


def test_slices_of_every_axis_must_suit_the_inner_prior_before_a_run():
    prior = Even(0.0, 1.0, VP)
    Slicewise(prior, (2,)).check_image(randn(1, 1, 6, 8, 12))
    with pytest.raises(errors.ShapeError, match="multiples of 4"):
        Slicewise(prior, (2, 3)).check_image(randn(1, 1, 6, 8, 12))


def test_a_prior_that_is_not_where_it_is_said_to_be():
    with pytest.raises(errors.DeviceError, match="is on cpu"):
        Slicewise(mixing_prior(), device="meta").check_image(randn(1, 1, 3, 8, 8))
    with pytest.raises(errors.ShapeError, match="made for 1 channels"):
        Slicewise(mixing_prior()).check_image(randn(1, 2, 3, 8, 8))
