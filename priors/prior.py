"""The prior: a noise schedule and ``denoise(x_t, t) -> E[x_0 | x_t]``."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import ArgumentError, DeviceError, ShapeError, require, require_choice
from wellposed.priors.prediction import PREDICTIONS, to_sample
from wellposed.priors.schedule import VE, Schedule, Tabulated


class Prior(nn.Module):
    """Base of all priors.

    A prior works in its own units, in which its diffusion is ``x_t = alpha_t x_0 + sigma_t eps``
    and the papers state their hyper-parameters. Public values and units are linked by
    ``data_range``, whose ends are -1 and 1 in units; solvers convert once, in `Problem`.

    Args:
        schedule: the noise schedule.
        channels: channels of the images it accepts (complex ones for a complex prior); ``None``
            accepts any.
        is_complex: images are complex tensors.
        data_range: public values of -1 and 1.
    """

    def __init__(
        self,
        schedule: Schedule,
        channels: int | None = None,
        is_complex: bool = False,
        data_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        low, high = data_range
        require(low < high, "data_range", data_range, "(low, high) with low < high")
        require(not is_complex or low == -high, "data_range", data_range, "symmetric if complex")
        self.schedule = schedule
        self.channels = channels
        self.is_complex = is_complex
        self.data_range = (float(low), float(high))

    @property
    def scale(self) -> float:
        """Public size of one unit."""
        return (self.data_range[1] - self.data_range[0]) / 2

    @property
    def centre(self) -> float:
        """Public value of 0 units."""
        return (self.data_range[1] + self.data_range[0]) / 2

    @abstractmethod
    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """Return ``E[x_0 | x_t]``, in units.

        Args:
            x_t: noisy images (B, C, ...), in units.
            t: time, a number or one per item (B,).
            condition: what a conditional prior asks for.
        """

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise public images of known noise level: deepinv's ``Denoiser`` protocol.

        Args:
            x: clean image plus Gaussian noise of standard deviation ``sigma``, public units.
            sigma: noise level in public units, a number or one per item.

        Raises:
            ArgumentError: a negative noise level, or one outside the schedule.
        """
        level = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).flatten() / self.scale
        largest = float(self.schedule.ratio(self.schedule.T))
        # Single-precision callers may round the largest level up.
        inside = bool((level >= 0).all()) and bool((level <= largest * (1 + 1e-5)).all())
        top = largest * self.scale
        require(inside, "sigma", sigma, f"0 to {top:.4g}, the schedule's largest noise level")
        t = self.schedule.time_at(level.cpu()).to(x.device)
        t = t[0] if len(t) == 1 else t
        alpha = broadcast(self.schedule(t)[0], x)
        units = (x - self.centre) / self.scale
        return self.denoise(alpha * units, t) * self.scale + self.centre

    def score(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return ``grad log p_t(x_t) = (alpha_t E[x_0 | x_t] - x_t) / sigma_t^2`` (Tweedie)."""
        alpha, sigma = (broadcast(v, x_t) for v in self.schedule(t))
        return (alpha * self.denoise(x_t, t) - x_t) / sigma**2

    def check_image(self, x: Tensor) -> None:
        """Raise unless images like ``x`` suit this prior: channels, kind and device."""
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
        weight = next(self.parameters(), None)
        if weight is not None and weight.device != x.device:
            raise DeviceError(
                f"prior: lives on {weight.device} but y on {x.device}; move one with .to()"
            )


def broadcast(values: Tensor, like: Tensor) -> Tensor:
    """Return schedule values, a scalar or (B,), ready to multiply ``like`` without promotion."""
    if values.ndim == 0:
        return values.to(like.real.dtype).to(like.device)
    return values.to(like.real.dtype).to(like.device).view(-1, *[1] * (like.ndim - 1))


class NetworkPrior(Prior):
    """A neural network as a prior.

    Complex images go in as real and imaginary channels. Inputs are cast to the network's dtype
    and outputs back. A network with twice the channels (learned variance) loses the second half.

    Args:
        network: maps (B, C, H, W) real images and labels (B,) to its prediction.
        schedule: the schedule it was trained with.
        prediction: what it predicts, see `to_sample`.
        label: turns time into the network's label. For tabulated schedules ``t - 1`` by default,
            the index of DDPM, and at least 0, the smallest label it was trained with; continuous
            schedules have no default.
        channels, is_complex, data_range: see `Prior`.

    Raises:
        ArgumentError: no label for a continuous schedule.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: str = "noise",
        label: Callable[[Tensor], Tensor] | None = None,
        **images: Any,
    ) -> None:
        super().__init__(schedule, **images)
        self.prediction = require_choice("prediction", prediction, PREDICTIONS)
        self.network = network
        known = label is not None or isinstance(schedule, Tabulated)
        require(known, "label", label, f"a function of time for {type(schedule).__name__}")
        self._label = label or (lambda t: (t - 1).clamp(min=0))

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """Return ``E[x_0 | x_t]`` from one network evaluation; see `Prior.denoise`."""
        if condition is not None:
            raise ArgumentError("condition: this prior is unconditional, accepted: None")
        real = torch.cat([x_t.real, x_t.imag], 1) if x_t.is_complex() else x_t
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        alpha, sigma = self.schedule(t)
        if self.prediction in ("noise", "score") and bool((alpha == 0).any()):
            raise ArgumentError(
                f"t: a network that predicts {self.prediction} says nothing of x_0 where alpha is "
                "0, accepted: times below T, e.g. spacing 'leading'"
            )
        dtype = next((p.dtype for p in self.network.parameters()), real.dtype)
        # Labels keep float32 at least: bfloat16 cannot count beyond 256.
        kind = torch.promote_types(dtype, torch.float32)
        label = self._label(t).expand(len(x_t)).to(kind).to(x_t.device)
        output = self.network(real.to(dtype), label)[:, : real.shape[1]].to(real.dtype)
        if output.shape != real.shape:
            raise ShapeError(
                f"network: returned shape {tuple(output.shape)}, accepted: that of its input, "
                f"{tuple(real.shape)}, or twice the channels"
            )
        alpha, sigma = broadcast(alpha, x_t), broadcast(sigma, x_t)
        x0 = to_sample(self.prediction, output, real, alpha, sigma)
        return torch.complex(*x0.chunk(2, dim=1)) if x_t.is_complex() else x0


