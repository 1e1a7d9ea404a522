"""DAPS, PnP-DM, FlowChef and their parts against closed forms; nonlinear operators and latents."""

import math
from dataclasses import replace
from itertools import pairwise

import diffusers
import pytest
import torch
from torch import nn

from wellposed import errors
from wellposed.noise import ItemNoise
from wellposed.operators import (
    JPEG,
    Inpainting,
    MatrixOperator,
    MultiCoilMRI,
    PhaseRetrieval,
    SuperResolution,
    random_mask,
)
from wellposed.priors import (
    Diagonal,
    DiffusersAutoencoder,
    GaussianMixturePrior,
    GaussianPrior,
    Latent,
    Stationary,
    Tabulated,
)
from wellposed.priors.sampling import reverse, times_between
from wellposed.solvers import DAPS, DDS, DPS, FlowChef, PnPDM, Problem, REDDiff
from wellposed.solvers.data import GaussianCoupling, misfit_gradient, noise_level, squared_norm
from wellposed.solvers.pnp_dm import _reverse_sde
from wellposed.solvers.sampler import Counted
from wellposed.validation.gaussian import PROCESSES, gaussian_problem, process

pytestmark = pytest.mark.usefixtures("single_thread")


class FastNoise:
    """One stream for a whole batch: many items are then many independent samples, cheaply."""

    position = 0

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, like):
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype) * (
            math.sqrt(2) if like.is_complex() else 1
        )


def many(y, count):
    return y.expand(count, *y.shape[1:])


def gaussian(count=2000, name="vp", seed=0):
    y, operator, prior = gaussian_problem(process(name), seed)
    return Problem.create(many(y, count), operator, prior)


def distance(samples, mean, covariance):
    """Return the mean's error in standard deviations and the covariance's relative error."""
    flat = samples.flatten(1)
    gap = (flat.mean(0) - mean.flatten()).norm() / covariance.trace().sqrt()
    return float(gap), float((torch.cov(flat.T) - covariance).norm() / covariance.norm())


def posterior_errors(solver, count=1000, problems=2):
    """Return the mean's and the covariance's errors and the spread against the exact posterior."""
    rows = []
    for seed in range(problems):
        y, operator, prior = gaussian_problem(process("vp"), seed)
        exact = prior.posterior(y, operator)
        x = solver(many(y, count), operator, prior, noise=FastNoise(seed)).samples[0].flatten(1)
        C = exact.covariance()
        spread = float(torch.cov(x.T).trace() / C.trace())
        rows.append((*distance(x, exact.mean, C), spread))
    return torch.tensor(rows).mean(0).tolist()


# The parts.


def coupled_moments(problem, centre, rho):
    """Return mean and covariance of `Coupled` by dense algebra."""
    A = problem.operator.matrix
    sigma = problem.noise_sigma[0]
    H = A.T @ A / sigma**2 + torch.eye(16, dtype=A.dtype) / rho**2
    C = torch.linalg.inv(H)
    return C @ (A.T @ problem.y[0] / sigma**2 + centre[0].flatten() / rho**2), C


@pytest.mark.parametrize("rho", [0.03, 0.3, 10.0])
def test_the_coupled_draw_has_the_exact_moments(rho):
    problem = gaussian(4000)
    centre = 0.2 * torch.ones_like(problem.zeros())
    target = GaussianCoupling(problem, noise_level(problem), centre, rho)
    mean, C = coupled_moments(problem, centre, rho)
    gap, error = distance(target.draw(FastNoise()), mean, C)
    assert gap < 0.04
    assert error < 0.1


def test_the_coupled_draw_of_complex_images_counts_both_parts():
    mask = torch.zeros(4, 4)
    mask[:, :2] = 1
    maps = torch.ones(1, 4, 4, dtype=torch.complex128)
    operator = MultiCoilMRI(mask, maps, noise_sigma=0.1)
    prior = GaussianPrior(0.0, 1.0, is_complex=True)
    y = torch.zeros(3000, 1, 4, 4, dtype=torch.complex128)
    problem = Problem.create(y, operator, prior)
    rho = 0.2
    z = GaussianCoupling(problem, noise_level(problem), problem.zeros(), rho).draw(FastNoise())
    k = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(z, dim=(-2, -1)), norm="ortho"))
    measured = 1 / (1 / 0.1**2 + 1 / rho**2)
    for part in (k.real, k.imag):
        found = part[:, 0].var(0)
        assert sorted(found.flatten().tolist())[7] < 1.15 * measured
        assert sorted(found.flatten().tolist())[0] > 0.85 * measured
        assert sorted(found.flatten().tolist())[8] > 0.85 * rho**2
        assert sorted(found.flatten().tolist())[15] < 1.15 * rho**2


