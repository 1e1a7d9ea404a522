"""Blind problems: bilinear operators, priors of examples, equality with the known operator."""

import pytest
import skimage.data
import torch
from tests.helpers import rand, random

from wellposed import errors
from wellposed.metrics import psnr
from wellposed.noise import ItemNoise
from wellposed.operators import (
    BlindBlur,
    Blur,
    Denoising,
    check_operator,
    gaussian_kernel,
    motion_kernel,
    random_kernels,
)
from wellposed.priors import (
    VE,
    Examples,
    GaussianMixturePrior,
    GaussianPrior,
    Product,
    Proximal,
    Simplex,
    Stationary,
    Tabulated,
    load,
)
from wellposed.solvers import DPS, HQS, BlindHQS
from wellposed.solvers.estimates.blind_hqs import most_probable

pytestmark = pytest.mark.usefixtures("single_thread")
SIZE = (2, 12, 11)


def blind(noise_sigma=0.02):
    operator = BlindBlur(SIZE, 5, noise_sigma)
    kernels = random_kernels(3, 5, seed=1)
    return operator, rand(3, *SIZE), operator.canvas(kernels[:, None])


def test_all_three_forms_are_the_blur_with_each_kernel():
    operator, x, canvas = blind()
    kernels = operator.window(canvas)
    expected = torch.cat([Blur(k[0], SIZE).A(x[i : i + 1]) for i, k in enumerate(kernels)])
    for found in (
        operator.A(operator.join(x, canvas)),
        operator.given_parameter(canvas).A(x),
        operator.given_image(x).A(canvas),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_kernels_on_the_simplex_are_those_of_numbers_of_any_size():
    mean = gaussian_kernel(1.0, 5).float()
    simplex, gamma = Simplex(mean), torch.ones(1)
    for value in (3e7, -3e7):
        found = simplex(torch.full((1, 1, 5, 5), value), gamma)
        torch.testing.assert_close(found.sum(), torch.tensor(1.0))
    assert simplex(torch.full((1, 1, 5, 5), torch.nan), gamma).isnan().all()
    low = simplex(torch.full((1, 1, 5, 5), 300.0, dtype=torch.bfloat16), gamma.bfloat16())
    assert abs(float(low.float().sum()) - 1) < 0.02


def test_centred_kernels_stay_in_their_window_with_sum_1():
    operator, x, _ = blind()
    kernels = torch.zeros(3, 1, 5, 5, dtype=torch.float64)
    kernels[..., 0, 0], kernels[..., 4, 4] = 0.7, 0.3
    image, found = operator.centred(x, operator.canvas(kernels))
    assert not torch.equal(image, x)
    inside = operator.window(found).sum((-2, -1))
    torch.testing.assert_close(inside, torch.ones_like(inside))
    bad = operator.canvas(torch.full((1, 1, 5, 5), torch.nan))
    assert operator.window(operator.normalised(bad)).isnan().all()


def test_with_one_of_both_fixed_the_operator_is_linear_with_its_adjoint():
    operator, x, canvas = blind()
    assert check_operator(operator.given_parameter(canvas[:1])).passes(1e-5)
    assert check_operator(operator.given_image(x[:1])).passes(1e-5)


def test_the_proximal_steps_of_items_are_those_alone():
    operator, x, canvas = blind()
    y = operator.A(operator.join(x, canvas))
    gamma = torch.tensor([1.0, 10.0, 100.0])
    both = operator.given_image(x).prox_l2(0 * canvas, y, gamma)
    image = operator.given_parameter(canvas).prox_l2(0 * x, y, gamma)
    one = slice(1, 2)
    alone = operator.given_image(x[one]).prox_l2(0 * canvas[one], y[one], gamma[one])
    torch.testing.assert_close(both[one], alone)
    known = Blur(operator.window(canvas)[1, 0], SIZE)
    torch.testing.assert_close(image[one], known.prox_l2(0 * x[one], y[one], gamma[one]))


def test_the_kernel_follows_from_a_known_image():
    operator, x, canvas = blind()
    y = operator.A(operator.join(x, canvas))
    found = operator.given_image(x).prox_l2(0 * canvas, y, 1e6)
    torch.testing.assert_close(operator.normalised(found), canvas, rtol=0, atol=1e-4)


def test_the_brightness_of_the_kernel_does_not_count():
    operator, x, canvas = blind()
    first, second = (operator.A(operator.join(x, c * canvas)) for c in (1, 7.5))
    torch.testing.assert_close(first, second)
    noisy = operator.normalised(canvas + 0.1 * random(*canvas.shape))
    assert noisy.min() >= 0
    torch.testing.assert_close(noisy.sum((-2, -1)), torch.ones(3, 1).double())
    assert float(operator.normalised(-canvas).sum()) == pytest.approx(3)


class Blocks:
    """Noise of image and kernel from sources of their own."""

    def __init__(self, channels):
        self.channels = channels
        self.sources = [ItemNoise(0, [(0, 0)]), ItemNoise(1, [(0, 0)])]
        self.position = 0

    def draw(self, like):
        parts = like.split([self.channels, 1], 1)
        return torch.cat([s.draw(part) for s, part in zip(self.sources, parts, strict=True)], 1)


def test_dps_with_a_kernel_that_its_prior_knows_is_dps_with_the_kernel():
    """BlindDPS; a prior of one example with no freedom leaves only the image."""
    kernel, schedule = gaussian_kernel(1.0, 5), Tabulated.linear()
    operator, known = BlindBlur(SIZE, 5, 0.02), Blur(kernel, SIZE, 0.02)
    y, image = known.measure(rand(1, *SIZE)), GaussianPrior(0.5, 0.2, schedule)
    certain = Examples(operator.canvas(kernel), 1e-9, schedule)
    prior = Product([image, certain], channels=[2, 1])
    both = DPS(steps=20)(y, operator, prior, noise=Blocks(2)).samples[0]
    alone = DPS(steps=20)(y, known, image, noise=ItemNoise(0, [(0, 0)])).samples[0]
    torch.testing.assert_close(both[:, :2], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(both[:, 2:], operator.canvas(kernel), rtol=0, atol=0.1)


def test_the_denoiser_of_examples_is_that_of_the_mixture():
    examples = random(4, 1, 3, 3)
    mixture = GaussianMixturePrior(torch.ones(4).double(), examples, torch.full((4,), 0.09))
    prior = Examples(examples, 0.3, data_range=(-1, 1))
    x = random(5, 1, 3, 3, seed=2)
    for t in (1, 100, 700):
        torch.testing.assert_close(prior.denoise(x, t), mixture.denoise(x, t))


def test_kernels_are_those_of_their_seed_and_of_sum_one():
    kernels = random_kernels(6, 9, seed=2)
    assert torch.equal(kernels[:3], random_kernels(3, 9, seed=2))
    assert kernels.min() >= 0
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(6).double())


@pytest.mark.parametrize(("size", "side"), [((2, 12, 11), 5), ((1, 8, 9), 8), ((3, 6, 16), 4)])
def test_the_normal_map_of_kernels_is_exact_in_windows_of_any_size(size, side):
    operator = BlindBlur(size, side)
    A, canvas = operator.given_image(rand(2, *size)), random(2, 1, *size[1:])
    torch.testing.assert_close(A.A_adjoint_A(canvas), A.A_adjoint(A.A(canvas)))


def test_centring_changes_no_measurement_and_puts_kernels_in_the_middle():
    operator, x, canvas = blind()
    moved = operator.canvas(operator.window(canvas.roll((1, -1), (-2, -1))))
    image, kernel = operator.centred(x, moved)
    both = operator.join(image, kernel), operator.join(x, moved)
    torch.testing.assert_close(operator.A(both[0]), operator.A(both[1]))
    for axis, side in ((-2, 12), (-1, 11)):
        places = torch.arange(side).double() - side // 2
        means = kernel.sum(-3 - axis)[:, 0] @ places / kernel.sum((1, 2, 3))
        assert means.abs().max() <= 0.5 + 1e-9


def test_differences_commute_with_the_blur():
    operator, x, canvas = blind()
    y = operator.A(operator.join(x, canvas))
    found = operator.given_image(operator.prefiltered(x)).A(canvas)
    torch.testing.assert_close(found, operator.prefiltered(y))


def test_the_simplex_is_met_where_the_conditions_of_its_optimum_hold():
    """Kuhn-Tucker: one multiplier where x > 0, and no descent from where x = 0."""
    mean = torch.zeros(6, 7).double()
    mean[1:5, 2:6] = gaussian_kernel(1.0, 4)
    z, gamma = 0.3 * random(3, 2, 6, 7), torch.tensor([1e-3, 0.5, 20.0]).double()
    x = Simplex(mean, 2.0)(z, gamma)
    assert (x[..., mean == 0] == 0).all()
    assert (x >= 0).all()
    torch.testing.assert_close(x.sum((-2, -1)), torch.ones(3, 2).double())
    slope = (x - z + 2 * gamma.view(-1, 1, 1, 1) * (x - mean))[..., mean > 0]
    x = x[..., mean > 0]
    multiplier = slope.where(x > 0, -torch.inf).amax(-1, keepdim=True)
    torch.testing.assert_close(slope.where(x > 0, multiplier), multiplier.expand_as(x))
    assert (slope >= multiplier - 1e-9).all()


def test_the_parameter_of_a_known_image_is_that_of_the_closed_form():
    _, x, canvas = blind()
    falling = 1 / (1 + torch.fft.fftfreq(12)[:, None] ** 2 * 50 + torch.fft.fftfreq(11) ** 2 * 50)
    prior = GaussianPrior(0.02, Stationary(0.01 * falling.double()), VE(50.0, 1e-4))
    A = BlindBlur(SIZE, 11, 0.05).given_image(x - 0.5)
    y = A.measure(canvas)
    sigma = torch.full((3,), 0.05).double()
    found = most_probable(A, y, sigma, prior, 0 * canvas, 1000)
    exact = torch.cat([prior.posterior(y[i : i + 1], A.item(i)).mean for i in range(3)])
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)


