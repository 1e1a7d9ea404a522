"""PiGDM, MMPS, DDNM, DDRM, DiffPIR: identities, noise budgets, exact posteriors, refusals."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from tests.helpers import randn
from torch import nn

from wellposed import errors
from wellposed.noise import ItemNoise, RecordedNoise
from wellposed.operators import (
    Blur,
    Denoising,
    Inpainting,
    MatrixOperator,
    MultiCoilMRI,
    PaddedBlur,
    ParallelBeamCT,
    PhaseRetrieval,
    SuperResolution,
    gaussian_kernel,
    random_mask,
    simulate_sensitivity_maps,
    uniform_random_lines,
)
from wellposed.operators.base import LinearOperator
from wellposed.operators.check import dense_matrix
from wellposed.priors import GaussianPrior
from wellposed.priors.covariance import Full
from wellposed.priors.transition import levels, renoise
from wellposed.solvers import DDNM, DDRM, MMPS, DiffPIR, PiGDM, Problem, State, mmps
from wellposed.solvers.data import proximal
from wellposed.solvers.ddnm import by_coordinates, by_gradients
from wellposed.solvers.descent import gradient_step
from wellposed.validation.gaussian import (
    PROCESSES,
    gaussian_errors,
    gaussian_problem,
    process,
)

pytestmark = pytest.mark.usefixtures("single_thread")

LINEAR = {"pigdm": PiGDM, "mmps": MMPS, "ddnm": DDNM, "ddrm": DDRM}
ALL = LINEAR | {"diffpir": DiffPIR}


def by_score(**settings):
    return PiGDM(guidance="score", **settings)


FORMS = ALL | {"pigdm, score": by_score}


class Plain(LinearOperator):
    """Any small matrix on flattened images, without its decomposition."""

    def __init__(self, matrix, image_size, noise_sigma=0.0):
        super().__init__(image_size, (len(matrix),), noise_sigma)
        self.register_buffer("matrix", matrix)

    def forward_map(self, x):
        return x.flatten(1) @ self.matrix.T

    def adjoint_map(self, y):
        return (y @ self.matrix).unflatten(1, self.img_size)


def decomposed_problem(name="vp", seed=0, sigma=0.1):
    return gaussian_problem(process(name), seed, sigma)


def plain_problem(name="vp", seed=0, sigma=0.1):
    y, operator, prior = decomposed_problem(name, seed, sigma)
    return y, Plain(operator.matrix, (1, 4, 4), sigma), prior


def blur(sigma=0.05):
    return Blur(gaussian_kernel(0.8, 3), (1, 5, 6), sigma)


def identity():
    return Inpainting(torch.ones(4, 4), 1)


def padded_blur(sigma=0.05):
    return PaddedBlur(gaussian_kernel(0.8, 3), (1, 5, 6), sigma)


def mri(sigma=0.05):
    maps = simulate_sensitivity_maps(2, 5, 6).to(torch.complex128)
    return MultiCoilMRI(uniform_random_lines(6, 2, 0.3, seed=1), maps, sigma)


OPERATORS = {"blur": blur, "padded": padded_blur, "mri": mri}


def conditional_mean(prior, operator, x_t, t, y, C):
    """E[x_0 | x_t, y] of a Gaussian prior of covariance C, from dense precisions."""
    alpha, sigma = (float(v) for v in prior.schedule(t))
    A = dense_matrix(operator.A, operator.img_size, x_t.dtype)
    precision = torch.linalg.inv(C.to(x_t.dtype))
    noise = float(operator.noise_model.sigma) ** 2
    S = precision + (alpha / sigma) ** 2 * torch.eye(len(C)) + A.mH @ A / noise
    mean = prior.mean.to(x_t.dtype).expand_as(x_t).flatten(1)
    b = mean @ precision.T + alpha / sigma**2 * x_t.flatten(1) + y.flatten(1) @ A.conj() / noise
    return torch.linalg.solve(S, b.T).T.reshape(x_t.shape)


def one_step(solver, y, operator, prior, x_t, t):
    problem = Problem.create(y, operator, prior)
    return solver.step(State(x_t, x_t), t, 0.0, problem, ItemNoise(0, [(0,), (1,)])).x


# --- what a step computes -------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_pigdm_is_exact_for_unit_covariance(operator, name):
    op = operator()
    dtype = torch.complex128 if op.complex_image else torch.float64
    prior = GaussianPrior(0.2, 1.0, process(name), is_complex=op.complex_image)
    x_t, y = randn(2, 1, 5, 6, dtype=dtype), op.A(randn(2, 1, 5, 6, seed=1, dtype=dtype))
    C = torch.eye(30, dtype=torch.float64)
    for ratio in (0.05, 1.0, 30.0):
        t = float(prior.schedule.time_at(ratio))
        exact = conditional_mean(prior, op, x_t, t, y, C)
        found = one_step(by_score(), y, op, prior, x_t, t)
        # Conjugate gradients stop at a residual of 1e-6, the condition is 400.
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.sampled
def test_mmps_is_exact_for_any_covariance(operator, name):
    """Also that the vector-Jacobian products of complex images are adjoints."""
    op = operator()
    dtype = torch.complex128 if op.complex_image else torch.float64
    root = randn(30, 30, dtype=dtype)
    C = root @ root.mH / 60 + 0.1 * torch.eye(30)
    prior = GaussianPrior(0.2, Full(C), process(name), is_complex=op.complex_image)
    x_t, y = randn(2, 1, 5, 6, dtype=dtype), op.A(randn(2, 1, 5, 6, seed=1, dtype=dtype))
    for ratio in (0.05, 1.0, 30.0):
        t = float(prior.schedule.time_at(ratio))
        exact = conditional_mean(prior, op, x_t, t, y, C)
        for preconditioned, close in ((False, 1e-6), (True, 5e-3)):
            solver = MMPS(cg_steps=60, preconditioned=preconditioned)
            found = one_step(solver, y, op, prior, x_t, t)
            torch.testing.assert_close(found, exact, rtol=close, atol=close)
        few = one_step(MMPS(cg_steps=1), y, op, prior, x_t, t)
        assert (few - exact).norm() > 1e-4


class Turning(GaussianPrior):
    """A denoiser whose Jacobian is nearly antisymmetric, as no exact one is."""

    def denoise(self, x_t, t, condition=None):
        x = super().denoise(x_t, t)
        a, b = x.chunk(2, 1)
        return 0.02 * x + torch.cat([b, -a], 1)


def test_mmps_does_not_diverge_where_the_jacobian_is_not_symmetric(monkeypatch):
    prior, operator = Turning(0.0, 0.5), Denoising((2, 4, 4), 0.02)
    y = operator.measure(torch.zeros(1, 2, 4, 4, dtype=torch.float64), 0)
    sizes = {}
    for most in (mmps.MOST, math.inf):
        monkeypatch.setattr(mmps, "MOST", most)
        found = MMPS(steps=20, spacing="karras")(y, operator, prior, seed=0)
        sizes[most] = float(found.samples.abs().max())
    assert sizes[math.inf] > 100 > 2 > sizes.pop(2.0)


def test_preconditioning_saves_jacobian_products():
    """Of CT, whose A A^T is far from a multiple of the identity, three steps do what ten did."""
    op = ParallelBeamCT(8, 9, noise_sigma=0.01)
    smooth = 0.5 ** (torch.arange(64.0, dtype=torch.float64)[:, None] - torch.arange(64.0)).abs()
    prior = GaussianPrior(0.2, Full(smooth))
    x_t, y = randn(2, 1, 8, 8), op.A(randn(2, 1, 8, 8, seed=1))
    t = float(prior.schedule.time_at(0.3))
    exact = one_step(MMPS(cg_steps=80), y, op, prior, x_t, t)

    def error(**settings):
        return float((one_step(MMPS(**settings), y, op, prior, x_t, t) - exact).norm())

    assert error(preconditioned=True) < error(cg_steps=10) < error()


SIX = {
    "blur": lambda: (blur(), torch.float64),
    "super-resolution": lambda: (SuperResolution((1, 6, 6), 2), torch.float64),
    "inpainting": lambda: (Inpainting(random_mask(5, 6, 0.5), 1), torch.float64),
    "denoising": lambda: (Denoising((1, 5, 6), complex_image=True), torch.complex128),
    "padded": lambda: (padded_blur(), torch.float64),
    "mri": lambda: (mri(), torch.complex128),
}


@pytest.mark.parametrize("make", SIX.values(), ids=SIX)
def test_proximal_points_are_those_of_the_dense_system(make):
    """In the prior's units, with a weight for each item; 0 gives the projection."""
    op, dtype = make()
    complex_image = dtype.is_complex
    ends = (-2.0, 2.0) if complex_image else (0.0, 1.0)
    prior = GaussianPrior(0.0, 1.0, is_complex=complex_image)
    prior.data_range = ends
    x0 = randn(3, *op.img_size, dtype=dtype)
    y = op.A(randn(3, *op.img_size, seed=1, dtype=dtype))
    weight = torch.tensor([0.0, 0.03, 2.0], dtype=torch.float64)
    found = proximal(Problem.create(y, op, prior), x0, weight)
    A = dense_matrix(op.A, op.img_size, dtype)
    gap = (y - op.A(prior.to_public(x0))).flatten(1) / prior.scale
    for b in range(3):
        inverse = torch.linalg.pinv(A.mH @ A + weight[b] * torch.eye(A.shape[1]), rtol=1e-10)
        exact = x0[b] + (inverse @ (A.mH @ gap[b])).reshape(op.img_size)
        torch.testing.assert_close(found[b], exact, rtol=1e-4, atol=2e-4)


