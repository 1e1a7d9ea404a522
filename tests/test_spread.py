"""Draws of x_0 given x_t and y: exact for Gaussians, whatever the number of steps."""

from dataclasses import replace

import pytest
import torch
from tests.helpers import C128, F64, close, normal, random

from wellposed import errors
from wellposed.noise import ItemNoise
from wellposed.operators import Inpainting, MatrixOperator, random_mask
from wellposed.priors import GaussianPrior
from wellposed.priors.covariance import Full
from wellposed.priors.transition import levels
from wellposed.solvers import DDS, MMPS, MRSampler
from wellposed.solvers.corrected import estimate
from wellposed.solvers.problem import Problem
from wellposed.solvers.spread import perturbed, root, tweedie_draw, variance_of_residual
from wellposed.validation.gaussian import field_covariance, gaussian_errors, process
from wellposed.validation.levy import levy_errors

pytestmark = pytest.mark.usefixtures("single_thread")


def definite(n, dtype):
    A = random(n, n, dtype=dtype)
    return A @ A.mH / n


@pytest.mark.parametrize("dtype", [F64, C128])
def test_the_root_is_that_of_the_matrix_after_as_many_steps_as_unknowns(dtype):
    M, z = definite(4, dtype), random(3, 4, dtype=dtype, seed=1)
    values, vectors = torch.linalg.eigh(M)
    exact = z @ ((vectors * values.sqrt()) @ vectors.mH).T
    close(root(lambda v: v @ M.T, z, 4), exact)
    close(root(lambda v: v @ M.T, z[1:2], 4), exact[1:2])
    # One step scales by the root of <z, M z> / <z, z>: the variance of all pixels alike.
    once = root(lambda v: v @ M.T, z, 1)
    share = ((z @ M.T) * z.conj()).real.sum(1) / z.abs().square().sum(1)
    close(once, share.sqrt()[:, None] * z)


def test_negative_eigenvalues_and_eigenvectors_have_a_root_too():
    M = torch.diag(torch.tensor([4.0, -1, 0, 0], dtype=F64))
    z = torch.eye(4, dtype=F64)[:3]
    expected = torch.zeros(3, 4, dtype=F64)
    expected[0, 0] = 2
    close(root(lambda v: v @ M, z, 3), expected)


def gaussian(items):
    """A measurement of 6 unknowns, and x_t at which draws are made, equal for all items."""
    prior = GaussianPrior(0.3, Full(definite(6, F64) + 0.1 * torch.eye(6, dtype=F64)))
    operator = MatrixOperator(normal(3, 6, seed=2), (1, 1, 6), 0.3)
    y, x_t = normal(1, 3, seed=3), normal(1, 1, 1, 6, seed=4)
    problem = Problem.create(y.expand(items, 3), operator, prior)
    return problem, x_t.expand(items, 1, 1, 6), prior, operator


@pytest.mark.slow
def test_corrections_of_the_perturbed_problem_are_draws():
    """Mean and covariance of x_0 given x_t and y, both noisy measurements of it."""
    problem, x_t, prior, operator = gaussian(20_000)
    t = prior.schedule.time_at(torch.tensor(0.8, dtype=F64)).item()
    level = levels(prior.schedule, t, t)
    found = estimate(lambda x: problem.denoise(x, t), x_t, problem, True)
    noise = ItemNoise(0, [(n,) for n in range(len(x_t))])
    u = tweedie_draw(found, noise.draw(x_t), level, 6)
    seen, measured = perturbed(found, u, problem, problem.noise_sigma, noise)
    draws = MMPS(cg_steps=9).correction.correct(seen, level, measured, noise).flatten(1)
    both = torch.cat(
        [operator.matrix / 0.3, level.alpha_t / level.sigma_t * torch.eye(6).double()]
    )
    data = torch.cat([problem.y[0] / 0.3, x_t[0].flatten() / level.sigma_t])
    exact = prior.posterior(data[None], MatrixOperator(both, (1, 1, 6), 1.0))
    C = exact.covariance()
    assert float((draws.mean(0) - exact.mean.flatten()).norm() / C.trace().sqrt()) < 0.02
    assert float((torch.cov(draws.T) - C).norm() / C.norm()) < 0.04


def test_the_residual_shows_the_variance_of_x_0():
    prior = GaussianPrior(0.0, 0.25)
    operator = Inpainting(random_mask(40, 40, 0.5, 0), 1, 0.1)
    y = operator.measure(prior.draw(normal(3, 1, 40, 40)))
    problem = Problem.create(y, operator, prior)
    level = levels(prior.schedule, 999.0, 999.0)
    # Where x_t says nothing, x_0 is the prior's mean and its variance that of the prior.
    blank = estimate(lambda x: torch.zeros_like(x), problem.zeros(), problem, False)
    found = variance_of_residual(blank, level, problem)
    assert found.tolist() == pytest.approx([0.25] * 3, rel=0.2)


