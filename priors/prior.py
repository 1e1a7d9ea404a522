"""The prior: a noise schedule and ``denoise(x_t, t) -> E[x_0 | x_t]``."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self, TypedDict

import torch
from torch import Tensor, nn

from wellposed.checks import Checked, Count
from wellposed.errors import ArgumentError, DeviceError, ShapeError, require
from wellposed.noise import NoiseSource
from wellposed.presentation import Presented, parts_of
from wellposed.priors.anchor import Anchor, Condition, Degraded, degraded_of
from wellposed.priors.prediction import Components
from wellposed.priors.schedule import Schedule, float64

if TYPE_CHECKING:
    from deepinv.physics import Physics

Projection = Callable[[Tensor], Tensor]
"""From images in units to the nearest ones that explain the data."""


class Images(TypedDict, total=False):
    """What images a prior is for, see `Prior`."""

    channels: int | None
    is_complex: bool
    data_range: tuple[float, float]


class Prior(Presented, Checked, nn.Module):
    """Base of all priors.

    A prior works in its own units, in which its diffusion is ``x_t = alpha_t x_0 + sigma_t eps``
    and the papers state their hyper-parameters. ``data_range`` relates public values and units:
    its ends are -1 and 1 in units. Solvers convert once, in `Problem`.

    A restorer is a prior with an ``anchor``: a network trained to restore degraded images ``m``.
    Its diffusion is ``x_t = m + alpha_t (x_0 - m) + sigma_t eps``. Its condition is the degraded
    image, see `degraded`; solvers take it from the measurement.

    Args:
        schedule: the noise schedule.
        channels: channels of its images (complex channels if complex); ``None`` accepts any.
        is_complex: images are complex tensors.
        data_range: public values of -1 and 1.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> class Constant(priors.Prior):  # of a single image, which is 0 in units
        ...     def denoise(self, x_t, t, condition=None):
        ...         return torch.zeros_like(x_t)
        >>> prior = Constant(priors.Tabulated.linear(), channels=1, data_range=(0.0, 1.0))
        >>> prior.to_public(prior.denoise(torch.randn(1, 1, 2, 2), 500.0))
        tensor([[[[0.5000, 0.5000],
                  [0.5000, 0.5000]]]])
    """

    anchor: Anchor | None = None
    """How the network uses the degraded image; ``None`` for plain priors."""

    prediction: str = "sample"
    """What the network predicts, see `NetworkPrior`; other priors return ``x_0`` directly."""

    has_range: bool = True
    """Whether its images are about as large as ``data_range``; not those of analytic priors."""

    factor: int = 1
    """Sides of an image over the sides in units."""

    is_latent: bool = False
    """Whether units are the code of an autoencoder."""

    has_encoder: bool = True
    """Whether `to_units` is known; not for an autoencoder that only decodes."""

    axes: tuple[int, ...] = ()
    """Axes of volumes whose slices it denoises one by one, see `Slicewise`."""

    def __init__(
        self,
        schedule: Schedule,
        channels: Count | None = None,
        is_complex: bool = False,
        data_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        require(isinstance(schedule, Schedule), "schedule", type(schedule).__name__, "a Schedule")
        self.schedule = schedule
        self.channels = channels
        self.is_complex = is_complex
        self.data_range = self._checked_range(data_range)

    def _checked_range(self, data_range: tuple[float, float]) -> tuple[float, float]:
        low, high = map(float, data_range)
        require(-math.inf < low < high < math.inf, "data_range", data_range, "finite, low < high")
        symmetric = not self.is_complex or low == -high
        require(symmetric, "data_range", data_range, "a symmetric range for complex images")
        return low, high

    def with_range(self, low: float, high: float) -> Self:
        """Return this prior for images with the values ``low`` and ``high`` at its range's ends.

        Solvers then take measurements of such images, noise levels in their units, and return
        images likewise: nothing is to be scaled before or afterwards. Weights are shared.

        Raises:
            ArgumentError: not finite, not in this order, or not symmetric for complex images.
        """
        twin = copy.copy(self)
        # A shallow copy shares the dictionary of parts as well.
        twin._modules = dict(self._modules)
        twin.data_range = self._checked_range((low, high))
        return twin

    def extra_repr(self) -> str:
        """Return the content of `repr`: parts, weights, schedule, channels and range."""
        weights = sum(weight.numel() for weight in self.parameters())
        told = [*parts_of(self), *([f"{weights:,} weights"] if weights else [])]
        told += [type(self.schedule).__name__, f"channels={self.channels}"]
        told += ["complex"] if self.is_complex else []
        return ", ".join([*told, "data_range=({:g}, {:g})".format(*self.data_range)])

    @property
    def scale(self) -> float:
        """Public size of one unit."""
        return (self.data_range[1] - self.data_range[0]) / 2

    @property
    def centre(self) -> float:
        """Public value of 0 units."""
        return (self.data_range[1] + self.data_range[0]) / 2

    @property
    def is_affine(self) -> bool:
        """Whether scale and centre alone relate units and public values."""
        return True

    @property
    def upsample(self) -> int:
        """Sides of a clean image over those of a degraded image."""
        return 1 if self.anchor is None else self.anchor.upsample

    def to_units(self, x: Tensor) -> Tensor:
        """Return public images in units."""
        return (x - self.centre) / self.scale

    def to_public(self, u: Tensor) -> Tensor:
        """Return units as public images."""
        return u * self.scale + self.centre

    def in_units(self, operator: "Physics") -> "Physics | None":
        """Return the operator composed with the linear part of `to_public`, divided by `scale`.

        ``None`` if the composition is not linear.
        """
        return operator if self.is_affine else None

    def unit_shape(self, image_shape: torch.Size) -> torch.Size:
        """Return the shape in units for a shape of public images."""
        return image_shape

    def degraded(self, image: Tensor) -> Degraded:
        """Return the condition for degraded images (B, C, h, w) in public values.

        Raises:
            ArgumentError: a plain prior, which has no such condition.
        """
        if self.anchor is None:
            raise ArgumentError(f"prior: {type(self).__name__} has no anchor")
        return Degraded(self.to_units(self.anchor.enlarge(image)), Prior.to_units(self, image))

    @abstractmethod
    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return ``E[x_0 | x_t]``, or ``E[x_0 | x_t, m]`` about an anchor, in units.

        Args:
            x_t: noisy images (B, C, ...), in units.
            t: time, a number or one per item (B,).
            condition: condition of a conditional prior. With an anchor a `Degraded`, or the
                anchor alone if the network needs no more.
        """

    def begin(
        self, like: Tensor, noise: NoiseSource, project: Projection | None = None
    ) -> "Prior":
        """Return the prior of one run: this one, unless it learns as `SpatioSpectral` does.

        Samplers call it once, before all evaluations.

        Args:
            like: an image of the run, (B, C, ...), in units.
            noise: the run's source of noise, for what is drawn.
            project: the projection of images in units onto those that explain the data, of linear
                problems.
        """
        return self

    def memory(self) -> dict[str, Tensor]:
        """Return what the prior has learnt during its run, by name, for checkpoints."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on from what `memory` has returned."""

    def components(
        self, x_t: Tensor, t: float | Tensor, condition: Condition = None
    ) -> Components:
        """Return clean image, residual and noise of ``x_t`` from one network evaluation.

        For the arguments see `denoise`; the anchor of a plain prior is 0.

        Raises:
            ArgumentError: no degraded image for a prior with an anchor.
        """
        m = 0.0 if self.anchor is None else degraded_of(condition).anchor
        x0 = self.denoise(x_t, t, condition)
        alpha, sigma = (broadcast(v, x_t) for v in self.schedule(t))
        return Components(x0, m - x0, (x_t - m - alpha * (x0 - m)) / sigma)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise public images of known noise level: deepinv's ``Denoiser`` protocol.

        Args:
            x: clean image plus Gaussian noise of standard deviation ``sigma``, public units.
            sigma: noise level in public units, a number or one per item.

        Raises:
            ArgumentError: a negative noise level or one outside the schedule; a latent prior or a
                prior with an anchor, which the protocol does not support.
        """
        what = "an anchor" if self.anchor is not None else "the units of an autoencoder"
        plain = self.anchor is None and self.is_affine
        accepted = "a plain prior on images as a denoiser; use this prior with a solver"
        require(plain, "prior", f"{type(self).__name__} with {what}", accepted)
        level = float64("sigma", sigma).to(x.device).flatten() / self.scale
        one_each = len(level) in (1, len(x))
        require(one_each, "sigma", f"{len(level)} levels", f"1, or one for each of {len(x)} items")
        largest = float(self.schedule.ratio(self.schedule.T))
        # Single-precision callers may round the largest level up.
        inside = bool((level >= 0).all()) and bool((level <= largest * (1 + 1e-5)).all())
        top = largest * self.scale
        accepted = f"values from 0 to {top:.4g}, the schedule's largest noise level"
        require(inside, "sigma", sigma, accepted)
        t = self.schedule.time_at(level.cpu()).to(x.device)
        t = t[0] if len(t) == 1 else t
        alpha = broadcast(self.schedule(t)[0], x)
        return self.to_public(self.denoise(alpha * self.to_units(x), t))

    def conditioned_on(self, condition: Condition) -> "Given":
        """Return this conditional prior with its condition fixed, e.g. to a class.

        Raises:
            ArgumentError: a prior with an anchor, whose condition solvers take from ``y``.
        """
        accepted = "the degraded image as y of ResShift, IRSDE, RDDM or MRSampler"
        require(self.anchor is None, "condition", "that of a prior with an anchor", accepted)
        return Given(self, condition)

    def score(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return ``grad log p_t(x_t) = (alpha_t E[x_0 | x_t] - x_t) / sigma_t^2`` (Tweedie)."""
        alpha, sigma = (broadcast(v, x_t) for v in self.schedule(t))
        return (alpha * self.denoise(x_t, t) - x_t) / sigma**2

    @property
    def computes_on(self) -> torch.device | None:
        """Device of the weights; None without any."""
        weight = next(self.parameters(), None)
        return None if weight is None else weight.device

    def check_image(self, x: Tensor) -> None:
        """Raise unless the prior accepts images like ``x``: channels, dtype and device."""
        channels = x.shape[1]
        wanted = self.channels
        as_real_pairs = self.is_complex and not x.is_complex()
        if wanted is not None and as_real_pairs:
            wanted = 2 * wanted
        if wanted is not None and channels != wanted:
            raise ShapeError(
                f"prior: made for {wanted} channels, but the operator's images have {channels}"
            )
        if x.is_complex() and not self.is_complex:
            raise ShapeError("prior: made for real images, but the operator's images are complex")
        device = self.computes_on
        if device is not None and device != x.device:
            raise DeviceError(f"prior: is on {device} but y on {x.device}; move one with .to()")


