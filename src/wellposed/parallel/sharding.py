"""Several processes share the slices of a volume or the items of a batch.

Every process that ``torchrun`` starts runs the same script::

    y, operator = sharding.shard(y, operator)  # the slices of this process
    result = solver(y, operator, prior, seed=0, checkpoint="run")
    whole = sharding.gather(result, operator)  # the volume on process 0, None elsewhere

The processes communicate by torch.distributed: gloo for tensors on the CPU, nccl on CUDA.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from wellposed.checks import require_samples
from wellposed.errors import ArgumentError, require
from wellposed.noise import ItemNoise
from wellposed.parallel.distributed import ProcessPart, gathered, share_of
from wellposed.parallel.part import Part, part_of
from wellposed.reconstruction import Reconstruction


class Sliced(Protocol):
    """An operator that measures a volume slice by slice, such as `operators.Stacked`."""

    slices: int
    operator: nn.Module

    def check_measurement(self, y: Tensor) -> None:
        """Raise unless ``y`` fits."""

    def restricted_to(self, part: Part) -> Self:
        """Return the operator of the slices that a process holds."""


Operator = TypeVar("Operator", bound=Sliced)


def shard(y: Tensor, operator: Operator) -> tuple[Tensor, Operator]:
    """Return the measurement and the operator of this process's slices of a volume.

    Any solver works on these slices with a `Slicewise` prior. The result equals that of one
    process up to rounding; callbacks see only the slices of their process. Measurement and
    operator can be moved to a device as usual. A checkpoint is a folder that all processes see;
    process 0 holds the whole state in host memory while it writes, and a run can be resumed by any
    number of processes.

    Joins the processes that torchrun started, unless ``torch.distributed.init_process_group``
    was called; your own process group must support CPU tensors. If one process dies, all others
    end with `ProcessLostError`.

    Args:
        y: the whole measurement, (B, K, D, ...).
        operator: a `Stacked` operator with one operator for all slices. Operators that couple
            slices, such as cone-beam CT and 3-D transforms, cannot be shared.

    Raises:
        ArgumentError: another kind of operator, or fewer slices than processes.
        ShapeError, DtypeError, DeviceError: ``y`` does not fit the operator.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.parallel.sharding import gather, shard
        >>> operator = operators.Stacked(operators.Denoising((1, 8, 8), noise_sigma=0.1), slices=4)
        >>> y, part = shard(torch.rand(1, 1, 4, 8, 8), operator)  # started by torchrun
        >>> prior = priors.Slicewise(priors.GaussianPrior(0.5, 1 / 12))
        >>> gather(solvers.DDS(steps=5)(y, part, prior, seed=0), part).mean.shape
        torch.Size([1, 1, 4, 8, 8])
    """
    if not hasattr(operator, "restricted_to"):
        raise ArgumentError(
            f"operator: got {type(operator).__name__}, which may couple slices, accepted in "
            "several processes: operators.Stacked, which measures slice by slice"
        )
    once = part_of(operator).processes == 1
    require(once, "operator", "a part of a volume", "the operator of the whole volume")
    operator.check_measurement(y)
    depth, processes = operator.slices, share_of(1).processes
    if processes == 1:
        return y, operator
    _require_one_for_all(operator.operator)
    accepted = f"at least one slice for each of {processes} processes"
    require(depth >= processes, "operator", f"{depth} slices", accepted)
    part = ProcessPart(depth)
    # A copy, so that the whole measurement can be freed.
    return y[:, :, part.start : part.stop].clone(), operator.restricted_to(part)


def gather(result: Reconstruction, operator: nn.Module) -> Reconstruction | None:
    """Return the result of the whole volume on process 0, in host memory, and None elsewhere.

    Args:
        result: result of this process's slices.
        operator: their operator, from `shard`.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.parallel.sharding import gather, shard
        >>> operator = operators.Stacked(operators.Denoising((1, 8, 8), noise_sigma=0.1), slices=4)
        >>> y, part = shard(torch.rand(1, 1, 4, 8, 8), operator)
        >>> prior = priors.Slicewise(priors.GaussianPrior(0.5, 0.1))
        >>> result = solvers.DDS(steps=5)(y, part, prior, seed=0)
        >>> whole = gather(result, part)  # None but on process 0
    """
    part = part_of(operator)
    samples = part.gather(result.samples)
    return replace(result, samples=samples) if part.rank == 0 else None


def spread(
    solver: Callable[..., Reconstruction],
    y: Tensor,
    operator: nn.Module,
    prior: nn.Module,
    *,
    num_samples: int = 1,
    seed: int | None = None,
) -> Reconstruction | None:
    """Solve a batch, each process its share; return the whole on process 0, None elsewhere.

    Items are independent: each result is that of a single process.

    Args:
        solver: any solver.
        y: the whole batch (B, ...), of images, slices or volumes.
        operator: one operator for all items.
        prior: the prior.
        num_samples: samples per item.
        seed: seed of all random draws; ``None`` draws a seed.

    Raises:
        ArgumentError: the operator has masks, maps or noise levels per item; also the errors of
            the solver.
        ProcessLostError: a process died.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.parallel.sharding import spread
        >>> operator = operators.Denoising((1, 8, 8), noise_sigma=0.1)
        >>> y, prior = torch.rand(6, 1, 8, 8), priors.GaussianPrior(0.5, 1 / 12)
        >>> spread(solvers.DDS(steps=5), y, operator, prior, seed=0).mean.shape  # of 6 images
        torch.Size([6, 1, 8, 8])
    """
    batch = isinstance(y, Tensor) and y.ndim > 0
    require(batch, "y", type(y).__name__, "a batch of measurements, (B, ...)")
    share = share_of(len(y))
    if share.processes == 1:
        return solver(y, operator, prior, num_samples=num_samples, seed=seed)
    _require_one_for_all(operator)
    num_samples = require_samples(num_samples)
    seed = agreed_seed(seed, ProcessPart(len(y)), y.device)
    start, stop = share.starts[share.rank : share.rank + 2]
    if start == stop:
        return None
    own = range(start, stop)
    result = solver(
        *(y[start:stop], operator, prior), num_samples=num_samples, seed=seed, items=own
    )
    whole = result.by_item(lambda value, axis: gathered(value, axis, share))
    return whole if share.rank == 0 else None


def _require_one_for_all(operator: nn.Module) -> None:
    sigma = getattr(getattr(operator, "noise_model", None), "sigma", None)
    levels = 1 if sigma is None else torch.as_tensor(sigma).numel()
    each = max(getattr(operator, "items", 1), levels)
    require(each == 1, "operator", f"parameters for {each} items", "parameters for all items")


def agreed_seed(seed: int | None, part: Part, device: torch.device) -> int:
    """Return the seed, or a random one for ``None``, the same in all processes.

    Raises:
        ArgumentError: an invalid seed, or different seeds in the processes.
    """
    own = secrets.randbits(31) if seed is None else seed
    ItemNoise(own, [()])  # raises if the seed is invalid

    def total(number: int) -> int:
        return int(part.sum(torch.tensor([number], device=device)))

    first = total(own % 2**31 if part.rank == 0 else 0)
    others = total(seed is not None and own % 2**31 != first)
    require(others == 0, "seed", seed, "one seed for all processes")
    return first if seed is None else seed
