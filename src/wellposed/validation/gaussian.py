"""Distance of a solver's samples from exact Gaussian posteriors."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import require_choice
from wellposed.noise import MEASUREMENT, SAMPLING, ItemNoise, item_generator
from wellposed.operators.base import LinearOperator
from wellposed.operators.decomposable import Separable
from wellposed.operators.image.blur import SeparableBlur
from wellposed.operators.image.inpainting import Inpainting, random_mask
from wellposed.operators.image.kernels import gaussian_kernel
from wellposed.operators.image.super_resolution import SuperResolution
from wellposed.operators.matrix import MatrixOperator
from wellposed.priors.analytic import GaussianPrior
from wellposed.priors.covariance import Covariance, Diagonal, Full, Stationary
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import VE, Flow, Schedule, Tabulated
from wellposed.solvers.base import Solver
from wellposed.validation.errors import PosteriorErrors, average, compare, gaussian_samples

PROCESSES = ("vp", "ve", "flow")
"""Names of the processes, see `process`."""

GaussianProblem = tuple[Tensor, LinearOperator, GaussianPrior]


def process(name: str) -> Schedule:
    """Return DDPM's linear schedule in variance-preserving, -exploding or flow form.

    All three cover the same noise-to-signal ratios and start at their own ``sigma_T``, so that
    a sampler must give the same samples with each (spacing "karras").

    Example:
        >>> from wellposed.validation import process
        >>> schedule = process("flow")
        >>> alpha, sigma = schedule(0.5 * schedule.T)
        >>> round(float(alpha + sigma), 6)
        1.0
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


