"""Quantiles, intervals, chi-square, scores and conformal calibration."""

import dataclasses
import math

import deepinv
import numpy as np
import pytest
import torch
from scipy.special import gamma
from scipy.stats import wasserstein_distance
from tests.helpers import normal

from wellposed import Reconstruction, errors
from wellposed.metrics import coverage, crps, sliced_wasserstein
from wellposed.noise import ItemNoise
from wellposed.operators import Inpainting, random_mask
from wellposed.priors import GaussianPrior
from wellposed.solvers import DDS, MMPS, DDIMProjection
from wellposed.uncertainty import Conformal
from wellposed.validation.gaussian import field_covariance

SIZE = (1, 3, 4)


def reconstruction(samples, residual=None, measured=None):
    residual = torch.ones(samples.shape[:2]) if residual is None else residual
    return Reconstruction(samples, residual, 5, 0.1, "DDS", measured=measured)


@pytest.fixture(params=[False, True], ids=["real", "complex"])
def result(request):
    samples = normal(7, 2, *SIZE)
    samples = torch.complex(samples, normal(7, 2, *SIZE, seed=1)) if request.param else samples
    return reconstruction(samples)


def magnitude(x):
    return x.abs() if x.is_complex() else x


# Maps of a reconstruction


@pytest.mark.parametrize("q", [0.0, 0.03, 0.5, 0.77, 1.0])
def test_quantiles_are_numpys(result, q):
    expected = np.quantile(magnitude(result.samples).numpy(), q, axis=0, method="weibull")
    np.testing.assert_allclose(result.quantile(q).numpy(), expected, rtol=1e-12)


def test_intervals_are_nested_and_keep_the_dtype(result):
    outer, inner = result.interval(0.95), result.interval(0.5)
    assert bool((outer[0] <= inner[0]).all() and (inner[1] <= outer[1]).all())
    assert bool((inner[0] < inner[1]).all())
    low, high = reconstruction(result.samples.to(torch.complex64).real).interval(0.5)
    assert low.dtype == high.dtype == torch.float32


def test_coverage_counts_the_pixels_inside(result):
    low, high = (end.numpy() for end in result.interval(0.6))
    truth = result.samples[3] * 1.1
    value = magnitude(truth).numpy()
    inside = ((low <= value) & (value <= high)).reshape(2, -1).mean(1)
    np.testing.assert_allclose(result.coverage(truth, 0.6).numpy(), inside)
    assert 0 < inside.min() < 1


@pytest.mark.parametrize(
    ("count", "level"), [(8, 0.5), (8, 7 / 9), (20, 0.5), (20, 0.9), (400, 0.8), (400, 0.95)]
)
def test_exact_samples_cover_the_truth_as_often_as_they_say(count, level):
    pixels = 20_000
    samples, truth = normal(count, 1, pixels), normal(1, pixels, seed=1)
    found = float(reconstruction(samples).coverage(truth, level))
    # Exact where the ends are samples; between two, interpolation adds a little.
    assert abs(found - level) < 4 * math.sqrt(level * (1 - level) / pixels) + 0.005
    narrow = float(reconstruction(samples / 2).coverage(truth, level))
    assert narrow < level - 0.15


def test_levels_beyond_the_samples_get_all_of_them(result):
    low, high = result.interval(0.99)
    assert torch.equal(low, magnitude(result.samples).amin(0))
    assert torch.equal(high, magnitude(result.samples).amax(0))


def test_single_samples_have_no_interval_and_bad_fractions_are_named(result):
    with pytest.raises(errors.ArgumentError, match="samples: got 'a single sample'"):
        reconstruction(result.samples[:1]).interval()
    for bad in (0, 1, -0.5, 90):
        with pytest.raises(errors.ArgumentError, match="level: got"):
            result.interval(bad)
    with pytest.raises(errors.ArgumentError, match="q: got"):
        result.quantile(1.01)
    with pytest.raises(
        errors.ShapeError, match=r"got shape \(2, 1, 3, 4\), accepted: \(1, 3, 4\)"
    ):
        result.coverage(result.mean[0])


# Chi-square