SEVEN = SIX | {"ct": lambda: (ParallelBeamCT(5, 4), torch.float64)}


def preconditioned(name, sigmas, ratio, single=False):
    """Return what `MMPS` takes for the inverse, of two items with a noise level each."""
    op, dtype = SEVEN[name]()
    op.noise_model.sigma = torch.tensor(sigmas, dtype=torch.float64)
    y = op.A(randn(2, *op.img_size, dtype=dtype))
    v = randn(*y.shape, seed=1, dtype=dtype)
    if single:
        y, v = (a.to(torch.complex64 if a.is_complex() else torch.float32) for a in (y, v))
    prior = GaussianPrior(0.0, 1.0, is_complex=dtype.is_complex)
    problem = Problem.create(y, op, prior)
    level = levels(prior.schedule, float(prior.schedule.time_at(ratio)), 0.0)
    variance = mmps.ISOTROPIC_SHARE * float(level.sigma_t / level.alpha_t) ** 2
    return mmps._isotropic(level, problem)(v), v, problem, variance


@pytest.mark.parametrize("name", SEVEN)
def test_the_preconditioner_of_mmps_inverts_an_isotropic_system(name):
    """Up to a factor; in closed form where the operator has its eigenvectors at hand."""
    found, v, problem, variance = preconditioned(name, (0.05, 0.3), 0.5)
    A = dense_matrix(problem.A, problem.image_shape[1:], v.dtype)
    for b, sigma in enumerate(problem.noise_sigma):
        system = sigma**2 * torch.eye(len(A), dtype=A.dtype) + variance * A @ A.mH
        exact = torch.linalg.solve(system, v[b].flatten())
        one = found[b].flatten()
        factor = torch.linalg.vecdot(exact, one) / torch.linalg.vecdot(exact, exact)
        torch.testing.assert_close(one, factor * exact, rtol=2e-3, atol=2e-3 * float(one.norm()))


