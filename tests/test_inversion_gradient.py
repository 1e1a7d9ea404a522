"""Gradients through the whole sampler, against those of the whole graph."""

import gc

import pytest
import torch
from tests.helpers import F64, close, normal
from torch import nn

from wellposed import errors
from wellposed.inversion import BDIA, generate
from wellposed.inversion.chain import Chain
from wellposed.priors import VE, Flow, GaussianPrior, NetworkPrior, Tabulated
from wellposed.priors.transition import starting_std

pytestmark = pytest.mark.usefixtures("single_thread")

SCHEDULES = {"vp": Tabulated.linear(), "ve": VE(), "flow": Flow()}
SHAPE = (1, 6, 6)


class Net(nn.Module):
    """A small network."""

    def __init__(self, dtype=F64):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh()).to(dtype)
        self.last = nn.Conv2d(8, 1, 3, padding=1).to(dtype)

    def forward(self, x, label):
        return self.last(self.layers(x)).tanh()


class Held:
    """A tensor that is kept for a gradient; counts the bytes of all of them."""

    now = most = 0

    def __init__(self, tensor):
        self.tensor = tensor
        Held.now += tensor.nbytes
        Held.most = max(Held.most, Held.now)

    def __del__(self):
        Held.now -= self.tensor.nbytes


def most_held(make, prior, steps):
    """Return the most bytes that are kept at once for the gradient."""
    Held.now = Held.most = 0
    noise = normal(1, *SHAPE).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        make(noise, prior, steps).sum().backward()
    gc.collect()
    return Held.most


def network(schedule, dtype=F64):
    label = torch.zeros_like if not isinstance(schedule, Tabulated) else None
    return NetworkPrior(Net(dtype), schedule, "sample", label=label, channels=1)


def by_graph(noise, prior, steps):
    """The same steps, differentiated as usual."""
    method = BDIA(steps=steps)
    chain = Chain(prior, method.times(prior))
    above = starting_std(prior.schedule, chain.times[-1]) / chain.scale[-1] * noise
    z = chain.place(chain.look(above, chain.top), chain.top - 1)
    for i in range(chain.top - 1, 0, -1):
        change = chain.along(chain.look(z, i), i - 1, i + 1)
        above, z = z, above - change
    return z / chain.alpha[0]


@pytest.mark.parametrize("steps", [1, 2, 12])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_gradient_is_that_of_the_whole_graph(name, steps):
    prior, weight = network(SCHEDULES[name]), normal(2, *SHAPE, seed=2)
    found = []
    for make in (generate, by_graph):
        noise = normal(2, *SHAPE).requires_grad_()
        image = make(noise, prior, steps)
        found.append((image.detach(), torch.autograd.grad((weight * image.sin()).sum(), noise)[0]))
    close(found[0][0], found[1][0], 1e-10)
    close(found[0][1], found[1][1], 1e-10)


def test_the_gradient_of_a_gaussian_is_its_flow():
    prior = GaussianPrior(0.3, 0.5, VE())
    noise = normal(1, *SHAPE).requires_grad_()
    image = generate(noise, prior, 200)
    slope = torch.autograd.grad(image.sum(), noise)[0]
    top, low = VE().T, float(VE().times(200, "karras")[-2])
    exact = (prior.flow(80 * noise + 1e-3, top, low) - prior.flow(80 * noise, top, low)) / 1e-3
    close(slope, 80 * exact.detach(), 1e-3)


@pytest.mark.slow
def test_one_step_is_held_whatever_the_number_of_steps():
    prior = network(SCHEDULES["vp"])
    few, many = (most_held(generate, prior, steps) for steps in (5, 40))
    assert few == many
    assert most_held(by_graph, prior, 40) > 10 * many


def test_networks_in_single_precision():
    prior = network(SCHEDULES["vp"], torch.float32)
    noise = normal(2, *SHAPE, dtype=torch.float32).requires_grad_()
    image = generate(noise, prior, 10)
    assert image.dtype == torch.float32
    slope = torch.autograd.grad(image.square().sum(), noise)[0]
    alone = noise.detach()[:1].requires_grad_()
    one = torch.autograd.grad(generate(alone, prior, 10).square().sum(), alone)[0]
    torch.testing.assert_close(slope[:1], one, rtol=1e-4, atol=1e-5)


def test_bad_input_is_named():
    prior = GaussianPrior(0.0, 1.0, VE())
    for change, message in (
        ({"noise": 3}, "noise: got int"),
        ({"steps": 0}, "steps: got 0"),
        ({"spacing": "x"}, "spacing: unknown name"),
        ({"prior": 3}, "prior: got"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            generate(**{"noise": normal(1, *SHAPE), "prior": prior} | change)
