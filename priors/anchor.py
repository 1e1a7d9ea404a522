"""The degraded image about which restoration networks work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.checks import Choice, Count, check_fields
from wellposed.errors import require

INPUTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": lambda x_t, m, sigma: x_t,
    "difference": lambda x_t, m, sigma: x_t - m,
    "latent": lambda x_t, m, sigma: x_t / torch.sqrt(sigma**2 + 1),
    "pixel": lambda x_t, m, sigma: x_t / (3 * sigma + 1),
}
"""What a network sees of ``x_t``: RDDM, IR-SDE, ResShift in latents, ResShift on pixels."""


class Degraded(NamedTuple):
    """The condition of a prior with an anchor.

    Attributes:
        anchor: ``m`` of the kernel, in units, of the clean image's shape (B, C, H, W): the
            degraded image, enlarged and encoded.
        image: the degraded image (B, c, h, w) as it came, in [-1, 1] where units are.
    """

    anchor: Tensor
    image: Tensor


@dataclass(frozen=True)
class Anchor:
    """How a network works about a degraded image ``m``.

    Args:
        input: what it sees of ``x_t``, one of `INPUTS`.
        upsample: factor by which degraded images are enlarged, bicubically as ResShift does.

    Raises:
        ArgumentError: an invalid setting.
    """

    input: Annotated[str, Choice(*INPUTS)] = "plain"
    upsample: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def seen(self, x_t: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network sees of ``x_t``."""
        return INPUTS[self.input](x_t, m, sigma)

    def enlarge(self, image: Tensor) -> Tensor:
        """Return degraded images (B, C, h, w) in the size of clean ones."""
        return enlarged(image, self.upsample)


def enlarged(image: Tensor, factor: int) -> Tensor:
    """Return images (B, C, h, w) with sides ``factor`` times as long, by bicubic interpolation."""
    if factor == 1:
        return image
    return F.interpolate(image, scale_factor=float(factor), mode="bicubic")


def degraded_of(condition: Any) -> Degraded:
    """Return the condition of a prior with an anchor, of which the anchor alone may be given.

    Raises:
        ArgumentError: none was given.
    """
    if isinstance(condition, Degraded):
        return condition
    given = isinstance(condition, Tensor)
    require(given, "condition", condition, "a Degraded, see Prior.degraded, or an anchor")
    return Degraded(condition, condition)
