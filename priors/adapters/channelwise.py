"""A prior of images whose channels have ranges of their own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Adapter, Prior

if TYPE_CHECKING:
    from deepinv.physics import Physics


class Channelwise(Adapter):
    """One prior of several channels, each with its own ``data_range``: CT in HU beside an MRI.

    Solvers take public values as they are and return them likewise. Units are those of the
    prior; the unit of the noise level is that of the widest range. Solvers with absolute step
    sizes are at their best with ranges of similar width. Other adapters are put inside:
    ``Channelwise(Slicewise(prior), ranges)``.

    Args:
        prior: a plain prior on images.
        ranges: public values of -1 and 1 for each channel.

    Raises:
        ArgumentError: another number of ranges than channels, invalid ones, or a prior that is
            latent, a restorer or of unequal ranges itself.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prior = priors.Channelwise(priors.load("natural"), [(0, 1), (0, 1), (-1000, 1000)])
        >>> prior.to_public(torch.zeros(1, 3, 1, 1)).flatten().tolist()
        [0.5, 0.5, 0.0]
    """

    has_range = False

    def __init__(self, prior: Prior, ranges: Sequence[tuple[float, float]]) -> None:
        plain = isinstance(prior, Prior) and prior.is_affine and prior.anchor is None
        require(plain, "prior", type(prior).__name__, "a plain prior on images")
        super().__init__(prior)
        listed = isinstance(ranges, list | tuple) and all(map(_is_pair, ranges))
        fits = listed and len(ranges) > 0 and prior.channels in (None, len(ranges))
        accepted = f"a pair (low, high) for each of {prior.channels or 'the'} channels"
        require(fits, "ranges", ranges, accepted)
        pairs = [self._checked_range(pair) for pair in ranges]
        self.has_range, self.channels = False, len(pairs)
        self.ranges = tuple(pairs)
        self.data_range = max(pairs, key=lambda pair: pair[1] - pair[0])

    def extra_repr(self) -> str:
        """Return the content of `repr`."""
        return f"{super().extra_repr()}, ranges={list(self.ranges)}"

    def with_range(self, low: float, high: float) -> Self:
        """Refuse: each channel has a range of its own."""
        raise ArgumentError(
            "prior: a Channelwise has no one range, accepted: Channelwise(prior, ranges)"
        )

    @property
    def is_affine(self) -> bool:
        """Whether all channels have the same range."""
        return len(set(self.ranges)) == 1

    def to_units(self, x: Tensor) -> Tensor:
        return (x - self._centres(x)) / self._scales(x)

    def to_public(self, u: Tensor) -> Tensor:
        return u * self._scales(u) + self._centres(u)

    def in_units(self, operator: "Physics") -> "Physics":
        from wellposed.operators.image.channels import with_gains

        if self.is_affine:
            return operator
        widest = 2 * self.scale
        return with_gains(operator, [(high - low) / widest for low, high in self.ranges])

    def check_image(self, x: Tensor) -> None:
        if x.shape[1] != len(self.ranges):
            raise ShapeError(
                f"prior: has ranges for {len(self.ranges)} channels, but the operator's images "
                f"have {x.shape[1]}"
            )
        super().check_image(x)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the estimate of the prior; see `Prior.denoise`."""
        return self.prior.denoise(x_t, t, condition)

    def _scales(self, like: Tensor) -> Tensor:
        return self._spread([(high - low) / 2 for low, high in self.ranges], like)

    def _centres(self, like: Tensor) -> Tensor:
        return self._spread([(high + low) / 2 for low, high in self.ranges], like)

    def _spread(self, values: list[float], like: Tensor) -> Tensor:
        """Return one value for each channel, broadcastable to images."""
        each = torch.tensor(values, dtype=like.real.dtype, device=like.device)
        return each.view(-1, *[1] * (like.ndim - 2))


def _is_pair(pair: object) -> bool:
    two = isinstance(pair, list | tuple) and len(pair) == 2
    return two and all(isinstance(end, (int, float)) for end in pair)  # type: ignore[attr-defined]
