"""Bytes that code allocates, measured even without computing, and bytes that are free."""

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
    """Counts the bytes of tensors created while it is active.

    Scratch memory inside a torch operation and allocations of other libraries are not counted.

    Attributes:
        live: bytes of tensors that exist now.
        peak: largest number of bytes at one time.
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
        # The result of an in-place operation or a view existed before; it may be the caller's.
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
    if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
        identity: int = leaf.untyped_storage()._cdata
        return identity
    return None


class _Denoise(nn.Module):
    """A prior's `denoise` as the call of a module, for `functional_call`."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x_t: Tensor, t: float) -> Tensor:
        return self.prior.denoise(x_t, t)


def prior_peak(prior: Prior, x: Tensor, gradients: bool = False) -> int:
    """Return the largest number of bytes that one `denoise` of images like ``x`` allocates.

    The result is included. Measured without computing, on torch's "meta" device, with the network
    in the precision of its weights. A prior that cannot run there, because its code depends on
    values, denoises one image of zeros instead; this peak is multiplied by the number of images.

    Args:
        prior: the prior.
        x: images (B, ...) on the prior's device; their values do not matter.
        gradients: whether a product with the Jacobian follows, for which activations are kept.
    """
    t = float(prior.schedule.T) / 2
    call = _Denoise(prior)
    state = {**dict(call.named_parameters()), **dict(call.named_buffers())}
    meta = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    with torch.set_grad_enabled(gradients):
        try:
            images = torch.empty_like(x, device="meta").requires_grad_(gradients)
            with (peak := LivePeak()):
                _differentiated(functional_call(call, meta, (images, t)), images)
            return peak.peak
        except (RuntimeError, TypeError):  # NumPy raises the latter
            one = torch.zeros_like(x[:1]).requires_grad_(gradients)
            with (peak := LivePeak()):
                _differentiated(prior.denoise(one, t), one)
            return peak.peak * len(x)


def _differentiated(denoised: Tensor, x: Tensor) -> None:
    """Take a product with the Jacobian, where gradients are recorded."""
    if denoised.requires_grad:
        torch.autograd.grad(denoised.abs().sum(), x)


def free_bytes(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device.

    For host memory it is the share of this process among those that torchrun started here.
    """
    if device.type != "cuda":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        return _free_host_bytes() // processes
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def _free_host_bytes() -> int:
    """Return the bytes available on the host, or in its control groups if they have less."""
    available = int(psutil.virtual_memory().available)
    listing = OWN_GROUPS.read_text() if OWN_GROUPS.is_file() else ""
    return min([available, *left_in_groups(listing, ROOT)])


def left_in_groups(listing: str, root: Path) -> Iterator[int]:
    """Yield the bytes left in each control group that limits this process's memory.

    Docker and SLURM limit memory this way. File pages that the kernel can drop count as free.
    Source: the Linux kernel's cgroup-v1/memory.rst and cgroup-v2.rst.

    Args:
        listing: ``/proc/self/cgroup``, the groups of this process.
        root: folder of the kernel's control groups.
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
    """Return the number in a file, or ``None`` if there is none, e.g. without a limit."""
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
