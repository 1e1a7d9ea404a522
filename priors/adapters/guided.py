"""Conditional priors with classifier-free guidance."""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.checks import Fraction, NonNegative
from wellposed.errors import ArgumentError, require
from wellposed.linalg import as_real, per_item
from wellposed.priors.anchor import Condition
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prior import Adapter, Prior, broadcast
from wellposed.priors.text.condition import TextCondition

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
    which replaced it in a part of the training. It costs two evaluations of the network, for text
    in one batch of twice the size, or one if w = 1. With ``rescale`` phi the result is
    ``phi std(D_c) / std(D) D + (1 - phi) D``, the deviations of each item: a large w makes images
    too bright and too dark.

    "Classifier-Free Diffusion Guidance", 2022, arXiv 2207.12598, whose weight is w - 1; Lin et
    al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv 2305.08891.

    Args:
        prior: the conditional prior.
        condition: the class, or one class per item (B,); a `TextCondition`; of other priors their
            condition.
        guidance: the weight w, at least 0, or a `Rule`: a function of time, as `CFGPlusPlus`.
        null: the null condition; by default the null class of the prior, which is needed unless w
            is 1. Other conditional priors are called without a condition by default.
        rescale: phi, from 0 to 1.

    Raises:
        ArgumentError: an unconditional prior, a class that it does not have, or no null class.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> class Network(torch.nn.Module):  # class-conditional
        ...     def forward(self, x, label, number):
        ...         return x * number.view(-1, 1, 1, 1)
        >>> prior = priors.NetworkPrior(Network(), priors.Tabulated.linear(), num_classes=10)
        >>> guided = priors.Guided(prior, 3, guidance=2.0, null=0)
        >>> guided.denoise(torch.randn(1, 1, 8, 8), 500.0).shape
        torch.Size([1, 1, 8, 8])
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
            inner.require_condition(condition)
            if self.null is not None:
                inner.require_condition(self.null, "null")
            elif self.guidance != 1:
                raise ArgumentError(
                    "null: got None, accepted: the class that stands for no class, often the last"
                    " one; the condition of an empty prompt"
                )

    def again(self, prior: Prior) -> "Guided":
        """Return the same guidance of another prior."""
        return Guided(prior, self.condition, self.guidance, self.null, self.rescale)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the guided estimate for the condition."""
        require(condition is None, "condition", condition, "None, as the class is fixed")
        if self.guidance == 1:
            return self.prior.denoise(x_t, t, self.condition)
        none, found = self._estimates(x_t, t)
        guided = none + self._weight(x_t, t) * (found - none)
        if self.rescale == 0:
            return guided
        gain = _std(found) / _std(guided).clamp(min=1e-30)
        return per_item(1 + self.rescale * (gain - 1), guided) * guided

    def _estimates(self, x_t: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimates for the null condition and for the condition."""
        null, given = self.null, self.condition
        kind = TextCondition
        if not (isinstance(null, kind) and isinstance(given, kind) and null.is_like(given)):
            return self.prior.denoise(x_t, t, null), self.prior.denoise(x_t, t, given)
        both = null.repeated(len(x_t)).beside(given.repeated(len(x_t)))
        times = t.repeat(2) if isinstance(t, Tensor) and t.ndim > 0 and len(t) > 1 else t
        none, found = self.prior.denoise(torch.cat([x_t, x_t]), times, both).chunk(2)
        return none, found

    def _weight(self, x_t: Tensor, t: float | Tensor) -> float | Tensor:
        if not callable(self.guidance):
            return self.guidance
        return broadcast(self.guidance(torch.as_tensor(t, dtype=torch.float64)), x_t)


def _std(x: Tensor) -> Tensor:
    return as_real(x).flatten(1).std(1)
