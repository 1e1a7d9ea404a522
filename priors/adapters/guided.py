"""Conditional priors with classifier-free guidance."""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.checks import Fraction, NonNegative
from wellposed.errors import ArgumentError, require
from wellposed.linalg import as_real, per_item
from wellposed.priors.anchor import Condition
from wellposed.priors.labels import class_labels
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prior import Adapter, Prior, broadcast

Rule = Callable[[Tensor], Tensor]
"""A weight of guidance by time, both of the same shape; see `CFGPlusPlus`."""


def innermost(prior: Prior) -> Prior:
    """Return the prior inside all adapters."""
    while isinstance(prior, Adapter):
        prior = prior.prior
    return prior


class Guided(Adapter):
    """A conditional prior with a fixed condition and classifier-free guidance.

    ``D = D_0 + w (D_c - D_0)`` with the estimates for the condition c and for the null condition,
    which replaced it in a part of the training. It costs two evaluations of the network, or one
    if w = 1. With ``rescale`` phi the result is ``phi std(D_c) / std(D) D + (1 - phi) D``, the
    deviations of each item: a large w makes images too bright and too dark.

    "Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598, whose weight is w - 1; Lin et
    al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv 2305.08891.

    Args:
        prior: the conditional prior.
        condition: the class, or one class per item (B,); of other priors their condition.
        guidance: the weight w, at least 0, or a `Rule`: a function of time, as `CFGPlusPlus`.
        null: the null condition; by default the null class of the prior, which is needed unless w
            is 1. Other conditional priors are called without a condition by default.
        rescale: phi, from 0 to 1.

    Raises:
        ArgumentError: an unconditional prior, a class that it does not have, or no null class.
    """

    def __init__(
        self,
        prior: Prior,
        condition: Condition,
        guidance: NonNegative | Rule = 1.0,
        null: Condition = None,
        rescale: Fraction = 0.0,
    ) -> None:
        super().__init__(prior)
        require(prior.anchor is None, "prior", "a restorer", "a class-conditional prior")
        inner = innermost(prior)
        own = getattr(inner, "null_class", None)
        self.condition = condition
        self.guidance = guidance if callable(guidance) else float(guidance)
        self.null, self.rescale = own if null is None else null, float(rescale)
        if isinstance(inner, NetworkPrior):
            class_labels(condition, inner.num_classes, inner.null_class)
            if self.null is not None:
                class_labels(self.null, inner.num_classes, inner.null_class, "null")
            elif self.guidance != 1:
                raise ArgumentError(
                    "null: got None, accepted: the class that stands for no class, often the last"
                    " one"
                )

    def again(self, prior: Prior) -> "Guided":
        """Return the same guidance of another prior."""
        return Guided(prior, self.condition, self.guidance, self.null, self.rescale)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the guided estimate for the condition."""
        require(condition is None, "condition", condition, "None, as the class is fixed")
        found = self.prior.denoise(x_t, t, self.condition)
        if self.guidance == 1:
            return found
        none = self.prior.denoise(x_t, t, self.null)
        guided = none + self._weight(x_t, t) * (found - none)
        if self.rescale == 0:
            return guided
        gain = _std(found) / _std(guided).clamp(min=1e-30)
        return per_item(1 + self.rescale * (gain - 1), guided) * guided

    def _weight(self, x_t: Tensor, t: float | Tensor) -> float | Tensor:
        if not callable(self.guidance):
            return self.guidance
        return broadcast(self.guidance(torch.as_tensor(t, dtype=torch.float64)), x_t)


def _std(x: Tensor) -> Tensor:
    return as_real(x).flatten(1).std(1)
