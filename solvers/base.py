"""The part that all solvers share: the call, its batches and the result."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from wellposed.autograd import leaving_inference
from wellposed.checks import Count, require_samples
from wellposed.errors import ArgumentError, require
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.parallel.part import part_of
from wellposed.parallel.sharding import agreed_seed
from wellposed.priors.flat import Flat
from wellposed.priors.prior import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.runs.checkpoint import RunFolder
from wellposed.runs.fingerprint import digest, fingerprint
from wellposed.runs.memory import MemoryPlan, check_samples, plan, samples_together
from wellposed.solvers.batches import Batch, Results, evidence, item_numbers
from wellposed.solvers.plausible import warn_of_copies, warn_of_misfit, warn_of_range
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import noisy_numbers
from wellposed.solvers.sampler import (
    Callback,
    ParticleSummary,
    Sampled,
    Sampler,
    State,
)

if TYPE_CHECKING:
    from deepinv.physics import Physics

__all__ = ["Callback", "Solver", "State", "describe"]


@dataclass(frozen=True, kw_only=True)
class Solver(Sampler):
    """Base of all solvers: fields are the paper's hyper-parameters.

    Args:
        steps, spacing: see `Sampler`.
        batch_size: samples of one item that are computed together; ``None``: all, or as many as
            fit into the free memory. With more than one item, samples are drawn one after another,
            each of all items.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Denoising((1, 8, 8), noise_sigma=0.1)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> y = operator.measure(torch.rand(2, 1, 8, 8), seed=0)  # two items
        >>> solvers.DDS(steps=3)(y, operator, prior, num_samples=4, seed=0).samples.shape
        torch.Size([4, 2, 1, 8, 8])
    """

    batch_size: Count | None = None

    name: ClassVar[str] = ""
    """Name of the method on the command line, spelled as in the papers."""
    restores: ClassVar[bool] = False
    """Whether it samples about a degraded image, as priors with an anchor require."""
    deterministic: ClassVar[bool] = False
    """Whether it returns one estimate and draws nothing."""
    uses_prior: ClassVar[bool] = True
    """Whether it needs a prior; others ignore the one that is given."""

    @property
    def most_samples(self) -> int | None:
        """Number of weighted particles, which are computed for any number of samples up to it.

        ``None`` for other methods, whose samples are drawn one by one.
        """
        return None

    def populated(self, count: int) -> Self:
        """Return the solver with this number of weighted particles, or as it is without."""
        return self

    @property
    def volume_arrays(self) -> int:
        """Largest number of arrays of the size of ``x`` in the solver, for the memory plan."""
        return 14

    @property
    def settings(self) -> dict[str, object]:
        """The hyper-parameters by name, JSON-serialisable."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: repr(v) if is_dataclass(v) else v for name, v in values.items()}

    def memory_plan(
        self, problem: Problem, num_samples: int = 1, chunk: int | None = None
    ) -> MemoryPlan:
        """Return the memory plan of a run over volumes; see `plan`."""
        return plan(
            problem.prior,
            problem.known,
            problem.y,
            problem.zeros(),
            arrays=self.volume_arrays,
            num_samples=num_samples,
            batch_size=self.batch_size,
            chunk=chunk,
        )

    def identity(
        self, problem: Problem, y: Tensor, num_samples: int, seed: int
    ) -> dict[str, object]:
        """Return the identity of a run: runs of equal identity give the same samples."""
        return {
            "solver": type(self).__name__,
            **{f"solver.{name}": value for name, value in self.settings.items()},
            "seed": seed,
            "num_samples": num_samples,
            **digest(y, problem.part),
            "operator": fingerprint(problem.operator),
            "prior": fingerprint(problem.prior),
        }

    @leaving_inference
    def __call__(  # noqa: PLR0913 - the options of a run are its signature
        self,
        y: Tensor,
        operator: "Physics | None",
        prior: Prior | None = None,
        *,
        num_samples: int = 1,
        seed: int | None = None,
        noise: NoiseSource | None = None,
        items: Sequence[int] | None = None,
        callback: Callback | None = None,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_every: int = 10,
    ) -> Reconstruction:
        """Reconstruct ``x`` from ``y = A(x) + n``.

        For volumes (B, C, D, H, W) a memory plan is logged and checked first; it chooses the chunk
        of a `Slicewise` prior without one.

        Args:
            y: measurements, batch first; the result has their dtype and device.
            operator: an operator in public units; ``None`` if a restorer need not know it.
            prior: the prior; None for solvers that use none.
            num_samples: posterior samples per item.
            seed: seed of all draws, which do not depend on the batch; ``None`` draws a seed.
            noise: recorded draws instead of ``seed``; ``num_samples`` must be 1.
            items: numbers of the items of ``y``, which choose their draws: part ``y[8:16]`` of a
                batch has the draws of the whole with ``range(8, 16)``; ``None``: from 0.
            callback: called as ``callback(index, state)`` after every step.
            checkpoint: folder of the run, see `RunFolder`; the same call resumes it, bit for bit.
            checkpoint_every: steps between saved states.

        Raises:
            ArgumentError and subclasses: before the first network call.
            SamplingError: the run diverged.
            CheckpointError: the checkpoint belongs to another run, is used by one, or is damaged.
            FileError: the checkpoint cannot be read or written.

        Warns:
            UserWarning: ``y`` is far from the prior's range, or the images do not explain it.
        """
        num_samples = require_samples(num_samples)
        self._check_call(num_samples, seed, noise, checkpoint)
        numbers = item_numbers(items, y, noise)
        if self.deterministic and noise is None:
            seed = 0
        if not self.uses_prior:
            prior = Flat()
        folder = None
        if checkpoint is not None:
            path = isinstance(checkpoint, (str, PathLike))
            require(path, "checkpoint", checkpoint, "None, or the path of a folder")
            folder = RunFolder(Path(checkpoint), checkpoint_every, part_of(operator))
        saved = {} if folder is None else folder.read()
        problem, seed, chunk = self._prepare(y, operator, prior, num_samples, seed, saved)
        together = self._together(problem, num_samples, saved)
        with nullcontext() if folder is None else folder.held():
            if folder is not None:
                chosen = {} if items is None else {"items": numbers}
                run = self.identity(problem, y, num_samples, seed) | chosen
                folder.claim(run, chunk=chunk, together=together)
            started, measured = time.perf_counter(), noisy_numbers(problem)
            found = Results(num_samples, self.most_samples is not None, measured)
            for number, batch in enumerate(self._batches(problem, num_samples, together)):
                drawn = [(n, numbers[b]) for n, b in batch[1]]
                own = ItemNoise(seed, drawn, first_slice=problem.part.start)
                source = own if noise is None else noise
                found.add(batch, self._run_or_load(batch[0], source, callback, folder, number))
        residual, particles = found.residual, found.particles
        warn_of_misfit(problem, residual)
        if particles is not None:
            warn_of_copies(particles.ess, num_samples)
        return Reconstruction(
            samples=found.samples,
            residual=residual,
            nfe=found.nfe,
            seconds=time.perf_counter() - started,
            solver=type(self).__name__,
            settings=self.settings,
            seed=None if noise is not None or self.deterministic else seed,
            measured=measured,
            log_evidence=None if particles is None else evidence(particles, problem),
            ess=None if particles is None else particles.ess,
        )

    def _check_call(
        self,
        num_samples: int,
        seed: int | None,
        noise: NoiseSource | None,
        checkpoint: str | PathLike[str] | None,
    ) -> None:
        """Raise for options of a call that do not go together."""
        if self.deterministic:
            one = f"1 of {type(self).__name__}, which returns one estimate"
            require(num_samples == 1, "num_samples", num_samples, one)
        if self.most_samples is not None:
            most = f"at most {self.most_samples}, the particles of {type(self).__name__}"
            require(num_samples <= self.most_samples, "num_samples", num_samples, most)
        if noise is not None:
            require(callable(getattr(noise, "draw", None)), "noise", noise, "a noise source")
            require(num_samples == 1, "num_samples", num_samples, "1 with recorded noise")
            require(seed is None, "seed", seed, "None with recorded noise")
            require(checkpoint is None, "checkpoint", checkpoint, "None with recorded noise")

    def _prepare(
        self,
        y: Tensor,
        operator: "Physics | None",
        prior: Prior | None,
        num_samples: int,
        seed: int | None,
        saved: Mapping[str, int],
    ) -> tuple[Problem, int, int | None]:
        """Return the checked problem, the seed (given, saved or drawn), and a volume's chunk."""
        problem, chunk = Problem.create(y, operator, prior), None
        if problem.prior.anchor is not None and not self.restores:
            raise ArgumentError(
                f"prior: got a restorer, accepted by {type(self).__name__}: a plain prior, as it "
                "starts from pure noise; use restorers with ResShift, IRSDE, RDDM or MRSampler"
            )
        self.check(problem)
        _check_shared(problem)
        warn_of_range(y, operator, problem.prior, problem.space)
        wanted = saved.get("seed") if seed is None else seed
        seed = agreed_seed(wanted, problem.part, y.device)
        if len(problem.image_shape) == 5:
            memory = self.memory_plan(problem, num_samples, saved.get("chunk"))
            memory.log()
            memory.check()
            problem, chunk = replace(problem, prior=memory.prior), memory.chunk
        else:
            check_samples(num_samples, problem.zeros())
        return problem, seed, chunk

    def _run_or_load(
        self,
        problem: Problem,
        noise: NoiseSource,
        callback: Callback | None,
        folder: RunFolder | None,
        batch: int,
    ) -> Sampled:
        """Return a batch of samples, computed now or saved by an earlier call."""
        if folder is None:
            return self.run(problem, noise, callback)
        finished = folder.load_samples(batch, problem.zeros())
        if finished is not None:
            tensors, evaluations = finished
            u = tensors.pop("u")
            return Sampled(u, evaluations, ParticleSummary(**tensors) if tensors else None)
        found = self.run(problem, noise, callback, folder, batch)
        others = {} if found.particles is None else found.particles._asdict()
        folder.save_samples(batch, {"u": found.u, **others}, found.evaluations)
        return found

    def _together(self, problem: Problem, num_samples: int, saved: Mapping[str, int]) -> int:
        """Return the number of samples of one item that are computed together."""
        given = self.batch_size or saved.get("together")
        if given is not None:
            return given
        if num_samples == 1 or self.most_samples is not None or len(problem.image_shape) == 5:
            return num_samples
        return samples_together(
            problem.prior, problem.zeros()[:1], num_samples, self.volume_arrays
        )

    def _batches(self, problem: Problem, num_samples: int, together: int) -> Iterator[Batch]:
        """Yield problems to run and the (sample, item) identities of their batch.

        The samples of one item share a batch. With more than one item, samples are drawn one after
        another, because an operator may have parameters for each item.
        """
        items = len(problem.y)
        if items > 1:
            for n in range(num_samples):
                yield problem, [(n, b) for b in range(items)]
            return
        for start in range(0, num_samples, together):
            numbers = range(start, min(start + together, num_samples))
            yield problem.repeated(len(numbers)), [(n, 0) for n in numbers]


def _check_shared(problem: Problem) -> None:
    """Raise if processes share the volume and the prior couples its slices."""
    prior = problem.prior
    got = type(prior).__name__ + (f" along axes {prior.axes}" if prior.axes else "")
    fits = problem.part.processes == 1 or prior.axes == (2,)
    require(fits, "prior", got, "Slicewise along axis 2 if processes share a volume")


def describe(solver: type[Solver]) -> str:
    """Return the first line of a solver's documentation."""
    return (solver.__doc__ or "").strip().splitlines()[0]