def test_chi_square_is_that_of_the_noise():
    """Residuals of m normal numbers: chi-square over m, flagged only when the level is wrong."""
    m, items = 500, 40
    noise = normal(6, items, m)
    residual = noise.square().mean(2).sqrt()
    measured = torch.full((items,), m)
    honest = reconstruction(normal(6, items, 2), residual, measured)
    np.testing.assert_allclose(honest.chi_square.numpy(), noise.square().mean(2).numpy())
    assert not bool(honest.suspicious.any())
    assert "noise level" not in repr(honest)
    for factor in (0.7, 1.3):
        wrong = residual.clone()
        wrong[:, 3] *= factor
        doubted = reconstruction(normal(6, items, 2), wrong, measured)
        assert doubted.suspicious.nonzero().flatten().tolist() == [3]
        assert "inconsistent with the stated noise level: items [3]" in repr(doubted)


def test_few_measurements_excuse_a_large_deviation():
    residual = torch.full((4, 2), 1.4)  # chi-square 1.96
    few = reconstruction(normal(4, 2, 3), residual, torch.tensor([8, 800]))
    assert few.suspicious.tolist() == [False, True]


def field():
    return GaussianPrior(0.0, field_covariance())


def noise(items):
    return ItemNoise(1, [(b,) for b in range(items)]).draw(torch.zeros(items, 1, 12, 12).double())


@pytest.mark.slow
def test_chi_square_of_real_runs_tells_who_fits_the_noise():
    operator = Inpainting(random_mask(12, 12, 0.5, 0), 1, 0.1)
    y = operator.measure(field().draw(noise(2)))
    right = MMPS(steps=50, cg_steps=5)(y, operator, field(), num_samples=8, seed=0)
    assert right.measured.tolist() == [72, 72]
    assert bool(((right.chi_square.mean(0) - 1).abs() < 4 * (2 / right.measured).sqrt()).all())
    assert not bool(right.suspicious.any())
    overfitted = DDIMProjection(steps=10)(y, operator, field(), seed=0)
    assert bool(overfitted.suspicious.all())


def test_items_without_noise_have_no_chi_square_among_others():
    levels = torch.tensor([0.1, 0.0]).double()
    operator = Inpainting(random_mask(12, 12, 0.5, 0), 1, levels)
    y = operator.measure(field().draw(noise(2)))
    both = DDS(steps=20)(y, operator, field(), seed=0)
    assert both.measured.tolist() == [72, 0]
    assert both.chi_square.isnan().tolist() == [[False, True]]
    assert not bool(both.suspicious[1])
    for item in range(2):
        alone = Inpainting(operator.mask, 1, levels[item])
        one = DDS(steps=20)(y[item : item + 1], alone, field(), noise=Later(item))
        torch.testing.assert_close(one.residual[0, 0], both.residual[0, item])


class Later:
    """The draws that one item of a batch gets with seed 0."""

    def __init__(self, item):
        self.source = ItemNoise(0, [(0, item)])

    def draw(self, like):
        return self.source.draw(like)


@pytest.mark.parametrize("kind", ["ours", "deepinvs"])
def test_what_a_mask_hides_is_not_counted(kind):
    mask = random_mask(12, 12, 0.5, 0)
    operator = Inpainting(mask, 1, 0.1)
    y = operator.measure(field().draw(noise(2)))
    if kind == "deepinvs":
        model = deepinv.physics.GaussianNoise(0.1)
        operator = deepinv.physics.Inpainting((1, 12, 12), mask=mask[None], noise_model=model)
    solver = MMPS(steps=5)
    assert solver(y.float(), operator, field(), seed=0).measured.tolist() == [72, 72]


def test_noise_free_problems_have_no_chi_square(result):
    assert not bool(result.suspicious.any())
    with pytest.raises(errors.ArgumentError, match="noise-free"):
        _ = result.chi_square


def test_what_uncertainty_needs_is_saved(tmp_path, result):
    whole = dataclasses.replace(result, measured=torch.tensor([5, 7]))
    again = Reconstruction.load(whole.save(tmp_path))
    assert torch.equal(again.measured, whole.measured)
    assert torch.equal(again.quantile(0.3), whole.quantile(0.3))
    assert Reconstruction.load(result.save(tmp_path, name="free")).measured is None


# Scores


