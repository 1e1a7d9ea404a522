"""The bytes of live tensors, counted while code runs, also where nothing is computed."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wellposed.priors.prior import Prior


class LivePeak(TorchDispatchMode):
    """Counts the bytes of tensors made while it is active.

    Scratch memory inside one torch operation, and what other libraries allocate, is not seen.

    Attributes:
        live: bytes of tensors that are alive now.
        peak: the most there were at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
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


def _identity(leaf: Any) -> int | None:
    dense = isinstance(leaf, Tensor) and leaf.layout == torch.strided
    return leaf.untyped_storage()._cdata if dense else None


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
            with LivePeak() as peak:
                functional_call(call, meta, (torch.empty_like(x, device="meta"), t))
            return peak.peak
        except (RuntimeError, TypeError):  # the latter by NumPy
            one = torch.zeros_like(x[:1])
            with LivePeak() as peak:
                prior.denoise(one, t)
            return peak.peak * len(x)