@pytest.mark.parametrize("name", sorted(SIX.keys() - {"padded"}))
@pytest.mark.parametrize("ratio", [0.8, 30.0])
def test_the_preconditioner_keeps_its_digits_in_single_precision(name, ratio):
    """With so little noise that the inverse is a difference of nearly equal images."""
    exact, v, _, _ = preconditioned(name, (0.001, 0.002), ratio)
    found, _, _, _ = preconditioned(name, (0.001, 0.002), ratio, single=True)
    assert float(torch.linalg.vecdot(found.to(v).flatten(), v.flatten()).real) > 0
    assert (found - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("by", [by_coordinates, by_gradients])
@pytest.mark.parametrize("budget", [0.03, 0.2, 5.0])
def test_ddnm_spends_its_noise_exactly(by, budget):
    """Noise that y brings into x0' and noise that is added: together white, of the budget."""
    decomposed = by is by_coordinates
    _, operator, prior = decomposed_problem() if decomposed else plain_problem()
    budget, size = torch.tensor(budget, dtype=torch.float64), (1, 4, 4)

    def split(count, y=None, z=None, second=None):
        zero = torch.zeros(count, *size, dtype=torch.float64)
        y = torch.zeros(count, 8, dtype=torch.float64) if y is None else y
        problem = Problem.create(y, operator, prior)
        noise = RecordedNoise([zero if second is None else second])
        extra = () if decomposed else (noise,)
        return [v.flatten(1) for v in by(zero, zero if z is None else z, budget, problem, *extra)]

    basis = torch.eye(16, dtype=torch.float64).reshape(16, *size)
    brought = split(8, y=torch.eye(8, dtype=torch.float64))[0]
    first, second = split(16, z=basis)[1], split(16, second=basis)[1]
    added = first.T @ first + (0 if decomposed else second.T @ second)
    total = budget**2 * added + 0.1**2 * brought.T @ brought
    torch.testing.assert_close(total / budget**2, torch.eye(16).double(), rtol=0, atol=1e-5)
    gain = torch.linalg.svdvals(brought) * 0.1 / budget
    assert gain.max() <= 1 + 1e-9
    if decomposed:  # as close to A^+ as the budget allows
        s = operator.singular_values
        expected = torch.minimum(1 / s, 10 * budget).sort().values
        torch.testing.assert_close(torch.linalg.svdvals(brought).sort().values, expected)


@pytest.mark.parametrize("travel", [{}, {"travel_length": 3, "travel_repeats": 2}])
@pytest.mark.parametrize("decomposed", [True, False])
def test_ddnm_without_noise_meets_the_data(decomposed, travel):
    y, operator, prior = decomposed_problem() if decomposed else plain_problem()
    operator.noise_model.sigma = torch.zeros(())
    samples = DDNM(steps=12, **travel)(y, operator, prior, num_samples=3, seed=0).samples[:, 0]
    torch.testing.assert_close(operator.A(samples), y.expand(3, -1), rtol=0, atol=2e-5)


def test_time_travel_walks_each_stretch_again():
    y, operator, prior = decomposed_problem()
    problem = Problem.create(y, operator, prior)
    base = DDNM(steps=5).times(problem)
    a, b, c, d, e, clean = base
    found = DDNM(steps=5, travel_length=3, travel_repeats=2).times(problem)
    assert found == [a, b, c, d, e, b, c, d, e, clean]
    found = DDNM(steps=5, travel_length=2, travel_repeats=2).times(problem)
    assert found == [a, b, c, a, b, c, d, e, c, d, e, clean]
    assert DDNM(steps=5, travel_length=4).times(problem) == base
    solver = DDNM(steps=5, travel_length=2, travel_repeats=3)
    down = sum(s < t for t, s in pairwise(solver.times(problem)))
    assert solver(y, operator, prior, seed=0).nfe == down == 5 + 2 * 2 * 2


@pytest.mark.parametrize("name", PROCESSES)
def test_renoising_has_the_kernel_of_the_later_time(name):
    """Mean and variance given x_0 are alpha_t and sigma_t^2."""
    schedule = process(name)
    s, t = (float(schedule.time_at(ratio)) for ratio in (0.3, 2.0))
    level, one = levels(schedule, t, s), torch.ones((), dtype=torch.float64)
    mean = renoise(level.alpha_s * one, 0 * one, level)
    spread = torch.hypot(
        renoise(level.sigma_s * one, 0 * one, level), renoise(0 * one, one, level)
    )
    torch.testing.assert_close(mean, level.alpha_t)
    torch.testing.assert_close(spread, level.sigma_t)


@pytest.mark.parametrize("name", PROCESSES)
def test_ddrm_follows_its_three_rules(name):
    """Against the paper's equations in plain arithmetic, on a diagonal operator."""
    eta, eta_b, noise = 0.6, 0.8, 0.1
    s_i = torch.tensor([0.0, 0.05, 0.25, 1.0], dtype=torch.float64)
    operator = MatrixOperator(torch.diag(s_i), (1, 2, 2), noise)
    prior = GaussianPrior(0.3, 0.5, process(name))
    t, s = (float(prior.schedule.time_at(ratio)) for ratio in (1.5, 1.0))
    y, x, z = randn(1, 4), randn(1, 1, 2, 2, seed=1), randn(1, 1, 2, 2, seed=2)
    problem, alpha_t = Problem.create(y, operator, prior), prior.schedule(t)[0]
    solver = DDRM(eta=eta, eta_b=eta_b)
    state = solver.step(State(alpha_t * x, x), t, s, problem, RecordedNoise([z]))
    found = (state.x / prior.schedule(s)[0]).flatten()
    x0 = prior.denoise(alpha_t * x, t).flatten()
    for i, scale in enumerate(s_i.tolist()):
        mean, fresh = x0[i], z.flatten()[i]
        if scale == 0:
            eps = (x.flatten()[i] - mean) / 1.5
            expected = mean + math.sqrt(1 - eta**2) * eps + eta * fresh
        elif noise / scale > 1:
            pull = (y[0, i] / scale - mean) / (noise / scale)
            expected = mean + math.sqrt(1 - eta**2) * pull + eta * fresh
        else:
            left = math.sqrt(1 - (eta_b * noise / scale) ** 2)
            expected = (1 - eta_b) * mean + eta_b * y[0, i] / scale + left * fresh
        torch.testing.assert_close(found[i], expected)


def test_ddrm_denoises_from_the_measurement_on():
    """Down to the level of its noise y is all there is; then the prior acts, and matters."""
    operator, states = Denoising((1, 4, 4), 0.3, complex_image=True), []
    y = randn(1, 1, 4, 4, dtype=torch.complex128)
    for spread in (0.5, 2.0):
        prior, seen = GaussianPrior(0.0, spread, process("ve"), is_complex=True), []
        solver = DDRM(steps=20, spacing="karras")
        solver(y, operator, prior, seed=0, callback=lambda i, state, seen=seen: seen.append(state))
        states.append(seen)
    times = solver.times(Problem.create(y, operator, prior))[1:]
    for s, one, other in zip(times, *states, strict=True):
        gap = (one.x - other.x).abs().max()
        assert gap < 1e-12 if s >= 0.3 else gap > 1e-3


def test_ddrm_starts_where_the_measurement_is_better_than_noise():
    y, operator, prior = decomposed_problem("ve")
    solver = DDRM(spacing="karras")
    problem = Problem.create(y, operator, prior).repeated(4000)
    noise = ItemNoise(0, [(n,) for n in range(4000)])
    coordinates = operator.V_adjoint(solver.init(problem, noise).x)
    top, s_i = prior.schedule.T, operator.singular_values
    expected = (top**2 - (0.1 / s_i) ** 2).sqrt()
    torch.testing.assert_close(coordinates.std(0), expected, rtol=0.05, atol=0)
    measured = operator.U_adjoint(problem.y)[0] / s_i
    assert ((coordinates.mean(0) - measured).abs() < 4 * expected / 4000**0.5).all()


def test_ddrm_and_ddnm_take_noise_free_components_exactly():
    y, operator, prior = decomposed_problem(sigma=0.0)
    for solver in (DDRM(), DDNM(steps=10)):
        result = solver(y, operator, prior, num_samples=2, seed=0).samples[:, 0]
        torch.testing.assert_close(operator.A(result), y.expand(2, -1), rtol=0, atol=1e-9)


# --- nonlinear measurements -----------------------------------------------------------------


def test_the_gradient_step_is_the_best_along_the_gradient():
    """For a linear problem in disguise its objective is exact; compare with a fine search."""
    y, operator, prior = decomposed_problem()
    problem = Problem.create(y.expand(2, -1), operator, prior)
    x0, weight = randn(2, 1, 4, 4), torch.tensor([0.1, 3.0], dtype=torch.float64)
    found = gradient_step(x0, weight, problem)
    g = operator.A_adjoint(problem.y - operator.A(x0))
    for b in range(2):
        lengths = torch.linspace(0, 20, 20001, dtype=torch.float64)
        path = x0[b] + lengths.view(-1, 1, 1, 1) * g[b]
        misfit = (operator.A(path) - problem.y[b]).square().sum(1)
        objective = misfit + weight[b] * (path - x0[b]).flatten(1).square().sum(1)
        torch.testing.assert_close(found[b], path[objective.argmin()], rtol=0, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.0, 0.02])
