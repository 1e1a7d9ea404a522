"""Sources of Gaussian noise: per-item streams from a seed, or recorded draws.

All random numbers of a run come from its source. A draw is a pure function of the seed, the item's
identity and the position in the stream. It is thus the same in any batch, on any device and in any
precision, and a paused run resumes by setting ``position``.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import ArgumentError, DtypeError, ShapeError

SAMPLING, MEASUREMENT, COUNTS, DRAWS = 0, 1, 2, 3
"""First words of the seeds, so that a solver and a simulated measurement never share a stream."""


def item_generator(seed: int, item: tuple[int, ...], purpose: int) -> np.random.Generator:
    """Return the generator of an item, for distributions other than the normal one."""
    return np.random.Generator(np.random.Philox(_sequence(seed, item, purpose)))


def _sequence(seed: int, item: tuple[int, ...], purpose: int) -> np.random.SeedSequence:
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ArgumentError(f"seed: got {seed!r}, accepted: a non-negative integer")
    # A spawn key, as entropy ignores trailing zeros: (0,) must differ from (0, 0).
    return np.random.SeedSequence(seed, spawn_key=(purpose, *item))


def item_seed(seed: int, item: tuple[int, ...], purpose: int) -> int:
    """Return a seed of an item's own, for functions that take one number."""
    return int(_sequence(seed, item, purpose).generate_state(1)[0])


class NoiseSource(Protocol):
    """A source of standard normal noise.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> class Constant:  # a noise source of your own
        ...     def draw(self, like):
        ...         return torch.ones_like(like)
        >>> operator, prior = operators.Denoising((1, 8, 8), 0.5), priors.GaussianPrior(0.5, 0.1)
        >>> y = torch.rand(1, 1, 8, 8)
        >>> solvers.DDS(steps=3)(y, operator, prior, noise=Constant()).mean.shape
        torch.Size([1, 1, 8, 8])
    """

    position: int

    def draw(self, like: Tensor) -> Tensor:
        """Return noise of the shape, dtype and device of ``like`` and advance ``position``.

        Complex noise has unit variance in the real and in the imaginary part.
        """


class ItemNoise:
    """One stream per item, from ``seed`` and the item's identity.

    Each slice of volumes (B, C, D, H, W) has its own stream. A process that holds some slices
    thus draws only their noise, equal to that of the whole volume.

    Args:
        seed: any non-negative integer.
        items: identity of each item of the batch, e.g. (sample, item) pairs.
        purpose: `SAMPLING` or `MEASUREMENT`.
        first_slice: number of the first slice that is drawn.

    Example:
        >>> import torch
        >>> from wellposed.noise import ItemNoise
        >>> both = ItemNoise(0, [(0,), (1,)]).draw(torch.empty(2, 1, 8, 8))
        >>> second = ItemNoise(0, [(1,)]).draw(torch.empty(1, 1, 8, 8))
        >>> torch.equal(both[1:], second)  # it does not depend on the batch
        True
    """

    def __init__(
        self,
        seed: int,
        items: Sequence[tuple[int, ...]],
        purpose: int = SAMPLING,
        first_slice: int = 0,
    ) -> None:
        self.position, self._first_slice = 0, first_slice
        self._keys = [
            _sequence(seed, item, purpose).generate_state(2, np.uint64) for item in items
        ]

    def draw(self, like: Tensor) -> Tensor:
        """Return the next noise; see `NoiseSource.draw`."""
        if len(like) != len(self._keys):
            raise ShapeError(f"like: got {len(like)} items, accepted: {len(self._keys)}")
        if not (like.is_floating_point() or like.is_complex()):
            raise DtypeError(f"like: got {like.dtype}, accepted: floating-point or complex")
        noise = torch.empty(like.shape, dtype=like.dtype)
        bits = np.random.Philox(0)  # one for all items, as making one costs more than a draw
        generator, start = np.random.Generator(bits), bits.state
        for key, item in zip(self._keys, noise, strict=True):
            slices = item.unbind(1) if like.ndim == 5 else (item,)
            for number, part in enumerate(slices, self._first_slice):
                start["state"]["key"][:] = key
                start["state"]["counter"][:] = (0, self.position, number, 0)
                bits.state = start
                part.copy_(_normal(generator, part))
        self.position += 1
        return noise.to(like.device)


def _normal(generator: np.random.Generator, part: Tensor) -> Tensor:
    """Return the noise of a slice; an image is slice 0."""
    shape = (*part.shape, 2) if part.is_complex() else tuple(part.shape)
    values = torch.from_numpy(np.asarray(generator.standard_normal(shape)))
    return torch.view_as_complex(values) if part.is_complex() else values


class RecordedNoise:
    """Replays recorded draws in call order, for comparison with another implementation.

    Args:
        draws: arrays of the requested shapes; for complex tensors (B, C, H, W) also real arrays
            (B, 2 C, H, W) of real and imaginary parts.

    Example:
        >>> import torch
        >>> from wellposed.noise import RecordedNoise
        >>> noise = RecordedNoise([torch.tensor([[1.0, -1.0]]), torch.tensor([[0.5, 0.0]])])
        >>> noise.draw(torch.empty(1, 2)), noise.draw(torch.empty(1, 2))
        (tensor([[ 1., -1.]]), tensor([[0.5000, 0.0000]]))
    """

    def __init__(self, draws: Iterable[np.ndarray | Tensor]) -> None:
        self._draws = [torch.as_tensor(draw) for draw in draws]
        self.position = 0

    def draw(self, like: Tensor) -> Tensor:
        """Return the next recorded draw, in the dtype and device of ``like``."""
        if self.position >= len(self._draws):
            raise ArgumentError(f"noise: all {len(self._draws)} recorded draws are used up")
        value, shape = self._draws[self.position], tuple(like.shape)
        if value.is_complex() and not like.is_complex():
            raise DtypeError(f"noise: draw {self.position} is {value.dtype}, accepted: real noise")
        halves = like.is_complex() and not value.is_complex()
        shape = (shape[0], 2 * shape[1], *shape[2:]) if halves else shape
        if tuple(value.shape) != shape:
            raise ShapeError(
                f"noise: draw {self.position} has shape {tuple(value.shape)}, accepted: {shape}"
            )
        value = torch.complex(*value.chunk(2, dim=1)) if halves else value
        self.position += 1
        return value.to(like.dtype).to(like.device)
