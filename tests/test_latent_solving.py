"""Inverse problems under latent priors: the measurement goes through the decoder."""

import diffusers
import pytest
import torch

from wellposed import errors
from wellposed.operators import Inpainting, SuperResolution, random_mask
from wellposed.priors import DiffusersAutoencoder, GaussianPrior, Latent, Tabulated
from wellposed.solvers import DDS, DPS, DDIMProjection, Problem, REDDiff
from wellposed.solvers.data import pseudo_inverse

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(scope="module")
def prior():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        autoencoder = diffusers.AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
        )
    latents = GaussianPrior(0.0, 1.0, Tabulated.linear())
    latents.channels = 4
    return Latent(latents, DiffusersAutoencoder(autoencoder, scaling_factor=0.5))


@pytest.fixture(scope="module")
def truth(prior):
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return prior.to_public(z)


def operators():
    return {
        "inpainting": Inpainting(random_mask(16, 16, 0.6, 0), 3, 0.01),
        "super-resolution": SuperResolution((3, 16, 16), 2, "average", 0.01),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", operators())
@pytest.mark.parametrize("solver", [REDDiff(steps=40, learning_rate=0.2), DPS(steps=50, zeta=3.0)])
def test_latent_samples_explain_the_measurement(name, solver, prior, truth):
    operator = operators()[name]
    y = operator.measure(truth, seed=1)
    result = solver(y, operator, prior, num_samples=2, seed=0)
    assert result.samples.shape == (2, *truth.shape)
    assert result.nfe == solver.steps
    start = solver.init(Problem.create(y, operator, prior), _Zeros()).x
    first = (operator.A(prior.to_public(start)) - y).flatten(1).norm(dim=1)
    last = (operator.A(result.samples[0]) - y).flatten(1).norm(dim=1)
    assert bool((last < 0.5 * first).all())


class _Zeros:
    position = 0

    def draw(self, like):
        return torch.zeros_like(like)


def test_an_item_is_the_same_alone(prior, truth):
    operator = operators()["inpainting"]
    y = operator.measure(truth, seed=1)
    both, alone = (REDDiff(steps=5)(v, operator, prior, seed=0).mean for v in (y, y[:1]))
    torch.testing.assert_close(both[:1], alone, rtol=1e-4, atol=1e-4)


def test_the_problem_is_stated_in_latents(prior, truth):
    problem = Problem.create(truth, operators()["inpainting"], prior)
    assert problem.image_shape == (2, 4, 8, 8)
    assert not problem.is_linear
    assert pseudo_inverse(problem).shape == problem.zeros().shape
    torch.testing.assert_close(
        problem.to_public(problem.zeros()), prior.to_public(torch.zeros(2, 4, 8, 8))
    )


@pytest.mark.parametrize("solver", [DDS(), DDIMProjection(), REDDiff(start="back-projection")])
def test_linear_methods_name_the_latent_prior(solver, prior, truth):
    operator = operators()["inpainting"]
    with pytest.raises(errors.ArgumentError, match=r"prior: Latent decodes .* REDDiff"):
        solver(operator.measure(truth), operator, prior)


def test_images_the_autoencoder_cannot_halve_are_named(prior):
    operator = Inpainting(random_mask(15, 16, 0.6, 0), 3, 0.01)
    with pytest.raises(errors.ShapeError, match="sides in multiples of 2"):
        REDDiff()(torch.zeros(1, 3, 15, 16), operator, prior)
