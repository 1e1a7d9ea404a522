"""Schedules of restoration processes: ResShift, IR-SDE and RDDM.

They have the kernel of `wellposed.priors.schedule` with the degraded image as anchor ``m``: from
the clean image at ``t = 0`` to the degraded image plus noise at ``t = T``.
"""

import math
from typing import Annotated

import torch
from torch import Tensor

from wellposed.checks import Range, Steps, checked
from wellposed.errors import require, require_choice
from wellposed.priors.schedule import Schedule, Table, Tabulated

THETAS = ("cosine", "linear", "constant")
INTERPOLATED = ("decay", "levels")
SUMS = ("decreased", "increased", "average")


@checked
def resshift(
    T: Steps = 15,
    kappa: float = 2.0,
    min_noise: float = 0.04,
    power: Annotated[float, Range(0, 100, "(]")] = 0.3,
    max_noise: float = 0.99,
) -> Tabulated:
    """Return ResShift's schedule: ``alpha = 1 - eta``, ``sigma = kappa sqrt(eta)``.

    ``sqrt(eta)`` grows from ``min(min_noise / kappa, min_noise)`` at ``t = 1`` to ``max_noise`` at
    ``t = T``, as ``first (max_noise / first)^(((t - 1) / (T - 1))^power)``.

    "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting", 2023,
    arXiv 2307.12348; the four-step models (arXiv 2403.07319) have T = 4 and min_noise = .2.

    Args:
        T: number of steps, at least 2.
        kappa: noise level, in the units of images in [-1, 1] or of their latents.
        min_noise: determines the smallest noise, see above.
        power: exponent of the growth.
        max_noise: sqrt(eta) at T, below 1.

    Example:
        >>> from wellposed import priors
        >>> schedule = priors.resshift(T=15, kappa=2.0)
        >>> [round(float(v), 2) for v in schedule(15)]  # alpha, sigma
        [0.02, 1.98]
    """
    require(isinstance(T, int) and T >= 2, "T", T, "an integer of at least 2")
    for name, value in (("kappa", kappa), ("power", power)):
        require(0 < value < math.inf, name, value, "a positive number")
    first = min(min_noise / kappa, min_noise)
    accepted = "a number with 0 < min_noise < max_noise < 1"
    require(0 < first < max_noise < 1, "min_noise", min_noise, accepted)
    ramp = torch.linspace(0, 1, T, dtype=torch.float64) ** power
    root_eta = torch.cat([ramp.new_zeros(1), first * (max_noise / first) ** ramp])
    return Tabulated(1 - root_eta**2, kappa * root_eta)


@checked
def rddm(
    T: Steps = 1000,
    sum_scale: float = 1.0,
    residual: str = "decreased",
    noise: str = "increased",
    floor: float = 0.0,
) -> Tabulated:
    """Return RDDM's schedule: ``alpha = 1 - sum_i alpha_i``, ``sigma^2 = sum_i beta_i^2``.

    Over the ``T`` steps the ``alpha_i`` of the residual add up to 1, and the ``beta_i^2`` of the
    noise to ``sum_scale``.

    "Residual Denoising Diffusion Models", 2023, arXiv 2308.13712.

    Args:
        T: number of steps, at least 2.
        sum_scale: variance of the noise at T, in (0, 1]; the published code clips it to 1.
        residual: size of the residual's steps: "decreased", proportional to ``T + 1 - t``, as
            published; "increased", proportional to ``t``; or "average", constant.
        noise: size of the noise's steps, likewise; "increased" as published.
        floor: smallest alpha. Without it alpha is 0 at T, where a network that predicts only noise
            does not determine x_0. The published code has 1e-6 as a divisor only, see ``floor`` of
            `NetworkPrior`.

    Example:
        >>> from wellposed import priors
        >>> schedule = priors.rddm(T=1000)
        >>> [round(float(v), 2) for v in schedule(500)]  # alpha, sigma
        [0.25, 0.5]
    """
    require(isinstance(T, int) and T >= 2, "T", T, "an integer of at least 2")
    require(0 < sum_scale <= 1, "sum_scale", sum_scale, "a number in (0, 1]")
    require(0 <= floor < 1, "floor", floor, "a number in [0, 1)")
    residual_sum, noise_sum = _sums("residual", residual, T), _sums("noise", noise, T)
    return Tabulated((1 - residual_sum).clamp(min=floor), (sum_scale * noise_sum).sqrt())