def test_langevin_tends_to_the_coupled_draw_and_is_biased_as_said():
    problem, rho = gaussian(3000), 0.2
    target = GaussianCoupling(problem, noise_level(problem), problem.zeros(), rho)
    mean, C = coupled_moments(problem, problem.zeros(), rho)
    norm2, start = squared_norm(problem), target.draw(FastNoise(1))
    for rate, low, high in ((0.05, 0.0, 0.1), (1.0, 0.15, 1.0)):
        z = target.langevin(start, FastNoise(2), 60, rate, norm2)
        gap, error = distance(z, mean, C)
        assert gap < 0.06
        assert low <= error < high
    # Along the stiffest direction the variance is that of the exact draw over 1 - rate / 2.
    v = torch.linalg.eigh(C)[1][:, 0]
    assert float((z.flatten(1) @ v).var() / (v @ C @ v)) == pytest.approx(2, rel=0.15)


def test_langevin_from_elsewhere_reaches_the_draw():
    problem, rho = gaussian(1000), 0.1
    target = GaussianCoupling(problem, noise_level(problem), problem.zeros(), rho)
    mean, C = coupled_moments(problem, problem.zeros(), rho)
    z = target.langevin(problem.zeros() + 1, FastNoise(), 400, 0.1, squared_norm(problem))
    gap, error = distance(z, mean, C)
    assert gap < 0.1
    assert error < 0.2


class Numbers:
    """The same number for every draw."""

    def __init__(self, value):
        self.value = value

    def draw(self, like):
        return torch.full_like(like, self.value)


@pytest.mark.parametrize("rate", [1e-6, 0.3, 1.0, 1.8])
def test_langevin_at_once_has_the_law_of_its_steps(rate):
    """Its mean is that of the steps, one by one; its variance adds up as theirs."""
    problem, rho, steps = gaussian(2), 0.2, 7
    hidden = replace(problem, operator=Undecomposed(problem.operator))
    z, centre = problem.zeros() + torch.randn(1, 1, 4, 4).double(), problem.zeros() + 0.3
    norm2 = squared_norm(problem)
    found, expected = (
        GaussianCoupling(p, noise_level(p), centre, rho).langevin(
            z, Numbers(0.0), steps, rate, norm2
        )
        for p in (problem, hidden)
    )
    torch.testing.assert_close(found, expected)
    # One step more of each direction's autoregression, on eigenvectors of the curvature.
    A, sigma = problem.operator.matrix, problem.noise_sigma[0]
    curvature, vectors = torch.linalg.eigh(A.T @ A / sigma**2 + torch.eye(16) / rho**2)
    h = rate / (norm2[0] / sigma**2 + 1 / rho**2)
    variance = sum(2 * h * (1 - h * curvature) ** (2 * k) for k in range(steps))
    noise = torch.eye(16).double().reshape(16, 1, 4, 4)
    many = replace(problem, y=problem.y[:1].expand(16, -1), image_shape=torch.Size([16, 1, 4, 4]))
    target = GaussianCoupling(many, noise_level(many), many.zeros() + 0.3, rho)
    moved = target.langevin(z[:1].expand(16, 1, 4, 4), Given(noise), steps, rate, norm2[:1])
    root = (moved - found[0]).flatten(1)
    exact = vectors @ torch.diag(variance) @ vectors.T
    torch.testing.assert_close(root.T @ root, exact, rtol=1e-6, atol=1e-9 * float(exact.max()))


class Given:
    def __init__(self, value):
        self.value = value

    def draw(self, like):
        return self.value


class Undecomposed(nn.Module):
    """An operator without its decomposition."""

    def __init__(self, operator):
        super().__init__()
        self.operator, self.noise_model = operator, operator.noise_model

    def A(self, x):
        return self.operator.A(x)

    def A_adjoint(self, y):
        return self.operator.A_adjoint(y)


