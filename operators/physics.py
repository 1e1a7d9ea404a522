"""The common base of linear and nonlinear operators: deepinv's `Physics` with Gaussian noise."""

from typing import ClassVar, Protocol

import torch
from deepinv.physics import GaussianNoise, Physics
from torch import Tensor

from wellposed.checks import Checked, NonNegative, RealTensor, Seed
from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.presentation import Presented, parts_of


def unchanged(x: Tensor, **kwargs: object) -> Tensor:
    """Return ``x``; a named function can be pickled, unlike the lambdas of deepinv."""
    return x


class Forward(Protocol):
    """What is used of an operator, of ours or of deepinv's, whose classes are not typed."""

    noise_model: GaussianNoise

    def A(self, x: Tensor, /) -> Tensor:
        """Return the measurement without noise."""

    def A_adjoint(self, y: Tensor, /) -> Tensor:
        """Return ``A^H y``."""

    def A_adjoint_A(self, x: Tensor, /) -> Tensor:
        """Return ``A^H A x``."""

    def A_dagger(self, y: Tensor, /) -> Tensor:
        """Return a pseudo-inverse image."""


class Noise(GaussianNoise):
    """deepinv's Gaussian noise, of one level or one per item, but picklable."""

    sigma: Tensor

    def __init__(self, sigma: float | Tensor) -> None:
        super().__init__(noise_level(sigma))
        self.noise_model = unchanged


class GaussianPhysics(Presented, Checked, Physics):
    """A measurement with Gaussian noise of known level, one for all items or one per item.

    Args:
        noise_sigma: the noise level.
        physics: arguments of deepinv's class.
    """

    img_size: tuple[int, ...]
    measurement_size: tuple[int, ...]
    noise_model: Noise
    _unlisted: ClassVar[frozenset[str]] = Presented._unlisted | {
        *("A_adj", "SVD", "forw", "implicit_backward_solver", "max_iter", "sensor_model"),
        *("solver", "stack", "tol"),
    }

    def __init__(self, noise_sigma: NonNegative | RealTensor, **physics: object) -> None:
        noise = Noise(noise_sigma)
        super().__init__(A=unchanged, sensor_model=unchanged, noise_model=noise, **physics)

    def extra_repr(self) -> str:
        """Return the content of `repr`: component operators, shapes and noise level."""
        sigma = self.noise_model.sigma
        noise = f"{float(sigma):.4g}" if sigma.numel() == 1 else f"one of {sigma.numel()} per item"
        shapes = f"{tuple(self.img_size)} -> {tuple(self.measurement_size)}"
        return ", ".join(filter(None, [self._formula(), shapes, f"noise_sigma={noise}"]))

    def _formula(self) -> str:
        """Return the names of the component operators, if any."""
        return ", ".join(parts_of(self, GaussianPhysics))

    def measure(self, x: Tensor, seed: Seed = 0) -> Tensor:
        """Return ``A(x) + n``; the noise of item i depends on ``seed`` and i."""
        clean: Tensor = self.A(x)
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
                f"noise_sigma: got {sigma.numel()} levels, accepted: 1, or one for each of "
                f"{len(y)} items"
            )
        return sigma.reshape(-1, *[1] * (y.ndim - 1)) if sigma.ndim else sigma


def noise_level(noise_sigma: float | Tensor) -> Tensor:
    """Return a checked noise level as a float32 tensor."""
    accepted = "a finite number of at least 0, or one per item"
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
