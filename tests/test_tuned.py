"""Networks in other arithmetics, and the probe that chooses among them."""

import math

import pytest
import torch
from tests.helpers import rand

from wellposed import operators, priors, solvers
from wellposed.errors import ArgumentError
from wellposed.priors.adapters import tuned as module
from wellposed.runs.fingerprint import fingerprint

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(scope="module")
def prior():
    return priors.load("brain-mri")


def clock(monkeypatch, **seconds):
    """Let each way take the given seconds."""
    tried = module._tried

    def timed(candidate, plain, x, repeats):
        trial = tried(candidate, plain, x, 1)
        return module.Trial(trial.way, seconds[trial.way], trial.error)

    monkeypatch.setattr(module, "_tried", timed)


def test_bfloat16_differs_little_and_only_in_the_network(prior):
    half = priors.Tuned(prior, "bfloat16")
    x = torch.complex(rand(2, 1, 32, 32), rand(2, 1, 32, 32))
    for level in (0.05, 0.5, 5.0):
        t = prior.schedule.time_at(level)
        expected, found = prior.denoise(x, t), half.denoise(x, t)
        assert found.dtype == x.dtype
        difference = (found - expected).abs().square().mean().sqrt()
        assert 0 < float(difference / (x - expected).abs().square().mean().sqrt()) < 0.02
    assert torch.equal(priors.Tuned(prior, "single").denoise(x, t), expected)


def test_solvers_take_it_with_gradients(prior):
    operator = operators.SingleCoilMRI(torch.ones(16, 16), noise_sigma=0.05)
    y = operator.A(torch.complex(rand(1, 1, 16, 16), rand(1, 1, 16, 16)))
    solver = solvers.MMPS(steps=2)
    single, half = (
        solver(y, operator, p, seed=0).mean for p in (prior, priors.Tuned(prior, "bfloat16"))
    )
    assert 0 < float((half - single).abs().max()) < 0.05


@pytest.mark.parametrize("name", ["irsde-deblur", "resshift-x4"])
def test_restorers_too(name):
    restorer = priors.load(name)
    half, y = priors.Tuned(restorer, "bfloat16"), rand(1, 3, 32, 32)
    sampler = solvers.recommend(None, half, evaluations=2)
    assert type(sampler) is type(solvers.recommend(None, restorer))
    single, found = (sampler(y, None, p, seed=0).mean for p in (restorer, half))
    assert found.shape == single.shape
    assert 0 < float((found - single).square().mean().sqrt()) < 0.02
    size = (3, *found.shape[2:])
    assert priors.tuned(restorer, size, tolerance=1e-6).way == "single"
    tiles = priors.Patchwise(half, 64, 32)
    image = sampler(rand(1, 3, 48, 48), None, tiles, seed=0).mean
    assert bool(image.isfinite().all())
    errors = [trial.error for trial in priors.tuned(restorer, size).trials]
    assert errors[0] == 0 < errors[1] < 0.02


def test_sides_are_multiples_of_the_enlargement():
    with pytest.raises(ArgumentError, match=r"image_size: got .* sides that 4 divides"):
        priors.tuned(priors.load("resshift-x4"), (3, 30, 30))


def test_the_fastest_way_within_the_tolerance_is_chosen(prior, monkeypatch):
    clock(monkeypatch, single=1.0, bfloat16=0.6)
    found = priors.tuned(prior, (16, 16))
    assert found.way == "bfloat16" and [t.seconds for t in found.trials] == [1.0, 0.6]
    assert priors.tuned(prior, (16, 16), tolerance=1e-6).way == "single"
    clock(monkeypatch, single=1.0, bfloat16=0.97)
    assert priors.tuned(prior, (1, 16, 16)).way == "single"  # hardly faster


def test_a_way_that_fails_is_left_out(prior, monkeypatch):
    def broken(network):
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(priors.NetworkPrior, "denoise_channels", prior_that_fails(prior, broken))
    found = priors.tuned(prior, (16, 16))
    assert found.way == "single"
    assert found.trials[1].seconds == math.inf and found.trials[1].failure == "no compiler"


def prior_that_fails(prior, broken):
    """The method of the prior, which fails in bfloat16."""
    plain = type(prior).denoise_channels

    def denoise_channels(self, *args):
        return broken(self) if torch.is_autocast_enabled("cpu") else plain(self, *args)

    return denoise_channels


def test_what_the_probe_measured_is_no_part_of_the_prior(prior):
    one, other = priors.Tuned(prior, "bfloat16"), priors.Tuned(prior, "bfloat16")
    one.trials = (module.Trial("bfloat16", 1.0, 0.0),)
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(priors.Tuned(prior, "single"))


@pytest.mark.slow
def test_a_compiled_network_is_the_same(prior):
    x = torch.complex(rand(1, 1, 32, 32), rand(1, 1, 32, 32))
    compiled = priors.Tuned(prior, "compiled")
    torch.testing.assert_close(
        compiled.denoise(x, 300.0), prior.denoise(x, 300.0), rtol=0, atol=1e-4
    )
    assert torch.equal(prior.denoise(x, 300.0), priors.load("brain-mri").denoise(x, 300.0))


def test_bad_input_is_refused(prior):
    for call, match in (
        (
            lambda: priors.Tuned(priors.GaussianPrior(0.0, 1.0), "single"),
            "prior: got 'GaussianPrior'",
        ),
        (lambda: priors.Tuned(prior, "float8"), "way: unknown name 'float8'"),
        (lambda: priors.tuned(prior, (16,)), r"image_size: got \(16,\)"),
        (lambda: priors.tuned(prior, (16, 16), tolerance=-1.0), "tolerance: got -1.0"),
        (lambda: priors.tuned(prior, (16, 16), ways=("quick",)), "ways"),
    ):
        with pytest.raises(ArgumentError, match=match):
            call()