def test_the_operators_norm_is_per_item():
    mask = torch.ones(2, 3, 4, 4)
    operator = Inpainting(mask, noise_sigma=0.1)
    problem = Problem.create(torch.rand(2, 3, 4, 4), operator, GaussianPrior(0.0, 1.0))
    torch.testing.assert_close(squared_norm(problem), torch.ones(2))
    problem = gaussian(1)
    top = torch.linalg.svdvals(problem.operator.matrix)[0] ** 2
    assert float(squared_norm(problem)) == pytest.approx(float(top), rel=0.02)
    silent = replace(problem, y=torch.zeros_like(problem.y))
    assert torch.equal(squared_norm(silent), squared_norm(problem))


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_the_misfits_gradient_is_that_of_finite_differences(kind):
    torch.manual_seed(0)
    if kind == "linear":
        operator = SuperResolution((1, 8, 8), 2)
    else:
        operator = PhaseRetrieval((1, 8, 8))
    prior = GaussianPrior(0.5, 0.1)
    prior.data_range = (0.0, 1.0)
    problem = Problem.create(operator.A(torch.rand(2, 1, 8, 8).double()), operator, prior)
    x, d = (torch.rand(2, 1, 8, 8).double() for _ in range(2))
    step = 1e-5

    def loss(x):
        return 0.5 * (problem.A(x) - problem.y).square().flatten(1).sum(1)

    slope = (loss(x + step * d) - loss(x - step * d)) / (2 * step)
    found = (misfit_gradient(problem, x) * d).flatten(1).sum(1)
    torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-7)


def test_times_between_are_karras_and_end_clean():
    schedule = Tabulated.linear()
    times = times_between(schedule, 10.0, 0.1, 7)
    assert times[-1] == 0
    assert all(t > s for t, s in pairwise(times))
    roots = [float(schedule.ratio(t)) ** (1 / 7) for t in times[:-1]]
    assert [a - b for a, b in pairwise(roots)] == pytest.approx([roots[0] - roots[1]] * 6)
    assert float(schedule.ratio(times[0])) == pytest.approx(10)
    assert float(schedule.ratio(times[-2])) == pytest.approx(0.1)
    assert times_between(schedule, 1e9, 0.1, 3)[0] == pytest.approx(schedule.T)
    assert len(times_between(schedule, 0.1, 0.1, 7)) == 2


def moved(steps, eta, name="vp"):
    """Return the end of the reverse diffusion from level .7, and what it is in closed form."""
    C = torch.linspace(0.05, 1.0, 16, dtype=torch.float64).reshape(1, 4, 4)
    prior = GaussianPrior(0.3, Diagonal(C), process(name))
    x = 0.8 + torch.zeros(4000, 1, 4, 4, dtype=torch.float64)
    level = 0.7
    times = times_between(prior.schedule, level, 0.01, steps)
    start = prior.schedule(times[0])[0] * x
    end = reverse(prior.denoise, start, prior.schedule, times, eta, FastNoise())
    return end, x, C, level


def test_the_flow_converges_to_its_closed_form_at_first_order():
    errors_of = {}
    for steps in (10, 20, 40):
        end, x, C, level = moved(steps, 0.0)
        exact = 0.3 + (C / (C + level**2)).sqrt() * (x - 0.3)
        errors_of[steps] = float((end - exact).abs().max())
    assert errors_of[40] < 0.02
    assert 1.5 < errors_of[10] / errors_of[20] < 2.6
    assert 1.5 < errors_of[20] / errors_of[40] < 2.6


def test_ancestral_steps_draw_what_the_noise_hides():
    end, x, C, level = moved(100, 1.0)
    mean, variance = 0.3 + C / (C + level**2) * (x[:1] - 0.3), C * level**2 / (C + level**2)
    torch.testing.assert_close(end.mean(0, keepdim=True), mean, rtol=0, atol=0.04)
    torch.testing.assert_close(end.var(0), variance, rtol=0.15, atol=0)


