"""Flower and PnP-Flow against their equations, exact posteriors and limits."""

import math
from itertools import pairwise

import pytest
import torch
from tests.helpers import rand

from wellposed import errors
from wellposed.noise import ItemNoise
from wellposed.operators import Denoising, Inpainting, MatrixOperator, random_mask
from wellposed.operators.image.nonlinear import PhaseRetrieval
from wellposed.priors import Flow, GaussianPrior
from wellposed.solvers import FLAIR, DiffPIR, Flower, PnPFlow, Problem
from wellposed.solvers.data import squared_norm
from wellposed.validation.consistency import process_gap
from wellposed.validation.gaussian import BatchNoise, draw_samples, gaussian_problem, process

pytestmark = pytest.mark.usefixtures("single_thread")


def unit_problem(noise_sigma=0.3):
    """A random operator, and the prior of unit variance that Flower assumes."""
    matrix = torch.randn(10, 16, generator=torch.Generator().manual_seed(0)).double()
    operator = MatrixOperator(matrix, (1, 4, 4), noise_sigma=noise_sigma)
    prior = GaussianPrior(torch.linspace(-1, 1, 16).double().view(1, 4, 4), 1.0, Flow())
    return operator.measure(rand(1, 1, 4, 4), seed=1), operator, prior


def errors_of(solver, count):
    """Errors of mean and covariance, of antithetic samples, relative to the posterior's."""
    y, operator, prior = unit_problem()
    exact = prior.posterior(y, operator)
    samples = draw_samples(
        solver, (y, operator, prior), count, BatchNoise(0, antithetic=True)
    ).flatten(1)
    C = exact.covariance()
    mean = (samples.mean(0) - exact.mean.flatten()).norm() / C.trace().sqrt()
    return (
        float(mean),
        float(samples.var(0).sum() / C.trace()),
        float((samples.T.cov() - C).norm() / C.norm()),
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_flower_is_exact_for_priors_of_unit_variance(steps):
    """Antithetic samples have exactly the mean that the method converges to."""
    mean, _, covariance = errors_of(Flower(steps=steps, gamma=1.0), 4000)
    assert mean < 1e-10
    assert covariance < 0.1


def test_without_its_draws_flower_has_the_mean_and_too_little_spread():
    mean, share, _ = errors_of(Flower(steps=20), 200)
    assert mean < 1e-10
    assert 0.4 < share < 0.5


def test_gamma_is_the_share_of_the_covariance_in_one_step():
    shares = [errors_of(Flower(steps=1, gamma=g), 4000)[1] for g in (0.25, 1.0)]
    assert shares == pytest.approx([0.25, 1.0], rel=0.05)


def test_flower_is_its_equations_in_the_flow():
    y, operator, prior = unit_problem()
    found = Flower(steps=7)(y, operator, prior, seed=2).samples[0]
    noise, A = ItemNoise(2, [(0, 0)]), operator.matrix
    x, times = noise.draw(found), torch.linspace(1, 0, 8).tolist()
    for t, s in pairwise(times):
        nu = t / math.hypot(t, 1 - t)
        x0 = prior.denoise(x, t)
        gap = (y - operator.A(x0)).flatten()
        inner = nu**2 * A @ A.T + 0.3**2 * torch.eye(10).double()
        x0 = x0 + (nu**2 * A.T @ torch.linalg.solve(inner, gap)).view_as(x0)
        x = (1 - s) * x0 + s * noise.draw(x0) if s > 0 else x0
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5)


def test_flower_at_low_noise_is_half_quadratic_splitting():
    """nu_t is sigma_t / alpha_t there: DiffPIR with lambda 1 and all noise fresh."""
    y, operator, prior = gaussian_problem(process("flow"), 0)
    options = {"steps": 1, "spacing": "karras"}
    prior.schedule.T = prior.schedule.terminal_std = 1e-4
    one, other = (
        solver(y, operator, prior, seed=0).samples
        for solver in (Flower(**options), DiffPIR(lambda_=1.0, zeta=1.0, **options))
    )
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_flower_meets_noise_free_data(gamma):
    mask = random_mask(8, 8, 0.5, 0)
    operator = Inpainting(mask, 1)
    y = operator.A(rand(2, 1, 8, 8))
    result = Flower(steps=5, gamma=gamma)(y, operator, GaussianPrior(0.5, 0.1), seed=0)
    assert result.residual.max() < 1e-6


def test_pnp_flow_is_its_equations_in_the_flow():
    y, operator, prior = unit_problem()
    solver = PnPFlow(steps=6, step_size=0.8, alpha=0.5, averages=3)
    found = solver(y, operator, prior, seed=2).samples[0]
    noise = ItemNoise(2, [(0, 0)])
    norm2, x = squared_norm(Problem.create(y, operator, prior)), torch.zeros_like(found)
    for k in range(6):  # t = 1 is the image, as in the paper
        t = k / 6
        gradient = operator.A_adjoint(operator.A(x) - y)
        z = x - 0.8 * (1 - t) ** 0.5 / norm2 * gradient
        noisy = [t * z + (1 - t) * noise.draw(z) for _ in range(3)]
        x = sum(prior.denoise(n, 1 - t) for n in noisy) / 3
    torch.testing.assert_close(found, x, rtol=0, atol=1e-10)


