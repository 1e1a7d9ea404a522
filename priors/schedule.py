"""Noise schedules: (alpha_t, sigma_t) of the kernel x_t = m + alpha_t (x_0 - m) + sigma_t eps.

Time runs from ``t = 0``, the clean image, to ``t = schedule.T``. Everything else (signal-to-noise
ratio, score, velocity) is derived from the two numbers. All values are computed in float64; a
solver's tensors keep their dtype because the values are scalars.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Checked, Positive, Steps, checked, require_integer
from wellposed.errors import ArgumentError, DtypeError, require, require_choice
from wellposed.kinds import shown

Table = Tensor | np.ndarray | Sequence[float]
"""Numbers by time, of a schedule."""

MOST_STEPS = 10**6
SPACINGS = ("leading", "linspace", "trailing", "karras", "geometric")


class Schedule(Checked, ABC):
    """Maps time to ``(alpha_t, sigma_t)``.

    Attributes:
        T: the largest time; an integer for tabulated schedules, a float for continuous ones.
        terminal_std: standard deviation of ``x_T - m`` at which samplers start.

    Example:
        >>> from wellposed import priors
        >>> schedule = priors.Tabulated.linear()  # of DDPM
        >>> [round(float(v), 2) for v in schedule(500.0)]  # alpha, sigma
        [0.28, 0.96]
        >>> schedule.times(4).tolist()
        [751.0, 501.0, 251.0, 1.0, 0.0]
    """

    T: float
    terminal_std: float
    karras_rho: float = 7.0
    min_ratio: float = 2e-3

    @abstractmethod
    def __call__(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return float64 tensors ``(alpha_t, sigma_t)`` of the shape of ``t``."""

    def at(self, t: float | Tensor) -> Tensor:
        """Return times as float64.

        Raises:
            ArgumentError: a time is not a number from 0 to T.
        """
        times = float64("t", t)
        # Times found from levels are off by rounding.
        low, high = -1e-9, self.T * (1 + 1e-6)
        if times.numel() == 1:  # as samplers ask; comparing a number is several times as fast
            inside = low <= times.item() <= high
        else:
            inside = bool(((times >= low) & (times <= high)).all())
        if not inside:
            raise ArgumentError(f"t: got {shown(t)}, accepted: times from 0 to T = {self.T:g}")
        return times

    @abstractmethod
    def time_at(self, ratio: float | Tensor) -> Tensor:
        """Return the time at which ``sigma_t / alpha_t`` equals ``ratio``; inverse of `ratio`."""

    def ratio(self, t: float | Tensor) -> Tensor:
        """Return the noise-to-signal ratio ``sigma_t / alpha_t`` (EDM's sigma)."""
        alpha, sigma = self(t)
        return sigma / alpha

    def times(self, steps: int, spacing: str = "leading") -> Tensor:
        """Return the decreasing float64 times of a sampler; the last one is 0, the clean image.

        ``spacing`` is one of ``leading`` (RED-diff, DDS), ``linspace``, ``trailing``, ``karras``
        (rho 7 on ``sigma / alpha``, Karras et al. 2022) and ``geometric`` (in ``sigma / alpha``,
        the VE-SDE of Song et al. 2021, for any number of steps). There are ``steps`` network
        evaluations. ``leading`` is the published rule ``range(0, T, T // steps)`` if ``steps``
        divides a tabulated ``T``; otherwise that rule would have more times than ``steps``
        (T = 1000, steps = 300: 334), and the ``steps`` times are spread evenly instead.
        """
        require_choice("spacing", spacing, SPACINGS)
        steps = require_integer("steps", steps, 1, MOST_STEPS)
        by_ratio = {"karras": self._karras, "geometric": self._geometric}.get(spacing)
        knots = by_ratio(steps) if by_ratio else self._knots(steps, spacing)
        return torch.cat([knots, knots.new_zeros(1)])

    def _knots(self, steps: int, spacing: str) -> Tensor:
        """Return the ``steps`` times at which the network is called."""
        full = torch.linspace(self.T, 0, steps + 1, dtype=torch.float64)
        # As for tables, "leading" leaves out the first time, which is pure noise.
        return full[:-1] if spacing != "leading" else full[:-1] * (steps / (steps + 1))

    def _ends(self) -> tuple[float, float]:
        """Return the smallest and the largest ratio of the spacings in ``sigma / alpha``."""
        low, high = self.min_ratio, float(self.ratio(self.T))
        return low, high if np.isfinite(high) else 1 / low

    def _geometric(self, steps: int) -> Tensor:
        low, high = self._ends()
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        return self.time_at(high * (low / high) ** ramp)

    def _karras(self, steps: int) -> Tensor:
        low, high = self._ends()
        rho = self.karras_rho
        ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
        ratios = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        return self.time_at(ratios)