def test_crps_is_the_integral_of_the_squared_difference(result):
    """That integral is the plug-in form; the fair one here counts pairs of different samples."""
    samples, truth = magnitude(result.samples), magnitude(result.mean) + 0.2
    x = torch.linspace(-6, 6, 60001, dtype=torch.float64)
    count = len(samples)
    for item in range(2):
        total = 0.0
        for values, value in zip(
            samples[:, item].reshape(count, -1).T, truth[item].flatten(), strict=True
        ):
            F = (values[:, None] <= x).double().mean(0)
            plug_in = float(((F - (x >= value).double()) ** 2).sum() * (x[1] - x[0]))
            pairs = (values[:, None] - values).abs().sum()
            total += plug_in - float(pairs / (2 * count * count) * (1 / (count - 1)))
        found = float(crps(result.samples, truth.to(result.samples))[item])
        assert found == pytest.approx(total / truth[item].numel(), abs=2e-4)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_crps_of_exact_samples_is_the_gaussians_for_any_number(count):
    """``E CRPS = s / sqrt(pi)`` for N(m, s^2); deterministic forecasts give the absolute error."""
    pixels, s = 40_000, 0.3
    samples, truth = 1 + s * normal(count, 1, pixels), 1 + s * normal(1, pixels, seed=1)
    assert float(crps(samples, truth)) == pytest.approx(s / math.sqrt(math.pi), rel=0.02)
    far = torch.zeros(count, 1, pixels, dtype=torch.float64)
    assert float(crps(far, truth)) == pytest.approx(float(truth.abs().mean()))


def test_crps_is_least_for_the_right_spread():
    z, truth = normal(50, 1, 5000), normal(1, 5000, seed=1)
    scores = [float(crps(s * z, truth)) for s in (0.5, 1.0, 2.0)]
    assert scores[1] == min(scores)


def test_sliced_wasserstein_of_a_shift_is_known():
    """W1 of a set and its shift by v is ``|<v, u>|`` on direction u: its mean over the sphere."""
    d, a = 8, normal(300, 8)
    v = torch.linspace(0, 2, d, dtype=torch.float64)
    expected = float(v.norm()) * gamma(d / 2) / (math.sqrt(math.pi) * gamma((d + 1) / 2))
    shuffled = (a + v)[torch.from_numpy(np.random.default_rng(1).permutation(300))]
    assert float(sliced_wasserstein(a, shuffled, 4000)) == pytest.approx(expected, rel=0.04)
    assert float(sliced_wasserstein(a, a.flip(0))) == pytest.approx(0, abs=1e-12)


def test_sliced_wasserstein_is_scipys_in_one_dimension_and_a_distance_in_more():
    a, b = normal(200, 1), 1 + 2 * normal(200, 1, seed=1)
    expected = wasserstein_distance(a.flatten().numpy(), b.flatten().numpy())
    assert float(sliced_wasserstein(a, b, 3)) == pytest.approx(expected)
    a, b, c = (k * normal(90, 2, 3, seed=k) for k in (1, 2, 3))
    ab, bc, ac = (float(sliced_wasserstein(*pair, 600)) for pair in ((a, b), (b, c), (a, c)))
    assert ab == pytest.approx(float(sliced_wasserstein(b, a, 600)))
    assert ac <= ab + bc
    assert ab != float(sliced_wasserstein(a, b, 600, seed=1))


def test_scores_refuse_what_would_broadcast():
    with pytest.raises(errors.ArgumentError, match="samples: got '1 samples'"):
        crps(normal(1, 2, 3), normal(2, 3))
    with pytest.raises(errors.ShapeError):
        crps(normal(4, 2, 3), normal(1, 3))
    with pytest.raises(errors.ShapeError):
        coverage((normal(2, 3), normal(1, 3)), normal(2, 3))
    with pytest.raises(errors.ShapeError, match="a: got shape"):
        sliced_wasserstein(normal(4, 3), normal(5, 3))
    with pytest.raises(errors.ArgumentError, match="slices: got 0"):
        sliced_wasserstein(normal(4, 3), normal(4, 3), 0)


# Conformal calibration


