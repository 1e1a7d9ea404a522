"""Blind problems: bilinear operators, priors of examples, equality with the known operator."""

import pytest
import torch
from tests.helpers import rand, random

from wellposed import errors
from wellposed.noise import ItemNoise
from wellposed.operators import BlindBlur, Blur, check_operator, gaussian_kernel, random_kernels
from wellposed.priors import Examples, GaussianMixturePrior, GaussianPrior, Product, Tabulated
from wellposed.solvers import DPS

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


def test_what_does_not_fit_is_refused():
    operator, x, _ = blind()
    with pytest.raises(errors.ArgumentError, match="kernel_size"):
        BlindBlur(SIZE, 12)
    with pytest.raises(errors.ShapeError, match="kernels"):
        operator.canvas(torch.ones(3, 3))
    with pytest.raises(errors.ShapeError, match="x: got"):
        operator.A(x)
    with pytest.raises(errors.ShapeError, match="examples"):
        Examples(torch.ones(3, 3))
