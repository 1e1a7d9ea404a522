"""The prior that knows nothing."""

from typing import Any

from torch import Tensor

from wellposed.linalg import per_item
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import VE


class Flat(Prior):
    """The improper prior of constant density, for methods that bring no prior of their own.

    ``E[x_0 | x_t] = x_t / alpha_t``. Images of any size, real or complex; units are public values.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prior = priors.Flat()
        >>> alpha, _ = prior.schedule(0.5)
        >>> x_t = torch.randn(1, 1, 8, 8)
        >>> torch.allclose(prior.denoise(x_t, 0.5), x_t / float(alpha))
        True
    """

    has_range = False

    def __init__(self) -> None:
        super().__init__(VE(), is_complex=True)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return ``x_t / alpha_t``."""
        alpha = self.schedule(t)[0].to(x_t.real.dtype).to(x_t.device)
        return x_t / (per_item(alpha, x_t) if alpha.ndim else alpha)