def test_diffpir_solves_phase_retrieval_better_than_the_prior(sigma):
    operator = PhaseRetrieval((1, 8, 8), noise_sigma=sigma)
    x = 0.5 + 0.1 * randn(1, 1, 8, 8)
    y, prior = operator.measure(x), GaussianPrior(0.5, 0.01)
    result = DiffPIR(steps=40, lambda_=1.0)(y, operator, prior, num_samples=4, seed=0)
    start = (operator.A(torch.full_like(x, 0.5)) - y).norm()
    assert (operator.A(result.mean) - y).norm() < 0.65 * start


@pytest.mark.parametrize("name", LINEAR)
def test_linear_methods_refuse_nonlinear_operators(name):
    operator = PhaseRetrieval((1, 8, 8))
    with pytest.raises(
        errors.ArgumentError, match=f"not linear, accepted by {LINEAR[name].__name__}:"
    ):
        LINEAR[name]()(operator.A(randn(1, 1, 8, 8).abs()), operator, GaussianPrior(0.0, 1.0))


class Decoded(GaussianPrior):
    """A prior whose units are a nonlinear code of public values, as latents are."""

    is_affine = False

    def to_public(self, u):
        return u.tanh()

    def to_units(self, x):
        return x.atanh()


@pytest.mark.parametrize("name", LINEAR)
def test_linear_methods_refuse_latent_priors(name):
    operator = Denoising((1, 4, 4), 0.01)
    with pytest.raises(errors.ArgumentError, match="Decoded decodes its units"):
        LINEAR[name]()(randn(1, 1, 4, 4), operator, Decoded(0.0, 1.0))


