"""Priors that are evaluated image by image."""

import pytest
import torch
from tests.helpers import random

from wellposed import operators, priors, solvers
from wellposed.errors import ArgumentError

pytestmark = pytest.mark.usefixtures("single_thread")

SIZE = 32
SOLVERS = [
    solvers.MMPS(steps=2, preconditioned=True),
    solvers.DDS(steps=3),
    solvers.HQS(steps=3),
    solvers.PiGDM(steps=2),
    solvers.DPS(steps=2),
]


def problem(name):
    """A prior, an operator and measurements of three images."""
    if name == "natural":
        mask = (random(1, SIZE, SIZE) > 0).expand(3, -1, -1)
        operator = operators.Inpainting(mask, noise_sigma=0.02)
    elif name == "ct":
        operator = operators.ParallelBeamCT(SIZE, 12, noise_sigma=0.1)
    else:
        maps = operators.simulate_sensitivity_maps(3, SIZE, SIZE, seed=0)
        lines = operators.uniform_random_lines(SIZE, 2, seed=0)
        operator = operators.MultiCoilMRI(lines, maps, noise_sigma=0.01)
    dtype = torch.complex64 if name == "brain-mri" else torch.float32
    x = random(3, *operator.img_size, dtype=dtype).mul(0.2).add(0.5)
    return operator.measure(x, seed=0), operator, priors.Itemwise(priors.load(name))


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("name", ["natural", "ct", "brain-mri"])
def test_an_image_has_the_same_bits_alone_and_in_a_batch(solver, name):
    y, operator, prior = problem(name)
    seed = None if solver.deterministic else 0
    together = solver(y, operator, prior, seed=seed).samples
    alone = solver(y[:1], operator, prior, seed=seed).samples
    assert torch.equal(together[:, :1], alone)


def test_times_conditions_and_gradients_are_those_of_the_images():
    inner = priors.GaussianPrior(0.3, 0.5)
    prior, x = priors.Itemwise(inner), random(2, 1, 4, 4, dtype=torch.float64)
    t = torch.tensor([100.0, 700.0])
    torch.testing.assert_close(prior.denoise(x, t), inner.denoise(x, t), rtol=0, atol=1e-15)
    x.requires_grad_()
    (ours,) = torch.autograd.grad(prior.denoise(x, t).sum(), x)
    (theirs,) = torch.autograd.grad(inner.denoise(x, t).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-15)


def test_restorers_are_refused():
    with pytest.raises(ArgumentError, match="without an anchor"):
        priors.Itemwise(priors.load("resshift-x4"))
