"""Class-conditional priors with classifier-free guidance."""

from torch import Tensor

from wellposed.checks import NonNegative, Seed
from wellposed.errors import ArgumentError, require
from wellposed.priors.anchor import Condition
from wellposed.priors.labels import class_labels
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prior import Adapter, Prior


def innermost(prior: Prior) -> Prior:
    """Return the prior inside all adapters."""
    while isinstance(prior, Adapter):
        prior = prior.prior
    return prior


class Guided(Adapter):
    """A class-conditional prior with a fixed class and classifier-free guidance.

    ``D = D_0 + w (D_c - D_0)`` with the estimates for the class c and for the null class, which
    replaced the class in a part of the training. It costs two evaluations of the network, or one
    if w = 1.

    "Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598, whose weight is w - 1.

    Args:
        prior: the class-conditional prior.
        condition: the class, or one class per item (B,).
        guidance: the weight w, at least 0.
        null: the null class; by default that of the prior, which is needed unless w is 1.

    Raises:
        ArgumentError: an unconditional prior, a class that it does not have, or no null class.
    """

    def __init__(
        self,
        prior: Prior,
        condition: Condition,
        guidance: NonNegative = 1.0,
        null: Seed | None = None,
    ) -> None:
        super().__init__(prior)
        require(prior.anchor is None, "prior", "a restorer", "a class-conditional prior")
        inner = innermost(prior)
        own = getattr(inner, "null_class", None)
        self.condition, self.guidance = condition, float(guidance)
        self.null = own if null is None else null
        if isinstance(inner, NetworkPrior):
            class_labels(condition, inner.num_classes, inner.null_class)
            if self.null is not None:
                class_labels(self.null, inner.num_classes, inner.null_class, "null")
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