def test_diffpir_takes_latent_priors():
    operator = Denoising((1, 4, 4), 0.01)
    y = operator.measure(randn(1, 1, 4, 4).tanh())
    result = DiffPIR(steps=30, lambda_=1.0)(y, operator, Decoded(0.0, 1.0), seed=0)
    assert (result.mean - y).norm() < 0.3 * y.norm()


def test_ddrm_names_operators_without_a_decomposition():
    operator = mri()
    y = operator.A(randn(1, 1, 5, 6, dtype=torch.complex128))
    prior = GaussianPrior(0.0, 1.0, is_complex=True)
    with pytest.raises(errors.ArgumentError, match="MultiCoilMRI has no singular value decompos"):
        DDRM()(y, operator, prior)


# --- samples --------------------------------------------------------------------------------


# Measured: (mean, covariance, spread); floors of 300 exact samples are .06, .17 and 1.
BANDS = {
    "pigdm": (PiGDM(steps=50, spacing="karras"), (0.181, 0.314, 0.683)),
    "pigdm, score": (PiGDM(steps=50, spacing="karras", guidance="score"), (0.277, 0.229, 0.817)),
    "mmps": (MMPS(steps=50, spacing="karras"), (0.060, 0.259, 0.764)),
    "ddnm": (DDNM(steps=50, spacing="karras"), (0.569, 0.494, 0.509)),
    "ddrm": (DDRM(steps=20, spacing="karras"), (0.340, 0.486, 0.509)),
    "diffpir": (DiffPIR(steps=50, spacing="karras"), (0.353, 0.305, 1.035)),
    "diffpir, 1": (DiffPIR(steps=50, spacing="karras", lambda_=1.0), (0.369, 0.226, 0.815)),
}