def conditional_variance(steps, variance, level):
    """Return that of `_reverse_sde` over the exact one, for a prior of one variance."""
    prior = GaussianPrior(0.0, variance, process("ve"))
    y = torch.zeros(4000, 1, 2, 2, dtype=torch.float64)
    problem = Counted.of(Problem.create(y, Inpainting(torch.ones(1, 2, 2)), prior))
    times = times_between(prior.schedule, level, prior.schedule.min_ratio, steps)
    x = _reverse_sde(torch.full_like(y, 0.1), times, problem, FastNoise())
    assert problem.tally.count == steps * len(y)
    exact = variance * level**2 / (variance + level**2)
    return float(x.var() / exact), float(x.mean() / (0.1 * variance / (variance + level**2)))


def test_the_prior_step_draws_from_the_conditional():
    for variance, level in ((0.04, 0.05), (0.04, 0.2), (1.0, 1.0)):
        spread, mean = conditional_variance(40, variance, level)
        assert spread == pytest.approx(1, abs=0.07)
        assert mean == pytest.approx(1, abs=0.1)
    # Where the prior is flat on the scale of the noise, few steps do.
    assert conditional_variance(4, 4.0, 0.1)[0] == pytest.approx(1, abs=0.05)


# Against exact posteriors.


@pytest.mark.slow
def test_pnp_dm_converges_to_the_exact_gaussian_posterior():
    found = {
        rho: posterior_errors(PnPDM(steps=80, prior_steps=5, rho_min=rho), 400)
        for rho in (0.3, 0.05)
    }
    assert found[0.3][1] > 2.5 * found[0.05][1]
    assert found[0.3][2] > 1.25
    mean, covariance, spread = found[0.05]
    assert mean < 0.13
    assert covariance < 0.2
    assert 0.93 < spread < 1.07


def mixture_problem():
    """Three modes in a plane, of which the data see one coordinate."""
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [1.0, -1.0]]).double().reshape(3, 1, 1, 2)
    covariances = 0.15 * torch.eye(2).double().expand(3, 2, 2)
    prior = GaussianMixturePrior(torch.tensor([0.4, 0.15, 0.45]).double(), means, covariances)
    operator = MatrixOperator(torch.tensor([[0.3, 0.8]]).double(), (1, 1, 2), 0.5)
    return torch.tensor([[0.0]]).double(), operator, prior


@pytest.mark.slow
def test_pnp_dm_converges_to_the_exact_posterior_of_a_mixture_where_dps_does_not():
    y, operator, prior = mixture_problem()
    exact = prior.posterior(y, operator)
    draws = exact.sample(20000)[:, 0].flatten(1)
    mean, C = draws.mean(0), torch.cov(draws.T)

    def shares(x):
        return torch.bincount(torch.cdist(x, prior.means).argmin(1), minlength=3) / len(x)

    def found(solver):
        x = solver(many(y, 800), operator, prior, noise=FastNoise()).samples[0].flatten(1)
        return *distance(x, mean, C), float((shares(x) - shares(draws)).abs().max())

    annealed = PnPDM(prior_steps=6, rho=2.0, rho_min=0.1)
    fast, slow = (
        found(replace(annealed, steps=steps, rho_decay_rate=rate))
        for steps, rate in ((40, 0.9), (200, 0.98))
    )
    wrong = [found(DPS(steps=100, spacing="karras", zeta=zeta)) for zeta in (0.3, 1.0)]
    limits = (0.12, 0.15, 0.06)
    assert all(a < b for a, b in zip(slow, limits, strict=True))
    assert all(a > b for a, b in zip(fast, limits, strict=True))
    assert all(a > 2.5 * b for w in wrong for a, b in zip(w, limits, strict=True))


@pytest.mark.slow
def test_daps_is_too_wide_with_exact_draws_and_its_errors_stay_as_they_are():
    """Its Gaussian around the flow's end counts the image's own spread twice."""
    mean, _, spread = posterior_errors(DAPS(steps=100, draw="exact"), count=400)
    assert mean < 0.3
    assert 1.2 < spread < 2.2
    mean, _, spread = posterior_errors(DAPS(steps=50, langevin_steps=30), count=300)
    assert mean < 0.4
    assert 1.1 < spread < 2.2


def test_daps_with_a_full_precise_measurement_returns_the_truth():
    y = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    operator = Inpainting(torch.ones(1, 4, 4), noise_sigma=1e-3)
    for solver in (DAPS(steps=10, draw="exact"), DAPS(steps=10), DAPS(steps=10, tau=1e-3)):
        result = solver(y, operator, GaussianPrior(0.5, 0.1), seed=0)
        assert float((result.samples[0] - y).abs().max()) < 0.01
        assert 0.5 < float(result.residual.mean()) < 2


