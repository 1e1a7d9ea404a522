"""What linear and nonlinear operators share: deepinv's `Physics` with Gaussian noise."""

from typing import Any, ClassVar

import torch
from deepinv.physics import GaussianNoise, Physics
from torch import Tensor

from wellposed.checks import Checked, NonNegative, RealTensor, Seed
from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.presentation import Presented, parts_of


def unchanged(x: Tensor, **kwargs: Any) -> Tensor:
    """Return ``x``: a function with a name, which pickles, where deepinv has ones without."""
    return x


class Noise(GaussianNoise):
    """Gaussian noise of a level, a number or one per item; deepinv's, that pickles."""

    def __init__(self, sigma: float | Tensor) -> None:
        super().__init__(noise_level(sigma))
        self.noise_model = unchanged


class GaussianPhysics(Presented, Checked, Physics):
    """A measurement with Gaussian noise of known level, one for all items or one for each.

    Args:
        noise_sigma: the level.
        physics: arguments of deepinv's.
    """

    img_size: tuple[int, ...]
    measurement_size: tuple[int, ...]
    _unlisted: ClassVar[frozenset[str]] = Presented._unlisted | {
        *("A_adj", "SVD", "forw", "implicit_backward_solver", "max_iter", "sensor_model"),
        *("solver", "stack", "tol"),
    }

    def __init__(self, noise_sigma: NonNegative | RealTensor, **physics: Any) -> None:
        noise = Noise(noise_sigma)
        super().__init__(A=unchanged, sensor_model=unchanged, noise_model=noise, **physics)

    def extra_repr(self) -> str:
        """Return what `repr` tells: operators it is made of, shapes and noise level."""
        sigma = self.noise_model.sigma
        noise = f"{float(sigma):.4g}" if sigma.numel() == 1 else f"one of {sigma.numel()} per item"
        shapes = f"{tuple(self.img_size)} -> {tuple(self.measurement_size)}"
        return ", ".join(filter(None, [self._formula(), shapes, f"noise_sigma={noise}"]))

    def _formula(self) -> str:
        """Return the names of the operators that this one is made of, if any."""
        return ", ".join(parts_of(self, GaussianPhysics))

    def measure(self, x: Tensor, seed: Seed = 0) -> Tensor:
        """Return ``A(x) + n``; item i has a noise of its own, drawn from ``seed`` and i."""
        clean = self.A(x)
        source = ItemNoise(seed, [(i,) for i in range(len(clean))], MEASUREMENT)
        return clean + self.restrict(self.noise_std(clean) * source.draw(clean))

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that are never measured set to zero (none by default)."""
        return y

    def noise_std(self, y: Tensor) -> Tensor:
        """Return the noise level broadcast over ``y``."""
        sigma = self.noise_model.sigma.to(y.real.dtype).to(y.device)
        if sigma.numel() not in (1, len(y)):
            raise ShapeError(
                f"noise_sigma: holds {sigma.numel()} levels, accepted: 1 or one for each of the "
                f"{len(y)} items"
            )
        return sigma.reshape(-1, *[1] * (y.ndim - 1)) if sigma.ndim else sigma


def noise_level(noise_sigma: float | Tensor) -> Tensor:
    """Return a checked noise level as a float32 tensor."""
    accepted = "a finite number >= 0, or one per item"
    try:
        if isinstance(noise_sigma, Tensor) and noise_sigma.is_complex():
            raise TypeError("complex")
        sigma = torch.as_tensor(noise_sigma, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"noise_sigma: got {noise_sigma!r}, accepted: {accepted}") from error
    # One per item, of whatever axes broadcast to a batch.
    require(sigma.ndim < 2 or sigma.numel() == len(sigma), "noise_sigma", noise_sigma, accepted)
    usable = sigma.numel() > 0 and bool(((sigma >= 0) & sigma.isfinite()).all())
    require(usable, "noise_sigma", noise_sigma, accepted)
    return sigma