@pytest.mark.parametrize("name", BANDS)
def test_errors_stay_where_they_were_measured(name):
    """In both directions: a sampler that got better asks for a new record."""
    solver, recorded = BANDS[name]
    found = gaussian_errors(solver, problems=2, num_samples=300)
    for value, expected in zip(
        (found.mean, found.covariance, found.spread), recorded, strict=True
    ):
        assert value == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.sampled
def test_mmps_converges_to_the_posterior(eta):
    found = gaussian_errors(
        MMPS(steps=160, spacing="karras", cg_steps=8, eta=eta), problems=1, num_samples=300
    )
    assert found.mean < 0.1
    assert found.covariance < 0.2
    assert abs(found.spread - 1) < 0.07


@pytest.mark.parametrize("name", FORMS)
def test_vp_ve_and_flow_forms_give_the_same_samples(name):
    solver, results = FORMS[name](steps=12, spacing="karras"), []
    for form in PROCESSES:
        y, operator, prior = decomposed_problem(form, seed=3)
        results.append(solver(y, operator, prior, num_samples=4, seed=5).samples)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["mmps", "pigdm", "ddnm", "diffpir"])
def test_vp_ve_and_flow_agree_without_a_decomposition(name):
    solver, results = ALL[name](steps=12, spacing="karras"), []
    for form in PROCESSES:
        y, operator, prior = plain_problem(form, seed=3)
        results.append(solver(y, operator, prior, num_samples=4, seed=5).samples)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("make", [blur, mri])
def test_results_follow_the_dtype_of_the_measurement(name, make):
    if name == "ddrm" and make is mri:
        pytest.skip("no decomposition")
    operator, found = make(), []
    prior = GaussianPrior(0.1, 0.2, is_complex=operator.complex_image)
    y = operator.A(randn(1, 1, 5, 6, dtype=torch.complex128 if make is mri else torch.float64))
    for dtype in (torch.complex64, torch.complex128) if make is mri else (torch.float32, y.dtype):
        found.append(ALL[name](steps=8)(y.to(dtype), operator, prior, seed=0).samples)
        assert found[-1].dtype == dtype
    assert (found[0] - found[1]).norm() < 1e-3 * found[1].norm()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("make", [blur, padded_blur])
