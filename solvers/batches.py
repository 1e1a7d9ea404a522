"""The batches of a run, and what they give together."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import misfit
from wellposed.solvers.sampler import ParticleSummary, Sampled

Batch = tuple[Problem, list[tuple[int, int]]]
"""A problem to run, and the (sample, item) identity of each of its images or volumes."""


@dataclass
class Results:
    """What the batches of a run give: of several samples of one item, or of one of all items.

    Attributes:
        num_samples: samples N of each item.
        by_item: a batch has all samples of an item.
        measured: numbers measured with noise in each item, see `noisy_numbers`.
        nfe: network evaluations per sample.
    """

    num_samples: int
    by_item: bool
    measured: Tensor | None
    nfe: int = 0
    _samples: list[Tensor] = field(default_factory=list)
    _residuals: list[Tensor] = field(default_factory=list)
    _summaries: list[ParticleSummary] = field(default_factory=list)

    def add(self, batch: Batch, found: Sampled) -> None:
        """Add the samples of a batch, in public values, and their misfit."""
        problem, identities = batch
        items = [item for _, item in identities[: len(found.u)]]
        measured = None if self.measured is None else self.measured[items]
        self.nfe = max(self.nfe, found.evaluations)
        self._samples.append(problem.to_public(found.u))
        self._residuals.append(misfit(problem, found.u, measured))
        self._summaries += [] if found.particles is None else [found.particles]

    @property
    def samples(self) -> Tensor:
        """The samples, (N, B, C, ...)."""
        return self._joined(self._samples)

    @property
    def residual(self) -> Tensor:
        """The misfit of the samples, (N, B)."""
        return self._joined(self._residuals)

    @property
    def particles(self) -> ParticleSummary | None:
        """The summary of the weighted particles of all items; ``None`` without."""
        if not self._summaries:
            return None
        evidence, ess = zip(*self._summaries, strict=True)
        return ParticleSummary(torch.cat(evidence), torch.cat(ess, 1))

    def _joined(self, parts: list[Tensor]) -> Tensor:
        if self.by_item:
            return torch.stack(parts, 1)
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        return whole.view(self.num_samples, -1, *whole.shape[1:])


def item_numbers(items: Sequence[int] | None, y: Tensor, noise: NoiseSource | None) -> list[int]:
    """Return the numbers of the items of ``y``."""
    count = len(y) if isinstance(y, Tensor) and y.ndim else 0  # another kind is refused later
    if items is None:
        return list(range(count))
    require(noise is None, "items", items, "None with recorded noise")
    listed = isinstance(items, Sequence) and not isinstance(items, str)
    numbers = listed and all(isinstance(n, int) and n >= 0 for n in items)
    accepted = f"a number of at least 0 for each of {count} items"
    require(numbers and len(items) == count, "items", items, accepted)
    return list(items)


def evidence(particles: ParticleSummary, problem: Problem) -> Tensor:
    """Return the log evidence; NaN for noise-free items, whose noise is taken from the prior."""
    return torch.where(problem.noise_sigma > 0, particles.log_evidence, torch.nan)
