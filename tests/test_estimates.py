"""Point estimates: against closed forms, independent solvers and the discrepancy principle."""

from itertools import product

import deepinv
import pytest
import torch

from wellposed import errors
from wellposed.operators import (
    Blur,
    Denoising,
    FanBeamCT,
    Inpainting,
    MultiCoilMRI,
    NonlinearOperator,
    ParallelBeamCT,
    Stacked,
    SuperResolution,
    Whitened,
    fastmri_lines,
    simulate_sensitivity_maps,
    uniform_kernel,
)
from wellposed.parallel.part import Part
from wellposed.priors import Flat, GaussianPrior
from wellposed.solvers import (
    FBP,
    HQS,
    BackProjection,
    NoiseMAP,
    PnPADMM,
    Problem,
    Tikhonov,
    TotalVariation,
    Wavelet,
    recommend,
)
from wellposed.solvers.data import squared_norm
from wellposed.solvers.estimates.plug_and_play import between_slices
from wellposed.solvers.estimates.wavelet import FILTERS

ESTIMATES = {
    "hqs": HQS(steps=5),
    "pnp-admm": PnPADMM(steps=5),
    "noise-map": NoiseMAP(steps=5, levels=3),
    "tv": TotalVariation(steps=20),
    "wavelet": Wavelet(steps=20, levels=2),
    "tikhonov": Tikhonov(),
    "back-projection": BackProjection(),
}


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def blocks():
    x = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    x[..., 5:14, 6:20], x[..., 12:20, 3:9] = 1, 0.5
    return x


def mri(noise_sigma, dtype=torch.complex128):
    mask = fastmri_lines("random", 24, 2, 0.1, seed=0)
    maps = simulate_sensitivity_maps(3, 24, 24, seed=0).to(dtype)
    return MultiCoilMRI(mask, maps, noise_sigma)


@pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)
def test_an_item_is_the_same_alone_and_in_a_batch(estimate):
    sigmas = torch.tensor([0.05, 0.2, 0.4], dtype=torch.float64)
    mask = (random(1, 9, 8, seed=1) > -0.5).double()
    y = Inpainting(mask, noise_sigma=0.1).measure(random(3, 1, 9, 8), seed=0)
    prior = GaussianPrior(0.0, 0.5)
    batch = estimate(y, Inpainting(mask, noise_sigma=sigmas), prior)
    for b in range(3):
        alone = estimate(y[b : b + 1], Inpainting(mask, noise_sigma=sigmas[b]), prior)
        torch.testing.assert_close(alone.mean[0], batch.mean[b], rtol=0, atol=1e-9)


@pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)
def test_nothing_is_drawn(estimate):
    y, operator = random(1, 1, 8, 8), Denoising((1, 8, 8), 0.1)
    state = torch.get_rng_state()
    result = estimate(y, operator, GaussianPrior(0.0, 0.5), seed=3)
    assert torch.equal(result.samples, estimate(y, operator, GaussianPrior(0.0, 0.5)).samples)
    assert torch.equal(torch.get_rng_state(), state)
    assert result.seed is None
    with pytest.raises(errors.ArgumentError, match="num_samples: got 2, accepted: 1"):
        estimate(y, operator, GaussianPrior(0.0, 0.5), num_samples=2)


@pytest.mark.parametrize(("kind", "tolerance"), [("closed form", 1e-6), ("mri", 2e-3)])
@pytest.mark.sampled
def test_admm_at_one_level_finds_the_mode(kind, tolerance):
    """With a Gaussian prior the denoiser is a proximal map, and the mode the posterior mean."""
    complex_ = kind == "mri"
    operator = mri(0.3) if complex_ else SuperResolution((1, 24, 24), 2, noise_sigma=0.3)
    prior = GaussianPrior(0.2, 0.5, is_complex=complex_)
    x = random(2, 1, 24, 24, dtype=torch.complex128 if complex_ else torch.float64)
    y = operator.measure(x, seed=0)
    found = PnPADMM(steps=300, start=0.3, lambda_=1)(y, operator, prior).mean
    wanted = prior.posterior(y, operator).mean
    assert (found - wanted).norm() < tolerance * wanted.norm()