def float64(name: str, values: Table | float) -> Tensor:
    """Return real numbers as a tensor.

    Raises:
        DtypeError: the values are not real numbers.
    """
    try:
        if isinstance(values, float):
            return torch.tensor(values, dtype=torch.float64)
        tensor = torch.as_tensor(values)
        if tensor.is_complex() or tensor.is_meta or tensor.layout != torch.strided:
            raise TypeError(f"{tensor.dtype}")
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DtypeError(f"{name}: got {shown(values)}, accepted: real numbers") from error


class Tabulated(Schedule):
    """A schedule given by tables ``alpha[0..T]`` and ``sigma[0..T]``; index 0 is the clean image.

    Networks trained on the ``T`` noisy levels with labels ``0..T-1`` have the label ``t - 1``.
    ``alpha^2`` and ``sigma^2`` are interpolated linearly between the entries, which preserves
    ``alpha^2 + sigma^2 = 1``.

    Args:
        alpha, sigma: the tables, (T + 1,).
        terminal_std: standard deviation at which samplers start; ``sigma[T]`` by default.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> alpha = torch.linspace(1.0, 0.0, 11)
        >>> schedule = priors.Tabulated(alpha, (1 - alpha**2).sqrt())
        >>> schedule.T, [round(float(v), 2) for v in schedule(4)]
        (10, [0.6, 0.8])
    """

    def __init__(self, alpha: Table, sigma: Table, terminal_std: Positive | None = None) -> None:
        self.alpha, self.sigma = float64("alpha", alpha), float64("sigma", sigma)
        if self.alpha.ndim != 1 or self.alpha.shape != self.sigma.shape or len(self.alpha) < 2:
            raise ArgumentError(
                f"alpha, sigma: got shapes {tuple(self.alpha.shape)} and "
                f"{tuple(self.sigma.shape)}, accepted: two equal vectors of length T + 1 >= 2"
            )
        growing = bool((torch.diff(self.sigma / self.alpha) > 0).all())
        accepted = "tables with strictly increasing sigma / alpha"
        require(growing, "alpha, sigma", "other tables", accepted)
        sound = bool(((self.alpha >= 0) & (self.sigma >= 0)).all())
        require(sound, "alpha, sigma", "values below 0 or NaN", "values of at least 0")
        self._squares = torch.stack([self.alpha**2, self.sigma**2])
        self.T = len(self.alpha) - 1
        self.terminal_std = float(self.sigma[-1]) if terminal_std is None else terminal_std
        self.min_ratio = float(self.sigma[1] / self.alpha[1])

    @classmethod
    def from_betas(cls, betas: Table) -> "Tabulated":
        """DDPM's schedule: ``alpha_t^2 = prod_{i<=t} (1 - beta_i)``, variance preserving."""
        betas = float64("betas", betas)
        fitting = betas.ndim == 1 and len(betas) > 0 and bool(((betas > 0) & (betas <= 1)).all())
        require(fitting, "betas", f"shape {tuple(betas.shape)}", "a vector with 0 < beta <= 1")
        alpha_bar = torch.cumprod(1 - betas, 0)
        alpha_bar = torch.cat([alpha_bar.new_ones(1), alpha_bar])
        return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), terminal_std=1.0)

    @classmethod
    @checked
    def linear(cls, T: Steps = 1000, start: float = 1e-4, end: float = 0.02) -> "Tabulated":
        """Linear betas of Ho et al. (2020)."""
        return cls.from_betas(torch.linspace(start, end, T, dtype=torch.float64))

    @classmethod
    @checked
    def cosine(cls, T: Steps = 1000, offset: float = 8e-3, max_beta: float = 0.999) -> "Tabulated":
        """Cosine schedule of Nichol and Dhariwal (2021), betas capped at ``max_beta``."""
        u = torch.arange(T + 1, dtype=torch.float64) / T
        alpha_bar = torch.cos((u + offset) / (1 + offset) * torch.pi / 2) ** 2
        return cls.from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta))

    @classmethod
    def from_diffusers(cls, scheduler: object) -> "Tabulated":
        """Take the betas of a diffusers scheduler, or of its config."""
        if isinstance(scheduler, Mapping):
            scheduler = _scheduler_of(scheduler)
        if not (hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler, "betas")):
            raise ArgumentError(
                f"scheduler: got {type(scheduler).__name__}, accepted: a diffusers scheduler "
                "with alphas_cumprod (DDPM, DDIM, PNDM, DPMSolver, ...) or its config"
            )
        betas: Tensor = scheduler.betas
        return cls.from_betas(betas.double())

    def __call__(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        t = self.at(t)
        place = t.to(self._squares.device)
        low = place.floor().clamp(0, self.T - 1)
        index = low.long()
        values = torch.lerp(self._squares[:, index], self._squares[:, index + 1], place - low)
        alpha, sigma = values.sqrt().to(t.device)
        return alpha, sigma

    def time_at(self, ratio: float | Tensor) -> Tensor:
        ratio = torch.as_tensor(ratio, dtype=torch.float64)
        a2, s2 = self.alpha**2, self.sigma**2
        r2 = ratio.to(a2.device) ** 2
        r2 = r2.clamp(float(s2[0] / a2[0]), float(s2[-1] / a2[-1]))
        low = (torch.searchsorted(s2 / a2, r2, right=True) - 1).clamp(0, self.T - 1)
        da, ds = a2[low + 1] - a2[low], s2[low + 1] - s2[low]
        # Shares of signal and noise, which are finite even if the ratio is not (alpha_T = 0).
        signal, noise = 1 / (1 + r2), 1 / (1 + 1 / r2)
        t = low + (noise * a2[low] - signal * s2[low]) / (signal * ds - noise * da)
        return t.to(ratio.device)

    def times(self, steps: int, spacing: str = "leading") -> Tensor:
        """Return the times as in `Schedule.times`; integers except for karras and geometric.

        There can be at most ``T`` steps, except for geometric with more than one level.
        """
        many = spacing == "geometric" and self.T > 1
        few = isinstance(steps, int) and (steps <= self.T or many)
        require(few, "steps", steps, f"a number from 1 to T = {self.T}")
        return super().times(steps, spacing)

    def _knots(self, steps: int, spacing: str) -> Tensor:
        T = int(self.T)
        if spacing == "leading":
            labels = (np.arange(steps) * T // steps)[::-1] + 1.0
        elif spacing == "linspace":
            labels = np.linspace(0, T - 1, steps).round()[::-1] + 1.0
        else:
            labels = np.arange(T, 0, -T / steps).round()[:steps]
        return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.float64))


