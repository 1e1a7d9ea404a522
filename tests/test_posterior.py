"""Solvers against exact Gaussian posteriors; see docs/posterior.md."""

import json
from pathlib import Path

import pytest
import torch

from wellposed.solvers import DDS, DPS, DDIMProjection, REDDiff
from wellposed.validation import (
    PROCESSES,
    floor_errors,
    gaussian_errors,
    gaussian_problem,
    process,
    recorded_solvers,
)

RECORD = json.loads((Path(__file__).parent / "data" / "posterior.json").read_text())


@pytest.mark.parametrize("name", sorted(recorded_solvers()))
def test_errors_are_not_worse_than_recorded(name):
    found = gaussian_errors(recorded_solvers()[name], "vp", RECORD["problems"], RECORD["samples"])
    recorded = RECORD["errors"][name]
    # The draws are fixed, so only rounding may differ.
    assert found.mean <= recorded["mean"] + 1e-3
    assert found.covariance <= recorded["covariance"] + 1e-3
    assert abs(found.spread - 1) <= abs(recorded["spread"] - 1) + 1e-3


@pytest.mark.parametrize("name", PROCESSES)
def test_the_default_spacing_suits_every_process(name):
    errors = gaussian_errors(DDS(steps=50), name, problems=2, num_samples=200)
    assert errors.mean < 0.5
    assert 0.5 < errors.spread < 1.2


def test_exact_samples_show_the_floor():
    floor = floor_errors(RECORD["problems"], RECORD["samples"])
    assert floor.mean < 0.08
    assert floor.covariance < 0.2
    assert abs(floor.spread - 1) < 0.1


@pytest.mark.parametrize(
    "solver",
    [
        DDS(steps=12, spacing="karras"),
        DDS(steps=12, spacing="karras", gamma=float("inf"), eta=0.3),
        REDDiff(steps=12, spacing="karras", sigma_x0=0.01),
        DPS(steps=12, spacing="karras"),
        DDIMProjection(steps=12, spacing="karras", eta=0.5),
    ],
    ids=lambda s: type(s).__name__,
)
def test_vp_ve_and_flow_forms_give_the_same_samples(solver):
    results = []
    for name in PROCESSES:
        y, operator, prior = gaussian_problem(process(name), seed=3)
        results.append(solver(y, operator, prior, num_samples=8, seed=5).samples)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-6)


def test_dds_without_data_samples_the_prior():
    """With a useless measurement and many steps, DDS must return the prior."""
    y, operator, prior = gaussian_problem(process("vp"), seed=0, noise_sigma=0.1)
    solver = DDS(steps=200, spacing="karras", gamma=1e-12, eta=0.0)
    samples = solver(y, operator, prior, num_samples=400, seed=0).samples[:, 0].flatten(1)
    C = prior.covariance @ torch.eye(16, dtype=y.dtype).reshape(16, 1, 4, 4)
    error = (torch.cov(samples.T) - C.flatten(1)).norm() / C.norm()
    assert error < 0.25
    assert (samples.mean(0) - prior.mean.flatten()).norm() / C.flatten(1).trace().sqrt() < 0.1


def test_more_steps_of_deterministic_dds_converge():
    """Without data, the deterministic sampler is an ODE solver; errors shrink with the step."""
    y, operator, prior = gaussian_problem(process("vp"), seed=0)
    results = {
        n: DDS(steps=n, spacing="karras", gamma=1e-12, eta=0.0)(y, operator, prior, seed=1).samples
        for n in (20, 40, 80, 640)
    }
    errors = [float((results[n] - results[640]).norm()) for n in (20, 40, 80)]
    assert errors[0] > 1.5 * errors[1] > 1.5 * 1.5 * errors[2]
