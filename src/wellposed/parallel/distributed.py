"""A volume in parts, slices in each of several processes; on torch.distributed."""

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
"""How long a process waits for another that lives but does not answer; of a dead one it hears
at once."""

Z = -3
"""The axis of the slices of (..., D, H, W)."""


class ProcessPart(Part):
    """The slices of a volume that this process of several holds.

    Args:
        depth: slices of the whole volume, at least one for each process; in order, the first
            processes hold one more where they do not divide.
    """

    def __init__(self, depth: int) -> None:
        self._share = share_of(depth)
        self.rank, self.processes, starts = self._share
        self.start, self.stop = starts[self.rank : self.rank + 2]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums over all parts of real numbers of this one, equal in every process."""
        # Added up here in one order: those who got other bits might take another number of steps.
        parts = [torch.empty_like(values) for _ in range(self.processes)]
        with _in_touch():
            dist.all_gather(parts, values.contiguous())
        return torch.stack(parts).double().sum(0).to(values.dtype)

    def difference(self, x: Tensor, axis: int, circular: bool) -> Tensor:
        """Return ``D x``; along z the next part's first slice follows the last one here."""
        if axis != Z:
            return super().difference(x, axis, circular)
        jump = x.roll(-1, Z)
        jump.select(Z, -1).copy_(self._pass_on(x.select(Z, 0), -1))
        jump -= x
        if not circular and self.rank == self.processes - 1:
            jump.select(Z, -1).zero_()
        return jump

    def difference_adjoint(self, d: Tensor, axis: int, circular: bool) -> Tensor:
        """Return ``D^H d``; along z the last part's last slice precedes the first one here."""
        if axis != Z:
            return super().difference_adjoint(d, axis, circular)
        d = d.clone()
        if not circular and self.rank == self.processes - 1:
            d.select(Z, -1).zero_()
        back = d.roll(1, Z)
        back.select(Z, 0).copy_(self._pass_on(d.select(Z, -1), 1))
        return back - d

    def gather(self, part: Tensor) -> Tensor:
        """Return the whole of (B, ..., D, H, W) on process 0, in host memory, else the part.

        What has fewer than five axes is alike in all processes and returned as it is.
        """
        return part if part.ndim < 5 else gathered(part, part.ndim + Z, self._share)

    def cut(self, whole: Tensor) -> Tensor:
        """Return this part of what `gather` returns, a copy."""
        length = self.stop - self.start
        return whole if whole.ndim < 5 else whole.narrow(Z, self.start, length).clone()

    def _pass_on(self, face: Tensor, to: int) -> Tensor:
        """Send a slice ``to`` processes on, in a ring, and return the one that comes in."""
        sent = as_real(face).contiguous()
        got = torch.empty_like(sent)
        target, source = ((self.rank + way) % self.processes for way in (to, -to))
        with _in_touch():
            pair = [dist.P2POp(dist.isend, sent, target), dist.P2POp(dist.irecv, got, source)]
            for request in dist.batch_isend_irecv(pair):
                request.wait()
        return like(got, face)


class Share(NamedTuple):
    """How the processes share slices or items: process r has those from starts[r] on."""

    rank: int
    processes: int
    starts: list[int]


def share_of(count: int) -> Share:
    """Return how ``count`` slices or items are shared; joins what torchrun started."""
    if dist.is_available() and not dist.is_initialized() and "RANK" in os.environ:
        dist.init_process_group(timeout=LOST_AFTER)
    several = dist.is_available() and dist.is_initialized()
    rank, processes = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
    return Share(rank, processes, [-(-count * r // processes) for r in range(processes + 1)])


def gathered(part: Tensor, axis: int, share: Share) -> Tensor:
    """Return the parts of all processes joined along an axis, on process 0, in host memory."""
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
    """Tell a failure to communicate as what it means."""
    try:
        yield
    except RuntimeError as error:
        waited = f"{LOST_AFTER.total_seconds():g} s"
        raise ProcessLostError(
            f"a process that shares the run has died or not answered for {waited}"
        ) from error