def test_hqs_is_its_recursion():
    """On pixels by themselves both steps are weighted means."""
    steps, start, sigma, mean, std = 6, 0.5, 0.1, 0.3, 0.4
    y = random(1, 1, 4, 4)
    x = torch.zeros_like(y)
    for k in range(steps):
        s = start * (sigma / start) ** (k / (steps - 1))
        z = (y / sigma**2 + 2 * x / s**2) / (1 / sigma**2 + 2 / s**2)
        x = (z / s**2 + mean / std**2) / (1 / s**2 + 1 / std**2)
    solver = HQS(steps=steps, start=start, lambda_=2.0)
    found = solver(y, Denoising((1, 4, 4), sigma), GaussianPrior(mean, std**2))
    torch.testing.assert_close(found.mean, x, rtol=0, atol=1e-6)
    assert found.nfe == steps


@pytest.mark.parametrize("kind", ["mri", "ct"])
@pytest.mark.sampled
def test_total_variation_is_least_among_the_images_that_fit(kind):
    truth = blocks()
    if kind == "mri":
        operator, truth = mri(0.05), truth * (1 + 0.5j)
    else:
        operator = ParallelBeamCT(24, 16, noise_sigma=0.3)
    y = operator.measure(truth, seed=0)
    result = TotalVariation(steps=200)(y, operator)
    assert float(result.residual) == pytest.approx(1, abs=0.02)
    solvers = [BackProjection(), Tikhonov()]
    others = [float((s(y, operator).mean - truth).norm()) for s in solvers]
    assert float((result.mean - truth).norm()) < 0.5 * min(others)
    assert variation(result.mean) < 1.05 * variation(truth)


def variation(x):
    down, across = x.diff(dim=-2)[..., :, :-1], x.diff(dim=-1)[..., :-1, :]
    return float((down.abs().square() + across.abs().square()).sqrt().sum())


@pytest.mark.slow
def test_total_variation_with_a_weight_is_that_of_deepinv():
    y = blocks() + 0.1 * random(1, 1, 24, 24)
    found = TotalVariation(steps=400, weight=0.2)(y, Denoising((1, 24, 24))).mean
    wanted = deepinv.models.TVDenoiser(n_it_max=3000, crit=1e-10)(y, ths=0.2)
    assert (found - wanted).abs().max() < 2e-3


@pytest.mark.slow
def test_total_variation_of_volumes_couples_slices():
    volume = blocks()[:, :, None].expand(-1, -1, 4, -1, -1).contiguous()
    operator = Denoising((1, 4, 24, 24), 0.2)
    y = operator.measure(volume, seed=0)
    whole = TotalVariation(steps=100)(y, operator).mean
    single = Denoising((1, 24, 24), 0.2)
    slices = [TotalVariation(steps=100)(y[:, :, k], single).mean for k in range(4)]
    apart = torch.stack(slices, 2)
    assert (whole - volume).norm() < 0.9 * (apart - volume).norm()


def denoising(*shape, dtype=torch.float64):
    """Return the problem of denoising zeros, for the methods of `Wavelet`."""
    operator = Denoising(shape, 0.1, complex_image=dtype.is_complex)
    return Problem.create(torch.zeros(1, *shape, dtype=dtype), operator, Flat())