def kernel_prior(operator, kernel, weight=1000.0):
    simplex = Simplex(operator.canvas(kernel)[0, 0], weight)
    return Proximal(simplex, data_range=(-0.1, 0.1), channels=1)


def blind_problem(noise_sigma=0.05, items=2):
    operator = BlindBlur(SIZE, 5, noise_sigma)
    kernels = operator.canvas(random_kernels(items, 5)[:, None])
    blocks = [GaussianPrior(0.5, 0.1), kernel_prior(operator, gaussian_kernel(1.0, 5))]
    prior = Product(blocks, channels=[2, 1])
    return operator.measure(operator.join(rand(items, *SIZE), kernels)), operator, prior


def test_blind_hqs_with_a_certain_kernel_is_hqs():
    kernel, smooth = motion_kernel(5, seed=2), GaussianPrior(0.5, 0.1)
    operator, known = BlindBlur(SIZE, 5, 0.05), Blur(kernel, SIZE, 0.05)
    y = known.measure(rand(2, *SIZE))
    prior = Product([smooth, kernel_prior(operator, kernel, 1e12)], channels=[2, 1])
    result = BlindHQS(steps=3, starts=2, image_steps=10)(y, operator, prior, seed=0)
    image, found = operator.split(result.mean)
    canvas = operator.canvas(kernel).expand(found.shape)
    torch.testing.assert_close(found, canvas, atol=1e-7, rtol=0)
    expected = HQS(steps=10)(y, known, smooth).mean
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=0)


