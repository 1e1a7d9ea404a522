"""The problem of a latent prior seen in pixels: linear again if the operator is."""

from torch import Tensor

from wellposed.priors.analytic import GaussianPrior
from wellposed.solvers.problem import Problem


def pixels(problem: Problem) -> Problem:
    """Return the problem on decoded images, in the autoencoder's units; made once a run."""
    return problem.once(_in_pixels)


def _in_pixels(problem: Problem) -> Problem:
    # Only the range of this prior is used.
    images = GaussianPrior(0.0, 1.0).with_range(*problem.prior.data_range)
    return Problem.create(problem.y * problem.prior.scale, problem.operator, images)


def decode(problem: Problem, z: Tensor) -> Tensor:
    """Return the images of latents (B, c, h, w), in the units of `pixels`."""
    return pixels(problem).prior.to_units(problem.to_public(z))


def encode(problem: Problem, x: Tensor) -> Tensor:
    """Return the latents of images (B, C, H, W) in the units of `pixels`."""
    return problem.prior.to_units(pixels(problem).to_public(x))
