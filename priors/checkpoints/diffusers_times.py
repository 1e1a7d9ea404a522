"""Schedules whose times are those of diffusers' own samplers."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from wellposed.checks import Count
from wellposed.errors import require
from wellposed.priors.schedule import Flow, Schedule, Tabulated


class ShiftedFlow(Flow):
    """Rectified flow whose sampling times are shifted to the noisier ones.

    The times are ``s t / (1 + (s - 1) t)`` of evenly spaced t, with s = shift: more pixels need
    more noise to be as uncertain. The kernel is that of `Flow`. The spacing ``linspace`` is that
    of Stable Diffusion 3 and ``trailing`` that of FLUX, of which s depends on the size of the
    image. Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
    2024, arXiv 2403.03206, eq. 23.

    Args:
        shift: the shift s, a positive number; 1 for none.
        least: smallest t of the spacing ``linspace``, before the shift.
    """

    def __init__(self, shift: float = 1.0, least: float = 1e-3) -> None:
        super().__init__()
        require(0 < shift < math.inf, "shift", shift, "a positive number")
        require(0 < least < 1, "least", least, "a number in (0, 1)")
        self.shift, self.least = float(shift), float(least)

    @classmethod
    def for_tokens(cls, config: Mapping[str, Any], tokens: int) -> "ShiftedFlow":
        """Return the schedule of a scheduler with dynamic shifts.

        The logarithm of the shift grows linearly with the number of tokens of an image.

        Args:
            config: config of the scheduler.
            tokens: number of tokens, patches of the latents.
        """
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        start, end = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = start + (end - start) / (high - low) * (tokens - low)
        linear = config.get("time_shift_type", "exponential") == "linear"
        return cls(mu if linear else math.exp(mu), 1 / config.get("num_train_timesteps", 1000))

    def shifted(self, t: Tensor) -> Tensor:
        """Return shifted times."""
        return self.shift * t / (1 + (self.shift - 1) * t)

    def _knots(self, steps: int, spacing: str) -> Tensor:
        if spacing == "linspace":
            return self.shifted(torch.linspace(1, self.least, steps, dtype=torch.float64))
        return self.shifted(super()._knots(steps, spacing))


class OffsetTable(Tabulated):
    """A table whose spacing ``leading`` begins at a later label, as ``steps_offset`` has it.

    Args:
        table: the table.
        offset: added to the times of ``leading``.
    """

    def __init__(self, table: Tabulated, offset: int) -> None:
        super().__init__(table.alpha, table.sigma, table.terminal_std)
        self.offset = offset

    def _knots(self, steps: int, spacing: str) -> Tensor:
        knots = super()._knots(steps, spacing)
        return (knots + self.offset).clamp(max=self.T) if spacing == "leading" else knots


class ConsistencyTable(Tabulated):
    """A table for latent consistency models, which know the times of their distillation only.

    The even spacings take every so many of these times, from the noisiest on. Luo et al., "Latent
    Consistency Models", 2023, arXiv 2310.04378.

    Args:
        table: the table.
        taught: number of times of the distillation.
    """

    def __init__(self, table: Tabulated, taught: Count = 50) -> None:
        super().__init__(table.alpha, table.sigma, table.terminal_std)
        self.taught = taught

    def _knots(self, steps: int, spacing: str) -> Tensor:
        known = int(self.T) // self.taught * torch.arange(self.taught, 0, -1)
        require(steps <= self.taught, "steps", steps, f"at most {self.taught}, the times it knows")
        return known[torch.arange(steps) * self.taught // steps].double()


def sampled_as(config: Mapping[str, Any], schedule: Schedule, tokens: int) -> Schedule:
    """Return a schedule with the times of the sampler of a pipeline.

    Args:
        config: config of its scheduler.
        schedule: schedule of the training.
        tokens: number of tokens of an image, see `ShiftedFlow`.
    """
    if config.get("use_dynamic_shifting"):
        return ShiftedFlow.for_tokens(config, tokens)
    if not isinstance(schedule, Tabulated):
        return schedule
    if config.get("_class_name") == "LCMScheduler":
        return ConsistencyTable(schedule, config.get("original_inference_steps", 50))
    offset = int(config.get("steps_offset", 0))
    return OffsetTable(schedule, offset) if offset > 0 else schedule
