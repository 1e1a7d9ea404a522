"""Twisted sequential Monte Carlo: weighted particles with moment-matched proposals."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import pi
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from wellposed.checks import Choice, Fraction, Whole
from wellposed.errors import ArgumentError, SamplingError, require
from wellposed.noise import NoiseSource
from wellposed.priors.analytic import SupportsNoisyDraws
from wellposed.priors.transition import (
    Levels,
    kept_noise,
    levels,
    share_of_image,
    starting_std,
    variance,
)
from wellposed.runs.memory import MemoryPlan, check_samples
from wellposed.solvers.base import Solver, State
from wellposed.solvers.batches import Batch
from wellposed.solvers.corrected import estimate
from wellposed.solvers.data import decomposed, is_decomposable, noise_level
from wellposed.solvers.moments import Rows, Tweedie, measured_entries
from wellposed.solvers.particles import ALWAYS, ParticleState, drawn, each_item, effective_size
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import measured_numbers
from wellposed.solvers.sampler import ParticleSummary
from wellposed.solvers.twists import Covariance, Isotropic, Twist, likelihood

FEW = 16
"""Measured real numbers up to which "auto" takes the covariance from the network's Jacobian."""

ARRAYS = 8
"""Images of each particle that a step holds, those of the states before and after it included."""


class Look(NamedTuple):
    """What is known at x_t, see `ParticleState`."""

    x0: Tensor
    corrected: Tensor
    log_psi: Tensor
    variance: Tensor
    products: Tensor


