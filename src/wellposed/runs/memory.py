"""Memory plan of a run over volumes, made and checked before the run starts."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, require
from wellposed.priors.adapters.slicewise import Slicewise
from wellposed.priors.prior import Prior
from wellposed.runs.allocation import LivePeak, free_bytes, prior_peak

if TYPE_CHECKING:
    from deepinv.physics import Physics

CHUNKS = (16, 8, 4, 2, 1)
"""Chunk sizes a plan chooses from; larger chunks are hardly faster on any device."""

SHARE = 0.8
"""Of the free memory that samples of an image may fill."""

PLENTY = 10_000
"""Networks take less than so many times an image's own bytes for it."""

PROCESSES = (2, 4, 8, 16, 32, 64)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryPlan:
    """Memory that a run over volumes will additionally allocate, and memory that is free.

    Made by `plan`.

    Attributes:
        prior: the prior, with its chunk chosen.
        home: device of the volumes.
        dtype: dtype of the volumes.
        volume: bytes of the volumes computed together: all items, or samples of one.
        together: number of samples of one item computed together.
        arrays: largest number of arrays of that size in the solver, `Solver.volume_arrays`.
        operator: largest number of bytes that ``A`` and ``A^H`` and a residual allocate.
        results: bytes of all samples.
        chunk: slices that the prior denoises at once; ``None`` if it denoises whole volumes.
        per_slice: largest number of bytes the prior allocates per slice, or for the volumes.
        free: bytes free on each device.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Stacked(operators.Denoising((1, 8, 8), noise_sigma=0.1), slices=4)
        >>> prior = priors.Slicewise(priors.GaussianPrior(0.5, 1 / 12))
        >>> problem = solvers.Problem.create(torch.rand(1, 1, 4, 8, 8), operator, prior)
        >>> plan = solvers.DDS().memory_plan(problem)
        >>> plan.fits, plan.volume  # bytes
        (True, 1024)
    """

    prior: Prior
    home: torch.device
    dtype: torch.dtype
    volume: int
    together: int
    arrays: int
    operator: int
    results: int
    chunk: int | None
    per_slice: int
    free: Mapping[torch.device, int]

    @property
    def parts(self) -> list[tuple[torch.device, str, int]]:
        """Device, name and bytes of everything that needs memory."""
        streamed = isinstance(self.prior, Slicewise) and self.prior.device is not None
        at_once = (self.chunk or 1) * (2 if streamed else 1)
        slices = "whole volumes" if self.chunk is None else f"{at_once} slices"
        return [
            (self.home, f"{self.arrays} arrays of the solver", self.arrays * self.volume),
            (self.home, "operator", self.operator),
            (self.home, "samples", self.results),
            (_home(self.prior, self.home), f"prior on {slices}", at_once * self.per_slice),
        ]

    @property
    def needed(self) -> dict[torch.device, int]:
        """Bytes needed on each device."""
        total = dict.fromkeys(self.free, 0)
        for device, _, size in self.parts:
            total[device] += size
        return total

    @property
    def fits(self) -> bool:
        """Whether no device needs more than is free."""
        return all(size <= self.free[device] for device, size in self.needed.items())

    def __str__(self) -> str:
        """Return the memory needed and free on each device, with its uses."""
        lines = []
        for device, size in self.needed.items():
            own = [f"{name} {_gb(n)}" for where, name, n in self.parts if where == device]
            free = _gb(self.free[device])
            lines.append(f"{_gb(size)} needed on {device}, {free} free ({', '.join(own)})")
        return "; ".join(lines)

    def log(self) -> None:
        """Write the plan to the log, level INFO."""
        _log.info("memory: %s", self)

    def check(self) -> None:
        """Raise if the run cannot fit.

        Raises:
            ArgumentError: it cannot fit; names changes with which it would.
        """
        if not self.fits:
            remedies = "; or ".join(self.remedies()) or "more memory"
            raise ArgumentError(f"y: the run does not fit: {self}; accepted: {remedies}")

    def remedies(self) -> list[str]:
        """Return the smallest changes that would each make the run fit."""
        chunk, double = self.chunk or 1, self.dtype in (torch.float64, torch.complex128)
        families = [
            {f"Slicewise(chunk={k})": replace(self, chunk=k) for k in CHUNKS if k < chunk},
            {
                f"batch_size={k}": self._scaled(k, self.together)
                for k in range(self.together - 1, 0, -1)
            },
            {"y in single precision": self._scaled(1, 2, results=True)} if double else {},
            {
                f"{n} processes, each with its own memory": self._scaled(1, n, results=True)
                for n in PROCESSES
            },
        ]
        fitting = ([name for name, other in f.items() if other.fits] for f in families)
        return [names[0] for names in fitting if names]

    def _scaled(self, share: int, of: int, results: bool = False) -> "MemoryPlan":
        """Return the plan for a share of the volumes, and of the samples kept."""
        return replace(
            self,
            volume=self.volume * share // of,
            operator=self.operator * share // of,
            results=self.results * share // of if results else self.results,
        )


