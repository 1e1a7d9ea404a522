"""Priors that are not diffusions: regularisers given by their proximal operators."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, NonNegative, RealTensor, Steps, check_fields
from wellposed.errors import ShapeError, require
from wellposed.fixed_points import accelerated
from wellposed.linalg import per_item
from wellposed.parallel.part import Part
from wellposed.priors.adapters.rescheduled import DenoiserPrior
from wellposed.priors.schedule import Schedule

Prox = Callable[[Tensor, Tensor], Tensor]
"""``(z, gamma) -> argmin_x ||x - z||^2 / 2 + gamma R(x)``, gamma one number per item, (B,)."""


class Proximal(DenoiserPrior):
    """A regulariser R as the prior ``exp(-R(x_0))``, denoised by its mode instead of its mean.

    The estimate is ``argmin_x ||x - x_t / alpha_t||^2 / (2 r^2) + R(x)`` with
    ``r = sigma_t / alpha_t``: the proximal operator of ``r^2 R``. Samples vary less than those of
    the prior. In a `Product` with a diffusion it replaces a trained network, such as the nuclear
    norm in Nuclear Diffusion (Stevens et al. 2025, arXiv 2509.20886).

    Args:
        prox: ``(z, gamma) -> x`` on public images, see `Prox`: `NuclearNorm`, `TotalVariation`,
            or your own function, differentiable if the solver requires it.
        schedule: see `DenoiserPrior`; a `Product` uses the schedule of its first block.
        data_range: public values of -1 and 1.
        channels, is_complex: see `Prior`.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> prior = priors.Proximal(priors.TotalVariation(weight=2.0), data_range=(0.0, 1.0))
        >>> operator = operators.Denoising((1, 16, 16), noise_sigma=0.1)
        >>> y = operator.measure(torch.full((1, 1, 16, 16), 0.5), seed=0)
        >>> solvers.HQS(steps=5)(y, operator, prior).mean.shape
        torch.Size([1, 1, 16, 16])
    """

    has_range = False

    def __init__(
        self,
        prox: Prox,
        schedule: Schedule | None = None,
        data_range: tuple[float, float] = (-1.0, 1.0),
        channels: int | None = None,
        is_complex: bool = False,
    ) -> None:
        require(callable(prox), "prox", prox, "a function of images and gamma")
        super().__init__(partial(_of_noise, prox), schedule, data_range, channels, is_complex)
        self.prox = prox

    def extra_repr(self) -> str:
        """Return the content of `repr`."""
        return f"prox={self.prox}, {super().extra_repr()}"


def _of_noise(prox: Prox, z: Tensor, r: Tensor) -> Tensor:
    return prox(z, r.square())


@dataclass(frozen=True)
class NuclearNorm:
    """``R(x) = weight ||X||_*``, the sum of the singular values of a matrix X formed from x.

    Its proximal operator reduces each singular value by ``gamma weight``, but at least to 0 (Cai,
    Candes and Shen, "A Singular Value Thresholding Algorithm for Matrix Completion", 2010, doi
    10.1137/080738970).

    Args:
        weight: weight, at least 0.
        matrix: "image", each channel is a matrix; "frames", one row for each channel of images or
            slice of volumes; "patches", one row for each patch of a channel.
        patch: side of the patches, which must divide the image's sides.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prox = priors.NuclearNorm(weight=1.0, matrix="image")
        >>> prox(torch.diag(torch.tensor([3.0, 0.5]))[None, None], torch.tensor(1.0))
        tensor([[[[2., 0.],
                  [0., 0.]]]])
    """

    weight: NonNegative = 1.0
    matrix: Annotated[str, Choice("image", "frames", "patches")] = "image"
    patch: Count = 8

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, z: Tensor, gamma: Tensor) -> Tensor:
        """Return the proximal solution; see `Prox`."""
        X = self._matrices(z)
        U, s, Vh = torch.linalg.svd(X, full_matrices=False)
        kept = (s - per_item(gamma.to(s) * self.weight, s)).clamp(min=0)
        return self._images((U * kept[..., None, :]) @ Vh, z)

    def _matrices(self, x: Tensor) -> Tensor:
        if self.matrix == "image":
            return x
        if self.matrix == "frames":
            return x.flatten(-2)
        p = self.patch
        if x.shape[-1] % p or x.shape[-2] % p:
            raise ShapeError(f"z: got shape {tuple(x.shape)}, accepted: sides divisible by {p}")
        # (..., rows, p, columns, p)
        tiles: Tensor = x.unflatten(-1, (-1, p)).unflatten(-3, (-1, p))
        return tiles.transpose(-3, -2).flatten(-2).flatten(-3, -2)

    def _images(self, X: Tensor, like: Tensor) -> Tensor:
        if self.matrix != "patches":
            return X.reshape(like.shape)
        p = self.patch
        tiles: Tensor = X.unflatten(-2, (-1, like.shape[-1] // p)).unflatten(-1, (p, p))
        return tiles.transpose(-3, -2).reshape(like.shape)


@dataclass(frozen=True)
class TotalVariation:
    """``R(x) = weight sum_i |grad x_i|``, isotropic, of each channel.

    Its proximal operator is computed by accelerated projected gradients on the dual (Beck and
    Teboulle, "Fast Gradient-Based Algorithms for Constrained Total Variation Image Denoising and
    Deblurring Problems", 2009, doi 10.1109/TIP.2009.2028250).

    Args:
        weight: weight, at least 0.
        iterations: number of iterations, the same for every item.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prox = priors.TotalVariation(weight=1.0, iterations=50)
        >>> x = torch.randn(1, 1, 16, 16)
        >>> bool(prox(x, torch.tensor(0.5)).std() < x.std())  # it smoothes
        True
    """

    weight: NonNegative = 1.0
    iterations: Steps = 50

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, z: Tensor, gamma: Tensor) -> Tensor:
        """Return the proximal solution; see `Prox`."""
        limit = per_item(gamma.to(z.real.dtype) * self.weight, z)

        def ascend(q: Tensor) -> Tensor:
            step = q + _gradient(z - _divergence(q)) / 8  # 8 bounds ||D||^2
            length = step.abs().square().sum(0).clamp(min=torch.finfo(limit.dtype).tiny).sqrt()
            return step * (limit / torch.maximum(length, limit))

        return z - _divergence(accelerated(ascend, _gradient(0 * z), self.iterations))


@dataclass(frozen=True, eq=False)
class Simplex:
    """``R(x) = weight ||x - mean||^2 / 2`` on images x >= 0 that sum to 1, such as blur kernels.

    Its proximal operator projects ``(z + gamma weight mean) / (1 + gamma weight)`` to such images,
    as in Held, Wolfe and Crowder, "Validation of subgradient optimization", 1974, doi
    10.1007/BF01580223.

    Args:
        mean: values of at least 0 with sum 1, (H, W); where they are 0, images are 0. For kernels
            e.g. ``operator.canvas(gaussian_kernel(size / 6, size))[0, 0]``.
        weight: weight, at least 0; ``1 / weight`` is about the variance of a value.

    Raises:
        ShapeError: a mean that is not (H, W).
        ArgumentError: one with negative values or another sum.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors
        >>> simplex = priors.Simplex(operators.gaussian_kernel(1.0, size=5).float())
        >>> found = simplex(torch.randn(2, 1, 5, 5), torch.tensor([0.1, 0.1]))
        >>> bool(((found.sum((-2, -1)) - 1).abs() < 1e-5).all())
        True
    """

    mean: RealTensor
    weight: NonNegative = 1000.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.mean.ndim != 2:
            raise ShapeError(f"mean: got {tuple(self.mean.shape)}, accepted: (H, W)")
        total = float(self.mean.sum())
        fits = bool((self.mean >= 0).all()) and abs(total - 1) < 1e-4
        got = f"a sum of {total:.4g} and values down to {float(self.mean.min()):.4g}"
        require(fits, "mean", got, "values of at least 0 with sum 1")

    def __call__(self, z: Tensor, gamma: Tensor) -> Tensor:
        """Return the proximal solution; see `Prox`."""
        if z.shape[-2:] != self.mean.shape:
            sides = ", ".join(map(str, self.mean.shape))
            raise ShapeError(f"z: got {tuple(z.shape)}, accepted: (..., {sides})")
        mean, pull = self.mean.to(z), per_item(gamma.to(z.real.dtype), z) * self.weight
        inside = mean > 0
        x = torch.zeros_like(z)
        x[..., inside] = _on_simplex(((z + pull * mean) / (1 + pull))[..., inside])
        return x


def _on_simplex(z: Tensor) -> Tensor:
    """Return the vectors along the last axis of at least 0 and sum 1 that are closest to z."""
    z = z - z.amax(-1, keepdim=True)  # the same projection, and no large values cancel
    falling = z.sort(dim=-1, descending=True).values
    count = torch.arange(1, z.shape[-1] + 1, device=z.device)
    excess = (falling.cumsum(-1) - 1) / count
    kept = (falling > excess).sum(-1, keepdim=True).clamp(min=1)  # 0 of NaN, which stays NaN
    return (z - excess.gather(-1, kept - 1)).clamp(min=0)


def _gradient(x: Tensor) -> Tensor:
    """Return ``D x``, differences along rows and columns, (2, ...)."""
    return torch.stack([Part().difference(x, axis, circular=False) for axis in (-2, -1)])


def _divergence(q: Tensor) -> Tensor:
    """Return ``D^H q``."""
    parts = zip(q, (-2, -1), strict=True)
    down, across = (Part().difference_adjoint(d, axis, circular=False) for d, axis in parts)
    return down + across
