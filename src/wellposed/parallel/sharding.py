"""Several processes: one volume in slabs of slices, or the items of a batch in parts.

Every process that ``torchrun`` starts runs the same script::

    y, operator = sharding.shard(y, operator)  # the slices of this process
    result = solver(y, operator, prior, seed=0, checkpoint="run")
    whole = sharding.gather(result, operator)  # the volume on process 0, None elsewhere

They speak by torch.distributed: gloo for tensors on the CPU, nccl on CUDA.
"""

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import ArgumentError, require
from wellposed.noise import ItemNoise
from wellposed.parallel.distributed import ProcessSlab, gathered, share_of
from wellposed.parallel.part import Slab, slab_of
from wellposed.priors.prior import Prior
from wellposed.reconstruction import Reconstruction

if TYPE_CHECKING:
    from deepinv.physics import Physics

    from wellposed.operators.stacked import Stacked
    from wellposed.solvers.base import Solver


def shard(y: Tensor, operator: "Physics") -> "tuple[Tensor, Stacked]":
    """Return the measurement and the operator of this process's slices of a volume.

    Solvers then work on these slices, `DDS`, `DDS3D` and `DiffusionMBIR`, with a `Slicewise`
    prior, and give what one process would but for rounding; callbacks see them alone. Move them
    to a device of the process as any others. With a checkpoint, a folder that all processes see,
    process 0 holds the whole state in host memory while it writes; any number of processes can go
    on from it.

    Joins the processes that torchrun started, unless ``torch.distributed.init_process_group``
    was called; a group of one's own must take CPU tensors too. If one dies, all others end with
    `ProcessLostError`.

    Args:
        y: the whole measurement, (B, K, D, ...).
        operator: a `Stacked` one, of one operator for all slices; one that couples slices, as
            cones and 3-D transforms do, cannot be shared.

    Raises:
        ArgumentError: of another kind, or with fewer slices than there are processes.
        ShapeError, DtypeError, DeviceError: ``y`` does not fit the operator.
    """
    from wellposed.operators.stacked import Stacked  # loads deepinv, which takes seconds

    if not isinstance(operator, Stacked):
        raise ArgumentError(
            f"operator: {type(operator).__name__} may couple slices, accepted in several "
            "processes: operators.Stacked, which measures slice by slice"
        )
    once = slab_of(operator).processes == 1
    require(once, "operator", "a part of a volume", "the whole, which is shared once")
    operator._check("y", y, operator.measurement_size, operator.complex_measurement)
    depth, processes = operator.img_size[1], share_of(1).processes
    if processes == 1:
        return y, operator
    _require_one_for_all(operator.operator)
    accepted = f"at least {processes}, as many as there are processes"
    require(depth >= processes, "operator", f"{depth} slices", accepted)
    slab = ProcessSlab(depth)
    part = Stacked(operator.operator, slab.stop - slab.start, slab)
    part.noise_model = operator.noise_model
    # A copy, so that the whole can be freed.
    return y[:, :, slab.start : slab.stop].clone(), part


def gather(result: Reconstruction, operator: "Physics") -> Reconstruction | None:
    """Return the whole volume's result on process 0, in host memory, and None elsewhere.

    Args:
        result: of this process's slices.
        operator: theirs, from `shard`.
    """
    slab = slab_of(operator)
    samples = slab.gather(result.samples)
    return replace(result, samples=samples) if slab.rank == 0 else None


def spread(
    solver: "Solver",
    y: Tensor,
    operator: "Physics",
    prior: Prior,
    *,
    num_samples: int = 1,
    seed: int | None = None,
) -> Reconstruction | None:
    """Solve each process's share of a batch; return the whole on process 0, None elsewhere.

    Items are independent: every one is what it is in one process.

    Args:
        solver: any solver.
        y: the whole batch (B, ...), of images, slices or volumes.
        operator: one for all items.
        prior: the prior.
        num_samples: samples per item.
        seed: decides every draw; ``None`` draws one.

    Raises:
        ArgumentError: the operator holds masks, maps or noise levels for each item; and what the
            solver raises.
        ProcessLostError: a process died.
    """
    batch = isinstance(y, Tensor) and y.ndim > 0
    require(batch, "y", type(y).__name__, "a batch of measurements, (B, ...)")
    share = share_of(len(y))
    if share.processes == 1:
        return solver(y, operator, prior, num_samples=num_samples, seed=seed)
    _require_one_for_all(operator)
    num_samples = require_integer("num_samples", num_samples)
    seed = agreed_seed(seed, ProcessSlab(len(y)), y.device)
    start, stop = share.starts[share.rank : share.rank + 2]
    if start == stop:
        return None
    results = [
        solver(
            y[start:stop],
            operator,
            prior,
            noise=ItemNoise(seed, [(n, b) for b in range(start, stop)]),
        )
        for n in range(num_samples)
    ]
    samples, residual = (
        gathered(torch.cat([getattr(r, name) for r in results]), 1, share)
        for name in ("samples", "residual")
    )
    first, seconds = results[0], sum(r.seconds for r in results)
    measured = None if first.measured is None else gathered(first.measured, 0, share)
    if share.rank > 0:
        return None
    whole = replace(first, samples=samples, residual=residual, measured=measured)
    return replace(whole, seconds=seconds, seed=seed)


def _require_one_for_all(operator: "Physics") -> None:
    sigma = getattr(getattr(operator, "noise_model", None), "sigma", None)
    levels = 1 if sigma is None else torch.as_tensor(sigma).numel()
    each = max(getattr(operator, "items", 1), levels)
    require(each == 1, "operator", f"parameters for {each} items", "one for all of them")


def agreed_seed(seed: int | None, slab: Slab, device: torch.device) -> int:
    """Return the seed, or a random one for ``None``, the same in all processes.

    Raises:
        ArgumentError: no seed, or the processes were given different ones.
    """
    own = secrets.randbits(31) if seed is None else seed
    ItemNoise(own, [()])  # refuses what is no seed

    def total(number: int) -> int:
        return int(slab.sum(torch.tensor([number], device=device)))

    first = total(own % 2**31 if slab.rank == 0 else 0)
    others = total(seed is not None and own % 2**31 != first)
    require(others == 0, "seed", seed, "the same in all processes")
    return first if seed is None else seed
