"""Corrections by the data are values: any integrator takes those of any method."""

import dataclasses

import numpy as np
import pytest
import torch

from wellposed import errors, solvers
from wellposed.noise import RecordedNoise
from wellposed.operators import Inpainting, MultiCoilMRI, PhaseRetrieval
from wellposed.priors import GaussianPrior
from wellposed.priors.transition import levels
from wellposed.solvers import DDS, IRSDE, MMPS, RDDM, DynamicThreshold, MRSampler, PiGDM, ResShift
from wellposed.solvers.corrected import Corrected, Estimate
from wellposed.validation.consistency import order
from wellposed.validation.gaussian import gaussian_errors, gaussian_problem, process

pytestmark = pytest.mark.usefixtures("single_thread")

EXACT = MMPS(cg_steps=12).correction
"""That of Gaussian data: E[x_0 | x_t, y]."""


def masked(noise=0.05):
    operator = Inpainting((torch.arange(12) % 3 > 0).double().view(1, 3, 4), noise_sigma=noise)
    x = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return operator.measure(x), operator, GaussianPrior(0.5, 0.1)


@pytest.mark.slow
def test_moment_matching_is_of_second_order_under_a_second_order_integrator():
    """The flow of exact conditional means, with equal steps in the log of the noise."""
    case, options = gaussian_problem(process("vp")), {"num_samples": 4, "seed": 0}
    flow = MRSampler(correction=EXACT, spacing="linear-lambda", parametrization="noise")
    limit = dataclasses.replace(flow, steps=240)(*case, **options).samples
    found = {}
    for number in (1, 2):
        few = [dataclasses.replace(flow, order=number, steps=steps) for steps in (20, 40, 80)]
        found[number] = [float((s(*case, **options).samples - limit).norm()) for s in few]
    assert 0.9 < order((20, 40, 80), found[1]) < 1.1
    assert 1.9 < order((20, 40, 80), found[2]) < 2.1


def test_moment_matching_under_another_integrator_samples_the_posterior():
    measured = gaussian_errors(MRSampler(steps=40, correction=EXACT), problems=2, num_samples=500)
    assert measured.mean < 0.2
    assert 0.9 < measured.spread < 1.1


def test_integrators_with_a_methods_correction_are_the_method():
    y, operator, prior = masked()
    for method in (MMPS(steps=6), PiGDM(steps=6, guidance="score")):
        ancestral = IRSDE(steps=6, spacing=method.spacing, correction=method.correction)
        expected = method(y, operator, prior, seed=0).samples
        torch.testing.assert_close(ancestral(y, operator, prior, seed=0).samples, expected)


@pytest.mark.parametrize("sampler", [ResShift, IRSDE, RDDM, MRSampler])
def test_data_steps_are_the_correction_of_dds(sampler):
    y, operator, prior = masked()
    steps = sampler(steps=5, data_steps=3, gamma=2.0)(y, operator, prior, seed=0)
    same = sampler(steps=5, correction=DDS(cg_steps=3, gamma=2.0).correction)
    assert torch.equal(same(y, operator, prior, seed=0).samples, steps.samples)


def test_what_a_correction_asks_is_asked_of_the_problem():
    operator, prior = PhaseRetrieval((1, 4, 4)), GaussianPrior(0.5, 0.1)
    y = operator.measure(0.5 + torch.zeros(1, 1, 4, 4))
    with pytest.raises(errors.ArgumentError, match="not linear, accepted by MomentMatching"):
        MRSampler(correction=EXACT)(y, operator, prior)
    y, operator, prior = masked()
    prior.denoise = lambda x_t, t, condition=None: x_t.detach()
    with pytest.raises(errors.ArgumentError, match="GaussianPrior cannot be differentiated"):
        IRSDE(correction=EXACT)(y, operator, prior)
    with pytest.raises(errors.ArgumentError, match=r"correction: got .*, accepted: None with"):
        MRSampler(correction=EXACT, data_steps=2)
    with pytest.raises(errors.ArgumentError, match=r"correction: got .*, accepted: None or an"):
        MRSampler(correction="mmps")
    with pytest.raises(errors.ArgumentError, match="cg_steps: got 0"):
        dataclasses.replace(EXACT, cg_steps=0)


def test_methods_declare_what_their_corrections_ask():
    classes = [getattr(solvers, name) for name in solvers.__all__ if name[0].isupper()]
    methods = [c for c in classes if issubclass(c, Corrected) and c().correction is not None]
    assert len(methods) >= 4
    for method in methods:
        asked = method().correction
        needs = ("linear_only", "differentiates", "decomposable_only", "operators")
        for need in (*needs, "latent_only", "encodes"):
            assert getattr(method, need) == getattr(asked, need), (method, need)


def test_a_correction_is_a_setting_of_the_result():
    y, operator, prior = gaussian_problem(process("vp"))
    result = MRSampler(steps=2, correction=EXACT)(y, operator, prior, seed=0)
    assert (
        result.settings["correction"]
        == "MomentMatching(cg_steps=12, isotropic_above=inf, preconditioned=False, "
        "spread_steps=0)"
    )
    assert IRSDE(steps=2)(y, operator, prior, seed=0).settings["correction"] is None


def test_dynamic_thresholds_are_quantiles_of_each_image():
    """One image within [-1, 1], one with a few large values, one with many."""
    x = torch.linspace(-1, 1, 300, dtype=torch.float64).repeat(3, 1, 1, 1)
    x[1, ..., :3], x[2] = 1.3, 4 * x[2]
    prior = GaussianPrior(0.0, 1.0)
    problem = solvers.Problem.create(x, Inpainting(torch.ones(1, 1, 300)), prior)
    level = levels(prior.schedule, 500, 400)
    found = Estimate(x, x, lambda v: v)
    clipped = DynamicThreshold(quantile=0.9925).correct(found, level, problem, RecordedNoise([]))
    s = np.quantile(x[1].abs(), 0.9925)
    assert 1 < s < 1.3
    torch.testing.assert_close(clipped[0], x[0])
    torch.testing.assert_close(clipped[1], x[1].clamp(-s, s) / s)
    torch.testing.assert_close(clipped[2], x[2].clamp(-1.5, 1.5) / 1.5)


def test_dynamic_thresholds_name_bad_input():
    for bad in ({"quantile": 0.0}, {"largest": 0.9}):
        with pytest.raises(errors.ArgumentError, match=next(iter(bad))):
            DynamicThreshold(**bad)
    operator = MultiCoilMRI(torch.ones(3, 4), torch.ones(1, 3, 4, dtype=torch.complex64))
    y, prior = torch.ones(1, 1, 3, 4).cfloat(), GaussianPrior(0.0, 1.0, is_complex=True)
    with pytest.raises(errors.ArgumentError, match="accepted: another one for complex images"):
        MRSampler(correction=DynamicThreshold())(y, operator, prior)
