"""Class-conditional priors under classifier-free guidance."""

import math
from typing import Any

from torch import Tensor

from wellposed.errors import ArgumentError, require
from wellposed.priors.prior import Adapter, Prior


class Guided(Adapter):
    """A class-conditional prior with its class fixed, pulled away from the class that is none.

    ``D = D_0 + w (D_c - D_0)`` with the estimates of the class c and of the null class, on which
    the network was trained in place of a class now and then. It costs two evaluations of the
    network, with w = 1 only one, that of the class.

    "Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598, whose weight is w - 1.

    Args:
        prior: the class-conditional prior.
        condition: the class, or one class per item (B,).
        guidance: the weight w.
        null: the class that stands for none; needed unless w is 1, where the prior knows none.

    Raises:
        ArgumentError: an unconditional prior, or no null class.
    """

    def __init__(
        self, prior: Prior, condition: Any, guidance: float = 1.0, null: int | None = None
    ) -> None:
        super().__init__(prior)
        require(prior.anchor is None, "prior", "a restorer", "a class-conditional prior")
        require(math.isfinite(guidance), "guidance", guidance, "a finite number")
        own = getattr(getattr(prior, "prior", prior), "null_class", None)
        self.condition, self.guidance = condition, float(guidance)
        self.null = own if null is None else null
        if self.guidance != 1 and self.null is None:
            raise ArgumentError(
                "null: got None, accepted: the class that stands for none, often the last one"
            )

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return the guided estimate of the class."""
        require(condition is None, "condition", condition, "None, it is fixed already")
        found = self.prior.denoise(x_t, t, self.condition)
        if self.guidance == 1:
            return found
        none = self.prior.denoise(x_t, t, self.null)
        return none + self.guidance * (found - none)