def _sums(argument: str, rule: str, T: Steps) -> Tensor:
    """Return the sums over the first 0 to T of T steps that add up to 1."""
    require_choice(argument, rule, SUMS)
    t = torch.arange(T + 1, dtype=torch.float64)
    if rule == "average":
        return t / T
    return t * (t + 1 if rule == "increased" else 2 * T + 1 - t) / (T * (T + 1))


@checked
def rddm_from_ddim(betas: Table) -> Tabulated:
    """Return the schedule of an RDDM converted from a DDPM: ``sum alpha = 1 - sqrt(alpha_bar)``.

    With ``sum beta^2 = 1 - alpha_bar`` (RDDM, section 4.1) its kernel is that of the DDPM.

    Args:
        betas: betas of the DDPM, (T,); in RDDM they are linear from 1e-4 to .02.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> schedule = priors.rddm_from_ddim(torch.linspace(1e-4, 0.02, 1000))
        >>> [round(float(v), 2) for v in schedule(500)]  # alpha, sigma
        [0.28, 0.96]
    """
    return Tabulated.from_betas(betas)


class MeanReverting(Schedule):
    """IR-SDE's schedule: ``alpha_t = exp(-Theta_t dt)``, ``sigma_t = lambda sqrt(1 - alpha_t^2)``.

    ``Theta_t`` is the sum of the speeds ``theta`` up to t, interpolated linearly between integer
    times, and ``dt = -log(eps) / Theta_T``, so that ``alpha_T = eps``. Samplers start with the
    limiting noise level ``lambda``, as in the published code.

    "Image Restoration with Mean-Reverting Stochastic Differential Equations", 2023,
    arXiv 2301.11699.

    Args:
        max_sigma: lambda in grey levels (255 is white); the process runs on images in [0, 1].
        T: number of steps, at least 2.
        eps: alpha at T.
        theta: "cosine" as published, "linear" or "constant".
        shifted: ``Theta_0 = 0`` as in IR-SDE. If ``False``, as in the code of DA-CLIP and the MR
            Sampler (2025, arXiv 2502.07856), a little noise remains at ``t = 0``.
        interpolated: what is linear between integer times: "decay", ``Theta_t dt``, so that
            ``sigma^2 = lambda^2 (1 - alpha^2)`` at all times, or "levels", alpha and sigma each,
            as in the code of the MR Sampler.

    Example:
        >>> from wellposed import priors
        >>> schedule = priors.MeanReverting(max_sigma=10.0, T=100)
        >>> [round(float(v), 3) for v in schedule(100)]  # alpha, sigma
        [0.005, 0.039]
    """

    def __init__(
        self,
        max_sigma: float = 10.0,
        T: Steps = 100,
        eps: float = 0.005,
        theta: str = "cosine",
        shifted: bool = True,
        interpolated: str = "decay",
    ) -> None:
        accepted = "a positive number, in grey levels (255 is white)"
        require(0 < max_sigma < math.inf, "max_sigma", max_sigma, accepted)
        require(isinstance(T, int) and T >= 2, "T", T, "an integer of at least 2")
        require(0 < eps < 1, "eps", eps, "a number in (0, 1)")
        speeds = _thetas(require_choice("theta", theta, THETAS), T)
        total = torch.cumsum(speeds, 0) - (speeds[0] if shifted else 0.0)
        self.T = T
        self.terminal_std = max_sigma / 255
        self.interpolated = require_choice("interpolated", interpolated, INTERPOLATED)
        self.decay = -math.log(eps) * total / total[-1]
        self.min_ratio = float(self.ratio(1.0))

    def __call__(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        t = self.at(t)
        low = t.cpu().floor().clamp(0, self.T - 1)
        index, share = low.long(), t.cpu() - low
        if self.interpolated == "decay":
            decay = torch.lerp(self.decay[index], self.decay[index + 1], share)
            alpha, sigma = self._levels(decay)
        else:
            table = torch.stack(self._levels(self.decay))
            alpha, sigma = torch.lerp(table[:, index], table[:, index + 1], share)
        return alpha.to(t.device), sigma.to(t.device)

    def _levels(self, decay: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma of decays ``Theta_t dt``."""
        return torch.exp(-decay), self.terminal_std * torch.sqrt(-torch.expm1(-2 * decay))

    def _decay_of(self, square: Tensor) -> Tensor:
        """Return the decay at which ``(sigma / (alpha lambda))^2`` has this value."""
        return 0.5 * torch.log1p(square)

    def time_at(self, ratio: float | Tensor) -> Tensor:
        ratio = torch.as_tensor(ratio, dtype=torch.float64)
        decay = self._decay_of((ratio.cpu() / self.terminal_std) ** 2)
        decay = decay.clamp(float(self.decay[0]), float(self.decay[-1]))
        low = (torch.searchsorted(self.decay, decay, right=True) - 1).clamp(0, self.T - 1)
        gap = self.decay[low + 1] - self.decay[low]
        share = (decay - self.decay[low]) / gap
        if self.interpolated == "levels":
            (a, s), (a1, s1) = (self._levels(self.decay[low + k]) for k in (0, 1))
            alpha, sigma = self._levels(decay)
            r = sigma / alpha
            share = (r * a - s) / (s1 - s - r * (a1 - a))
        return (low + share).to(ratio.device)


class DenoisingProcess(MeanReverting):
    """IR-SDE's process for images with noise only: ``x_t = x_0 + sigma_t eps``, alpha = 1.

    Noise is added about the clean image itself, up to the level lambda; sigma is that of
    `MeanReverting`. See `wellposed.solvers.IRSDEDenoising`.

    Args:
        max_sigma: lambda in grey levels, see `MeanReverting`.
        T: number of steps, at least 2.
        eps: ``exp(-Theta_T dt)``, which determines how near sigma comes to lambda.
        theta: see `MeanReverting`.

    Example:
        >>> from wellposed import priors
        >>> schedule = priors.DenoisingProcess(max_sigma=75.0, T=100)
        >>> [round(float(v), 3) for v in schedule(100)]  # alpha, sigma
        [1.0, 0.294]
    """

    def __init__(
        self,
        max_sigma: float = 75.0,
        T: Steps = 100,
        eps: float = 0.04,
        theta: str = "cosine",
    ) -> None:
        super().__init__(max_sigma, T, eps, theta)

    def _levels(self, decay: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = super()._levels(decay)
        return torch.ones_like(alpha), sigma

    def _decay_of(self, square: Tensor) -> Tensor:
        least = math.exp(-2 * float(self.decay[-1]))
        return -0.5 * torch.log((1 - square).clamp(min=least))


def _thetas(rule: str, T: Steps) -> Tensor:
    """Return the speeds theta at times 0 to T."""
    if rule == "constant":
        return torch.ones(T + 1, dtype=torch.float64)
    if rule == "linear":
        scale = 1000 / (T + 1)
        return torch.linspace(1e-4 * scale, 0.02 * scale, T + 1, dtype=torch.float64)
    u = torch.arange(T + 3, dtype=torch.float64) / (T + 2)
    falling = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
    return 1 - falling[1:-1] / falling[0]