def miscalibrated(images, seed, pixels=1, factor=0.3):
    """Samples too narrow and off centre, by an error shared by the pixels of an image."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_t(3, (images, 1)) + 0.5 * rng.standard_normal((images, pixels))
    samples = factor * rng.standard_normal((6, images, pixels)) + 0.4
    return reconstruction(torch.from_numpy(samples)), torch.from_numpy(truth)


def hit_rate(images, level, pixels, per_pixel, repeats=400):
    hits = []
    for seed in range(repeats):
        result, truth = miscalibrated(images + 1, seed, pixels)
        known = reconstruction(result.samples[:, :-1])
        conformal = Conformal.fit([known], [truth[:-1]], level, per_pixel=per_pixel)
        new = reconstruction(result.samples[:, -1:])
        hits.append(float(coverage(conformal.interval(new), truth[-1:])))
    return np.mean(hits), 4 * np.std(hits) / math.sqrt(repeats)


@pytest.mark.parametrize(("images", "level"), [(9, 0.9), (12, 0.8), (19, 0.95), (7, 0.5)])
def test_coverage_of_one_pixel_is_guaranteed_and_not_much_exceeded(images, level):
    found, band = hit_rate(images, level, pixels=1, per_pixel=False)
    assert level - band <= found <= level + 1 / (images + 1) + band


@pytest.mark.parametrize("per_pixel", [False, True])
def test_coverage_of_images_is_guaranteed_although_their_pixels_depend(per_pixel):
    found, band = hit_rate(11, 0.8, pixels=5, per_pixel=per_pixel)
    assert 0.8 - band <= found <= 0.8 + 1 / 12 + band
    result, truth = miscalibrated(500, 0, 5)
    assert float(result.coverage(truth, 0.8).mean()) < 0.4  # what had to be mended


def test_the_factor_is_the_rank_of_split_conformal_prediction():
    result, truth = miscalibrated(14, 3)
    samples = result.samples.numpy()
    scores = np.abs(truth.numpy() - samples.mean(0)) / samples.std(0, ddof=1)
    expected = np.sort(scores.flatten())[math.ceil(15 * 0.7) - 1]
    assert float(Conformal.fit([result], [truth], 0.7).factor) == pytest.approx(expected)


def test_images_may_come_in_any_batches(result):
    truth = 1.3 * result.samples[0]
    whole = Conformal.fit([result] * 5, [truth] * 5, 0.8)
    parts = [reconstruction(result.samples[:, i : i + 1]) for i in (0, 1)] * 5
    split = Conformal.fit(parts, [truth[i : i + 1] for i in (0, 1)] * 5, 0.8)
    assert torch.equal(whole.factor, split.factor)
    lower, upper = whole.interval(result)
    assert not lower.is_complex() and bool((lower < upper).all())
    assert not result.samples.is_complex() or float(lower.min()) >= 0


def test_known_pixels_stay_known():
    """Where all samples and the truth agree, the interval is that value."""
    samples = normal(5, 9, 4)
    samples[:, :, 0] = 0.25
    truth = samples[0] * 1.2
    truth[:, 0] = 0.25
    result = reconstruction(samples)
    lower, upper = Conformal.fit([result], [truth], 0.9, per_pixel=True).interval(result)
    assert bool(((lower[:, 0] - 0.25).abs() < 1e-12).all() and (upper[:, 0] == lower[:, 0]).all())


def test_too_few_images_and_wrong_shapes_are_named(result):
    truth = result.mean
    with pytest.raises(errors.ArgumentError, match="got '8 images', accepted: at least 9"):
        Conformal.fit([result] * 4, [truth] * 4, 0.9)
    Conformal.fit([result] * 5, [truth] * 5, 0.9)
    with pytest.raises(errors.ArgumentError, match="one truth per reconstruction"):
        Conformal.fit([result] * 5, [truth] * 4)
    with pytest.raises(errors.ArgumentError, match="one truth per reconstruction"):
        Conformal.fit([], [])
    with pytest.raises(errors.ArgumentError, match="level: got 1"):
        Conformal.fit([result], [truth], 1)
    with pytest.raises(errors.ShapeError, match="truths: got shape"):
        Conformal.fit([result] * 5, [truth[:1]] * 5)
    with pytest.raises(errors.ArgumentError, match="single sample"):
        Conformal.fit([reconstruction(result.samples[:1])] * 5, [truth] * 5)
    other = reconstruction(result.samples[..., :2])
    with pytest.raises(errors.ArgumentError, match="one image size"):
        Conformal.fit([result, other], [truth, truth[..., :2]], 0.5)
    per_pixel = Conformal.fit([result] * 5, [truth] * 5, 0.9, per_pixel=True)
    with pytest.raises(errors.ShapeError, match="as in the calibration"):
        per_pixel.interval(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_spread_of_rounding_is_none(dtype):
    """Equal samples but for the last digit: the interval is no narrower than that digit."""
    value = torch.full((1, 1, 1, 50), 1000.0, dtype=dtype)
    samples = torch.cat([value, value, torch.nextafter(value, value + 1)])
    result = reconstruction(samples)
    fitted = Conformal.fit([result] * 9, [value[0] * (1 + 1e-3)] * 9, 0.9)
    assert float(fitted.factor) < 1e-3 / torch.finfo(dtype).eps
