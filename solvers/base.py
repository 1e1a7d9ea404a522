"""What every solver shares: the call, the one loop, and the result."""

import math
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from wellposed.errors import SamplingError, require, require_choice
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import SPACINGS
from wellposed.progress import track
from wellposed.reconstruction import Reconstruction
from wellposed.solvers.misfit import misfit, noisy_numbers
from wellposed.solvers.problem import Problem
from wellposed.solvers.transition import starting_std

if TYPE_CHECKING:
    from deepinv.physics import Physics

Callback = Callable[[int, "State"], None]


@dataclass(frozen=True, eq=False)
class State:
    """A sampler's state, a value: stepping makes a new one.

    Attributes:
        x: the current noisy image ``x_t`` (or what a method iterates on), in the prior's units.
        x0: the latest estimate of the clean image, in units.
    """

    x: Tensor
    x0: Tensor


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """Base of all zero-shot solvers: fields are the paper's hyper-parameters.

    Args:
        steps: network evaluations (for "leading" see `Schedule.times`).
        spacing: how the times are spaced, see `Schedule.times`.
        batch_size: samples of one item carried through the network together; ``None`` takes all.
            Several items go sample by sample.
    """

    steps: int = 50
    spacing: str = "leading"
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for hyper in fields(self):
            value = getattr(self, hyper.name)
            if hyper.type in (int, float):
                number = isinstance(value, (int, hyper.type)) and not isinstance(value, bool)
                require(number and not math.isnan(value), hyper.name, value, "a number")
            if hyper.type is bool:
                require(isinstance(value, bool), hyper.name, value, "True or False")
        require(_is_count(self.steps), "steps", self.steps, "an integer of at least 1")
        require_choice("spacing", self.spacing, SPACINGS)
        whole = self.batch_size is None or _is_count(self.batch_size)
        require(whole, "batch_size", self.batch_size, "None or an integer of at least 1")

    linear_only: ClassVar[bool] = False

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Return the state before the first step: by default ``x_T``, pure noise."""
        std = starting_std(problem.prior.schedule, self.times(problem)[0])
        x_T = std * noise.draw(problem.zeros())
        return State(x_T, x_T)

    @abstractmethod
    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Return the state at time ``s < t``."""

    def finish(self, state: State) -> Tensor:
        """Return the reconstruction of the last state, in units."""
        return state.x

    def check(self, problem: Problem) -> None:
        """Raise if the method cannot solve this problem."""
        if self.linear_only:
            problem.require_linear(type(self).__name__)

    def times(self, problem: Problem) -> list[float]:
        """Return the decreasing times of the run, ending in 0."""
        return problem.prior.schedule.times(self.steps, self.spacing).tolist()

    @torch.no_grad()
    def run(
        self, problem: Problem, noise: NoiseSource, callback: Callback | None = None
    ) -> Tensor:
        """Sample once for every item of a prepared problem; return images in units.

        Raises:
            SamplingError: a value became NaN or infinite; names the step.
        """
        state, times = self.init(problem, noise), self.times(problem)
        for index, t in enumerate(track(times[:-1], type(self).__name__)):
            state = self.step(state, t, times[index + 1], problem, noise)
            if not bool(torch.isfinite(state.x + state.x0).all()):
                raise SamplingError(
                    f"{type(self).__name__}: non-finite values at step {index + 1} of "
                    f"{len(times) - 1} (t = {t:g}); lower the step size or check the prior"
                )
            if callback is not None:
                callback(index, state)
        return self.finish(state)

    def __call__(
        self,
        y: Tensor,
        operator: "Physics",
        prior: Prior,
        *,
        num_samples: int = 1,
        seed: int | None = None,
        noise: NoiseSource | None = None,
        callback: Callback | None = None,
    ) -> Reconstruction:
        """Reconstruct ``x`` from ``y = A(x) + n``.

        Args:
            y: measurements, batch first; the result follows their dtype and device.
            operator: a wellposed operator or deepinv physics, in public units.
            prior: the prior.
            num_samples: posterior samples per item.
            seed: decides every random draw; ``None`` draws a seed and records it. Sample n of
                item b is the same alone or in any batch.
            noise: recorded draws used instead of ``seed`` (then ``num_samples`` must be 1).
            callback: called as ``callback(index, state)`` after every step.

        Raises:
            ArgumentError and its subclasses, before the first network call; `SamplingError`
            when a run diverges.
        """
        require(_is_count(num_samples), "num_samples", num_samples, "an integer of at least 1")
        if noise is not None:
            require(callable(getattr(noise, "draw", None)), "noise", noise, "a noise source")
            require(num_samples == 1, "num_samples", num_samples, "1 with recorded noise")
            require(seed is None, "seed", seed, "None with recorded noise")
        seed = secrets.randbits(31) if seed is None else seed
        whole_problem = Problem.create(y, operator, prior)
        self.check(whole_problem)
        started, evaluations, chunks, residuals = time.perf_counter(), 0, [], []
        measured = noisy_numbers(whole_problem)
        for problem, identities in self._chunks(whole_problem, num_samples):
            source = ItemNoise(seed, identities) if noise is None else noise
            u = self.run(problem, source, callback)
            evaluations = max(evaluations, problem.evaluations)
            chunks.append(problem.to_public(u))
            residuals.append(misfit(problem, u, measured))
        return Reconstruction(
            samples=torch.cat(chunks).unflatten(0, (num_samples, len(y))),
            residual=torch.cat(residuals).reshape(num_samples, len(y)),
            nfe=evaluations,
            seconds=time.perf_counter() - started,
            solver=type(self).__name__,
            settings=asdict(self),
            seed=None if noise is not None else seed,
            measured=measured,
        )

    def _chunks(
        self, problem: Problem, num_samples: int
    ) -> Iterator[tuple[Problem, list[tuple[int, int]]]]:
        """Yield problems to run and the (sample, item) identities of their batch.

        One item's samples share a batch; several items go sample by sample, because an operator
        may hold parameters of its own for each item.
        """
        items = len(problem.y)
        if items > 1:
            for n in range(num_samples):
                yield replace(problem, evaluations=0), [(n, b) for b in range(items)]
            return
        size = self.batch_size or num_samples
        for start in range(0, num_samples, size):
            numbers = range(start, min(start + size, num_samples))
            shape = torch.Size([len(numbers), *problem.image_shape[1:]])
            y = problem.y.expand(len(numbers), *problem.y.shape[1:])
            chunk = replace(problem, y=y, image_shape=shape, evaluations=0)
            yield chunk, [(n, 0) for n in numbers]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def describe(solver: type[Solver]) -> str:
    """Return the first line of a solver's documentation."""
    return (solver.__doc__ or "").strip().splitlines()[0]
