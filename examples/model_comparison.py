"""Which noise level, and which of two priors, explains a measurement? The evidence tells.

`solvers.Twisted` estimates the evidence ``p(y)`` beside its samples. Differences of its logarithm
compare models of the same measurement: e^3, a factor of 20, is strong. An image of 4 x 4 pixels is
measured by eight random projections with noise of .1. It is of one of two classes. The measurement
is explained

- by the prior of the two classes, with several noise levels;
- by a Gaussian prior with the same mean and variance of every pixel, which knows of no classes.

Both have a closed form, printed as "exact". A measurement that is as likely under both models has
a difference of about 0: the data then do not tell.

    python examples/model_comparison.py
"""

import argparse

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from wellposed.figures import format_table
from wellposed.noise import ItemNoise
from wellposed.operators import MatrixOperator
from wellposed.priors import Diagonal, GaussianMixturePrior, GaussianPrior, Prior
from wellposed.solvers import Twisted

SIZE, MEASURED, NOISE = (1, 4, 4), 8, 0.1
LEVELS = (0.025, 0.1, 0.4)


def two_classes() -> GaussianMixturePrior:
    """Return the prior of dark-to-bright and bright-to-dark images, with rough pixels."""
    ramp = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(SIZE)
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    return GaussianMixturePrior(weights, torch.stack([ramp, -ramp]), 0.04 * torch.ones(2).double())


def independent_pixels(mixture: GaussianMixturePrior) -> GaussianPrior:
    """Return the prior of independent pixels with the means and the variances of a mixture."""
    w, m = mixture.weights, mixture.means
    mean = w @ m
    variance = w @ (mixture.covariances.diagonal(dim1=1, dim2=2) + (m - mean).square())
    return GaussianPrior(mean.reshape(1, *SIZE), Diagonal(variance.reshape(SIZE)))


def exact_evidence(y: Tensor, operator: MatrixOperator, prior: Prior, sigma: float) -> float:
    """Return ``log p(y)`` in closed form."""
    A, noise = operator.matrix, sigma**2 * torch.eye(MEASURED, dtype=y.dtype)
    if isinstance(prior, GaussianMixturePrior):
        S = A @ prior.covariances @ A.T + noise
        each = MultivariateNormal(prior.means @ A.T, S).log_prob(y) + prior.weights.log()
        return float(torch.logsumexp(each, 0))
    assert isinstance(prior, GaussianPrior)
    basis = torch.eye(16, dtype=y.dtype).reshape(16, *SIZE)
    S = A @ (prior.covariance @ basis).flatten(1) @ A.T + noise
    return float(MultivariateNormal(operator.A(prior.mean)[0], S).log_prob(y[0]))


def main() -> None:
    """Print the evidence of every model."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--particles", type=int, default=200)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    solver = Twisted(particles=options.particles, steps=options.steps)
    classes, noise = two_classes(), ItemNoise(options.seed, [(0,)])
    matrix = noise.draw(torch.empty(1, MEASURED, 16, dtype=torch.float64))[0] / 4
    x = classes.draw_noisy(torch.zeros(1, *SIZE, dtype=torch.float64), 0.0, noise)
    y = MatrixOperator(matrix, SIZE, NOISE).measure(x, options.seed)
    models = [("two classes", classes, level) for level in LEVELS]
    models.append(("independent pixels", independent_pixels(classes), NOISE))
    rows = []
    for name, prior, sigma in models:
        operator = MatrixOperator(matrix, SIZE, sigma)
        found = solver(y, operator, prior, num_samples=options.particles, seed=options.seed)
        assert found.log_evidence is not None
        assert found.least_ess is not None
        values = float(found.log_evidence), exact_evidence(y, operator, prior, sigma)
        ess = f"{found.least_ess:.0f} of {options.particles}"
        rows.append([name, f"{sigma:g}", *(f"{v:.2f}" for v in values), ess])
    print(format_table(["prior", "noise", "log evidence", "exact", "least ESS"], rows))


if __name__ == "__main__":
    main()