def test_flowchef_without_steering_is_the_flow():
    y, operator, prior = gaussian_problem(process("flow"), 0)
    solver = FlowChef(steps=30, spacing="karras", step_size=0.0)
    x = solver(y, operator, prior, seed=1).samples[0]
    noise = ItemNoise(1, [(0, 0)])
    times = prior.schedule.times(30, "karras").tolist()
    start = prior.schedule.terminal_std * noise.draw(x)
    expected = reverse(prior.denoise, start, prior.schedule, times, 0.0, noise)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("guide_last", [True, False])
def test_flowchef_is_its_equations_in_the_flow(guide_last):
    """The published loop for pixels takes no gradient in its last step."""
    y, operator, prior = gaussian_problem(process("flow"), 0)
    solver = FlowChef(steps=20, spacing="karras", step_size=0.1, guide_last=guide_last)
    found = solver(y, operator, prior, seed=1).samples[0]
    times = prior.schedule.times(20, "karras").tolist()
    x = prior.schedule.terminal_std * ItemNoise(1, [(0, 0)]).draw(found)
    for t, s in pairwise(times):
        v = (x - prior.denoise(x, t)) / t
        x0 = x - t * v
        guided = s > 0 or guide_last
        x = x - 0.1 * guided * 2 * operator.A_adjoint(operator.A(x0) - y) + (s - t) * v
    torch.testing.assert_close(found, x, rtol=0, atol=1e-10)


def test_half_a_step_of_flowchef_meets_orthonormal_data():
    mask = random_mask(8, 8, 0.5, 0)
    y = Inpainting(mask, 1).A(torch.rand(1, 1, 8, 8).double())
    result = FlowChef(steps=10, step_size=0.5)(
        y, Inpainting(mask, 1), GaussianPrior(0.5, 0.1), seed=0
    )
    assert float(result.residual) < 1e-6


@pytest.mark.parametrize(
    "solver",
    [
        DAPS(steps=6, ode_steps=3, draw="exact"),
        DAPS(steps=6, ode_steps=3, langevin_steps=5),
        PnPDM(steps=12, prior_steps=4, rho_decay_rate=0.7),
        FlowChef(steps=12, spacing="karras"),
        REDDiff(steps=12, spacing="karras", reduction="sum"),
    ],
    ids=lambda s: f"{type(s).__name__}",
)
def test_vp_ve_and_flow_forms_give_the_same_samples(solver):
    results = []
    for name in PROCESSES:
        y, operator, prior = gaussian_problem(process(name), seed=3)
        results.append(solver(y, operator, prior, num_samples=4, seed=5).samples)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "calls"),
    [
        (DAPS(steps=4, ode_steps=3, langevin_steps=2), 12),
        (DAPS(steps=4, ode_steps=3, draw="exact"), 12),
        (PnPDM(steps=5, prior_steps=3), 15),
        (FlowChef(steps=6), 6),
    ],
)
def test_networks_are_called_as_often_as_said(solver, calls):
    y, operator, prior = gaussian_problem(process("vp"), 0)
    assert solver(y, operator, prior, seed=0).nfe == calls


def test_the_coupling_of_pnp_dm_is_annealed_to_its_end():
    problem = gaussian(1)
    solver = PnPDM(steps=60, rho=10, rho_decay_rate=0.9, rho_min=0.3)
    rho = [float(problem.prior.schedule.ratio(t)) for t in solver.times(problem)]
    expected = [max(10 * 0.9**k, 0.3) for k in range(60)]
    assert rho[:-1] == pytest.approx(expected, rel=1e-6)
    assert rho[-1] == 0


def test_langevins_step_falls_linearly_over_the_levels():
    problem, solver = gaussian(1), DAPS(steps=5, learning_rate=0.5, lr_min_ratio=0.1)
    rates = [solver._rate(t, problem) for t in solver.times(problem)[:-1]]
    assert rates == pytest.approx([0.5 * (1 - 0.9 * k / 5) for k in range(5)])


