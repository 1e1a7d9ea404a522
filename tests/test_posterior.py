"""Solvers against exact posteriors; see docs/posterior.md."""

import json
from pathlib import Path

import pytest
import torch

from wellposed.solvers import DDS
from wellposed.validation.gaussian import (
    PROCESSES,
    BatchNoise,
    draw_samples,
    gaussian_errors,
    gaussian_problem,
    process,
)
from wellposed.validation.report import summary
from wellposed.validation.run import FULL, QUICK, measure
from wellposed.validation.settings import recorded_solvers

pytestmark = pytest.mark.usefixtures("single_thread")
RECORD = json.loads((Path(__file__).parent / "data" / "posterior.json").read_text())["solvers"]
RENEW = "record it: wellposed validate --quick --out FOLDER, and copy its posterior.json here"


def numbers(record, path=()):
    """Yield the numbers and words of a record with where they stand."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from numbers(value, (*path, key))
        elif key not in ("seconds", "process_gap"):
            yield (*path, key), value


# PnP-DM evaluates 3000 times as published, 1000 with the other setting.
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name.startswith("PnPDM") else [])
    for name in ("floor", *sorted(recorded_solvers()))
]


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_those_recorded(name):
    """Neither worse nor better: the draws are fixed, so only rounding may differ.

    Equivalent processes give the same samples.
    """
    assert name in RECORD, RENEW
    found = measure(recorded_solvers().get(name), QUICK)
    assert name == "floor" or found["process_gap"] < 1e-6
    found, recorded = dict(numbers(found)), dict(numbers(RECORD[name]))
    assert found.keys() == recorded.keys(), RENEW
    for place, value in found.items():
        if isinstance(value, str):
            assert value == recorded[place], place
        else:
            assert value == pytest.approx(recorded[place], rel=0.01, abs=2e-3), (name, place)


def test_records_are_of_solvers_that_exist():
    assert set(RECORD) == {"floor", *recorded_solvers()}, RENEW


@pytest.mark.parametrize("name", PROCESSES)
def test_the_default_spacing_suits_every_process(name):
    errors = gaussian_errors(DDS(steps=50), name, problems=2, num_samples=200)
    assert errors.mean < 0.5
    assert 0.5 < errors.spread < 1.2


@pytest.mark.slow
def test_dds_without_data_samples_the_prior():
    """With a useless measurement and many steps, DDS must return the prior."""
    y, operator, prior = gaussian_problem(process("vp"), seed=0, noise_sigma=0.1)
    solver = DDS(steps=200, spacing="karras", gamma=1e-12, eta=0.0)
    samples = draw_samples(solver, (y, operator, prior), 400, BatchNoise(0)).flatten(1)
    C = prior.covariance @ torch.eye(16, dtype=y.dtype).reshape(16, 1, 4, 4)
    error = (torch.cov(samples.T) - C.flatten(1)).norm() / C.norm()
    assert error < 0.25
    assert (samples.mean(0) - prior.mean.flatten()).norm() / C.flatten(1).trace().sqrt() < 0.1


@pytest.mark.slow
def test_more_steps_of_deterministic_dds_converge():
    """Without data, the deterministic sampler is an ODE solver; errors shrink with the step."""
    y, operator, prior = gaussian_problem(process("vp"), seed=0)
    results = {
        n: DDS(steps=n, spacing="karras", gamma=1e-12, eta=0.0)(y, operator, prior, seed=1).samples
        for n in (20, 40, 80, 640)
    }
    errors = [float((results[n] - results[640]).norm()) for n in (20, 40, 80)]
    assert errors[0] > 1.5 * errors[1] > 1.5 * 1.5 * errors[2]


def test_the_published_table_is_of_all_solvers_at_full_effort():
    docs = Path(__file__).parents[1] / "docs"
    stored = json.loads((docs / "posterior.json").read_text())
    assert stored["effort"] == json.loads(json.dumps(vars(FULL)))
    assert set(stored["solvers"]) == {"floor", *recorded_solvers()}
    text = (docs / "posterior.md").read_text()
    assert summary(stored["solvers"]) in text
    assert "wellposed validate --out" in text
