"""The Gaussian transition that all samplers share.

From time t to s < t of the kernel ``x_t = m + alpha_t (x_0 - m) + sigma_t eps``:

    x_s = m + alpha_s (x0 - m) + sqrt(sigma_s^2 - v) eps + sqrt(v) z,    z ~ N(0, I).

Samplers differ in the correction of ``x0`` by the data, the ``eps`` that is kept, and the variance
rule ``v``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wellposed.errors import require, require_choice
from wellposed.priors.schedule import Schedule

VARIANCE_RULES = ("markov", "shift", "fresh", "zero")


class Levels(NamedTuple):
    """Schedule values at both ends of a transition, float64 scalars.

    Example:
        >>> from wellposed import priors
        >>> from wellposed.priors.transition import levels
        >>> level = levels(priors.Flow(), t=0.5, s=0.25)
        >>> float(level.alpha_t), float(level.sigma_t), float(level.alpha_s), float(level.sigma_s)
        (0.5, 0.5, 0.75, 0.25)
    """

    alpha_t: Tensor
    sigma_t: Tensor
    alpha_s: Tensor
    sigma_s: Tensor

    @property
    def sizes(self) -> tuple[Tensor, Tensor]:
        """``sqrt(alpha^2 + sigma^2)`` at t and s; ``x / size`` is variance preserving."""
        return torch.hypot(self.alpha_t, self.sigma_t), torch.hypot(self.alpha_s, self.sigma_s)


def levels(schedule: Schedule, t: float, s: float) -> Levels:
    """Return the schedule at ``t`` and ``s``.

    Example:
        >>> from wellposed import priors
        >>> from wellposed.priors.transition import levels
        >>> level = levels(priors.Tabulated.linear(), t=500.0, s=400.0)
        >>> round(float(level.sigma_t), 3), round(float(level.sigma_s), 3)
        (0.96, 0.897)
    """
    return Levels(*schedule(t), *schedule(s))


def starting_std(schedule: Schedule, t: float) -> float:
    """Return the standard deviation of the noise with which a sampler starts at time ``t``.

    At ``T`` it is that of the schedule's terminal distribution, which is transferred to ``t``.
    """
    at_t, at_end = (float(torch.hypot(*schedule(time))) for time in (t, schedule.T))
    return schedule.terminal_std * at_t / at_end


def variance(rule: str, level: Levels, eta: float = 1.0) -> Tensor:
    """Return the variance ``v`` of the fresh noise of a transition.

    - ``markov``: ``eta^2 sigma_s^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)``; DDPM at
      eta = 1, DDIM's eta otherwise (Song et al. 2021, eq. 16), IR-SDE's posterior.
    - ``shift``: ``eta sigma_s^2 (1 - (sigma_s / sigma_t)^2)``; ResShift, RDDM.
    - ``fresh``: ``eta^2 sigma_s^2``; DDS, DiffPIR's zeta.
    - ``zero``: no fresh noise; DDIM at eta = 0, probability flow.

    Example:
        >>> from wellposed import priors
        >>> from wellposed.priors.transition import levels, variance
        >>> level = levels(priors.Flow(), t=0.5, s=0.25)
        >>> [round(float(variance(rule, level)), 4) for rule in ("markov", "shift", "fresh")]
        [0.0556, 0.0469, 0.0625]
    """
    require_choice("rule", rule, VARIANCE_RULES)
    require(0 <= eta <= 1, "eta", eta, "a number from 0 to 1")
    alpha_t, sigma_t, alpha_s, sigma_s = level
    if rule == "markov":
        return eta**2 * sigma_s**2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2)
    if rule == "shift":
        return eta * sigma_s**2 * (1 - (sigma_s / sigma_t) ** 2)
    return eta**2 * sigma_s**2 if rule == "fresh" else torch.zeros_like(sigma_s)


def kept_noise(level: Levels, v: Tensor) -> Tensor:
    """Return ``sqrt(sigma_s^2 - v)``, the weight of the kept noise in ``x_s``."""
    return (level.sigma_s**2 - v).clamp(min=0).sqrt()


def share_of_image(level: Levels, v: Tensor) -> Tensor:
    """Return by how much ``x_s`` moves with ``x0``, if the noise is the implied one."""
    return level.alpha_s - level.alpha_t * kept_noise(level, v) / level.sigma_t


def implied_noise(x_t: Tensor, x0: Tensor, level: Levels, anchor: float | Tensor = 0.0) -> Tensor:
    """Return ``eps = (x_t - m - alpha_t (x0 - m)) / sigma_t``.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> from wellposed.priors.transition import implied_noise, levels
        >>> level = levels(priors.Flow(), t=0.5, s=0.25)
        >>> x0, eps = torch.zeros(2), torch.tensor([1.0, -1.0])
        >>> implied_noise(level.alpha_t * x0 + level.sigma_t * eps, x0, level)
        tensor([ 1., -1.])
    """
    return (x_t - anchor - level.alpha_t * (x0 - anchor)) / level.sigma_t


def transition(
    x0: Tensor,
    eps: Tensor,
    z: Tensor,
    level: Levels,
    v: Tensor,
    anchor: float | Tensor = 0.0,
) -> Tensor:
    """Return ``x_s``; see the module's equation.

    Args:
        x0: estimate of the clean image.
        eps: the noise direction that is kept.
        z: fresh standard normal noise.
        level: schedule values at t and s.
        v: variance of the fresh noise, from `variance`.
        anchor: ``m``: 0 for plain diffusions, the degraded image for restoration processes.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> from wellposed.priors.transition import levels, transition, variance
        >>> level = levels(priors.Flow(), t=0.5, s=0.25)
        >>> x0, eps, z = torch.ones(2), torch.tensor([1.0, -1.0]), torch.randn(2)
        >>> transition(x0, eps, z, level, variance("zero", level))  # 0.75 x0 + 0.25 eps
        tensor([1.0000, 0.5000])
    """
    kept = kept_noise(level, v)
    return anchor + level.alpha_s * (x0 - anchor) + kept * eps + v.sqrt() * z


def renoise(x_s: Tensor, z: Tensor, level: Levels) -> Tensor:
    """Return ``x_t`` of a later, noisier time given ``x_s``, one step of the forward diffusion.

    ``x_t = (alpha_t / alpha_s) x_s + sqrt(sigma_t^2 - (alpha_t sigma_s / alpha_s)^2) z``.

    Args:
        x_s: the image at ``s``.
        z: fresh standard normal noise.
        level: schedule values at t and s < t.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> from wellposed.priors.transition import levels, renoise
        >>> level = levels(priors.VE(80.0), t=5.0, s=3.0)
        >>> renoise(torch.zeros(2), torch.ones(2), level)  # sqrt(5^2 - 3^2)
        tensor([4., 4.])
    """
    shrink = level.alpha_t / level.alpha_s
    added = (level.sigma_t**2 - (shrink * level.sigma_s) ** 2).clamp(min=0).sqrt()
    return shrink * x_s + added * z