def test_pnp_flow_approaches_clean_complete_data():
    """With constant steps z is y, and only the last denoiser, of weak noise, changes it."""
    operator = Denoising((1, 8, 8))
    y, prior = operator.A(rand(2, 1, 8, 8)), GaussianPrior(0.5, 0.3, Flow())
    gaps = []
    for steps in (5, 100):
        solver = PnPFlow(steps=steps, alpha=0.0, averages=1)
        gaps.append(float((solver(y, operator, prior, seed=0).samples[0] - y).norm()))
    assert gaps[1] < 0.1 * gaps[0]


def test_more_averages_leave_less_spread():
    problem = gaussian_problem(process("flow"), 0)
    few, more = (
        draw_samples(PnPFlow(steps=10, averages=n), problem, 400, BatchNoise(0)).var(0).sum()
        for n in (1, 8)
    )
    assert float(few / more) == pytest.approx(8, rel=0.15)


def test_the_steps_of_pnp_flow_follow_the_norm_of_the_operator():
    y, operator, prior = unit_problem()
    solver = PnPFlow(steps=5)
    scaled = MatrixOperator(1000 * operator.matrix, (1, 4, 4), noise_sigma=300.0)
    one, other = solver(y, operator, prior, seed=0), solver(1000 * y, scaled, prior, seed=0)
    torch.testing.assert_close(one.samples, other.samples)
    assert one.nfe == 25


@pytest.mark.parametrize("solver", [Flower(), Flower(gamma=1.0), PnPFlow(averages=2)])
def test_equivalent_processes_give_equal_samples(solver):
    assert process_gap(solver.__class__(**solver.settings | {"spacing": "karras"})) < 1e-6


def test_what_is_no_setting_is_refused():
    for cls, name, value in (
        (Flower, "gamma", 1.1),
        (PnPFlow, "step_size", 2.0),
        (PnPFlow, "alpha", -0.1),
        (PnPFlow, "averages", 0),
    ):
        with pytest.raises(errors.ArgumentError, match=name):
            cls(**{name: value})


def test_nonlinear_operators_are_for_pnp_flow():
    operator = PhaseRetrieval((1, 6, 6), noise_sigma=0.01)
    y, prior = operator.A(rand(1, 1, 6, 6)), GaussianPrior(0.5, 0.2)
    assert torch.isfinite(PnPFlow(steps=5)(y, operator, prior, seed=0).samples).all()
    with pytest.raises(errors.ArgumentError, match="linear"):
        Flower().check(Problem.create(y, operator, prior))


def test_flair_is_the_published_equations_in_the_flow():
    """With the regulariser written as in the published code, and data that ask for nothing."""
    y, operator, prior = unit_problem(noise_sigma=1e3)
    errors = tuple(torch.linspace(0.3, 1.0, 100).tolist())
    found = FLAIR(steps=6, errors=errors)(y, operator, prior, seed=2).samples[0]
    noise, mu = ItemNoise(2, [(0, 0)]), operator.A_dagger(y)
    kept = noise.draw(mu)
    trust = 1 / torch.tensor(errors).double()
    weights = 0.5 * ((trust / trust.sum() * 100) - (trust / trust.sum() * 100)[-1]).clamp(min=0)
    for t in torch.linspace(1, 0.18, 8).double()[1:-1]:
        eps = (1 - t) * kept + (1 - (1 - t) ** 2).sqrt() * noise.draw(mu)
        x = t * eps + (1 - t) * mu
        v = (x - prior.denoise(x, float(t))) / t
        kept = (1 - t) * mu + t * eps + (1 - t) * v
        slope = -2 * (1 / (1 - t) + 1 / t)
        u = -x / (1 - t) - t * slope / 2 * eps
        nearest = int((torch.linspace(1, 0, 100) - t).abs().argmin())
        mu = mu - weights[nearest] * (v - u)
    torch.testing.assert_close(found, mu, rtol=0, atol=1e-6)


def test_flair_has_about_the_mean_of_a_prior_of_unit_variance():
    mean, share, _ = errors_of(FLAIR(steps=20), 400)
    assert mean < 0.2
    assert 0.3 < share < 1


def test_flair_meets_the_noise_of_the_data():
    y, operator, prior = unit_problem(noise_sigma=0.1)
    misfit = (y - operator.A(FLAIR()(y, operator, prior, seed=0).mean)).square().mean().sqrt()
    assert misfit <= 0.1 * (1 + 1e-6)