def check_samples(count: int, images: Tensor, name: str = "num_samples", arrays: int = 1) -> None:
    """Raise, before the run, if so many samples of images exceed the free memory.

    Args:
        count: the number of samples of each image.
        images: (B, ...), of the shape, dtype and device of the images.
        name: the argument that is this number.
        arrays: arrays of the size of the image that each sample takes.

    Raises:
        ArgumentError: they exceed it.
    """
    most = free_bytes(images.device) // (arrays * images.nbytes)
    what = f"at most {most}, which fill the free memory of {images.device}"
    require(count <= most, name, count, what)


def samples_together(prior: Prior, x: Tensor, count: int, arrays: int) -> int:
    """Return how many samples of one image fit into the free memory together, up to ``count``.

    The prior is measured without computing, with a product with its Jacobian (`prior_peak`). At
    least one is returned, and all are where there is plenty of memory.

    Args:
        prior: the prior.
        x: an image (1, ...), in units.
        count: the number of samples.
        arrays: largest number of arrays of the size of x that the solver holds for a sample.
    """
    home = _home(prior, x.device)
    free = free_bytes(home)
    if prior.anchor is not None or count * PLENTY * x.nbytes <= free:
        return count
    image = torch.empty_like(x, device=home)
    each = prior_peak(prior, image, gradients=True) + arrays * x.nbytes
    found = max(1, min(count, int(SHARE * free) // each))
    if found < count:
        need, there = _gb(count * each), _gb(free)
        _log.info("memory: %d of %d samples together: %s, %s free", found, count, need, there)
    return found


def plan(
    prior: Prior,
    operator: "Physics",
    y: Tensor,
    x: Tensor,
    *,
    arrays: int,
    num_samples: int = 1,
    batch_size: int | None = None,
    chunk: int | None = None,
) -> MemoryPlan:
    """Return the memory plan of a run over volumes.

    The operator is applied once to zeros to measure its memory. The prior is measured without
    computing, for a call without gradients (`prior_peak`). Scratch memory inside torch operations
    and libraries is not included.

    Args:
        prior: the prior.
        operator: maps volumes to measurements.
        y: the measurement.
        x: volumes of zeros (B, C, D, H, W), in units.
        arrays: largest number of arrays of that size that the solver holds.
        num_samples: samples per item.
        batch_size: samples of one item that are computed together; ``None``: all.
        chunk: chunk for a `Slicewise` prior without one; ``None``: the largest of `CHUNKS` that
            fits, or 1.
    """
    together = min(batch_size or num_samples, num_samples) if len(y) == 1 else 1
    batches = -(-num_samples // together)
    made = MemoryPlan(
        prior=prior,
        home=y.device,
        dtype=x.dtype,
        volume=x.nbytes * together,
        together=together,
        arrays=arrays,
        operator=_operator_peak(prior, operator, y, x) * together,
        # Several batches are joined at the end, when both copies exist.
        results=x.nbytes * num_samples * (1 if batches == 1 else 2),
        chunk=1 if isinstance(prior, Slicewise) else None,
        per_slice=_slice_peak(prior, x, together),
        free={device: free_bytes(device) for device in {y.device, _home(prior, y.device)}},
    )
    return _with_chunk(made, x.shape, chunk)


def _with_chunk(made: MemoryPlan, shape: torch.Size, chunk: int | None) -> MemoryPlan:
    """Return the plan with the prior's own chunk, the requested one, or the largest that fits."""
    if not isinstance(made.prior, Slicewise):
        return made
    chunk = made.prior.chunk or chunk
    depth = max(shape[axis] for axis in made.prior.axes)
    choices = CHUNKS if chunk is None else (chunk,)
    plans = [replace(made, chunk=min(k, depth)) for k in choices]
    best = next((p for p in plans if p.fits), plans[-1])
    return replace(best, prior=made.prior.in_chunks(best.chunk or 1))


def _operator_peak(prior: Prior, operator: "Physics", y: Tensor, x: Tensor) -> int:
    with torch.no_grad(), (peak := LivePeak()):
        operator.A_adjoint(operator.A(prior.to_public(x)))
    return peak.peak + y.nbytes


def _slice_peak(prior: Prior, x: Tensor, together: int) -> int:
    """Return the bytes a prior allocates for a slice of the worst axis, or for the volumes."""
    if not isinstance(prior, Slicewise):
        return prior_peak(prior, x) * together
    device = prior.device_of(x)
    return max(
        prior_peak(prior.prior, torch.empty_like(x[:1].select(axis, 0), device=device))
        for axis in prior.axes
    )


def _home(prior: Prior, otherwise: torch.device) -> torch.device:
    weight = next(prior.parameters(), None)
    return otherwise if weight is None else weight.device


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