class DenoiserPrior(Prior):
    """Any deepinv denoiser ``D(x, sigma)`` on [0, 1] images as a prior.

    Args:
        denoiser: a deepinv ``Denoiser`` or any module called the same way.
        schedule: diffusion to sample with, up to a finite noise level (as `Flow` with ``T`` below
            1); variance exploding up to noise level 50 by default.
        data_range: public values of -1 and 1; [0, 1] is what deepinv's denoisers expect.
        channels, is_complex: see `Prior`.
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule | None = None,
        data_range: tuple[float, float] = (0.0, 1.0),
        **images: Any,
    ) -> None:
        super().__init__(schedule or VE(sigma_max=50.0), data_range=data_range, **images)
        finite = bool(torch.isfinite(self.schedule.ratio(self.schedule.T)))
        name = type(self.schedule).__name__
        require(finite, "schedule", name, "one whose largest sigma / alpha is finite")
        self.denoiser = denoiser

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the denoiser's estimate at noise level sigma_t / alpha_t."""
        alpha, sigma = (broadcast(v, x_t) for v in self.schedule(t))
        public = x_t / alpha * self.scale + self.centre
        level = (sigma / alpha * self.scale).flatten().expand(len(x_t))
        return (self.denoiser(public, level) - self.centre) / self.scale


class Rescheduled(Prior):
    """A prior sampled with another schedule than it was trained with.

    At equal ``sigma / alpha`` two Gaussian kernels differ by a factor only, so
    ``E[x_0 | x_t]`` of one gives that of the other.

    Args:
        prior: the trained prior.
        schedule: the schedule to sample with.
    """

    def __init__(self, prior: Prior, schedule: Schedule) -> None:
        super().__init__(schedule, prior.channels, prior.is_complex, prior.data_range)
        self.prior = prior

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the wrapped prior's estimate at the same noise-to-signal ratio."""
        alpha, sigma = self.schedule(t)
        # Where alpha vanishes (flow, t = 1) the inner schedule's largest time stands in.
        inner_t = self.prior.schedule.time_at(sigma / alpha).to(alpha.device)
        inner_alpha, inner_sigma = self.prior.schedule(inner_t)
        by_alpha = inner_alpha / alpha
        factor = torch.where(alpha > sigma, by_alpha, inner_sigma / sigma.clamp(min=1e-30))
        return self.prior.denoise(broadcast(factor, x_t) * x_t, inner_t, condition)