def test_each_item_has_its_own_noise_level(name, make):
    if name == "ddrm" and make is padded_blur:
        pytest.skip("no decomposition")
    sigmas, prior = torch.tensor([0.0, 0.02, 0.5]), GaussianPrior(0.0, 0.2)
    y, solver = make().A(randn(3, 1, 5, 6)), ALL[name](steps=6)
    # Convolutions of a batch may round differently, and CG to 1e-6 then stop a step apart.
    atol = 1e-5 if make is padded_blur else 1e-8
    batch = solver(y, make(sigmas), prior, seed=1).samples
    for b in range(3):
        alone = solver(y[b : b + 1], make(sigmas[b]), prior, noise=ItemNoise(1, [(0, b)]))
        torch.testing.assert_close(alone.samples[0], batch[0, b : b + 1], rtol=0, atol=atol)


@pytest.mark.parametrize("name", ALL)
def test_noise_levels_that_fit_no_item_are_named(name):
    operator = Denoising((1, 5, 6), torch.tensor([0.1, 0.2]))
    with pytest.raises(errors.ShapeError, match=r"2 noise levels, accepted: 1, or .* 3 items"):
        ALL[name](steps=2)(randn(3, 1, 5, 6), operator, GaussianPrior(0.0, 1.0))


def test_settings_out_of_range_are_named():
    for solver, setting in (
        (PiGDM, {"eta": -0.1}),
        (PiGDM, {"guidance": "scores"}),
        (MMPS, {"eta": 1.1}),
        (MMPS, {"cg_steps": 0}),
        (DDNM, {"eta": 2.0}),
        (DDNM, {"travel_length": 0}),
        (DDNM, {"travel_repeats": 0}),
        (DDNM, {"travel_length": 100, "travel_repeats": 2}),
        (DDRM, {"eta": 1.5}),
        (DDRM, {"eta_b": -1.0}),
        (DiffPIR, {"lambda_": 0.0}),
        (DiffPIR, {"lambda_": math.inf}),
        (DiffPIR, {"zeta": 1.5}),
    ):
        name = next(iter(setting))
        with pytest.raises(errors.ArgumentError, match=f"{name}: (got|unknown)"):
            solver(**setting)


def test_solvers_are_values():
    for kind in ALL.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            kind().steps = 3


def test_ddnm_takes_nothing_from_noisy_data_without_fresh_noise():
    y, operator, prior = decomposed_problem()
    with pytest.raises(errors.ArgumentError, match="eta: got 0, accepted: a positive number"):
        DDNM(eta=0)(y, operator, prior)
    y, operator, prior = decomposed_problem(sigma=0.0)
    assert DDNM(eta=0, steps=5)(y, operator, prior).nfe == 5


def test_steps_that_do_not_suffice_for_a_small_noise_are_told_of():
    class Graded(LinearOperator):
        spread = torch.logspace(0, -6, 400, dtype=torch.float64).reshape(1, 20, 20)

        def forward_map(self, x):
            return self.spread * x

        def adjoint_map(self, y):
            return self.spread * y

    operator = Graded((1, 20, 20), (1, 20, 20), 1e-7)
    problem = Problem.create(randn(1, 1, 20, 20), operator, GaussianPrior(0.0, 1.0))
    with pytest.warns(UserWarning, match="CG did not converge"):
        proximal(problem, problem.zeros(), problem.noise_sigma**2)


def test_the_gradient_step_needs_no_forward_mode_derivative():
    """Fused attention, as in decoders, has none."""

    class Attending(nn.Module):
        def A(self, x):
            tokens = x.flatten(2)
            found = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return x + found.reshape(x.shape)

    problem = Problem.create(randn(1, 1, 4, 4).float(), identity(), GaussianPrior(0.0, 1.0))
    problem = dataclasses.replace(problem, operator=Attending(), is_linear=False)
    x0, weight = problem.zeros() + 0.1, torch.ones(1)

    def objective(x):
        return float((problem.A(x) - problem.y).square().sum() + (x - x0).square().sum())

    assert objective(gradient_step(x0, weight, problem)) < objective(x0)