@dataclass(frozen=True, kw_only=True)
class Twisted(Solver):
    r"""Twisted particles: exact posteriors and evidence in the limit, for few measurements.

    P particles have proposals that know the measurement, and weights that correct them. For each
    pair of times t -> s, with ``x0 = E[x_0 | x_t]`` and ``V = Cov[x_0 | x_t]``::

        S     = A V A^H + sigma_y^2,  psi_t = N(y; A x0, S)
        x0'   = x0 + V A^H S^-1 (y - A x0)
        resample (systematic) if the effective size 1 / sum w^2 is below the threshold
        k     = sqrt(sigma_s^2 - v) / sigma_t,  c = alpha_s - k alpha_t
        p     = N(alpha_s x0 + k (x_t - alpha_t x0), v + c^2 V)
        x_s   ~ q = p conditioned on y: moved by c (x0' - x0), narrowed along what is measured
        w    <- w psi_s(x_s) / psi_t(x_t) p(x_s) / q(x_s)

    ``psi_0`` is the likelihood and v DDPM's variance: with the covariance of x_0 given x_t the
    transition p is that of the diffusion, for which ``psi`` is made. The mean of all weights
    estimates the evidence ``p(y)``: differences of `Reconstruction.log_evidence` compare priors
    and noise levels. Items are run one by one. A call computes all particles of an item and
    returns the first ``num_samples`` of a resampled population, in random order.

    ``covariance="tweedie"`` takes V from products with the network's Jacobian, one for each
    measured number and two more, see ``solvers/moments.py``; ``"isotropic"`` takes ``rho^2`` times
    the identity, for a `Decomposable` operator; ``"auto"`` is tweedie for up to 16 numbers.

    Limits: the variance of the log weights grows with the number of measurements, until all
    samples are copies of one particle. `Reconstruction.ess` shows this, and a warning is given.
    An isotropic V is wrong, so that this comes much earlier: for more than 16 numbers, set
    ``covariance="tweedie"`` if its cost allows. Take `MMPS` for images.

    Noise-free data are treated as data with noise of .01 in units, as by `DAPS`. As this level
    depends on the prior, their log evidence is NaN.

    Memory: about 8 images of each particle, and with "tweedie" 4 times as many images as there
    are measured numbers. Particles that exceed the free memory are refused. ``batch_size`` bounds
    what the network takes at once.

    Reference: "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models" (TDS),
    NeurIPS 2023, arXiv 2306.17775; moments as in arXiv 2310.06721 and 2405.13712. The transition
    with the covariance and its conditioning are ours.

    Args:
        particles: particles of each item.
        steps: network evaluations of each particle.
        covariance: "auto", "tweedie" or "isotropic".
        variance: ``rho^2`` of "isotropic" by the "trace" of the Jacobian (one random probe), or as
            for data of variance 1, "unit".
        ess_threshold: share of the particles below which the effective size leads to resampling.
        start: x_T is "noise", or drawn from the "prior", which analytic priors can do exactly;
            "auto" takes the prior where it can.
        batch_size: particles that are computed together; ``None``: all.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.MatrixOperator(torch.eye(3, 16), (1, 4, 4), noise_sigma=0.1)
        >>> y = operator.measure(torch.rand(1, 1, 4, 4), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> result = solvers.Twisted(steps=10)(y, operator, prior, num_samples=8, seed=0)
        >>> result.samples.shape, result.log_evidence.shape
        (torch.Size([8, 1, 1, 4, 4]), torch.Size([1]))
    """

    particles: Annotated[int, Whole(2, 10**6)] = 64
    spacing: str = "karras"
    covariance: Annotated[str, Choice("auto", "tweedie", "isotropic")] = "auto"
    variance: Annotated[str, Choice("trace", "unit")] = "trace"
    ess_threshold: Fraction = 0.5
    start: Annotated[str, Choice("auto", "noise", "prior")] = "auto"

    name: ClassVar[str] = "twisted"
    linear_only: ClassVar[bool] = True
    differentiates: ClassVar[bool] = True

    @property
    def most_samples(self) -> int:
        """The particles of an item."""
        return self.particles

    def populated(self, count: int) -> "Twisted":
        """Return the solver with this number of particles."""
        return replace(self, particles=count)

    def memory_plan(
        self, problem: Problem, num_samples: int = 1, chunk: int | None = None
    ) -> MemoryPlan:
        """Return the memory plan of a run over volumes, with all particles; see `plan`."""
        return super().memory_plan(problem, self.particles, chunk)

    def check(self, problem: Problem) -> None:
        """Raise unless covariance and operator, start and prior fit, and the particles memory."""
        super().check(problem)
        whole = problem.part.processes == 1
        require(whole, "operator", "a volume shared by processes", "a whole one by Twisted")
        for one in each_item(problem):
            self._check_item(one)
        possible = self.start != "prior" or isinstance(problem.prior, SupportsNoisyDraws)
        accepted = '"noise", or a prior that draws x_T, as GaussianPrior and GaussianMixturePrior'
        require(possible, "start", f"{self.start} with {type(problem.prior).__name__}", accepted)

    def _check_item(self, one: Problem) -> None:
        few, arrays = self._is_few(one), ARRAYS
        if few:
            accepted = '"trace", as Tweedie\'s covariance has no other'
            require(self.variance == "trace", "variance", self.variance, accepted)
            # Products before and after resampling, and the two that the network's graph holds.
            arrays += 4 * (len(measured_entries(one)) + 1)
        elif not is_decomposable(one.operator):
            raise ArgumentError(
                f"operator: {type(one.operator).__name__} has no singular value decomposition "
                f"and {len(measured_entries(one))} measured numbers, accepted by Twisted("
                f'covariance="{self.covariance}"): a Decomposable operator, or at most {FEW} '
                'numbers with "auto", or any with "tweedie"'
            )
        check_samples(self.particles, one.zeros(), "particles", arrays)

    def _is_few(self, one: Problem) -> bool:
        """Return whether the covariance of an item is Tweedie's."""
        if self.covariance != "auto":
            return self.covariance == "tweedie"
        return len(measured_entries(one)) <= FEW

    def _batches(self, problem: Problem, num_samples: int, together: int) -> Iterator[Batch]:
        """Yield the items one by one, each with the identities of all its particles."""
        for b, one in enumerate(each_item(problem)):
            yield one.repeated(num_samples), [(p, b) for p in range(self.particles)]

    def twist(self, problem: Problem) -> Twist:
        """Return the twist of an item."""
        if self._is_few(problem):
            return Tweedie(problem.once(Rows))
        return Isotropic(decomposed(problem), self.variance == "trace")

    def init(self, problem: Problem, noise: NoiseSource) -> ParticleState:
        """Draw ``x_T`` and weigh it by its twist."""
        schedule, t = problem.prior.schedule, self.times(problem)[0]
        zeros = problem.repeated(self.particles).zeros()
        if self.start != "noise" and isinstance(problem.prior, SupportsNoisyDraws):
            x = problem.prior.draw_noisy(zeros, t, noise)
        else:
            x = starting_std(schedule, t) * noise.draw(zeros)
        look, one = self.look(x, t, problem), problem.repeated(1)
        density = noise_level(one).double() * problem.prior.scale  # of y in public units
        constant = -0.5 * measured_numbers(one) * (2 * pi * density**2).log()
        ess = constant.new_zeros(len(self.times(problem)) - 1, 1)
        return ParticleState(x, *look, look.log_psi, constant, ess)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> ParticleState:
        """Resample, propose, look at the proposals and weigh them."""
        assert isinstance(state, ParticleState)
        chance, z = drawn(noise, state.x)
        first, last, _ = torch.special.ndtr(chance[0])
        state = state.resampled(first, self.ess_threshold)
        x, gain = self.propose(state, z, levels(problem.prior.schedule, t, s), problem)
        look = self.look(x, s, problem)
        weights = state.log_weights + look.log_psi - state.log_psi + gain
        if not bool(weights.isfinite().all()):
            raise SamplingError(f"Twisted: weights that are not finite at t = {t:g}")
        ess = torch.cat([state.ess[1:], effective_size(weights).view(1, 1)])
        state = ParticleState(x, *look, weights, state.log_evidence, ess)
        if s > 0:
            return state
        return state.resampled(last, ALWAYS).selected(chance[:, 2].argsort())

    def propose(
        self, state: ParticleState, z: Tensor, level: Levels, problem: Problem
    ) -> tuple[Tensor, Tensor]:
        """Return ``x_s`` and ``log p(x_s) / q(x_s)`` of each particle, from fresh noise z."""
        v = variance("markov", level)
        k, c = kept_noise(level, v) / level.sigma_t, share_of_image(level, v)
        mean = level.alpha_s * state.x0 + k * (state.x - level.alpha_t * state.x0)
        shift, twist = c * (state.corrected - state.x0), self.twist(problem)
        moves, gains = [], []
        for rows, part in self._chunks(problem):
            V = Covariance(state.variance[rows], state.products[rows])
            move, gain = twist.kernel(V, v, c**2, part).moved(shift[rows], z[rows])
            moves.append(move)
            gains.append(gain)
        return mean + torch.cat(moves), torch.cat(gains)

    def look(self, x: Tensor, t: float, problem: Problem) -> Look:
        """Return what is known at ``x_t``, with one evaluation of each particle."""
        twist = self.twist(problem)
        looks = [self._look(x[rows], t, part, twist) for rows, part in self._chunks(problem)]
        return Look(*map(torch.cat, zip(*looks, strict=True)))

    def _look(self, x: Tensor, t: float, problem: Problem, twist: Twist) -> Look:
        if t == 0:
            return Look(x, x, likelihood(x, problem), *twist.nothing(x))
        denoise = partial(problem.denoise, t=t)
        found = estimate(denoise, x, problem, twist.differentiates)
        V = twist.covariance(found, levels(problem.prior.schedule, t, t))
        return Look(found.x0, *twist.correct(found, V, problem), *V)

    def _chunks(self, problem: Problem) -> Iterator[tuple[slice, Problem]]:
        """Yield particles that are computed together, and a problem with a row for each."""
        size = self.batch_size or self.particles
        for start in range(0, self.particles, size):
            rows = slice(start, min(start + size, self.particles))
            yield rows, problem.repeated(rows.stop - start)

    def summary(self, state: State) -> ParticleSummary:
        """Return the log evidence and the effective sizes of a finished run."""
        assert isinstance(state, ParticleState)
        return ParticleSummary(state.log_evidence, state.ess)
