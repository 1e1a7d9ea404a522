"""How far an inverted image is from white noise."""

from typing import NamedTuple

import torch
from torch import Tensor

from wellposed.linalg import as_real, inner, norm


class Whiteness(NamedTuple):
    """Statistics of each item of a code, (B,); of white noise they are 1, 1, 1 and 0.

    Inverted images are not white, not even samples of the prior: it depends on the method and on
    its steps. Compare with codes of ``priors`` samples before an image is called unusual.

    Attributes:
        std: standard deviation, over that of the schedule's noise.
        low: mean power of the spatial frequencies below a quarter of the sampling rate.
        high: mean power of the other ones.
        lag: correlation of neighbouring pixels.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> prior = priors.GaussianPrior(0.5, 0.1)
        >>> code = inversion.BDIA(steps=20).encode(torch.rand(2, 1, 16, 16), prior)
        >>> code.whiteness.std.shape, code.whiteness.lag.shape
        (torch.Size([2]), torch.Size([2]))
    """

    std: Tensor
    low: Tensor
    high: Tensor
    lag: Tensor


def whiteness(z: Tensor) -> Whiteness:
    """Return the statistics of noise (B, ..., H, W) whose standard deviation should be 1.

    Real and imaginary parts of complex noise have unit variance each.
    """
    parts = 2 if z.is_complex() else 1
    std = as_real(z).flatten(1).square().mean(1).sqrt()
    power = torch.fft.fft2(z, norm="ortho").abs().square() / parts
    rows, columns = (torch.fft.fftfreq(n, device=z.device) for n in z.shape[-2:])
    low = torch.hypot(rows[:, None], columns) < 0.25
    shares = [power[..., held].flatten(1).mean(1) for held in (low, ~low)]
    return Whiteness(std, shares[0], shares[1], _lag(z))


def _lag(z: Tensor) -> Tensor:
    """Return the correlation of neighbours along each row and each column, (B,)."""
    products, sizes = norm(z) * 0, norm(z) * 0
    for axis in (-2, -1):
        n = z.shape[axis] - 1
        before, after = z.narrow(axis, 0, n), z.narrow(axis, 1, n)
        products = products + inner(before, after)
        sizes = sizes + norm(before) * norm(after)
    return products / sizes.clamp(min=1e-300)
