"""A prior that is evaluated image by image."""

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.priors.adapters.slicewise import of_item
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Adapter, Prior, require_one_each


class Itemwise(Adapter):
    """Evaluates a prior image by image, so that a batch gives the bits of its images alone.

    The convolutions of a network round differently in batches of different sizes, and iterations
    amplify it. Nothing else that solvers compute depends on the batch. On a CPU this takes 4 to
    70 % more time, most for small images on many threads; on a GPU the gain of batches is lost.

    Args:
        prior: a prior without an anchor.

    Raises:
        ArgumentError: no prior, or a restorer.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prior, x = priors.Itemwise(priors.load("natural")), torch.randn(2, 3, 16, 16)
        >>> torch.equal(prior.denoise(x, 0.5)[:1], prior.denoise(x[:1], 0.5))  # the same bits
        True
    """

    def __init__(self, prior: Prior) -> None:
        plain = isinstance(prior, Prior) and prior.anchor is None
        require(plain, "prior", type(prior).__name__, "a prior without an anchor")
        super().__init__(prior)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the estimates of all images; see `Prior.denoise`."""
        require_one_each("t", t, len(x_t))
        require_one_each("condition", condition, len(x_t))
        images = enumerate(x_t.split(1))
        return torch.cat(
            [self.prior.denoise(x, of_item(t, n), of_item(condition, n)) for n, x in images]
        )