@pytest.mark.parametrize("wavelet", FILTERS)
@pytest.mark.parametrize("shape", [(2, 9, 16), (1, 8, 11, 9)], ids=["images", "volumes"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
def test_wavelets_are_a_parseval_frame(wavelet, shape, dtype):
    solver, problem = Wavelet(wavelet=wavelet), denoising(*shape, dtype=dtype)
    x = random(2, *shape, dtype=dtype)
    d = solver.coefficients(x, problem)
    assert d.dtype == dtype
    torch.testing.assert_close(solver.adjoint(d, problem), x, rtol=0, atol=1e-10)
    other = random(*d.shape, seed=1, dtype=dtype)
    left = torch.linalg.vecdot(d.flatten(), other.flatten())
    right = torch.linalg.vecdot(x.flatten(), solver.adjoint(other, problem).flatten())
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize(("wavelet", "moments"), [("haar", 1), ("db2", 2), ("db4", 4)])
def test_details_of_polynomials_vanish(wavelet, moments):
    line = torch.linspace(-1, 1, 64, dtype=torch.float64)
    for degree in (moments - 1, moments):
        x = (line**degree).expand(1, 1, 64, 64).contiguous()
        d = Wavelet(wavelet=wavelet, levels=1).coefficients(x, denoising(1, 64, 64))
        inside = d[:, :-1, ..., 10:-10].abs().max()  # away from the ends, which meet
        assert (float(inside) < 1e-9) == (degree < moments)


def haar_norm(x, levels):
    """Return the sum of details of orthonormal Haar transforms, averaged over all shifts."""
    axes, total = range(2 - x.ndim, 0), 0.0
    shifts = list(product(range(2**levels), repeat=len(axes)))
    for shift in shifts:
        smooth = x.roll(shift, tuple(axes))
        for _ in range(levels):
            parts = [smooth]
            for axis in axes:
                pairs = [
                    part.unflatten(axis, (-1, 2)).movedim(axis, -1).unbind(-1) for part in parts
                ]
                parts = [(a + s * b) / 2**0.5 for s in (1, -1) for a, b in pairs]
            smooth, *details = parts
            total += sum(float(one.abs().sum()) for one in details)
    return total / len(shifts)


def wavelet_norm(solver, x, problem):
    """Return the norm that a small threshold lowers."""
    d, tiny = solver.coefficients(x, problem), 1e-9
    less = d - solver.shrunk(d, torch.tensor([tiny], dtype=torch.float64), problem)
    return float((less.abs() / tiny * d.abs()).sum())


@pytest.mark.parametrize(("shape", "levels"), [((8, 12), 1), ((8, 12), 2), ((4, 4, 6), 1)])
def test_the_norm_of_wavelets_is_that_of_one_transform_over_its_shifts(shape, levels):
    x, solver = random(1, 2, *shape), Wavelet(wavelet="haar", levels=levels)
    found = wavelet_norm(solver, x, denoising(2, *shape))
    assert found == pytest.approx(haar_norm(x, levels), rel=1e-4)


@pytest.mark.parametrize("kind", ["mri", "blur"])
@pytest.mark.sampled
def test_the_wavelet_estimate_has_the_least_objective(kind):
    """Solutions of other weights have a larger one, on the way to them as well."""
    operator = mri(0.1) if kind == "mri" else Blur(uniform_kernel(3), (1, 24, 24), 0.1)
    truth = blocks().to(torch.complex128) if kind == "mri" else blocks()
    y = operator.measure(truth, seed=0)
    norm2 = float(squared_norm(Problem.create(y, operator, Flat()))[0])
    weight, factor = 0.05, 1.2

    def objective(x):
        misfit = float((operator.A(x) - y).abs().square().sum())
        return misfit / 2 + weight * norm2 * haar_norm(x, 2)

    def estimate(w):
        return Wavelet(wavelet="haar", levels=2, steps=400, weight=w)(y, operator).mean

    found = estimate(weight)
    least = objective(found)
    for other in (estimate(weight * factor), estimate(weight / factor)):
        for share in (0.3, 1.0):
            assert objective(found + share * (other - found)) > least


def test_short_axes_take_part_in_few_levels():
    """A volume of two slices: as its slices, but for the level that joins them."""
    problem, x = denoising(1, 2, 16, 16), random(1, 1, 2, 16, 16)
    solver = Wavelet(levels=3)
    d = solver.coefficients(x, problem)
    assert d.shape[1] == 7 + 3 + 3 + 1
    torch.testing.assert_close(solver.adjoint(d, problem), x)
    torch.testing.assert_close(d[:, -1, :, 0], d[:, -1, :, 1])  # their mean
    line = denoising(1, 1, 16)
    assert Wavelet(levels=9).coefficients(random(1, 1, 1, 16), line).shape[1] == 4 + 1


def test_wavelets_refuse_a_shared_volume():
    operator = Denoising((1, 4, 8, 8), 0.1)
    operator.part = Part()
    operator.part.processes = 2
    with pytest.raises(errors.ArgumentError, match="operator: got a part of a volume in 2 proc"):
        Wavelet()(random(1, 1, 4, 8, 8), operator)


@pytest.mark.parametrize("kind", ["mri", "ct"])
def test_wavelets_fit_as_the_noise_lets_them(kind):
    truth = blocks()
    operator = mri(0.05) if kind == "mri" else ParallelBeamCT(24, 16, noise_sigma=0.3)
    truth = truth * (1 + 0.5j) if kind == "mri" else truth
    y = operator.measure(truth, seed=0)
    result = Wavelet(wavelet="haar", steps=200)(y, operator)
    assert float(result.residual) == pytest.approx(1, abs=0.02)
    others = [float((s(y, operator).mean - truth).norm()) for s in (BackProjection(), Tikhonov())]
    assert float((result.mean - truth).norm()) < 0.7 * min(others)


NOISE_LEVEL = {"tikhonov": Tikhonov(), "tv": TotalVariation(), "wavelet": Wavelet()}


@pytest.mark.parametrize("estimate", NOISE_LEVEL.values(), ids=NOISE_LEVEL)
def test_data_that_noise_does_not_explain_are_not_fitted_at_any_price(estimate):
    """As with wrong coil maps: the noise level of the operator is far too low."""
    truth = blocks().to(torch.complex128)
    mask, maps = fastmri_lines("random", 24, 2, 0.1, seed=0), mri(0.001).sensitivity_maps
    right, wrong = (
        MultiCoilMRI(mask, maps + error * random(*maps.shape, dtype=maps.dtype), 0.001)
        for error in (0, 0.05)
    )
    found = estimate(right.measure(truth, seed=0), wrong, Flat()).mean
    assert (found - truth).norm() < 1.2 * truth.norm()  # 1.1 and .7; 1.5 and 1.1 if fitted


def test_total_variation_between_slices_levels_plateaus():
    """A step of 3 and 5 slices moves by the weight over their number, to the mean at most."""
    step = torch.tensor([0.0] * 3 + [1.0] * 5, dtype=torch.float64)
    volume = step[:, None, None].expand(2, 1, 8, 2, 3) * torch.tensor(0.6 + 0.8j)
    found = between_slices(volume, torch.tensor([0.3, 9.0]), Part())
    expected = torch.tensor([[0.1] * 3 + [1 - 0.06] * 5, [5 / 8] * 8], dtype=torch.float64)
    torch.testing.assert_close(found.abs()[:, 0, :, 1, 1], expected, rtol=0, atol=0.04)
    torch.testing.assert_close(found.abs()[0, 0, :, 1, 1], expected[0], rtol=0, atol=1e-3)


def test_hqs_couples_the_slices_of_a_volume():
    operator, prior = Denoising((1, 6, 8, 8), noise_sigma=0.2), GaussianPrior(0.0, 1.0)
    truth = random(1, 1, 1, 8, 8).expand(1, 1, 6, 8, 8)
    y = operator.measure(truth, seed=0)
    alone, coupled = (HQS(z_weight=w)(y, operator, prior).mean for w in (0.0, 5.0))
    assert (coupled - truth).square().mean() < 0.5 * (alone - truth).square().mean()


def test_complex_images_of_no_imaginary_part_are_as_real_ones():
    y = blocks() + 0.1 * random(1, 1, 24, 24)
    real = TotalVariation(steps=30, weight=0.1)(y, Denoising((1, 24, 24))).mean
    operator = Denoising((1, 24, 24), complex_image=True)
    both = TotalVariation(steps=30, weight=0.1)(y.to(torch.complex128), operator).mean
    torch.testing.assert_close(both.real, real)


def test_tikhonov_fits_as_the_noise_lets_it():
    operator = mri(0.1)
    y = operator.measure(blocks().to(torch.complex128), seed=0)
    assert float(Tikhonov()(y, operator).residual) == pytest.approx(1, abs=0.02)


def test_tikhonov_with_a_weight_solves_the_normal_equations():
    operator = ParallelBeamCT(8, 5, noise_sigma=0.1)
    y = operator.measure(blocks()[..., ::3, ::3].contiguous(), seed=0)
    result = Tikhonov(weight=0.01)(y, operator)
    A = torch.stack([operator.A(e).flatten() for e in torch.eye(64).double().view(64, 1, 1, 8, 8)])
    A = A.T
    norm2 = torch.linalg.matrix_norm(A, 2) ** 2
    normal = A.T @ A + 0.01 * norm2 * torch.eye(64)
    wanted = torch.linalg.solve(normal, A.T @ y.flatten())
    assert (result.mean.flatten() - wanted).norm() < 1e-3 * wanted.norm()
    assert result.nfe == 0


@pytest.mark.parametrize("operator", [ParallelBeamCT(16, 20), FanBeamCT(16, 20, 40.0, 40.0)])
def test_fbp_is_the_operators_own(operator):
    y = operator.A(blocks()[..., 4:20, 4:20].contiguous())
    assert torch.equal(FBP()(y, operator).mean, operator.fbp(y))
    weights = 0.5 + torch.rand_like(y)
    whitened = Whitened(operator, weights)
    torch.testing.assert_close(FBP()(whitened.whiten(y), whitened).mean, operator.fbp(y))


def test_fbp_of_volumes_is_that_of_their_slices():
    planar = ParallelBeamCT(16, 20)
    operator = Stacked(planar, 3)
    y = operator.A(random(2, 1, 3, 16, 16))
    wanted = torch.stack([planar.fbp(y[:, :, k]) for k in range(3)], 2)
    torch.testing.assert_close(recommend(operator)(y, operator).mean, wanted)


@pytest.mark.parametrize("steps", [-1, 0, 2])
def test_a_formula_has_one_step(steps):
    with pytest.raises(errors.ArgumentError, match="steps: got"):
        FBP(steps=steps)


MISTAKES = {
    "no noise level": (TotalVariation(), Denoising((1, 8, 8)), "weight: got None, accepted for"),
    "nor for least squares": (Tikhonov(), Denoising((1, 8, 8)), "weight: got None"),
    "no tomograph": (FBP(), Denoising((1, 8, 8)), "operator: got Denoising, accepted by FBP"),
    "no prior": (HQS(), Denoising((1, 8, 8)), "prior: got NoneType, accepted"),
}


@pytest.mark.parametrize(("solver", "operator", "message"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_missing_is_named(solver, operator, message):
    with pytest.raises(errors.ArgumentError, match=message):
        solver(random(1, 1, 8, 8), operator)


def test_the_flat_prior_denoises_nothing():
    x = random(2, 1, 3, 3)
    prior = Flat()
    alpha, _ = prior.schedule(1.5)
    torch.testing.assert_close(prior.denoise(alpha * x, 1.5), x)
    assert prior.to_units(x).equal(x)


@pytest.mark.slow
def test_the_most_probable_noise_of_a_gaussian_is_the_posterior_mean():
    """As its sampler is linear; up to the levels of the sampler."""
    prior, y = GaussianPrior(0.2, 0.5), random(1, 1, 4, 4)
    operator = Denoising((1, 4, 4), 0.4)
    mean = prior.posterior(y, operator).mean
    few, many = (NoiseMAP(steps=150, levels=n)(y, operator, prior).mean for n in (6, 24))
    assert float((many - mean).norm() / mean.norm()) < 0.03
    assert (many - mean).norm() < (few - mean).norm()


def test_the_noise_of_a_nonlinear_measurement():
    prior, operator = GaussianPrior(0.0, 0.5), Intensity((1, 4, 4), noise_sigma=0.01)
    x = random(1, 1, 4, 4).abs()
    solver = NoiseMAP(steps=60, levels=6, learning_rate=0.2, starts=2, trial_steps=10)
    found = solver(operator.A(x), operator, prior)
    assert float(found.residual.max()) < 30
    assert found.nfe > 60 * 6


def test_the_best_of_several_starts_is_descended():
    prior, operator = GaussianPrior(0.0, 0.5), Intensity((1, 4, 4), noise_sigma=0.01)
    y = operator.A(random(2, 1, 4, 4))
    short = {"levels": 3, "learning_rate": 0.2, "trial_steps": 10, "steps": 30}
    solver, one = NoiseMAP(starts=4, **short), NoiseMAP(starts=1, **short)
    found = solver(y, operator, prior)
    assert found.nfe == one(y, operator, prior).nfe * 60 // 30
    # Each item has its own best, whatever the batch.
    alone = solver(y[:1], operator, prior)
    torch.testing.assert_close(found.samples[:, :1], alone.samples, rtol=1e-10, atol=1e-12)
    first = one(y, operator, prior)
    assert float(found.residual.mean()) < float(first.residual.mean())
    # Starts that are as long as the descent are all finished, and the best is returned.
    whole = NoiseMAP(starts=4, **short | {"trial_steps": 30})
    assert bool((whole(y, operator, prior).residual <= first.residual * 1.0001).all())


def test_starts_go_on_from_a_checkpoint(tmp_path):
    prior, operator = GaussianPrior(0.0, 0.5), Intensity((1, 4, 4), noise_sigma=0.01)
    y = operator.A(random(1, 1, 4, 4))
    solver = NoiseMAP(starts=3, trial_steps=4, steps=8, levels=2)

    def stop(index, state):
        if index == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solver(y, operator, prior, callback=stop, checkpoint=tmp_path, checkpoint_every=1)
    again = solver(y, operator, prior, checkpoint=tmp_path, checkpoint_every=1)
    assert torch.equal(again.samples, solver(y, operator, prior).samples)


class Intensity(NonlinearOperator):
    """Squares of values, up to their sign, about a constant that tells it."""

    def __init__(self, image_size, noise_sigma=0.0):
        super().__init__(image_size, image_size, noise_sigma)

    def forward_map(self, x):
        return (x + 1).square()

    def A_adjoint(self, y, **kwargs):
        return y.clamp(min=0).sqrt() - 1

    def A_dagger(self, y, **kwargs):
        return self.A_adjoint(y)