def test_a_blind_item_is_the_same_alone_and_in_a_batch():
    y, operator, prior = blind_problem(torch.tensor([0.02, 0.05, 0.1]), items=3)
    solver = BlindHQS(steps=6, starts=2, image_steps=2, fit_steps=5)
    batch = solver(y, operator, prior, seed=1)
    alone = solver(y[1:2], BlindBlur(SIZE, 5, 0.05), prior, noise=ItemNoise(1, [(0, 1)]))
    torch.testing.assert_close(batch.samples[0, 1:2], alone.samples[0], rtol=0, atol=1e-6)
    assert batch.nfe == 14


def test_the_start_that_explains_the_data_best_is_kept():
    y, operator, prior = blind_problem(items=3)
    states = []
    solver = BlindHQS(steps=4, starts=3, image_steps=1, fit_steps=5)
    solver(y, operator, prior, seed=1, callback=lambda _, state: states.append(state))
    ends = [states[i] for i in (3, 7, 11)]
    misfits = torch.stack([end.misfit for end in ends])
    chosen = torch.stack([end.mean for end in ends])[misfits.argmin(0), torch.arange(3)]
    assert len(misfits.argmin(0).unique()) > 1
    assert torch.equal(states[-1].best, chosen)


@pytest.mark.slow
def test_a_photograph_is_found_without_its_kernel():
    x = torch.from_numpy(skimage.data.astronaut()[20:212:2, 140:332:2] / 255).permute(2, 0, 1)
    x, kernel = x[None].float(), motion_kernel(9, 0.3, seed=1)
    operator, known = BlindBlur(x.shape[1:], 9, 0.01), Blur(kernel, x.shape[1:], 0.01)
    y, photos = known.measure(x), load("natural")
    prior = Product([photos, kernel_prior(operator, gaussian_kernel(1.5, 9))])
    image, _ = operator.split(BlindHQS(starts=2)(y, operator, prior, seed=0).mean)
    assert psnr(image, x) > psnr(y, x) + 3
    assert psnr(image, x) > psnr(HQS(steps=15)(y, known, photos).mean, x) - 5


def test_what_does_not_fit_is_refused():
    operator, x, _ = blind()
    with pytest.raises(errors.ArgumentError, match="kernel_size"):
        BlindBlur(SIZE, 12)
    with pytest.raises(errors.ShapeError, match="kernels"):
        operator.canvas(torch.ones(3, 3))
    with pytest.raises(errors.ShapeError, match="x: got"):
        operator.A(x)
    y = operator.A_adjoint(rand(1, *SIZE))[:, :2]
    with pytest.raises(errors.ArgumentError, match="accepted by BlindHQS: Bilinear"):
        BlindHQS()(y, Denoising(SIZE, 0.1), GaussianPrior(0.5, 0.2))
    with pytest.raises(errors.ArgumentError, match=r"prior: got GaussianPrior.*Product"):
        BlindHQS()(y, operator, GaussianPrior(0.5, 0.2))
    with pytest.raises(errors.ArgumentError, match="starts: got 0"):
        BlindHQS(starts=0)
    with pytest.raises(errors.ArgumentError, match="stop: got 3"):
        BlindHQS(stop=3.0)
    with pytest.raises(errors.ArgumentError, match=r"mean: got .a sum of 9"):
        Simplex(torch.ones(3, 3))
    with pytest.raises(errors.ShapeError, match="mean: got"):
        Simplex(torch.ones(1, 1, 1))
    with pytest.raises(errors.ShapeError, match="z: got"):
        Simplex(torch.ones(2, 2) / 4)(torch.ones(1, 1, 3, 3), torch.ones(1))
    with pytest.raises(errors.ShapeError, match="examples"):
        Examples(torch.ones(3, 3))