class Adapter(Prior):
    """Base of priors that wrap another prior and share its images and units.

    Args:
        prior: the wrapped prior.
        schedule: schedule to sample with, by default that of the prior.
    """

    def __init__(self, prior: Prior, schedule: Schedule | None = None) -> None:
        schedule = schedule or prior.schedule
        super().__init__(schedule, prior.channels, prior.is_complex, prior.data_range)
        self.prior, self.factor, self.has_range = prior, prior.factor, prior.has_range
        self.is_latent, self.has_encoder = prior.is_latent, prior.has_encoder

    def with_range(self, low: float, high: float) -> Self:
        twin = super().with_range(low, high)
        twin.prior = self.prior.with_range(low, high)
        return twin

    @property
    def is_affine(self) -> bool:
        return self.prior.is_affine

    def to_units(self, x: Tensor) -> Tensor:
        return self.prior.to_units(x)

    def to_public(self, u: Tensor) -> Tensor:
        return self.prior.to_public(u)

    def in_units(self, operator: "Physics") -> "Physics | None":
        return self.prior.in_units(operator)

    def unit_shape(self, image_shape: torch.Size) -> torch.Size:
        return self.prior.unit_shape(image_shape)

    def check_image(self, x: Tensor) -> None:
        self.prior.check_image(x)


