"""The anchor of restorers: the degraded image at which their diffusion ends."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.checks import Choice, Count, check_fields
from wellposed.errors import ArgumentError
from wellposed.priors.text.condition import TextCondition

INPUTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": lambda x_t, m, sigma: x_t,
    "difference": lambda x_t, m, sigma: x_t - m,
    "latent": lambda x_t, m, sigma: x_t / torch.sqrt(sigma**2 + 1),
    "pixel": lambda x_t, m, sigma: x_t / (3 * sigma + 1),
}
"""Inputs of the networks of RDDM, IR-SDE, ResShift in latents and ResShift on pixels."""


class Degraded(NamedTuple):
    """The condition of a prior with an anchor.

    Attributes:
        anchor: ``m`` of the kernel, in units, with the shape (B, C, H, W) of the clean image: the
            degraded image, enlarged and encoded.
        image: the original degraded image (B, c, h, w), with values scaled to [-1, 1].

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> restorer = priors.load("irsde-deblur")
        >>> condition = restorer.degraded(torch.rand(1, 3, 16, 16))
        >>> condition.anchor.shape, condition.image.shape
        (torch.Size([1, 3, 16, 16]), torch.Size([1, 3, 16, 16]))
    """

    anchor: Tensor
    image: Tensor


Condition = Degraded | TextCondition | Tensor | int | None
"""What priors ask for besides ``x_t`` and ``t``: a degraded image or its anchor, text, classes."""


@dataclass(frozen=True)
class Anchor:
    """How a network uses the degraded image ``m``.

    Args:
        input: input of the network, a function of ``x_t`` and ``m``, one of `INPUTS`.
        upsample: factor by which degraded images are enlarged, bicubically as in ResShift.

    Raises:
        ArgumentError: an invalid setting.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> anchor = priors.Anchor("difference", upsample=4)
        >>> anchor.enlarge(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 32, 32])
    """

    input: Annotated[str, Choice(*INPUTS)] = "plain"
    upsample: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def seen(self, x_t: Tensor, m: Tensor, sigma: Tensor) -> Tensor:
        """Return the network's input."""
        return INPUTS[self.input](x_t, m, sigma)

    def enlarge(self, image: Tensor) -> Tensor:
        """Return degraded images (B, C, h, w) enlarged to the size of the clean ones."""
        return enlarged(image, self.upsample)


def enlarged(image: Tensor, factor: int) -> Tensor:
    """Return images (B, C, h, w) with sides ``factor`` times as long, by bicubic interpolation."""
    if factor == 1:
        return image
    return F.interpolate(image, scale_factor=float(factor), mode="bicubic")


def degraded_of(condition: Condition) -> Degraded:
    """Return the condition of a prior with an anchor; the anchor alone is also accepted.

    Raises:
        ArgumentError: another condition, or none.
    """
    if isinstance(condition, Degraded):
        return condition
    if isinstance(condition, Tensor):
        return Degraded(condition, condition)
    accepted = "a Degraded, see Prior.degraded, or an anchor"
    raise ArgumentError(f"condition: got {condition!r}, accepted: {accepted}")
