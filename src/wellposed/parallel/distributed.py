"""A volume whose slices are distributed over several processes, with torch.distributed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from wellposed.errors import ProcessLostError
from wellposed.linalg import as_real, like
from wellposed.parallel.part import Part

LOST_AFTER = timedelta(minutes=10)
"""How long a process waits for another one that does not respond; the death of a process is
noticed at once."""

Z = -3
"""The axis of the slices of (..., D, H, W)."""


class ProcessPart(Part):
    """The slices of a volume that this process holds.

    Args:
        depth: slices of the whole volume, at least one per process. They are distributed in
            order; the first processes hold one slice more if the number does not divide.
    """

    def __init__(self, depth: int) -> None:
        self._share = share_of(depth)
        self.rank, self.processes, starts = self._share
        self.start, self.stop = starts[self.rank : self.rank + 2]

    def sum(self, values: Tensor) -> Tensor:
        """Return real numbers summed over all parts, equal in every process."""
        # One order of summation: processes with other bits might take another number of steps.
        parts = [torch.empty_like(values) for _ in range(self.processes)]
        with _in_touch():
            dist.all_gather(parts, values.contiguous())
        return torch.stack(parts).double().sum(0).to(values.dtype)

    def difference(self, x: Tensor, axis: int, circular: bool) -> Tensor:
        """Return ``D x``; along z the first slice of the next part follows the last one here."""
        if axis != Z:
            return super().difference(x, axis, circular)
        jump = x.roll(-1, Z)
        jump.select(Z, -1).copy_(self._pass_on(x.select(Z, 0), -1))
        jump -= x
        if not circular and self.rank == self.processes - 1:
            jump.select(Z, -1).zero_()
        return jump

    def difference_adjoint(self, d: Tensor, axis: int, circular: bool) -> Tensor:
        """Return ``D^H d``; along z the last slice of the previous part comes first."""
        if axis != Z:
            return super().difference_adjoint(d, axis, circular)
        d = d.clone()
        if not circular and self.rank == self.processes - 1:
            d.select(Z, -1).zero_()
        back = d.roll(1, Z)
        back.select(Z, 0).copy_(self._pass_on(d.select(Z, -1), 1))
        return back - d

    def gather(self, part: Tensor) -> Tensor:
        """Return the whole (B, ..., D, H, W) on process 0, in host memory, and the part elsewhere.

        Tensors with fewer than five axes are equal in all processes and returned unchanged.
        """
        return part if part.ndim < 5 else gathered(part, part.ndim + Z, self._share)

    def cut(self, whole: Tensor) -> Tensor:
        """Return a copy of this part of a whole that `gather` returned."""
        length = self.stop - self.start
        return whole if whole.ndim < 5 else whole.narrow(Z, self.start, length).clone()

    def _pass_on(self, face: Tensor, to: int) -> Tensor:
        """Send a slice ``to`` places onwards in a ring, and return the slice that arrives."""
        sent = as_real(face).contiguous()
        got = torch.empty_like(sent)
        target, source = ((self.rank + way) % self.processes for way in (to, -to))
        with _in_touch():
            pair = [dist.P2POp(dist.isend, sent, target), dist.P2POp(dist.irecv, got, source)]
            for request in dist.batch_isend_irecv(pair):
                request.wait()
        return like(got, face)


class Share(NamedTuple):
    """Distribution of slices or items: those of process r begin at ``starts[r]``."""

    rank: int
    processes: int
    starts: list[int]


def share_of(count: int) -> Share:
    """Return the distribution of ``count`` slices or items; joins the processes of torchrun."""
    if dist.is_available() and not dist.is_initialized() and "RANK" in os.environ:
        dist.init_process_group(timeout=LOST_AFTER)
    several = dist.is_available() and dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    return Share(rank, processes, [-(-count * r // processes) for r in range(processes + 1)])


def gathered(part: Tensor, axis: int, share: Share) -> Tensor:
    """Return the parts of all processes joined along an axis, in host memory of process 0."""
    own = as_real(part).contiguous()
    if share.rank > 0:
        with _in_touch():
            dist.send(own, 0)
        return part
    whole = own.new_empty(
        (*own.shape[:axis], share.starts[-1], *own.shape[axis + 1 :]), device="cpu"
    )
    for source, (start, stop) in enumerate(pairwise(share.starts)):
        place = whole.narrow(axis, start, stop - start)
        got = own if source == 0 else own.new_empty(place.shape)
        if source > 0 and got.numel():
            with _in_touch():
                dist.recv(got, source)
        place.copy_(got)
    return like(whole, part)


@contextmanager
def _in_touch() -> Iterator[None]:
    """Report a failed communication as the loss of a process."""
    try:
        yield
    except RuntimeError as error:
        waited = f"{LOST_AFTER.total_seconds():g} s"
        raise ProcessLostError(
            f"a process that shares the run has died or did not respond for {waited}"
        ) from error