class Given(Adapter):
    """A conditional prior with its condition fixed, made by ``prior.conditioned_on(condition)``.

    Args:
        prior: the conditional prior.
        condition: passed with every call.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> class Network(torch.nn.Module):  # class-conditional
        ...     def forward(self, x, label, number):
        ...         return x * number.view(-1, 1, 1, 1)
        >>> prior = priors.NetworkPrior(Network(), priors.Tabulated.linear(), num_classes=10)
        >>> prior.conditioned_on(3).denoise(torch.randn(2, 1, 8, 8), 500.0).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, prior: Prior, condition: Condition) -> None:
        super().__init__(prior)
        self.condition = condition

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the wrapped prior's estimate with the fixed condition."""
        require(condition is None, "condition", condition, "None, as the condition is fixed")
        return self.prior.denoise(x_t, t, self.condition)


def require_one_each(name: str, values: object, items: int) -> None:
    """Raise `ShapeError` if a tensor (n, ...) is neither one value nor one for each item."""
    count = len(values) if isinstance(values, Tensor) and values.ndim > 0 else 1
    if count not in (1, items):
        raise ShapeError(f"{name}: got {count} values, accepted: 1, or one of {items} items")


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """Return schedule values, a scalar or (B,), broadcastable to ``like`` without promotion."""
    if values.ndim == 0:
        return values.to(like.real.dtype).to(like.device)
    require_one_each("t", values, len(like))
    return values.to(like.real.dtype).to(like.device).view(-1, *[1] * (like.ndim - 1))
