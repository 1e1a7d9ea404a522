"""Solvers that differentiate the network run under ``torch.inference_mode`` too."""

import pytest
import torch
from torch import nn

from wellposed import operators, priors, solvers

SHAPE = (1, 1, 6, 6)


def made():
    network = nn.Conv2d(1, 1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.3)
    prior = priors.NetworkPrior(Labelled(network), priors.Tabulated.linear(), channels=1)
    operator = operators.Inpainting(torch.eye(6), 1, noise_sigma=0.1)
    return operator.A(torch.full(SHAPE, 0.4)), operator, prior


class Labelled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, label):
        return self.inner(x).tanh()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("name", ["DPS", "MMPS", "PiGDM", "DiffPIR", "DDS"])
def test_results_are_those_of_ordinary_calls(name, inside):
    """Also of operators, priors and data that were made in that mode."""
    solver, problem = getattr(solvers, name)(steps=3), made()
    expected = solver(*problem, seed=0)
    with torch.inference_mode():
        found = solver(*(made() if inside else problem), seed=0)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(found.samples, expected.samples)
    assert not found.samples.requires_grad and not found.samples.is_inference()


def test_data_of_that_mode_can_be_used_outside():
    with torch.inference_mode():
        problem = made()
    assert solvers.MMPS(steps=3)(*problem, seed=0).samples.isfinite().all()


def test_adjoints_of_functions():
    operator = operators.FunctionOperator(torch.fft.fft2, SHAPE[1:], complex_image=True)
    y = torch.randn(SHAPE, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    expected = operator.A_adjoint(y)
    with torch.inference_mode():
        again = operators.FunctionOperator(torch.fft.fft2, SHAPE[1:], complex_image=True)
        assert torch.equal(again.A_adjoint(y + 0), expected)
