"""What networks are told of time, as functions that pickle and compare."""

from dataclasses import dataclass

from torch import Tensor

from wellposed.priors.schedule import Schedule


@dataclass(frozen=True)
class Label:
    """``scale (t - first)``, and at least ``least`` if that is given."""

    first: float = 0
    scale: float = 1
    least: float | None = None

    def __call__(self, t: Tensor) -> Tensor:
        """Return the label of times, (B,)."""
        label = self.scale * (t - self.first)
        return label if self.least is None else label.clamp(min=self.least)


@dataclass(frozen=True)
class LogNoiseLabel:
    """EDM's: ``log(sigma_t / alpha_t) / 4``, kept finite."""

    schedule: Schedule

    def __call__(self, t: Tensor) -> Tensor:
        """Return the label of times, (B,)."""
        return self.schedule.ratio(t).clamp(1e-3, 1e3).log() / 4
