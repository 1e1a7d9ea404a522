"""The mu-law for companding radio-frequency (RF) frames, and its inverse.

Both are differentiable and keep dtype and device.
"""

import math

import torch
from torch import Tensor

from wellposed.errors import DtypeError, require

LOUDEST = 2.0
"""Largest accepted magnitude of RF: strong echoes of hazy frames slightly exceed [-1, 1]."""


def compand(x: Tensor, mu: float = 255.0) -> Tensor:
    """Return ``sgn(x) ln(1 + mu |x|) / ln(1 + mu)``, which maps [-1, 1] onto itself.

    The mu-law (ITU-T G.711). In RF frames a few echoes are a hundred times stronger than most;
    after companding the values fill the range. Outside the range `compand` and `expand` continue
    along their tangents, so that estimates there have a gradient.

    Args:
        x: real, any shape; 1 is the strongest echo.
        mu: strength, positive.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> ultrasound.compand(torch.tensor([-1.0, 0.0, 0.01, 1.0]))
        tensor([-1.0000,  0.0000,  0.2285,  1.0000])
    """
    require(mu > 0, "mu", mu, "a positive number")
    sign, inside, beyond = _parts(x)
    slope = mu / ((1 + mu) * math.log1p(mu))
    return sign * (torch.log1p(mu * inside) / math.log1p(mu) + slope * beyond)


def expand(v: Tensor, mu: float = 255.0) -> Tensor:
    """Return the inverse of `compand`: ``sgn(v) ((1 + mu)^|v| - 1) / mu``.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> x = torch.tensor([-0.5, 0.01, 1.0])
        >>> torch.allclose(ultrasound.expand(ultrasound.compand(x)), x)
        True
    """
    require(mu > 0, "mu", mu, "a positive number")
    sign, inside, beyond = _parts(v)
    slope = (1 + mu) * math.log1p(mu) / mu
    return sign * (torch.expm1(math.log1p(mu) * inside) / mu + slope * beyond)


def require_real(name: str, values: Tensor) -> None:
    """Raise `DtypeError` unless values are real and floating-point."""
    if not values.is_floating_point():
        raise DtypeError(f"{name}: got {values.dtype}, accepted: real floating-point values")


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sign, magnitude up to 1, and the excess over 1."""
    sign = torch.where(x < 0, -1.0, 1.0).to(x.dtype)  # a sign of 0 would lose the slope there
    magnitude = sign * x
    inside = magnitude.clamp(max=1)
    return sign, inside, magnitude - inside
