"""A prior over volumes made of a prior over images."""

import hashlib
import itertools
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wellposed.checks import Count
from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.priors.prior import Adapter, Prior


class Chunk(NamedTuple):
    """Neighbouring slices of one volume: views of them and of where their estimate goes."""

    slices: Tensor
    place: Tensor
    t: float | Tensor
    condition: Any


class Slicewise(Adapter):
    """Denoises volumes (B, C, D, H, W) slice by slice with a prior over images (B, C, H, W).

    As DiffusionMBIR (Chung et al. 2023, arXiv 2211.10655) does along one axis. With several axes
    each time t is given one of them, as in TPDM's alternation (Lee et al. 2023, "Improving 3D
    Imaging with Pre-Trained Perpendicular 2D Diffusion Models", arXiv 2303.08440), but by a hash
    of t alone instead of a counter: a run that goes on from a checkpoint, or calls the prior
    several times at one t, sees the same axis. Each axis gets its share of the times on average,
    in no regular order.

    Slices are not padded: whether the inner prior takes their sizes along every axis is checked
    before a run. One call counts as one evaluation. Gradients pass; then the inner prior is
    called a second time in the backward pass, so that no more than a chunk's activations are held.

    Args:
        prior: a prior on images.
        axes: the axes of (B, C, D, H, W) that are cut, of 2, 3 and 4.
        chunk: slices that go through the prior together; the result does not depend on it but
            for rounding. ``None`` lets a solver's memory plan choose
            (`wellposed.runs.memory`), and is all of them in calls of your own.
        precision: torch.bfloat16 or torch.float16 runs the inner prior under autocast.
        device: where the inner prior lives, if the volumes live elsewhere, as in host memory:
            chunks go there and back, on CUDA through pinned memory and two streams, so that the
            copies of one chunk overlap the computation of the other. Two chunks are then on the
            device at once.

    Raises:
        ArgumentError: no prior on images, or an option outside these.
    """

    incidental: ClassVar[frozenset[str]] = frozenset({"chunk", "device"})

    def __init__(
        self,
        prior: Prior,
        axes: tuple[int, ...] = (2,),
        chunk: Count | None = None,
        *,
        precision: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        images = isinstance(prior, Prior) and prior.is_affine
        require(images, "prior", type(prior).__name__, "a prior on images")
        super().__init__(prior)
        listed = isinstance(axes, tuple | list)
        distinct = listed and 0 < len(axes) == len(set(axes)) and set(axes) <= {2, 3, 4}
        require(distinct, "axes", axes, "distinct ones of 2, 3 and 4")
        whole = isinstance(chunk, int) and not isinstance(chunk, bool) and chunk >= 1
        require(chunk is None or whole, "chunk", chunk, "None or an integer of at least 1")
        known = precision in (None, torch.bfloat16, torch.float16)
        require(known, "precision", precision, "None, torch.bfloat16 or torch.float16")
        self.axes, self.chunk, self.precision = tuple(axes), chunk, precision
        try:
            self.device = None if device is None else torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ArgumentError(f"device: got {device!r}, accepted: None or a device") from error

    def in_chunks(self, chunk: int) -> "Slicewise":
        """Return this prior with another chunk."""
        where = self.device
        return Slicewise(self.prior, self.axes, chunk, precision=self.precision, device=where)

    def axis_at(self, t: float | Tensor) -> int:
        """Return the axis that is cut at time ``t``."""
        digest = hashlib.blake2b(struct.pack("<d", float(t)), digest_size=8).digest()
        return self.axes[int.from_bytes(digest, "little") % len(self.axes)]

    def check_image(self, x: Tensor) -> None:
        """Raise unless volumes like ``x`` and their slices suit this prior and the inner one."""
        _require_volume("operator: acts on images of", x)
        for axis in self.axes:
            shape = x[:1].select(axis, 0).shape
            self.prior.check_image(torch.empty(shape, dtype=x.dtype, device=self.device_of(x)))

    def device_of(self, x: Tensor) -> torch.device:
        """Return where slices of ``x`` are denoised."""
        return x.device if self.device is None else self.device

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return the estimates of all slices; see `Prior.denoise`.

        Times and conditions may be tensors (B, ...), one for each volume.
        """
        _require_volume("x_t: got", x_t)
        out = torch.empty_like(x_t)
        chunks = self._chunks(x_t, out, t, condition)
        if torch.is_grad_enabled():
            estimate = partial(checkpoint, self._estimate, use_reentrant=False)
            for slices, place, *given in chunks:
                place.copy_(estimate(slices, *given, preserve_rng_state=False))
        elif self.device is None:
            for slices, place, *given in chunks:
                place.copy_(self._estimate(slices, *given))
        else:
            self._denoise_elsewhere(chunks, self.device)
        return out

    def _chunks(
        self, x_t: Tensor, out: Tensor, t: float | Tensor, condition: Any
    ) -> Iterator[Chunk]:
        """Yield all chunks of all volumes."""
        for item in range(len(x_t)):
            own_t, own_condition = _of_item(t, item), _of_item(condition, item)
            axis = self.axis_at(own_t) - 1
            slices, places = (volume[item].movedim(axis, 0) for volume in (x_t, out))
            size = self.chunk or len(slices)
            for start in range(0, len(slices), size):
                part = slice(start, start + size)
                yield Chunk(slices[part], places[part], own_t, own_condition)

    def _estimate(self, slices: Tensor, t: float | Tensor, condition: Any) -> Tensor:
        """Return the inner prior's estimate of slices, where it lives."""
        device = self.device_of(slices)
        with self._autocast(device):
            return self.prior.denoise(slices.to(device), t, condition)

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(device.type, self.precision)

    def _denoise_elsewhere(self, chunks: Iterator[Chunk], device: torch.device) -> None:
        """Denoise chunks on another device, two in flight."""
        lanes = [_Lane(self, device), _Lane(self, device)]
        for lane, chunk in zip(itertools.cycle(lanes), chunks, strict=False):
            lane.collect()
            lane.start(chunk)
        for lane in lanes:
            lane.collect()


class _Lane:
    """One of the two chunks in flight: a CUDA stream of its own, or plain copies elsewhere."""

    def __init__(self, prior: Slicewise, device: torch.device) -> None:
        self.prior, self.device = prior, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.landing: tuple[Tensor, Tensor] | None = None
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def start(self, chunk: Chunk) -> None:
        """Send a chunk on its way; on CUDA return before it is done."""
        staged = self._host_buffer(chunk.slices).copy_(chunk.slices)
        with torch.cuda.stream(self.stream):
            slices = staged.to(self.device, non_blocking=True)
            x0 = self.prior._estimate(slices, chunk.t, chunk.condition)
            landed = self._host_buffer(x0).copy_(x0, non_blocking=True)
        self.landing = (chunk.place, landed)

    def collect(self) -> None:
        """Wait for the chunk under way, if there is one, and put its estimate in place."""
        if self.landing is None:
            return
        if self.stream is not None:
            self.stream.synchronize()
        place, landed = self.landing
        place.copy_(landed)
        self.landing = None

    def _host_buffer(self, like: Tensor) -> Tensor:
        pinned = self.stream is not None  # which asynchronous copies need
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=pinned)


def _of_item(value: Any, item: int) -> Any:
    """Return an item's own time or condition where there is one for each."""
    return value[item] if isinstance(value, Tensor) and value.ndim > 0 else value


def _require_volume(what: str, x: Tensor) -> None:
    if x.ndim != 5:
        raise ShapeError(
            f"{what} shape {tuple(x.shape)}, accepted by Slicewise: volumes (B, C, D, H, W)"
        )
