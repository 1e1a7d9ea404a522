"""Twisted sequential Monte Carlo: weighted particles with moment-matched proposals."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from wellposed.checks import Choice, Fraction, Whole
from wellposed.errors import ArgumentError, SamplingError, require
from wellposed.noise import NoiseSource
from wellposed.priors.analytic import Drawable
from wellposed.priors.transition import Levels, levels, starting_std, variance
from wellposed.solvers.base import Batch, Solver, State
from wellposed.solvers.corrected import estimate
from wellposed.solvers.data import decomposed, is_decomposable, noise_level
from wellposed.solvers.moments import MomentKernel, Rows, moment_twist, products
from wellposed.solvers.particles import (
    ALWAYS,
    ParticleState,
    Population,
    drawn,
    effective_size,
)
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import measured_numbers
from wellposed.solvers.sampler import Evidence
from wellposed.solvers.twists import (
    Directions,
    ScalarKernel,
    likelihood,
    measured_entries,
    scalar_twist,
    trace_spread,
    unit_spread,
)

Known = Rows | Directions
MOMENTS = 16
"""Measured real numbers up to which "auto" takes the covariance from the network's Jacobian."""


class Look(NamedTuple):
    """What is known at x_t, see `ParticleState`."""

    x0: Tensor
    corrected: Tensor
    log_psi: Tensor
    spread: Tensor
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

    ``psi_0`` is the likelihood. The transition p has the covariance of x_0 given x_t. Without it
    the variance of the weights is 100 times as large, and modes have wrong probabilities. The mean
    of all weights estimates the evidence ``p(y)``: differences of `Reconstruction.log_evidence`
    compare priors and noise levels. Particles of an item stay together and items are independent.
    A call computes all particles and returns the first ``num_samples`` of a resampled population,
    in random order.

    ``covariance="moment"`` takes V from products with the network's Jacobian, one for each
    measured number and two more, see ``solvers/moments.py``; ``"scalar"`` takes ``rho^2`` times
    the identity, for a `Decomposable` operator; ``"auto"`` is moment for up to 16 numbers.

    Limits: an isotropic V is wrong, and the variance of the log weights grows with the number of
    measurements. With 64 particles "scalar" ends at about 30 numbers; beyond, all samples are
    copies of one particle. `Reconstruction.ess` shows this, and a warning is given. "moment" then
    costs more and holds longer: of a Gaussian field with 72 pixels measured it keeps 54 of 64
    particles in 20 steps, where "scalar" keeps 1. On a photograph of 64 pixels (8 particles, 30
    steps, the "natural" prior; inpainting of a box and of random pixels, super-resolution) 1 to 2
    particles have all the weight, and the CRPS is 2.5 to 4 times that of `MMPS`. It is 1.15 to
    1.4 times if blocks of 4 pixels are resampled by their own weights, which is not offered.
    Weights do not find better fillings of a box either. Take `MMPS` for images. Noise-free data
    are treated as data with noise of .01 in units, as by `DAPS`.

    Reference: "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models" (TDS),
    NeurIPS 2023, arXiv 2306.17775; moments as in arXiv 2310.06721 and 2405.13712. The transition
    with the covariance and its conditioning are ours.

    Args:
        particles: particles of each item.
        steps: network evaluations of each particle.
        covariance: "auto", "moment" or "scalar".
        spread: ``rho^2`` of "scalar" by the "trace" of the Jacobian (one random probe), or as for
            data of variance 1, "unit".
        eta: DDIM's eta: 1 is DDPM.
        ess_threshold: share of the particles below which the effective size leads to resampling.
        start: x_T is "noise", or drawn from the "prior", which analytic priors can do exactly.
        batch_size: particles that are computed together; ``None``: all.
    """

    particles: Annotated[int, Whole(2, 10**6)] = 64
    spacing: str = "karras"
    covariance: Annotated[str, Choice("auto", "moment", "scalar")] = "auto"
    spread: Annotated[str, Choice("trace", "unit")] = "trace"
    eta: Fraction = 1.0
    ess_threshold: Fraction = 0.5
    start: Annotated[str, Choice("noise", "prior")] = "noise"

    name: ClassVar[str] = "twisted"
    linear_only: ClassVar[bool] = True
    differentiates: ClassVar[bool] = True

    @property
    def most_samples(self) -> int:
        """The particles of an item."""
        return self.particles

    def check(self, problem: Problem) -> None:
        """Raise unless the covariance suits the operator, and the start the prior."""
        super().check(problem)
        whole = problem.part.processes == 1
        require(whole, "operator", "a volume shared by processes", "a whole one by Twisted")
        if not self._takes_moments(problem) and not is_decomposable(problem.operator):
            raise ArgumentError(
                f"operator: {type(problem.operator).__name__} has no singular value decomposition "
                f"and {len(measured_entries(problem))} measured numbers, accepted by Twisted("
                f'covariance="{self.covariance}"): a Decomposable operator, or at most {MOMENTS} '
                'numbers with "auto", or any with "moment"'
            )
        exact = self.start == "noise" or isinstance(problem.prior, Drawable)
        accepted = '"noise", or a prior that draws x_T, as GaussianPrior and GaussianMixturePrior'
        require(exact, "start", f"{self.start} with {type(problem.prior).__name__}", accepted)

    def _takes_moments(self, problem: Problem) -> bool:
        if self.covariance != "auto":
            return self.covariance == "moment"
        return len(measured_entries(problem)) <= MOMENTS

    def _batches(self, problem: Problem, num_samples: int) -> Iterator[Batch]:
        """Yield one batch, with the identities of all particles: a population is not cut."""
        yield problem, [(p, b) for p in range(self.particles) for b in range(len(problem.y))]

    def population(self, problem: Problem) -> Population:
        """Return the population of a problem."""
        return Population(problem, self.particles, self.batch_size or self.particles)

    def directions(self, problem: Problem) -> Known:
        """Return the measured directions: the rows for moments, or those of the operator."""
        return Rows(problem) if self._takes_moments(problem) else decomposed(problem)

    def init(self, problem: Problem, noise: NoiseSource) -> ParticleState:
        """Draw ``x_T`` and weigh it by its twist."""
        schedule, t = problem.prior.schedule, self.times(problem)[0]
        zeros = self.population(problem).zeros()
        if self.start == "prior":
            assert isinstance(problem.prior, Drawable)
            x = problem.prior.draw_noisy(zeros, t, noise)
        else:
            x = starting_std(schedule, t) * noise.draw(zeros)
        look = self.look(x, t, problem, self.directions(problem))
        density = noise_level(problem).double() * problem.prior.scale  # of y in public units
        constant = -0.5 * measured_numbers(problem) * (2 * pi * density**2).log()
        ess = constant.new_zeros(len(self.times(problem)) - 1, len(problem.y))
        return ParticleState(x, *look, look.log_psi, constant, ess)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> ParticleState:
        """Resample, propose, look at the proposals and weigh them."""
        assert isinstance(state, ParticleState)
        chance, z = drawn(noise, state.x)
        uniform = torch.special.ndtr(chance[: len(problem.y)])
        state = state.resampled(uniform[:, 0], self.ess_threshold)
        directions = self.directions(problem)
        x, gain = self.propose(state, z, levels(problem.prior.schedule, t, s), problem, directions)
        look = self.look(x, s, problem, directions)
        weights = state.log_weights + look.log_psi - state.log_psi + gain
        if not bool(weights.isfinite().all()):
            raise SamplingError(f"Twisted: weights that are not finite at t = {t:g}")
        ess = effective_size(weights.unflatten(0, (self.particles, -1)))
        past = torch.cat([state.ess[1:], ess[None]])
        state = ParticleState(x, *look, weights, state.log_evidence, past)
        if s > 0:
            return state
        order = chance[:, 2].unflatten(0, (self.particles, -1)).argsort(0)
        return state.resampled(uniform[:, 1], ALWAYS).selected(order)

    def propose(
        self, state: ParticleState, z: Tensor, level: Levels, problem: Problem, known: Known
    ) -> tuple[Tensor, Tensor]:
        """Return ``x_s`` and ``log p(x_s) / q(x_s)`` of each particle, from fresh noise z."""
        v = variance("markov", level, self.eta)
        k = (level.sigma_s**2 - v).clamp(min=0).sqrt() / level.sigma_t
        c = level.alpha_s - k * level.alpha_t
        mean = level.alpha_s * state.x0 + k * (state.x - level.alpha_t * state.x0)
        shift = c * (state.corrected - state.x0)
        moves, gains = [], []
        for rows, part in self.population(problem).parts():
            sigma2 = noise_level(part).double() ** 2
            shares = v, c**2, state.spread[rows], sigma2
            kernel = (
                MomentKernel(*shares, known, state.products[rows])
                if isinstance(known, Rows)
                else ScalarKernel(*shares, known)
            )
            move, gain = kernel.moved(shift[rows], z[rows])
            moves.append(move)
            gains.append(gain)
        return mean + torch.cat(moves), torch.cat(gains)

    def look(self, x: Tensor, t: float, problem: Problem, known: Known) -> Look:
        """Return what is known at ``x_t``, with one evaluation of each particle."""
        parts = self.population(problem).parts()
        looks = [self._look(x[rows], t, part, known) for rows, part in parts]
        return Look(*map(torch.cat, zip(*looks, strict=True)))

    def _look(self, x: Tensor, t: float, problem: Problem, known: Known) -> Look:
        if t == 0:
            log_psi = likelihood(x, problem)
            shape = known.frame.shape[1:] if isinstance(known, Rows) else (0, 0)
            Y = log_psi.new_zeros(len(x), *shape)
            return Look(x, x, log_psi, torch.zeros_like(log_psi), Y)
        level = levels(problem.prior.schedule, t, t)
        jacobian = isinstance(known, Rows) or self.spread == "trace"
        found = estimate(lambda x_t: problem.denoise(x_t, t), x, problem, jacobian)
        if isinstance(known, Rows):
            Y, rho2 = products(found, known, level)
            return Look(found.x0, *moment_twist(found, known, Y, problem), rho2, Y)
        rho2 = trace_spread(found, level) if self.spread == "trace" else unit_spread(found, level)
        return Look(
            found.x0, *scalar_twist(found.x0, rho2, problem), rho2, rho2.new_zeros(len(rho2), 0, 0)
        )

    def evidence(self, state: State) -> Evidence:
        """Return the log evidence and the effective sizes of a finished run."""
        assert isinstance(state, ParticleState)
        return Evidence(state.log_evidence, state.ess)
