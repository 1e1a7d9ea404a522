"""Exact priors against dense linear algebra, numerical integrals and their own samples."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, multivariate_normal, norm
from tests.helpers import close, normal

from wellposed import errors
from wellposed.operators import MatrixOperator
from wellposed.operators.check import dense_matrix
from wellposed.operators.mri.cartesian import MultiCoilMRI
from wellposed.priors import (
    VE,
    Diagonal,
    Flow,
    Full,
    GaussianMixturePrior,
    GaussianPrior,
    Stationary,
    Tabulated,
)

F64, C128 = torch.float64, torch.complex128
SHAPE, SIZE = (1, 3, 4), 12
TIMES = {"vp": (1, 37.5, 400, 1000), "ve": (0.01, 0.5, 80.0), "flow": (0.02, 0.6, 1.0)}
PROCESSES = {"vp": Tabulated.linear(), "ve": VE(), "flow": Flow()}
LEVELS = [(name, t) for name, times in TIMES.items() for t in times]


pytestmark = pytest.mark.usefixtures("single_thread")


def random_covariance(size, seed=0, dtype=F64):
    factor = normal(size, size, dtype=dtype, seed=seed)
    return factor @ factor.conj().T / size + 0.1 * torch.eye(size, dtype=dtype)


def dense(covariance, dtype=F64):
    return dense_matrix(lambda x: covariance @ x, SHAPE, dtype)


# Covariances


def correlated_spectrum(complex_image=False):
    """Power spectrum of a (1, 3, 4) field, symmetric under negation unless complex."""
    spectrum = normal(*SHAPE, seed=3).square() + 0.2
    if complex_image:
        return spectrum
    return (spectrum + spectrum.flip((1, 2)).roll((1, 1), (1, 2))) / 2


def circulant(spectrum):
    """``C[p, q] = c[p - q]``, with c the inverse Fourier transform of the spectrum."""
    kernel = torch.fft.ifft2(spectrum)[0]
    rows = [kernel.roll((i, j), (0, 1)).flatten() for i in range(3) for j in range(4)]
    return torch.stack(rows).T


def covariance_cases():
    variance = normal(*SHAPE, seed=1).square() + 0.1
    matrix, hermitian = random_covariance(SIZE), random_covariance(SIZE, dtype=C128)
    symmetric, any_sign = correlated_spectrum(), correlated_spectrum(complex_image=True)
    return {
        "number": (Diagonal(0.3), 0.3 * torch.eye(SIZE, dtype=F64), F64),
        "diagonal": (Diagonal(variance), torch.diag(variance.flatten()), F64),
        "full": (Full(matrix), matrix, F64),
        "stationary": (Stationary(symmetric), circulant(symmetric).real, F64),
        "complex diagonal": (Diagonal(variance), torch.diag(variance.flatten()).to(C128), C128),
        "complex full": (Full(hermitian), hermitian, C128),
        "complex stationary": (Stationary(any_sign), circulant(any_sign), C128),
    }


CASES = covariance_cases()


@pytest.fixture(params=CASES)
def case(request):
    """A covariance, its dense matrix and the dtype of its images."""
    return CASES[request.param]


@pytest.mark.parametrize(
    ("function", "of_values"),
    [(torch.sqrt, np.sqrt), (lambda c: c / (0.3 * c + 0.2), lambda c: c / (0.3 * c + 0.2))],
)
def test_spectral_functions_are_those_of_the_dense_matrix(case, function, of_values):
    covariance, matrix, dtype = case
    x = normal(2, *SHAPE, dtype=dtype)
    close((covariance @ x).flatten(1), x.flatten(1) @ matrix.T)
    values, vectors = np.linalg.eigh(matrix.numpy())
    expected = torch.from_numpy((vectors * of_values(values)) @ vectors.conj().T)
    close(covariance.spectral(x, function).flatten(1), x.flatten(1) @ expected.T)


@pytest.mark.parametrize("dtype", [F64, C128])
def test_covariances_agree_where_they_describe_the_same(dtype):
    variance = normal(*SHAPE, seed=1).square() + 0.1
    close(dense(Diagonal(variance), dtype), dense(Full(torch.diag(variance.flatten())), dtype))
    flat = Stationary(torch.full(SHAPE, 0.3, dtype=F64))
    close(dense(Diagonal(0.3), dtype), dense(flat, dtype))
    spectrum = correlated_spectrum()
    full = Full(circulant(spectrum).real)
    close(dense(Stationary(spectrum), dtype), dense(full, dtype))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Diagonal(0.0), "variance: got .* positive"),
        (lambda: Diagonal(torch.tensor([1.0, -1.0])), "variance"),
        (lambda: Full(torch.ones(2, 3)), r"\(2, 3\), accepted: \(n, n\)"),
        (lambda: Full(torch.diag(torch.tensor([1.0, -1.0]))), "positive definite"),
        (lambda: Stationary(torch.zeros(2, 2)), "spectrum"),
    ],
)
def test_covariances_must_be_positive(make, message):
    with pytest.raises(errors.ArgumentError, match=message):
        make()


# Gaussian prior


def gaussian(case, process="vp"):
    covariance, matrix, dtype = case
    mean = normal(1, *SHAPE, dtype=dtype, seed=5)
    prior = GaussianPrior(mean, covariance, PROCESSES[process], is_complex=dtype == C128)
    return prior, mean, matrix, dtype


@pytest.mark.parametrize(("process", "t"), LEVELS)
def test_denoise_is_the_closed_form(case, process, t):
    prior, mean, C, dtype = gaussian(case, process)
    alpha, sigma = (float(v) for v in prior.schedule(t))
    x_t = alpha * mean + normal(3, *SHAPE, dtype=dtype, seed=6) * (alpha + sigma)
    gap = (x_t - alpha * mean).flatten(1).T
    noisy = alpha**2 * C + sigma**2 * torch.eye(SIZE, dtype=dtype)
    expected = mean.flatten(1) + (alpha * C @ torch.linalg.solve(noisy, gap)).T
    close(prior.denoise(x_t, t).flatten(1), expected)


def test_denoise_takes_one_time_per_item(case):
    prior, _, _, dtype = gaussian(case)
    x_t, times = normal(3, *SHAPE, dtype=dtype), torch.tensor([1.0, 250.5, 1000.0])
    each = [prior.denoise(x_t[i : i + 1], float(t)) for i, t in enumerate(times)]
    close(prior.denoise(x_t, times), torch.cat(each))


def test_denoise_at_the_ends(case):
    prior, mean, _, dtype = gaussian(case, "flow")
    x_t = normal(2, *SHAPE, dtype=dtype)
    close(prior.denoise(x_t, 0.0), x_t)
    close(prior.denoise(x_t, 1.0), mean.expand(2, *SHAPE))


def test_denoise_keeps_the_dtype_of_the_image(case):
    prior, _, _, dtype = gaussian(case)
    single = torch.complex64 if dtype == C128 else torch.float32
    x_t = normal(2, *SHAPE, dtype=dtype)
    out = prior.denoise(x_t.to(single), 300)
    assert out.dtype == single
    close(out.to(dtype), prior.denoise(x_t, 300), 1e-5)


@pytest.mark.parametrize(("process", "t"), LEVELS)
def test_score_is_the_gradient_of_the_log_density(case, process, t):
    prior, mean, C, dtype = gaussian(case, process)
    alpha, sigma = (float(v) for v in prior.schedule(t))
    precision = torch.linalg.inv(alpha**2 * C + sigma**2 * torch.eye(SIZE, dtype=dtype))
    x_t = (alpha * mean + normal(2, *SHAPE, dtype=dtype)).requires_grad_()
    gap = (x_t - alpha * mean).flatten(1)
    log_density = -0.5 * torch.einsum("bi,ij,bj->", gap.conj(), precision, gap).real
    (gradient,) = torch.autograd.grad(log_density, x_t)
    # Tweedie divides a difference of sigma^2 by sigma^2.
    close(prior.score(x_t.detach(), t), gradient, 1e-10 / min(1, sigma) ** 2)


def chi_square(samples, mean, C):
    """How far the mean of samples (N, n) is from the truth, as a probability."""
    gap = samples.mean(0) - mean
    distance = len(samples) * float(gap @ torch.linalg.solve(C, gap))
    return chi2.sf(distance, len(C))


def assert_sampled_from(samples, mean, C):
    """Mean and covariance are right within Monte-Carlo error (six standard errors)."""
    assert chi_square(samples, mean, C) > 1e-6
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(C), (samples - mean).T, upper=False
    )
    error = white @ white.T / len(samples) - torch.eye(len(C), dtype=F64)
    assert float(error.abs().max()) < 6 * (2 / len(samples)) ** 0.5


def embed(matrix):
    """The real matrix that a complex one is on (real, imaginary) parts."""
    return torch.cat(
        [torch.cat([matrix.real, -matrix.imag], 1), torch.cat([matrix.imag, matrix.real], 1)]
    )


def parts(x):
    x = x.flatten(1)
    return torch.cat([x.real, x.imag], 1) if x.is_complex() else x


def test_draws_have_the_priors_mean_and_covariance(case):
    prior, mean, C, dtype = gaussian(case)
    samples = prior.draw(normal(4000, *SHAPE, dtype=dtype, seed=9))
    matrix = embed(C) if dtype == C128 else C
    assert_sampled_from(parts(samples), parts(mean)[0], matrix)


# Gaussian posterior


def condition(y, A, mean, C, sigma):
    """Textbook conditioning, in covariance form for the mean and information form for C."""
    S = A @ C @ A.T + sigma**2 * torch.eye(len(A), dtype=F64)
    posterior_mean = mean + (C @ A.T @ torch.linalg.solve(S, (y - mean @ A.T).T)).T
    return posterior_mean, torch.linalg.inv(torch.linalg.inv(C) + A.T @ A / sigma**2)


@pytest.mark.parametrize("measured", [1, 5, 20])
@pytest.mark.parametrize("name", ["diagonal", "full", "stationary"])
def test_posterior_is_that_of_dense_linear_algebra(name, measured):
    prior, mean, C, _ = gaussian(CASES[name])
    A, sigma = normal(measured, SIZE, seed=11), 0.2
    operator = MatrixOperator(A, SHAPE, sigma)
    y = normal(3, measured, seed=12)
    posterior = prior.posterior(y, operator, sigma)
    expected_mean, expected_covariance = condition(y, A, mean.flatten(1), C, sigma)
    close(posterior.mean.flatten(1), expected_mean, 1e-8)
    close(posterior.covariance(), expected_covariance, 1e-8)
    close(prior.posterior(y, operator).mean, posterior.mean, 1e-6)  # the operator's own, float32


@pytest.mark.slow
def test_posterior_of_complex_multi_coil_mri():
    """On 4 x 4 images, against the conditioning of their real and imaginary parts."""
    spectrum = 1 / (1 + 3 * normal(1, 4, 4, seed=2).square())
    mean = normal(1, 1, 4, 4, dtype=C128, seed=5)
    prior = GaussianPrior(mean, Stationary(spectrum), is_complex=True)
    mask = torch.tensor([1, 0, 1, 1])
    operator = MultiCoilMRI(mask, normal(3, 4, 4, dtype=C128, seed=6), 0.1)
    A = embed(dense_matrix(operator.A, operator.img_size, C128))
    C = embed(dense_matrix(lambda x: prior.covariance @ x, (1, 4, 4), C128))
    y = operator.restrict(normal(2, 3, 4, 4, dtype=C128, seed=7))
    posterior = prior.posterior(y, operator, 0.1)
    expected_mean, expected_covariance = condition(parts(y), A, parts(mean), C, 0.1)
    close(parts(posterior.mean), expected_mean, 1e-8)
    close(embed(posterior.covariance()), expected_covariance, 1e-8)
    samples = prior.posterior(y[:1].expand(3000, -1, -1, -1), operator, 0.1).sample(1)[0]
    assert_sampled_from(parts(samples), expected_mean[0], expected_covariance)


def test_posterior_samples_are_exact():
    prior, mean, C, _ = gaussian(CASES["full"])
    A = normal(5, SIZE, seed=11)
    operator, y = MatrixOperator(A, SHAPE, 0.2), normal(1, 5, seed=12)
    samples = prior.posterior(y.expand(4000, -1), operator, 0.2).sample(1, seed=3)[0].flatten(1)
    expected_mean, covariance = condition(y, A, mean.flatten(1), C, 0.2)
    assert_sampled_from(samples, expected_mean[0], covariance)


def test_posterior_samples_depend_on_seed_and_item_only():
    prior, _, _, _ = gaussian(CASES["full"])
    operator, y = MatrixOperator(normal(5, SIZE), SHAPE, 0.2), normal(3, 5, seed=12)
    samples = prior.posterior(y, operator).sample(2, seed=3)
    assert samples.shape == (2, 3, *SHAPE)
    assert torch.equal(samples, prior.posterior(y, operator).sample(2, seed=3))
    close(samples[:, :1], prior.posterior(y[:1], operator).sample(2, seed=3))
    assert not torch.allclose(samples, prior.posterior(y, operator).sample(2, seed=4))
    assert not torch.allclose(samples[0], samples[1])


def mixture_prior(shape=SHAPE, components=3, schedule=None):
    size = int(np.prod(shape))
    covariances = torch.stack([random_covariance(size, seed=20 + k) for k in range(components)])
    means = 1.5 * normal(components, *shape, seed=21)
    weights = torch.arange(1, components + 1, dtype=F64)
    return GaussianMixturePrior(weights, means, covariances, schedule)


@pytest.mark.parametrize("prior", [gaussian(CASES["full"])[0], mixture_prior()])
def test_posterior_needs_one_positive_noise_level(prior):
    A, y = normal(5, SIZE), normal(2, 5)
    for sigma in (0.0, -1.0):
        with pytest.raises(errors.ArgumentError, match="sigma: got"):
            prior.posterior(y, MatrixOperator(A, SHAPE, 0.1), sigma)
    for level in (0.0, torch.tensor([0.1, 0.2])):
        with pytest.raises(errors.ArgumentError, match="accepted: one positive noise level"):
            prior.posterior(y, MatrixOperator(A, SHAPE, level))


# Gaussian mixtures


@pytest.mark.parametrize(("process", "t"), LEVELS)
def test_one_component_is_the_gaussian(process, t):
    gauss, mean, C, _ = gaussian(CASES["full"], process)
    mixture = GaussianMixturePrior(torch.ones(1), mean, C[None], gauss.schedule)
    x_t = normal(2, *SHAPE)
    close(mixture.denoise(x_t, t), gauss.denoise(x_t, t))


def test_one_components_posterior_is_the_gaussians():
    gauss, mean, C, _ = gaussian(CASES["full"])
    mixture = GaussianMixturePrior(torch.ones(1), mean, C[None])
    operator, y = MatrixOperator(normal(5, SIZE), SHAPE, 0.2), normal(2, 5, seed=12)
    ours, theirs = mixture.posterior(y, operator, 0.2), gauss.posterior(y, operator, 0.2)
    close(ours.mean, theirs.mean, 1e-8)
    close(ours.covariances[0], theirs.covariance(), 1e-8)


def test_equal_variances_may_be_given_as_numbers():
    means, x_t = normal(2, *SHAPE), normal(2, *SHAPE, seed=1)
    short = GaussianMixturePrior(torch.ones(2), means, torch.tensor([0.3, 0.7], dtype=F64))
    eye = torch.eye(SIZE, dtype=F64)
    full = GaussianMixturePrior(torch.ones(2), means, torch.stack([0.3 * eye, 0.7 * eye]))
    close(short.denoise(x_t, 200), full.denoise(x_t, 200))


def line_mixture(schedule=None):
    """Three components on the line, and their densities on a fine grid."""
    weights, means, variances = (0.2, 0.5, 0.3), (-1.2, 0.1, 0.9), (0.04, 0.3, 0.01)
    grid = np.linspace(-8, 8, 400_001)
    densities = np.stack(
        [w * norm.pdf(grid, m, v**0.5) for w, m, v in zip(weights, means, variances, strict=True)]
    )
    weights, means, variances = (torch.tensor(v, dtype=F64) for v in (weights, means, variances))
    prior = GaussianMixturePrior(weights, means.view(3, 1, 1, 1), variances, schedule)
    return prior, grid, densities


@pytest.mark.parametrize(("process", "t"), [("vp", 100), ("vp", 700), ("ve", 0.4), ("flow", 0.6)])
def test_denoise_of_a_mixture_is_the_integral(process, t):
    prior, grid, densities = line_mixture(PROCESSES[process])
    alpha, sigma = (float(v) for v in prior.schedule(t))
    values = np.array([-1.0, 0.05, 0.8, 2.0])
    likelihood = norm.pdf(values[:, None], alpha * grid, sigma)
    joint = likelihood * densities.sum(0)
    expected = torch.from_numpy((joint * grid).sum(1) / joint.sum(1))
    x_t = torch.from_numpy(values).view(-1, 1, 1, 1)
    close(prior.denoise(x_t, t).flatten(), expected, 1e-7)


def test_posterior_of_a_mixture_is_the_integral():
    prior, grid, densities = line_mixture()
    factor, sigma, values = 0.7, 0.3, np.array([-0.9, 0.0, 0.5])
    operator = MatrixOperator(torch.tensor([[factor]], dtype=F64), (1, 1, 1), sigma)
    posterior = prior.posterior(torch.from_numpy(values)[:, None], operator, sigma)
    for b, value in enumerate(values):
        joint = densities * norm.pdf(value, factor * grid, sigma)
        mass = joint.sum(1)
        expected = torch.from_numpy(mass / mass.sum())
        close(posterior.weights[b], expected, 1e-7)
        means = (joint * grid).sum(1) / mass
        close(posterior.means[b, :, 0], torch.from_numpy(means), 1e-7)
        spread = (joint * (grid - means[:, None]) ** 2).sum(1) / mass
        close(posterior.covariances[:, 0, 0], torch.from_numpy(spread), 1e-7)
        mean = (joint.sum(0) * grid).sum() / joint.sum()
        assert float(posterior.mean[b]) == pytest.approx(mean, abs=1e-7)


@pytest.mark.parametrize("measured", [2, 15])
def test_posterior_weights_are_the_marginal_likelihoods(measured):
    prior = mixture_prior()
    A, sigma, y = normal(measured, SIZE, seed=1), 0.5, 2 * normal(4, measured, seed=2)
    posterior = prior.posterior(y, MatrixOperator(A, SHAPE, sigma), sigma)
    logs = np.stack(
        [
            np.log(float(w))
            + multivariate_normal.logpdf(
                y.numpy(),
                (A @ m).numpy(),
                (A @ C @ A.T).numpy() + sigma**2 * np.eye(measured),
            )
            for w, m, C in zip(prior.weights, prior.means, prior.covariances, strict=True)
        ],
        1,
    )
    expected = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
    close(posterior.weights, torch.from_numpy(expected), 1e-9)
    for k in range(3):
        mean, C = condition(y, A, prior.means[k : k + 1], prior.covariances[k], sigma)
        close(posterior.means[:, k], mean, 1e-9)
        close(posterior.covariances[k], C, 1e-9)


@pytest.mark.parametrize(("process", "t"), LEVELS)
def test_mixture_score_is_the_gradient_of_the_log_density(process, t):
    prior = mixture_prior(schedule=PROCESSES[process])
    alpha, sigma = (float(v) for v in prior.schedule(t))
    noise = sigma**2 * torch.eye(SIZE, dtype=F64)
    components = torch.distributions.MultivariateNormal(
        alpha * prior.means, alpha**2 * prior.covariances + noise
    )
    x_t = (alpha * normal(4, *SHAPE, seed=4)).requires_grad_()
    logs = components.log_prob(x_t.flatten(1)[:, None]) + prior.weights.log()
    (gradient,) = torch.autograd.grad(torch.logsumexp(logs, 1).sum(), x_t)
    close(prior.score(x_t.detach(), t), gradient, 1e-10 / min(1, sigma) ** 2)


def test_mixture_denoise_takes_one_time_per_item():
    prior, x_t = mixture_prior(), normal(3, *SHAPE)
    times = torch.tensor([1.0, 250.5, 1000.0])
    each = [prior.denoise(x_t[i : i + 1], float(t)) for i, t in enumerate(times)]
    close(prior.denoise(x_t, times), torch.cat(each))


def test_mixture_samples_are_exact():
    prior = mixture_prior((1, 1, 2))
    A, y = torch.tensor([[0.6, -0.4]], dtype=F64), torch.tensor([[0.3], [-1.0]], dtype=F64)
    posterior = prior.posterior(y, MatrixOperator(A, (1, 1, 2), 0.7), 0.7)
    assert float(posterior.weights.max()) < 0.9  # several components matter
    samples = posterior.sample(6000, seed=1).flatten(2)
    for b in range(2):
        w, means = posterior.weights[b], posterior.means[b]
        mean = w @ means
        spread = posterior.covariances + torch.einsum("ki,kj->kij", means - mean, means - mean)
        assert_sampled_from(samples[:, b], mean, torch.einsum("k,kij->ij", w, spread))
        close(posterior.mean[b].flatten(), mean)


def test_mixture_samples_depend_on_seed_and_item_only():
    prior, operator = mixture_prior(), MatrixOperator(normal(5, SIZE), SHAPE, 0.2)
    y = normal(3, 5, seed=12)
    samples = prior.posterior(y, operator).sample(4, seed=3)
    assert samples.shape == (4, 3, *SHAPE)
    close(samples[:, :1], prior.posterior(y[:1], operator).sample(4, seed=3))
    assert not torch.allclose(samples, prior.posterior(y, operator).sample(4, seed=4))


@pytest.mark.parametrize(
    ("weights", "covariances", "message"),
    [
        ([1.0, 0.0], torch.ones(2), "weights: .* positive"),
        ([1.0, 1.0], torch.ones(3), r"accepted: \(2,\) or \(2, 12, 12\) for 2 weights"),
        ([1.0, 1.0, 1.0], torch.ones(3), "3 weights"),
        ([1.0, 1.0], torch.ones(2, 4, 4), r"\(2, 4, 4\)"),
        ([1.0, 1.0], torch.tensor([1.0, -1.0]), "positive definite"),
    ],
)
def test_mixtures_must_fit_together(weights, covariances, message):
    with pytest.raises(errors.ArgumentError, match=message):
        GaussianMixturePrior(torch.tensor(weights), normal(2, *SHAPE), covariances)
