"""Bytes that code allocates, also where nothing is computed, and bytes that are free."""

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wellposed.priors.prior import Prior

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


class LivePeak(TorchDispatchMode):
    """Counts the bytes of tensors made while it is active.

    Scratch memory inside one torch operation, and what other libraries allocate, is not seen.

    Attributes:
        live: bytes of tensors that are alive now.
        peak: the most there were at once.
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        # What an in-place operation or a view returns was there before, and may be the caller's.
        before = {_identity(leaf) for leaf in tree_leaves((args, kwargs or {}))}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and _identity(leaf) not in self._known | before:
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def _release(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.live -= size


def _identity(leaf: object) -> int | None:
    if not isinstance(leaf, Tensor) or leaf.layout != torch.strided:
        return None
    identity: int = leaf.untyped_storage()._cdata
    return identity


class _Denoise(nn.Module):
    """A prior's `denoise` as a module's call, which `functional_call` needs."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x_t: Tensor, t: float) -> Tensor:
        return self.prior.denoise(x_t, t)


def prior_peak(prior: Prior, x: Tensor) -> int:
    """Return the bytes that one `denoise` of images like ``x`` allocates at most, result included.

    Counted on torch's "meta" device, on which nothing is computed, with the network in the
    precision of its weights. A prior that cannot run there, because it looks at values, denoises
    one image of zeros instead, and its peak counts for each.

    Args:
        prior: the prior.
        x: images (B, ...), of which the values do not matter, on the prior's device.
    """
    t = float(prior.schedule.T) / 2
    call = _Denoise(prior)
    state = {**dict(call.named_parameters()), **dict(call.named_buffers())}
    meta = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    with torch.no_grad():
        try:
            with (peak := LivePeak()):
                functional_call(call, meta, (torch.empty_like(x, device="meta"), t))
            return peak.peak
        except (RuntimeError, TypeError):  # the latter by NumPy
            one = torch.zeros_like(x[:1])
            with (peak := LivePeak()):
                prior.denoise(one, t)
            return peak.peak * len(x)


def free_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device.

    Of host memory this process's share, of those that torchrun started on the machine.
    """
    if device.type != "cuda":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        return _free_host_bytes() // processes
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def _free_host_bytes() -> int:
    """Return the bytes available on the host, or less where a control group has less left."""
    available = int(psutil.virtual_memory().available)
    listing = OWN_GROUPS.read_text() if OWN_GROUPS.is_file() else ""
    return min([available, *left_in_groups(listing, ROOT)])


def left_in_groups(listing: str, root: Path) -> Iterator[int]:
    """Yield the bytes left to each control group that limits this process's memory.

    Docker and SLURM set limits so. Pages of files that the kernel can drop do not count as used.
    Source: the Linux kernel's cgroup-v1/memory.rst and cgroup-v2.rst.

    Args:
        listing: ``/proc/self/cgroup``, the groups of this process.
        root: where the kernel shows control groups.
    """
    for line in filter(None, listing.splitlines()):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used, cached = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *(p for p in group.parents if p.is_relative_to(base))):
            size, taken = _number(folder / limit), _number(folder / used)
            if size is not None and taken is not None:
                yield max(0, size - taken + _droppable(folder / "memory.stat", cached))


def _number(file: Path) -> int | None:
    """Return a file's number; None where there is none, as without a limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _droppable(file: Path, name: str) -> int:
    try:
        facts = dict(line.split() for line in file.read_text().splitlines())
        return int(facts.get(name, 0))
    except (OSError, ValueError):
        return 0
