"""Samplers: their state, their steps and the loop that takes the steps."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from wellposed.checks import Steps, check_fields
from wellposed.errors import CheckpointError, SamplingError, require_choice
from wellposed.noise import NoiseSource
from wellposed.priors.schedule import SPACINGS
from wellposed.priors.transition import starting_std
from wellposed.runs.checkpoint import RunFolder, naming
from wellposed.runs.progress import track
from wellposed.solvers.data import project
from wellposed.solvers.problem import Method, Problem
from wellposed.solvers.scope import Scope

ONTO_DATA = 10
"""Conjugate-gradient steps of a projection onto the data, for priors that begin with a run."""

T = TypeVar("T")
Callback = Callable[[int, "State"], None]


@dataclass(frozen=True, eq=False)
class State:
    """State of a sampler, a value: each step returns a new state.

    Attributes:
        x: the noisy image ``x_t``, or the iterate of the method, in the prior's units.
        x0: the latest estimate of the clean image, in units.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Denoising((1, 8, 8), noise_sigma=0.1)
        >>> y, states = torch.rand(1, 1, 8, 8), []
        >>> solver, prior = solvers.DDS(steps=3), priors.GaussianPrior(0.5, 1 / 12)
        >>> result = solver(y, operator, prior, seed=0, callback=lambda n, s: states.append(s))
        >>> len(states), states[0].x0.shape  # a callback sees each state
        (3, torch.Size([1, 1, 8, 8]))
    """

    x: Tensor
    x0: Tensor


class ParticleSummary(NamedTuple):
    """What weighted particles give: log evidence (B,), effective sizes (steps, B)."""

    log_evidence: Tensor
    ess: Tensor


class Sampled(NamedTuple):
    """A batch of samples in units, and the number of network evaluations per sample."""

    u: Tensor
    evaluations: int
    particles: ParticleSummary | None = None


@dataclass
class Tally:
    """Number of images that the network has denoised in a run so far."""

    count: int = 0


@dataclass(frozen=True, eq=False)
class Counted(Problem):
    """A problem that counts the images that the network denoises during a run."""

    tally: Tally = field(default_factory=Tally)

    @classmethod
    def of(cls, problem: Problem) -> "Counted":
        """Return the problem with a count of zero."""
        return cls(**{part.name: getattr(problem, part.name) for part in fields(Problem)})

    def evaluate(self, network: Method[T], x_t: Tensor, t: float | Tensor) -> T:
        """Evaluate and count; see `Problem.evaluate`."""
        self.tally.count += len(x_t)
        return super().evaluate(network, x_t, t)


@dataclass(frozen=True, kw_only=True)
class Sampler(Scope, ABC):
    """Base of a method: its start, its steps and the loop.

    Args:
        steps: network evaluations.
        spacing: spacing of the times, see `Schedule.times`.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Denoising((1, 8, 8), noise_sigma=0.1)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> problem = solvers.Problem.create(torch.rand(1, 1, 8, 8), operator, prior)
        >>> solvers.DDS(steps=4).times(problem)
        [751.0, 501.0, 251.0, 1.0, 0.0]
    """

    steps: Steps = 50
    spacing: str = "leading"

    spacings: ClassVar[tuple[str, ...]] = SPACINGS

    def __post_init__(self) -> None:
        check_fields(self)
        require_choice("spacing", self.spacing, self.spacings)

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Return the state before the first step, by default pure noise ``x_T``."""
        std = starting_std(problem.prior.schedule, self.times(problem)[0])
        x_T = std * noise.draw(problem.zeros())
        return State(x_T, x_T)

    @abstractmethod
    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Return the state at time ``s < t``."""

    def finish(self, state: State) -> Tensor:
        """Return the reconstruction from the last state, in units."""
        return state.x

    def summary(self, state: State) -> ParticleSummary | None:
        """Return what weighted particles give; ``None`` without."""
        return None

    def times(self, problem: Problem) -> list[float]:
        """Return the decreasing times of the run, ending in 0."""
        return problem.prior.schedule.times(self.steps, self.spacing).tolist()

    @torch.no_grad()
    def run(
        self,
        problem: Problem,
        noise: NoiseSource,
        callback: Callback | None = None,
        folder: RunFolder | None = None,
        batch: int = 0,
    ) -> Sampled:
        """Return one sample of every item of a prepared problem; see `Solver.__call__`.

        States of batch number ``batch`` are saved in ``folder``. Raises `SamplingError` with the
        step if a value is not finite or a process was lost.
        """
        onto_data = partial(project, problem, iterations=ONTO_DATA) if problem.is_linear else None
        begun = problem.prior.begin(problem.zeros(), noise, onto_data)
        problem = Counted.of(replace(problem, prior=begun))
        state, times, first = self.init(problem, noise), self.times(problem), 0
        total = len(times) - 1
        saved = folder.load_state(state, batch) if folder is not None else None
        if folder is not None and saved is not None:
            state, facts, memory = saved
            if not 0 < facts["step"] <= total:
                raise CheckpointError(
                    f"checkpoint: {str(folder.path)!r} is at step {facts['step']} of {total}, "
                    "accepted: one of the run; delete it"
                )
            first, noise.position = facts["step"], facts["position"]
            problem.tally.count = facts["evaluations"]
            begun.recall(memory)
        name, steps = type(self).__name__, range(first, total)
        for index in track(steps, name, first) if problem.part.rank == 0 else steps:
            with naming(f"{name}, step {index + 1} of {total}", folder):
                state = self.step(state, times[index], times[index + 1], problem, noise)
                if not _is_finite(state, problem):
                    raise SamplingError(
                        f"{name}: non-finite values at step {index + 1} of {total} "
                        f"(t = {times[index]:g}); lower the step size or check the prior"
                    )
                if callback is not None:
                    callback(index, state)
                if folder is not None and (index + 1) % folder.every == 0:
                    facts = {"batch": batch, "step": index + 1, "position": noise.position}
                    facts["evaluations"] = problem.tally.count
                    folder.save_state(state, facts, begun.memory())
        u = self.finish(state)[: len(problem.y)]  # of weighted particles, which may be more
        return Sampled(u, -(-problem.tally.count // len(u)), self.summary(state))


def _is_finite(state: State, problem: Problem) -> bool:
    """Return whether all values of the state are finite, in all processes of a volume."""
    bad = ~(torch.isfinite(state.x).all() & torch.isfinite(state.x0).all())
    return not bool(problem.space.sum(bad[None].float()))
