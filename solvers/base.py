"""What every solver shares: the call, the one loop, and the result."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, SamplingError, require, require_choice
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.parallel.part import slab_of
from wellposed.parallel.sharding import agreed_seed, check_shared, naming
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import SPACINGS
from wellposed.priors.transition import starting_std
from wellposed.reconstruction import Reconstruction
from wellposed.runs.checkpoint import RunFolder, identify
from wellposed.runs.memory import plan
from wellposed.runs.progress import track
from wellposed.solvers.misfit import misfit, noisy_numbers
from wellposed.solvers.problem import Problem

if TYPE_CHECKING:
    from deepinv.physics import Physics

Callback = Callable[[int, "State"], None]
Batch = tuple[Problem, list[tuple[int, int]]]
"""A problem to run, and the (sample, item) identity of each volume or image of it."""


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
    """Base of all solvers: fields are the paper's hyper-parameters.

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
        require_choice("spacing", self.spacing, self.spacings)
        whole = self.batch_size is None or _is_count(self.batch_size)
        require(whole, "batch_size", self.batch_size, "None or an integer of at least 1")

    spacings: ClassVar[tuple[str, ...]] = SPACINGS
    linear_only: ClassVar[bool] = False
    restores: ClassVar[bool] = False
    """Whether it samples around a degraded image, as a prior with an anchor needs."""
    in_slabs: ClassVar[bool] = False
    """Whether processes may share a volume: all sums over it go through `Problem.slab`."""

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

    @property
    def volume_arrays(self) -> int:
        """Arrays of the size of ``x`` that a run holds at once at most, for the memory plan.

        Those inside the prior and the operator, and the samples, are counted there.
        """
        return 14

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
    ) -> Tensor:
        """Sample once for every item of a prepared problem; return images in units.

        Args:
            problem: the problem.
            noise: its draws.
            callback: see `__call__`.
            folder: where states are kept, and the one to go on from is.
            batch: number of the batch of samples within the run.

        Raises:
            SamplingError: a value became NaN or infinite, or a process that shares the volume was
                lost; names the step.
        """
        state, times, first = self.init(problem, noise), self.times(problem), 0
        saved = folder.load_state(state, batch) if folder is not None else None
        if saved is not None:
            state, facts = saved
            first, noise.position = facts["step"], facts["position"]
            problem.evaluations = facts["evaluations"]
        total = len(times) - 1
        name, steps = type(self).__name__, range(first, total)
        for index in track(steps, name, first) if problem.slab.rank == 0 else steps:
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
                    folder.save_state(state, {**facts, "evaluations": problem.evaluations})
        return self.finish(state)

    def __call__(  # noqa: PLR0913 - the options of a run are its signature
        self,
        y: Tensor,
        operator: "Physics | None",
        prior: Prior,
        *,
        num_samples: int = 1,
        seed: int | None = None,
        noise: NoiseSource | None = None,
        callback: Callback | None = None,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: int = 10,
    ) -> Reconstruction:
        """Reconstruct ``x`` from ``y = A(x) + n``.

        Of runs over volumes, (B, C, D, H, W), a memory plan is logged and checked first; it
        chooses the chunk of a `Slicewise` prior without one.

        Args:
            y: measurements, batch first; the result follows their dtype and device.
            operator: a wellposed operator or deepinv physics, in public units; None for a prior
                with an anchor and images degraded in an unknown way: the residual then is NaN.
            prior: the prior.
            num_samples: posterior samples per item.
            seed: decides every random draw; ``None`` draws a seed and records it. Sample n of
                item b is the same alone or in any batch.
            noise: recorded draws used instead of ``seed`` (then ``num_samples`` must be 1).
            callback: called as ``callback(index, state)`` after every step.
            checkpoint: a folder for the state of the run: after a kill the same call goes on from
                there, to the same result bit for bit (with ``seed=None`` too, whose seed is kept
                there). It stays when the run is done, see `RunFolder`.
            checkpoint_every: steps from one saved state to the next.

        Raises:
            ArgumentError and its subclasses, before the first network call; `SamplingError`
            when a run diverges; `CheckpointError` for the checkpoint of another run and
            `FileError` for one that cannot be read or written.
        """
        require(_is_count(num_samples), "num_samples", num_samples, "an integer of at least 1")
        if noise is not None:
            require(callable(getattr(noise, "draw", None)), "noise", noise, "a noise source")
            require(num_samples == 1, "num_samples", num_samples, "1 with recorded noise")
            require(seed is None, "seed", seed, "None with recorded noise")
            require(checkpoint is None, "checkpoint", checkpoint, "None with recorded noise")
        folder = None
        if checkpoint is not None:
            path = isinstance(checkpoint, (str, PathLike))
            require(path, "checkpoint", checkpoint, "None or the path of a folder")
            folder = RunFolder(Path(checkpoint), checkpoint_every, slab_of(operator))
        problem, seed = self._prepare(y, operator, prior, num_samples, seed, folder)
        started, evaluations, samples, residuals = time.perf_counter(), 0, [], []
        measured = noisy_numbers(problem)
        for number, (part, identities) in enumerate(self._batches(problem, num_samples)):
            own = ItemNoise(seed, identities, first_slice=problem.slab.start)
            source = own if noise is None else noise
            u = self._run_or_load(part, source, callback, folder, number)
            evaluations = max(evaluations, part.evaluations)
            samples.append(part.to_public(u))
            residuals.append(misfit(part, u, measured))
        joined = torch.cat(samples) if len(samples) > 1 else samples[0]
        return Reconstruction(
            samples=joined.unflatten(0, (num_samples, len(y))),
            residual=torch.cat(residuals).reshape(num_samples, len(y)),
            nfe=evaluations,
            seconds=time.perf_counter() - started,
            solver=type(self).__name__,
            settings=asdict(self),
            seed=None if noise is not None else seed,
            measured=measured,
        )

    def _prepare(
        self,
        y: Tensor,
        operator: "Physics | None",
        prior: Prior,
        num_samples: int,
        seed: int | None,
        folder: RunFolder | None,
    ) -> tuple[Problem, int]:
        """Return the checked problem and the seed: given, that of the folder's run, or drawn."""
        saved = {} if folder is None else folder.read()
        problem, chunk = Problem.create(y, operator, prior), None
        if prior.anchor is not None and not self.restores:
            raise ArgumentError(
                f"prior: {type(self).__name__} starts from pure noise, accepted with a restorer: "
                "ResShift, IRSDE, RDDM or MRSampler"
            )
        self.check(problem)
        check_shared(self, problem)
        # Before a folder is claimed for it.
        wanted = saved.get("seed") if seed is None else seed
        seed = agreed_seed(wanted, problem.slab, y.device)
        if len(problem.image_shape) == 5:
            memory = plan(self, problem, num_samples, saved.get("chunk"))
            memory.log()
            memory.check()
            problem, chunk = replace(problem, prior=memory.prior), memory.chunk
        if folder is not None:
            folder.claim(identify(self, problem, y, num_samples, seed), chunk=chunk)
        return problem, seed

    def _run_or_load(
        self,
        problem: Problem,
        noise: NoiseSource,
        callback: Callback | None,
        folder: RunFolder | None,
        batch: int,
    ) -> Tensor:
        """Return a batch of samples in units: run, or as an earlier call has left it."""
        if folder is None:
            return self.run(problem, noise, callback)
        finished = folder.load_samples(batch, problem.y.device)
        if finished is not None:
            u, problem.evaluations = finished
            return u
        u = self.run(problem, noise, callback, folder, batch)
        folder.save_samples(batch, u, problem.evaluations)
        return u

    def _batches(self, problem: Problem, num_samples: int) -> Iterator[Batch]:
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
            yield problem.repeated(len(numbers)), [(n, 0) for n in numbers]


def _is_finite(state: State, problem: Problem) -> bool:
    """Tell whether all values of the state are finite, in all processes that share a volume."""
    bad = ~(torch.isfinite(state.x).all() & torch.isfinite(state.x0).all())
    return not bool(problem.slab.sum(bad[None].float()))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def describe(solver: type[Solver]) -> str:
    """Return the first line of a solver's documentation."""
    return (solver.__doc__ or "").strip().splitlines()[0]
