"""Rules of guidance, reflection, and changes of the condition without inversion."""

import math

import pytest
import torch
from tests.helpers import F64, close, normal, relative

from wellposed import errors
from wellposed.inversion import BDIA, DDCM
from wellposed.priors import (
    VE,
    CFGPlusPlus,
    Diagonal,
    Flow,
    GaussianPrior,
    Guided,
    Prior,
    Reflected,
    Tabulated,
)
from wellposed.priors.sampling import reverse

pytestmark = pytest.mark.usefixtures("single_thread")

SCHEDULES = {"vp": Tabulated.linear(), "ve": VE(), "flow": Flow()}
SHAPE = (1, 4, 4)


class ByMean(Prior):
    """Gaussians whose mean is the condition, 0 without one: a conditional prior of no classes."""

    has_range = False

    def __init__(self, schedule, variance=0.3):
        super().__init__(schedule)
        self.variance = variance

    def denoise(self, x_t, t, condition=None):
        mean = torch.zeros(()) if condition is None else condition
        return GaussianPrior(mean, self.variance, self.schedule).denoise(x_t, t)


def run(prior, x, times):
    return reverse(prior.denoise, x, prior.schedule, [*times, 0.0], 0.0, None)


def grid(schedule, steps=10):
    return schedule.times(steps, "karras")[:-1].tolist()


@pytest.mark.parametrize("name", SCHEDULES)
def test_cfgpp_keeps_the_unconditional_noise(name):
    """Step by step as the paper writes it."""
    schedule, c = SCHEDULES[name], torch.tensor(2.0, dtype=F64)
    prior, times = ByMean(schedule), grid(SCHEDULES[name])
    x = z = normal(2, *SHAPE) * float(schedule(times[0])[1])
    for t, s in zip(times, [*times[1:], 0.0], strict=True):
        (a, sigma), (a_s, sigma_s) = schedule(t), schedule(s)
        none, own = prior.denoise(x, t), prior.denoise(x, t, c)
        mixed = none + 0.6 * (own - none)
        x = a_s * mixed + sigma_s * (x - a * none) / sigma
    guided = Guided(prior, c, CFGPlusPlus(0.6, schedule, times))
    close(run(guided, z, times), x, 1e-10)


def test_weights_follow_the_next_lower_time():
    rule = CFGPlusPlus(0.5, VE(), torch.tensor([4.0, 2.0, 0.5]))
    found = rule(torch.tensor([4.0, 3.0, 2.0, 0.5, 0.1]))
    close(found, 0.5 / (1 - torch.tensor([0.5, 2 / 3, 0.25, 0.0, 0.0], dtype=F64)))


def test_guidance_of_each_item_by_its_own_time():
    prior = ByMean(VE())
    guided = Guided(prior, torch.tensor(1.0), CFGPlusPlus(0.5, VE(), [4.0, 2.0]))
    x = normal(2, *SHAPE)
    both = guided.denoise(x, torch.tensor([4.0, 2.0]))
    close(both, torch.cat([guided.denoise(x[:1], 4.0), guided.denoise(x[1:], 2.0)]))


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_rescaling_gives_each_item_the_spread_of_its_condition(rescale):
    prior, x = ByMean(VE()), normal(3, *SHAPE) * torch.tensor([0.1, 1, 5.0]).view(3, 1, 1, 1)
    mean = torch.linspace(-1, 1, 16, dtype=F64).view(1, 1, 4, 4)
    found = Guided(prior, mean, 6.0, rescale=rescale).denoise(x, 1.0)
    plain, own = Guided(prior, mean, 6.0).denoise(x, 1.0), prior.denoise(x, 1.0, mean)
    stds = [v.flatten(1).std(1) for v in (found, plain, own)]
    close(stds[0], rescale * stds[2] + (1 - rescale) * stds[1])
    alone = Guided(prior, mean, 6.0, rescale=rescale).denoise(x[:1], 1.0)
    assert torch.equal(found[:1], alone)


@pytest.mark.parametrize("name", SCHEDULES)
def test_reflection_by_an_equal_prior_is_the_identity(name):
    prior, times = ByMean(SCHEDULES[name]), grid(SCHEDULES[name], 30)
    x = normal(2, *SHAPE) * float(prior.schedule(times[0])[1])
    solved = Reflected(prior, prior, times, iterations=300, tolerance=1e-15)
    once = Reflected(prior, prior, times, iterations=1)
    plain = run(prior, x, times)
    close(run(solved, x, times), plain, 1e-11)
    assert relative(run(once, x, times), plain) > 1e-3


def test_reflection_is_two_more_steps_before_each_step():
    schedule, times = VE(), [4.0, 1.0, 0.3]
    prior, weak = ByMean(schedule), ByMean(schedule, variance=0.6)
    x = normal(2, *SHAPE)
    found = run(Reflected(prior, weak, times, iterations=200, tolerance=1e-15), 4 * x, times)

    def gain(t, s, variance):  # of a step, which for this prior is a factor
        return (variance + t * s) / (variance + t**2)

    for t, s in ((4.0, 1.0), (1.0, 0.3), (0.3, 0.0)):
        factor = gain(t, s, 0.3) * (gain(t, s, 0.3) / gain(t, s, 0.6) if s else 1)
        x = factor * x
    close(found, 4 * x)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_same_condition_returns_the_image_itself(name, eta):
    prior, image = ByMean(SCHEDULES[name]), normal(2, *SHAPE)
    same = DDCM(steps=8, eta=eta).edit(image, prior, prior)
    assert torch.equal(same, image)


def test_another_condition_moves_by_the_difference_of_the_means():
    """Of Gaussians that differ in their mean alone: to the image plus the difference, nearly."""
    base, c = ByMean(VE()), torch.tensor(1.5, dtype=F64)
    other, image = base.conditioned_on(c), normal(2, *SHAPE)
    moved = DDCM(steps=40).edit(image, base, other)
    torch.testing.assert_close(moved, image + 1.5, atol=0.01, rtol=0)
    alone = DDCM(steps=40).edit(image[:1], base, other)
    close(alone, moved[:1])
    code = BDIA(steps=40).encode(image, base)  # with an inversion: exact up to the steps
    torch.testing.assert_close(code.decode(other), image + 1.5, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: CFGPlusPlus(1.5, VE(), [1.0]), "scale: got 1.5"),
        (lambda p: CFGPlusPlus(0.5, VE(), []), "times: got"),
        (lambda p: CFGPlusPlus(0.5, VE(), [math.nan]), "times: got nan"),
        (lambda p: Guided(p, 1, rescale=2.0), "rescale: got 2.0"),
        (lambda p: Reflected(p, None, [1.0]), "weak: got None"),
        (lambda p: Reflected(p, p, [1.0], iterations=0), "iterations: got 0"),
        (lambda p: DDCM(eta=2), "eta: got 2"),
        (lambda p: DDCM(spacing="x"), "spacing: unknown name"),
        (lambda p: DDCM().edit(torch.ones(1, 1, 4, 4), p, ByMean(VE(20.0))), "target: got"),
        (lambda p: DDCM().edit(torch.ones(3).long(), p, p), "image: got torch.int64"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(errors.ArgumentError, match=message):
        make(ByMean(VE()))


def test_items_at_other_times_are_not_reflected_together():
    prior = GaussianPrior(0.0, Diagonal(1.0), VE())
    with pytest.raises(errors.ArgumentError, match=r"t: got .*accepted: one time"):
        Reflected(prior, prior, [2.0, 1.0]).denoise(normal(2, *SHAPE), torch.tensor([2.0, 1.0]))