def gaussian_problem(
    schedule: Schedule, seed: int = 0, noise_sigma: float = 0.1
) -> tuple[Tensor, MatrixOperator, GaussianPrior]:
    """Return a random problem ``(y, operator, prior)`` in float64: 16 unknowns, 8 data.

    The prior is correlated, with standard deviations from .1 to .5, which are typical of images.
    The operator is a random matrix with singular values from .1 to 1.

    Example:
        >>> from wellposed.validation import gaussian_problem, process
        >>> y, operator, prior = gaussian_problem(process("vp"), seed=0)
        >>> y.shape, prior.posterior(y, operator).mean.shape
        (torch.Size([1, 8]), torch.Size([1, 1, 4, 4]))
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


def _drawn(
    operator: LinearOperator, covariance: Covariance, schedule: Schedule, rng: np.random.Generator
) -> GaussianProblem:
    """Return a measurement, by ``operator``, of an image drawn from the prior."""
    prior = GaussianPrior(0.2, covariance, schedule)
    z = torch.from_numpy(rng.standard_normal((1, *operator.img_size)))
    return operator.measure(prior.draw(z), int(rng.integers(2**31))), operator, prior


def _diagonal(schedule: Schedule, seed: int) -> GaussianProblem:
    rng = item_generator(seed, (1,), MEASUREMENT)
    variance = torch.from_numpy(rng.uniform(0.1, 0.5, (1, 6, 6))) ** 2
    rows, columns = (torch.from_numpy(rng.standard_normal((4, 6)) / 3) for _ in range(2))
    return _drawn(Separable(rows, columns, 1, 0.1), Diagonal(variance), schedule, rng)


def field_covariance(side: int = 12, std: float = 0.3) -> Stationary:
    """Return the covariance of a smooth periodic field with power ~ 1 / frequency^3."""
    k = side * torch.fft.fftfreq(side, dtype=torch.float64)
    spectrum = (1 + (k[:, None] ** 2 + k**2) / 2) ** -1.5
    return Stationary(std**2 * spectrum[None] / spectrum.mean())


def _field(build: Callable[[int], LinearOperator]) -> Callable[[Schedule, int], GaussianProblem]:
    def problem(schedule: Schedule, seed: int) -> GaussianProblem:
        rng = item_generator(seed, (2,), MEASUREMENT)
        return _drawn(build(seed), field_covariance(), schedule, rng)

    return problem


PROBLEMS: dict[str, Callable[[Schedule, int], GaussianProblem]] = {
    "random matrix": gaussian_problem,
    "independent pixels": _diagonal,
    "field, blurred": _field(lambda seed: SeparableBlur(gaussian_kernel(1, 5), (1, 12, 12), 0.05)),
    "field, half the pixels": _field(
        lambda seed: Inpainting(random_mask(12, 12, 0.5, seed), 1, 0.05)
    ),
    "field, every second pixel": _field(
        lambda seed: SuperResolution((1, 12, 12), 2, "average", 0.05)
    ),
}
"""Gaussian problems by name: ``(schedule, seed) -> (y, operator, prior)``, in float64."""


class BatchNoise:
    """Normal noise for a whole batch from one generator: much faster than a stream per item.

    Args:
        seed: seed of the draws.
        antithetic: the second half of the batch is the negative of the first half. The mean of
            the batch is then free of sampling error for a solver that is linear in its noise.
    """

    def __init__(self, seed: int, antithetic: bool = False) -> None:
        self.seed, self._rng = seed, item_generator(seed, (), SAMPLING)
        self._antithetic = antithetic
        self.position = 0

    def draw(self, like: Tensor) -> Tensor:
        """Return the next noise, real; see `NoiseSource.draw`."""
        self.position += 1
        if self._antithetic:
            half = torch.from_numpy(self._rng.standard_normal((len(like) // 2, *like.shape[1:])))
            return torch.cat([half, -half]).to(like)
        return torch.from_numpy(self._rng.standard_normal(tuple(like.shape))).to(like)


def draw_samples(
    solver: Solver, problem: tuple[Tensor, LinearOperator, Prior], count: int, noise: BatchNoise
) -> Tensor:
    """Return samples (count, B, ...) of a problem, all run as one batch.

    Weighted particles are populations of this number.
    """
    y, operator, prior = problem
    if solver.most_samples is not None:
        population = solver.populated(count)
        return population(y, operator, prior, num_samples=count, seed=noise.seed).samples
    run = solver(y.repeat(count, *[1] * (y.ndim - 1)), operator, prior, noise=noise)
    return run.samples[0].view(count, len(y), *run.samples.shape[2:])


def gaussian_errors(
    solver: Solver,
    name: str = "vp",
    problems: int = 4,
    num_samples: int = 2000,
    kind: str = "random matrix",
) -> PosteriorErrors:
    """Return a solver's errors on random Gaussian problems, averaged over ``problems``.

    Args:
        solver: the solver.
        name: name of the process, see `process`.
        problems: number of problems; their seeds count from 0.
        num_samples: samples per problem.
        kind: one of `PROBLEMS`.

    Example:
        >>> from wellposed import solvers
        >>> from wellposed.validation import gaussian_errors
        >>> errors = gaussian_errors(solvers.MMPS(steps=20), problems=1, num_samples=100)
        >>> errors.spread < 1  # the published method is too narrow
        True
    """
    build, errors = PROBLEMS[require_choice("kind", kind, PROBLEMS)], []
    for seed in range(problems):
        y, operator, prior = build(process(name), seed)
        exact = prior.posterior(y, operator)
        samples = draw_samples(solver, (y, operator, prior), num_samples, BatchNoise(seed))[:, 0]
        errors.append(compare(samples, exact.mean, exact.covariance()))
    return average(errors)


def floor_errors(
    problems: int = 4, num_samples: int = 2000, kind: str = "random matrix"
) -> PosteriorErrors:
    """Return the errors of exact posterior samples: those of a perfect solver."""
    build, errors = PROBLEMS[require_choice("kind", kind, PROBLEMS)], []
    for seed in range(problems):
        y, operator, prior = build(process("vp"), seed)
        exact = prior.posterior(y, operator)
        covariance = exact.covariance()
        rng = item_generator(seed, (3,), MEASUREMENT)
        z = torch.from_numpy(rng.standard_normal((num_samples, len(covariance))))
        errors.append(compare(gaussian_samples(exact.mean, covariance, z), exact.mean, covariance))
    return average(errors)
