"""How far a solver's samples are from the exact posterior, where it is known in closed form."""

from dataclasses import dataclass

import torch
from deepinv.physics import GaussianNoise, LinearPhysics
from torch import Tensor

from wellposed.errors import require_choice
from wellposed.noise import ItemNoise
from wellposed.priors.analytic import Full, GaussianPrior
from wellposed.priors.schedule import VE, Flow, Schedule, Tabulated
from wellposed.solvers.base import Solver

PROCESSES = ("vp", "ve", "flow")


@dataclass(frozen=True)
class PosteriorErrors:
    """Distance of a sample set from an exact Gaussian posterior.

    Attributes:
        mean: ``||mean error|| / sqrt(trace C)``, in posterior standard deviations.
        covariance: ``||C_samples - C||_F / ||C||_F``.
        spread: ``trace C_samples / trace C``; below 1 is overconfident.
    """

    mean: float
    covariance: float
    spread: float


def process(name: str) -> Schedule:
    """Return DDPM's linear schedule in variance-preserving, -exploding or flow form.

    All three cover the same noise-to-signal ratios and start at their own ``sigma_T``, so that
    a sampler must give the same samples with each (spacing "karras").
    """
    require_choice("process", name, PROCESSES)
    linear = Tabulated.linear()
    vp = Tabulated(linear.alpha, linear.sigma)
    top, low = float(vp.ratio(vp.T)), vp.min_ratio
    choices: dict[str, Schedule] = {
        "vp": vp,
        "ve": VE(top, low),
        "flow": Flow(top / (1 + top), low),
    }
    return choices[name]


class MatrixOperator(LinearPhysics):
    """``y = M x`` on flattened images, with Gaussian noise.

    Args:
        matrix: (m, n).
        image_size: shape of one image with n values.
        noise_sigma: noise level.
    """

    def __init__(self, matrix: Tensor, image_size: tuple[int, ...], noise_sigma: float) -> None:
        super().__init__(img_size=image_size, noise_model=GaussianNoise(noise_sigma))
        self.register_buffer("matrix", matrix)

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``M x``, (B, m)."""
        return x.flatten(1) @ self.matrix.T

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return ``M^T y``, (B, *image_size)."""
        return (y @ self.matrix).reshape(-1, *self.img_size)


def gaussian_problem(
    schedule: Schedule, seed: int = 0, noise_sigma: float = 0.1
) -> tuple[Tensor, MatrixOperator, GaussianPrior]:
    """Return a random problem ``(y, operator, prior)`` in float64: 16 unknowns, 8 data.

    The prior is correlated, with standard deviations from .1 to .5 as images have them; the
    operator is a random matrix with singular values from .1 to 1.
    """
    noise = ItemNoise(seed, [(0,)])

    def draw(*shape: int) -> Tensor:
        return noise.draw(torch.empty(1, *shape, dtype=torch.float64))[0]

    Q = torch.linalg.qr(draw(16, 16))[0]
    covariance = Q @ torch.diag(torch.linspace(0.1, 0.5, 16, dtype=torch.float64) ** 2) @ Q.T
    U, V = torch.linalg.qr(draw(8, 8))[0], torch.linalg.qr(draw(16, 8))[0]
    matrix = U @ torch.diag(torch.linspace(0.1, 1, 8, dtype=torch.float64)) @ V.T
    operator = MatrixOperator(matrix, (1, 4, 4), noise_sigma)
    prior = GaussianPrior(0.3 * draw(1, 1, 4, 4), Full(covariance), schedule)
    y = operator.A(prior.draw(draw(1, 1, 4, 4))) + noise_sigma * draw(1, 8)
    return y, operator, prior


def compare(samples: Tensor, mean: Tensor, covariance: Tensor) -> PosteriorErrors:
    """Return the errors of samples (N, ...) against an exact mean and covariance (n, n)."""
    flat = samples.flatten(1)
    trace = covariance.trace()
    centred = flat - flat.mean(0)
    found = centred.T @ centred / (len(flat) - 1)
    return PosteriorErrors(
        mean=float((flat.mean(0) - mean.flatten()).norm() / trace.sqrt()),
        covariance=float((found - covariance).norm() / covariance.norm()),
        spread=float(found.trace() / trace),
    )


def gaussian_errors(
    solver: Solver, name: str = "vp", problems: int = 4, num_samples: int = 2000
) -> PosteriorErrors:
    """Return a solver's errors on random Gaussian problems, averaged over ``problems``."""
    errors = []
    for seed in range(problems):
        y, operator, prior = gaussian_problem(process(name), seed)
        exact = prior.posterior(y, operator)
        result = solver(y, operator, prior, num_samples=num_samples, seed=seed)
        errors.append(compare(result.samples[:, 0], exact.mean, exact.covariance()))
    return average(errors)


def floor_errors(problems: int = 4, num_samples: int = 2000) -> PosteriorErrors:
    """Return the errors of exact posterior samples: what a perfect solver would show."""
    errors = []
    for seed in range(problems):
        y, operator, prior = gaussian_problem(process("vp"), seed)
        exact = prior.posterior(y, operator)
        repeated = prior.posterior(y.expand(num_samples, -1), operator)
        samples = repeated.sample(1, seed)[0]
        errors.append(compare(samples, exact.mean, exact.covariance()))
    return average(errors)


def average(errors: list[PosteriorErrors]) -> PosteriorErrors:
    """Return the mean of several errors."""
    rows = torch.tensor([(e.mean, e.covariance, e.spread) for e in errors], dtype=torch.float64)
    return PosteriorErrors(*rows.mean(0).tolist())


def recorded_solvers() -> dict[str, Solver]:
    """Return the solvers whose errors are kept in ``docs/posterior.md``, by name.

    The defaults of each paper, and where it matters a second setting.
    """
    from wellposed.solvers import DDS, DPS, DDIMProjection, REDDiff

    return {
        "DDS": DDS(steps=50, spacing="karras"),
        "DDS, eta 0": DDS(steps=50, spacing="karras", eta=0.0),
        "DDS, gamma 100": DDS(steps=50, spacing="karras", gamma=100.0),
        "REDDiff": REDDiff(steps=100, spacing="karras"),
        "DPS": DPS(steps=100, spacing="karras"),
        "DPS, zeta 1": DPS(steps=100, spacing="karras", zeta=1.0),
        "DDIMProjection": DDIMProjection(steps=50, spacing="karras"),
    }