def test_noise_free_data_are_given_the_published_level():
    y = torch.rand(2, 1, 4, 4)
    sigma = torch.tensor([0.0, 0.05])
    prior = GaussianPrior(0.5, 0.1)
    problem = Problem.create(y, Inpainting(torch.ones(1, 4, 4), noise_sigma=sigma), prior)
    torch.testing.assert_close(noise_level(problem), torch.tensor([0.01, 0.05]))


# Nonlinear operators and latents.


def smooth_prior():
    """Smooth grey images about .5."""
    f = torch.fft.fftfreq(8).double()
    spectrum = 0.4 / (1 + 40 * (f[:, None] ** 2 + f**2)) ** 2
    prior = GaussianPrior(0.5, Stationary(spectrum))
    prior.channels = 1
    return prior


NONLINEAR = {
    "phase retrieval": lambda: PhaseRetrieval((1, 8, 8), noise_sigma=0.02),
    "jpeg": lambda: JPEG((1, 8, 8), quality=30, noise_sigma=0.02),
}


def steps_by_gradient(name):
    """The solvers that take nonlinear operators, with steps that suit tiny images."""
    return {
        "dps": DPS(steps=100, spacing="karras", zeta=0.3),
        "red-diff": REDDiff(steps=100, learning_rate=0.02, regularization=0.01),
        "daps": DAPS(steps=20, langevin_steps=20, learning_rate=0.3),
        "pnp-dm": PnPDM(
            steps=40, prior_steps=3, rho_decay_rate=0.8, rho_min=0.03, langevin_steps=20
        ),
        "flowchef": FlowChef(steps=60, step_size=0.2),
    }[name]


@pytest.mark.parametrize("name", ["dps", "red-diff", "daps", "pnp-dm", "flowchef"])
@pytest.mark.parametrize("kind", NONLINEAR)
def test_nonlinear_data_are_explained(name, kind):
    operator, prior, solver = NONLINEAR[kind](), smooth_prior(), steps_by_gradient(name)
    generator = torch.Generator().manual_seed(3)
    truth = prior.draw(torch.randn(2, 1, 8, 8, generator=generator).double()).clamp(0, 1)
    y = operator.measure(truth, seed=1)
    result = solver(y, operator, prior, seed=0)
    blank = (operator.A(torch.full_like(truth, 0.5)) - y).flatten(1).norm(dim=1)
    left = (operator.A(result.samples[0]) - y).flatten(1).norm(dim=1)
    assert bool((left < 0.6 * blank).all())


@pytest.mark.parametrize("name", ["dps", "red-diff"])
@pytest.mark.parametrize("kind", NONLINEAR)
def test_the_residual_goes_down(name, kind):
    operator, prior, solver = NONLINEAR[kind](), smooth_prior(), steps_by_gradient(name)
    generator = torch.Generator().manual_seed(3)
    truth = prior.draw(torch.randn(1, 1, 8, 8, generator=generator).double()).clamp(0, 1)
    y = operator.measure(truth, seed=1)
    problem, seen = Problem.create(y, operator, prior), []

    def record(index, state):
        seen.append(float((problem.A(state.x0) - problem.y).norm()))

    if name == "red-diff":
        # Its own start explains the data; a far one shows the descent.
        state = solver.init(problem, ItemNoise(0, [(0, 0)]))
        far = 0.3 + torch.zeros_like(state.x)
        state = replace(state, x=far, x0=far)
        noise = ItemNoise(0, [(0, 0)])
        for index, (t, s) in enumerate(pairwise(solver.times(problem))):
            with torch.no_grad():
                state = solver.step(state, t, s, problem, noise)
            record(index, state)
    else:
        solver(y, operator, prior, seed=0, callback=record)
    quarters = [sum(seen[i : i + 25]) for i in (0, 25, 50, 75)]
    assert quarters[3] < 0.6 * quarters[0]