def _scheduler_of(config: Mapping[str, object]) -> object:
    """Return the diffusers scheduler of a config; each class has its own defaults."""
    import diffusers

    kind = getattr(diffusers, str(config.get("_class_name")), None)
    defined = "beta_schedule" in config or config.get("trained_betas") is not None
    got, accepted = (
        config.get("_class_name", "a config"),
        "a config with beta_schedule or _class_name",
    )
    require(kind is not None or defined, "scheduler", got, accepted)
    # Values left at their defaults count too: diffusers would use those of another class.
    given = {name: value for name, value in config.items() if name != "_use_default_values"}
    scheduler: object = (kind or diffusers.DDPMScheduler).from_config(given)
    return scheduler


class VE(Schedule):
    """Variance exploding: ``alpha_t = 1``, ``sigma_t = t``; time is the noise level.

    The uniform spacings are uniform in ``log sigma``, as in the VE-SDE of Song et al. (2021).

    Args:
        sigma_max: the largest noise level.
        sigma_min: the smallest noise level at which samplers call the network.

    Example:
        >>> from wellposed import priors
        >>> schedule = priors.VE(sigma_max=80.0)
        >>> [float(v) for v in schedule(2.5)]  # alpha, sigma
        [1.0, 2.5]
    """

    def __init__(self, sigma_max: float = 80.0, sigma_min: float = 2e-3) -> None:
        accepted = "a number with 0 < sigma_min < sigma_max"
        require(0 < sigma_min < sigma_max, "sigma_min", sigma_min, accepted)
        self.T = self.terminal_std = float(sigma_max)
        self.min_ratio = float(sigma_min)

    def __call__(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        t = self.at(t)
        return torch.ones_like(t), t

    def _knots(self, steps: int, spacing: str) -> Tensor:
        count = steps + 1 if spacing == "leading" or steps == 1 else steps
        ramp = torch.linspace(0, 1, count, dtype=torch.float64)
        knots = self.T * (self.min_ratio / self.T) ** ramp
        return knots[1:] if spacing == "leading" else knots[:steps]

    def time_at(self, ratio: float | Tensor) -> Tensor:
        return torch.as_tensor(ratio, dtype=torch.float64).clamp(0, self.T)


class Flow(Schedule):
    """Rectified flow: ``alpha_t = 1 - t``, ``sigma_t = t``; ``t = 1`` is pure noise.

    Args:
        T: the time at which samplers start, at most 1.
        min_ratio: smallest ``sigma / alpha`` of the karras spacing.

    Example:
        >>> from wellposed import priors
        >>> schedule = priors.Flow()
        >>> [float(v) for v in schedule(0.25)], schedule.times(4, "trailing").tolist()
        ([0.75, 0.25], [1.0, 0.75, 0.5, 0.25, 0.0])
    """

    def __init__(self, T: float = 1.0, min_ratio: float = 2e-3) -> None:
        require(0 < T <= 1, "T", T, "a number in (0, 1]")
        self.T = self.terminal_std = float(T)
        self.min_ratio = float(min_ratio)
        below = T == 1 or min_ratio < T / (1 - T)
        accepted = "a number with 0 < min_ratio < T / (1 - T)"
        require(min_ratio > 0 and below, "min_ratio", min_ratio, accepted)

    def __call__(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        t = self.at(t)
        return 1 - t, t

    def time_at(self, ratio: float | Tensor) -> Tensor:
        ratio = torch.as_tensor(ratio, dtype=torch.float64)
        return torch.where(ratio.isinf(), 1.0, ratio / (1 + ratio))