def test_pixels_that_are_not_measured_get_no_noise():
    operator = Inpainting(random_mask(8, 8, 0.5, 0), 1, 0.1)
    problem = Problem.create(
        operator.measure(normal(2, 1, 8, 8)), operator, GaussianPrior(0.0, 1.0)
    )
    found = estimate(lambda x: x, problem.zeros(), problem, False)
    noise = ItemNoise(0, [(0,), (1,)])
    noisy = perturbed(found, problem.zeros(), problem, problem.noise_sigma, noise)[1]
    hidden = (operator.mask == 0).expand_as(problem.y)
    assert not bool(noisy.y[hidden].any()) and bool((noisy.y != problem.y)[~hidden].all())


KARRAS = {"spacing": "karras"}
ONE = {"cg_steps": 1, "preconditioned": True, **KARRAS}
DRAWN = MMPS(steps=20, cg_steps=4, spread_steps=2, **KARRAS)
SOLVERS = {
    "mmps": (DRAWN, 0.12, 0.06),
    "dds": (DDS(steps=60, draws="sample", eta=1.0, **KARRAS), 0.3, 0.12),
    "one step": (MMPS(steps=20, spread_steps=2, **ONE), 0.3, 0.08),
    "two kinds": (
        MMPS(steps=20, cg_steps=4, spread_steps=2, isotropic_above=1, **KARRAS),
        0.2,
        0.1,
    ),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", ["random matrix", "field, every second pixel"])
def test_the_spread_of_gaussian_posteriors_is_right_with_few_steps(name, kind):
    solver, mean, spread = SOLVERS[name]
    found = gaussian_errors(solver, "vp", 1, 600, kind)
    assert found.mean < mean
    assert found.spread == pytest.approx(1, abs=spread)


@pytest.mark.parametrize("steps", [0, 2])
def test_one_step_of_mmps_does_not_diverge_on_random_walks(steps):
    solver = MMPS(steps=20, spread_steps=steps, **ONE)
    assert levy_errors(solver, "convolution", 4).gap < 2


@pytest.mark.parametrize("name", SOLVERS)
def test_a_correction_draws_in_every_integrator(name):
    """Samples are wider than those of the mean, with half of the steps of DDS."""
    correction = SOLVERS[name][0].correction
    sampler = MRSampler(steps=40, order=1, method="sde", spacing="karras-n", correction=correction)
    found = gaussian_errors(sampler, "vp", 1, 600)
    assert found.spread > 0.9
    mean = MMPS(cg_steps=4).correction
    assert gaussian_errors(replace(sampler, correction=mean), "vp", 1, 600).spread < 0.8


def test_a_draw_of_dds_refuses_what_it_does_not_use():
    with pytest.raises(errors.ArgumentError, match=r"gamma: got 1.0, accepted: None with draws"):
        DDS(draws="sample", eta=1.0, gamma=1.0)
    with pytest.raises(errors.ArgumentError, match=r"eta: got 0.85, accepted: 1 with draws"):
        DDS(draws="sample")


@pytest.mark.parametrize("name", SOLVERS)
def test_draws_explain_data_without_noise(name):
    operator = Inpainting(random_mask(6, 6, 0.5, 0), 1)
    prior = GaussianPrior(0.0, field_covariance(6))
    y = operator.measure(prior.draw(normal(1, 1, 6, 6)))
    found = SOLVERS[name][0](y, operator, prior, num_samples=8, seed=0)
    assert float((operator.A(found.samples[:, 0]) - y).abs().max()) < 0.06
    assert bool((found.std[operator.mask.expand_as(y) == 0] > 0.05).all())


@pytest.mark.slow
def test_draws_do_not_depend_on_the_process_nor_on_the_batch():
    operator = Inpainting(random_mask(6, 6, 0.5, 0), 1, 0.1)
    y = operator.measure(normal(2, 1, 6, 6))
    for solver, _, _ in SOLVERS.values():
        of = {
            name: solver(
                y, operator, GaussianPrior(0.0, field_covariance(6), process(name)), seed=0
            )
            for name in ("vp", "ve")
        }
        close(of["vp"].samples, of["ve"].samples, 1e-8)
        prior = GaussianPrior(0.0, field_covariance(6), process("vp"))
        alone = solver(y[:1], operator, prior, seed=0)
        close(alone.samples[:, 0], of["vp"].samples[:, 0], 1e-10)