@pytest.fixture(scope="module")
def latent_prior():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        autoencoder = diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
        )
    latents = GaussianPrior(0.0, 1.0)
    latents.channels = 4
    return Latent(latents, DiffusersAutoencoder(autoencoder, scaling_factor=0.5))


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        DAPS(steps=8, ode_steps=2, langevin_steps=10, sigma_max=10, tau=0.2),
        FlowChef(steps=30, step_size=0.3),
        PnPDM(steps=12, prior_steps=3, langevin_steps=10, rho_decay_rate=0.7),
    ],
    ids=lambda s: type(s).__name__,
)
def test_latent_priors_are_solved(solver, latent_prior):
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    operator = Inpainting(random_mask(16, 16, 0.6, 0), 3, 0.05)
    y = operator.measure(latent_prior.to_public(z), seed=1)
    result = solver(y, operator, latent_prior, seed=0)
    blank = latent_prior.to_public(torch.zeros_like(z))
    left, before = ((operator.A(x) - y).norm() for x in (result.samples[0], blank))
    assert float(left) < 0.9 * float(before)


def test_exact_draws_refuse_what_is_not_linear(latent_prior):
    operator = NONLINEAR["jpeg"]()
    y = operator.A(torch.rand(1, 1, 8, 8))
    with pytest.raises(errors.ArgumentError, match="JPEG is not linear"):
        DAPS(draw="exact")(y, operator, smooth_prior())
    operator = Inpainting(random_mask(16, 16, 0.6, 0), 3)
    with pytest.raises(errors.ArgumentError, match="Latent decodes"):
        DAPS(draw="exact")(torch.zeros(1, 3, 16, 16), operator, latent_prior)


# RED-diff's losses and bad fields.


def test_the_sum_of_red_diffs_losses_is_their_mean_with_another_lambda():
    """Adam without epsilon forgets the common factor; lambda takes up m / d."""
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    operator, prior = SuperResolution((1, 8, 8), 2, noise_sigma=0.01), GaussianPrior(0.5, 0.1)
    y = operator.measure(x)
    d, m = x[0].numel(), y[0].numel()
    by_mean = REDDiff(steps=20, regularization=0.4, epsilon=0.0)
    by_sum = replace(by_mean, reduction="sum", regularization=0.4 * m / d)
    first, second, third = (
        solver(y, operator, prior, seed=0).samples
        for solver in (by_mean, by_sum, replace(by_sum, regularization=0.4))
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-8)
    assert (first - third).abs().max() > 1e-3


def test_red_diffs_weight_by_the_noise_does_not_depend_on_how_losses_are_reduced():
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    operator, prior = SuperResolution((1, 8, 8), 2, noise_sigma=0.01), GaussianPrior(0.5, 0.1)
    y = operator.measure(x)
    by_mean = REDDiff(steps=20, regularization=None, epsilon=0.0)
    first, second = (
        solver(y, operator, prior, seed=0).samples
        for solver in (by_mean, replace(by_mean, reduction="sum"))
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-8)


def test_fields_out_of_range_are_named():
    for solver, field, value in (
        (DAPS, "draw", "hmc"),
        (DAPS, "spacing", "leading"),
        (DAPS, "sigma_min", 0.0),
        (DAPS, "sigma_max", 0.05),
        (DAPS, "ode_steps", 0),
        (DAPS, "langevin_steps", 0),
        (DAPS, "learning_rate", 2.0),
        (DAPS, "lr_min_ratio", 0.0),
        (DAPS, "tau", 0.0),
        (DAPS, "tau", math.nan),
        (PnPDM, "spacing", "leading"),
        (PnPDM, "rho", 0.1),
        (PnPDM, "rho", math.inf),
        (PnPDM, "rho_min", 0.0),
        (PnPDM, "rho_decay_rate", 1.1),
        (PnPDM, "rho_decay_rate", 0.0),
        (PnPDM, "prior_steps", 0),
        (PnPDM, "langevin_steps", 0),
        (PnPDM, "learning_rate", -1.0),
        (FlowChef, "step_size", -0.1),
        (FlowChef, "step_size", math.inf),
        (REDDiff, "reduction", "median"),
    ):
        with pytest.raises(errors.ArgumentError, match=field):
            solver(**{field: value})


@pytest.mark.slow
def test_a_constant_weight_is_no_posterior_but_pnp_dm_beats_it():
    """The reference is told from a plain method by every measure."""
    good = posterior_errors(PnPDM(steps=60, prior_steps=5, rho_min=0.05), 300, 1)
    plain = posterior_errors(DDS(steps=50, spacing="karras", gamma=1.0), 300, 1)
    assert good[0] < 0.2 < plain[0]
    assert good[1] < plain[1]
