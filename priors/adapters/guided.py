"""Class-conditional priors with classifier-free guidance."""

import math

from torch import Tensor

from wellposed.errors import ArgumentError, require
from wellposed.priors.anchor import Condition
from wellposed.priors.labels import class_labels
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prior import Adapter, Prior


class Guided(Adapter):
    """A class-conditional prior with a fixed class and classifier-free guidance.

    ``D = D_0 + w (D_c - D_0)`` with the estimates for the class c and for the null class, which
    replaced the class in a part of the training. It costs two evaluations of the network, or one
    if w = 1.

    "Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598, whose weight is w - 1.

    Args:
        prior: the class-conditional prior.
        condition: the class, or one class per item (B,).
        guidance: the weight w.
        null: the null class; by default that of the prior, which is needed unless w is 1.

    Raises:
        ArgumentError: an unconditional prior, or no null class.
    """

    def __init__(
        self, prior: Prior, condition: Condition, guidance: float = 1.0, null: int | None = None
    ) -> None:
        super().__init__(prior)
        require(prior.anchor is None, "prior", "a restorer", "a class-conditional prior")
        require(math.isfinite(guidance), "guidance", guidance, "a finite number")
        own = getattr(getattr(prior, "prior", prior), "null_class", None)
        self.condition, self.guidance = condition, float(guidance)
        self.null = own if null is None else null
        if isinstance(prior, NetworkPrior):
            class_labels(condition, prior.num_classes, prior.null_class)
            if null is not None:
                class_labels(null, prior.num_classes, prior.null_class, "null")
        if self.guidance != 1 and self.null is None:
            raise ArgumentError(
                "null: got None, accepted: the class that stands for no class, often the last one"
            )

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the guided estimate for the class."""
        require(condition is None, "condition", condition, "None, as the class is fixed")
        found = self.prior.denoise(x_t, t, self.condition)
        if self.guidance == 1:
            return found
        none = self.prior.denoise(x_t, t, self.null)
        return none + self.guidance * (found - none)
