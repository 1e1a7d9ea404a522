"""A prior over volumes from a prior over images."""

import hashlib
import itertools
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wellposed.checks import Count
from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Adapter, Prior, require_one_each

Value = TypeVar("Value")


class Chunk(NamedTuple):
    """Neighbouring slices of one volume: views of them and of their place in the result."""

    slices: Tensor
    place: Tensor
    t: float | Tensor
    condition: Condition


class Slicewise(Adapter):
    """Denoises volumes (B, C, D, H, W) slice by slice with a prior over images (B, C, H, W).

    DiffusionMBIR (Chung et al. 2023, arXiv 2211.10655) does this along one axis. With several axes
    each time t uses one of them, as TPDM does in turn (Lee et al. 2023, "Improving 3D Imaging with
    Pre-Trained Perpendicular 2D Diffusion Models", arXiv 2303.08440). Here the axis is a hash of t
    instead of a counter, so a resumed run, or several calls at one t, use the same axis. Each axis
    has an equal share of the times on average, in irregular order.

    Slices are not padded: a check before the run makes sure that the inner prior accepts their
    sizes along every axis. One call counts as one evaluation. Gradients are supported: the inner
    prior is evaluated again in the backward pass, so only the activations of one chunk are stored.

    Args:
        prior: a prior on images.
        axes: axes of (B, C, D, H, W) perpendicular to the slices, of 2, 3 and 4.
        chunk: slices that are denoised together; it does not change the result, up to rounding.
            ``None``: chosen by a solver's memory plan (`wellposed.runs.memory`), or all slices in
            direct calls.
        precision: torch.bfloat16 or torch.float16 evaluates the inner prior under autocast.
        device: device of the inner prior, if the volumes are elsewhere, e.g. in host memory.
            Chunks are copied there and back. On CUDA this uses pinned memory and two streams, so
            that copies overlap with computation, and two chunks are on the device at once.

    Raises:
        ArgumentError: not a prior on images, or an invalid option.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prior = priors.Slicewise(priors.GaussianPrior(0.5, 0.1), axes=(2,), chunk=4)
        >>> prior.denoise(torch.randn(1, 1, 10, 16, 16), 500.0).shape
        torch.Size([1, 1, 10, 16, 16])
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
        require(distinct, "axes", axes, "distinct axes, of 2, 3 and 4")
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
        """Return the axis perpendicular to the slices at time ``t``."""
        digest = hashlib.blake2b(struct.pack("<d", float(t)), digest_size=8).digest()
        return self.axes[int.from_bytes(digest, "little") % len(self.axes)]

    def check_image(self, x: Tensor) -> None:
        """Raise unless ``x`` is a volume whose slices the inner prior accepts."""
        _require_volume("operator: acts on images of", x)
        for axis in self.axes:
            shape = x[:1].select(axis, 0).shape
            self.prior.check_image(torch.empty(shape, dtype=x.dtype, device=self.device_of(x)))

    def device_of(self, x: Tensor) -> torch.device:
        """Return the device on which slices of ``x`` are denoised."""
        return x.device if self.device is None else self.device

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the estimates of all slices; see `Prior.denoise`.

        Times and conditions may be tensors (B, ...), with one value per volume.
        """
        _require_volume("x_t: got", x_t)
        out = torch.empty_like(x_t)
        chunks = self._chunks(x_t, out, t, condition)
        if torch.is_grad_enabled():
            estimate = partial(checkpoint, self._estimate, use_reentrant=False)
            for slices, place, own_t, given in chunks:
                place.copy_(estimate(slices, own_t, given, preserve_rng_state=False))
        elif self.device is None:
            for slices, place, own_t, given in chunks:
                place.copy_(self._estimate(slices, own_t, given))
        else:
            self._denoise_elsewhere(chunks, self.device)
        return out

    def _chunks(
        self, x_t: Tensor, out: Tensor, t: float | Tensor, condition: Condition
    ) -> Iterator[Chunk]:
        """Yield all chunks of all volumes."""
        require_one_each("t", t, len(x_t))
        require_one_each("condition", condition, len(x_t))
        for item in range(len(x_t)):
            own_t, own_condition = of_item(t, item), of_item(condition, item)
            axis = self.axis_at(own_t) - 1
            slices, places = (volume[item].movedim(axis, 0) for volume in (x_t, out))
            size = self.chunk or len(slices)
            for start in range(0, len(slices), size):
                part = slice(start, start + size)
                yield Chunk(slices[part], places[part], own_t, own_condition)

    def _estimate(self, slices: Tensor, t: float | Tensor, condition: Condition) -> Tensor:
        """Return the inner prior's estimate of slices, on its device."""
        device = self.device_of(slices)
        with self._autocast(device):
            return self.prior.denoise(slices.to(device), t, condition)

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(device.type, self.precision)

    def _denoise_elsewhere(self, chunks: Iterator[Chunk], device: torch.device) -> None:
        """Denoise chunks on another device, two at a time."""
        lanes = [_Lane(self, device), _Lane(self, device)]
        for lane, chunk in zip(itertools.cycle(lanes), chunks, strict=False):
            lane.collect()
            lane.start(chunk)
        for lane in lanes:
            lane.collect()


class _Lane:
    """One of two lanes for chunks: a CUDA stream, or plain copies on other devices."""

    def __init__(self, prior: Slicewise, device: torch.device) -> None:
        self.prior, self.device = prior, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.landing: tuple[Tensor, Tensor] | None = None
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def start(self, chunk: Chunk) -> None:
        """Start to denoise a chunk; on CUDA return before it is finished."""
        staged = self._host_buffer(chunk.slices).copy_(chunk.slices)
        with torch.cuda.stream(self.stream):
            slices = staged.to(self.device, non_blocking=True)
            x0 = self.prior._estimate(slices, chunk.t, chunk.condition)
            landed = self._host_buffer(x0).copy_(x0, non_blocking=True)
        self.landing = (chunk.place, landed)

    def collect(self) -> None:
        """Wait for the chunk, if there is one, and store its estimate."""
        if self.landing is None:
            return
        if self.stream is not None:
            self.stream.synchronize()
        place, landed = self.landing
        place.copy_(landed)
        self.landing = None

    def _host_buffer(self, like: Tensor) -> Tensor:
        pinned = self.stream is not None  # required by asynchronous copies
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=pinned)


def of_item(value: Value | Tensor, item: int) -> Value | Tensor:
    """Return the time or condition of an item, if there is one per item."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value[item if len(value) > 1 else 0]


def _require_volume(what: str, x: Tensor) -> None:
    if x.ndim != 5:
        raise ShapeError(
            f"{what} shape {tuple(x.shape)}, accepted by Slicewise: volumes (B, C, D, H, W)"
        )
