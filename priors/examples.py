"""A prior of examples: what is unknown resembles one of a list."""

import torch
from torch import Tensor

from wellposed.checks import Positive, RealTensor
from wellposed.errors import ShapeError
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Prior, broadcast
from wellposed.priors.schedule import Schedule, Tabulated


class Examples(Prior):
    """``x_0 ~ mean_n N(m_n, spread^2 I)``: examples ``m_n`` with some freedom about each.

    It is the prior of unknowns with few degrees of freedom that are easy to simulate, such as blur
    kernels, of which a few hundred examples say more than a network would. The denoiser is exact:
    a mean of examples, weighted by how well they explain the noisy image. Cost: one product with
    the matrix of examples.

    Args:
        examples: (N, C, ...), real, in public values.
        spread: standard deviation about each example, in units.
        schedule: DDPM's linear schedule by default.
        data_range: public values of -1 and 1 in units; by default plus and minus twice the root
            mean square of the values that are not 0.

    Raises:
        ShapeError: not (N, C, ...).

    Example:
        >>> import torch
        >>> from wellposed import operators, priors
        >>> kernels = operators.random_kernels(50, size=9, seed=0)
        >>> prior = priors.Examples(kernels[:, None].float())
        >>> prior.denoise(torch.randn(2, 1, 9, 9), 500.0).shape
        torch.Size([2, 1, 9, 9])
    """

    examples: Tensor

    def __init__(
        self,
        examples: RealTensor,
        spread: Positive = 0.1,
        schedule: Schedule | None = None,
        data_range: tuple[float, float] | None = None,
    ) -> None:
        if examples.ndim < 3:
            raise ShapeError(f"examples: got {tuple(examples.shape)}, accepted: (N, C, ...)")
        values = examples[examples != 0]
        top = 2 * float(values.square().mean().sqrt()) if len(values) else 1.0
        ends = (-top, top) if data_range is None else data_range
        super().__init__(schedule or Tabulated.linear(), examples.shape[1], data_range=ends)
        self.register_buffer("examples", examples)
        self.spread = spread

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the exact ``E[x_0 | x_t]``; see `Prior.denoise`."""
        x = x_t.flatten(1)
        alpha, sigma = (broadcast(v, x) for v in self.schedule(t))
        means = self.to_units(self.examples.to(x)).flatten(1)
        variance = (alpha * self.spread) ** 2 + sigma**2
        # |x - alpha m|^2 without the part that is the same for all examples.
        fit = alpha * (x @ means.T) - 0.5 * alpha**2 * means.square().sum(1)
        mean = torch.softmax(fit / variance, 1) @ means
        found = mean + alpha * self.spread**2 / variance * (x - alpha * mean)
        return found.reshape(x_t.shape)
