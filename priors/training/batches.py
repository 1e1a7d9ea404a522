"""Training batches: crops, noise levels and noise, which depend only on step and crop number."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from wellposed.datasets.images.crops import Crops
from wellposed.datasets.images.reading import Reading
from wellposed.errors import ArgumentError, require
from wellposed.priors.schedule import VE, Flow, Schedule
from wellposed.priors.training.settings import TrainingSettings
from wellposed.priors.training.unrolled_settings import UnrolledSettings

Batch = tuple[Tensor, ...]


class Batches(Dataset[Batch], ABC):
    """The batch of every step.

    Args:
        crops: source of the crops.
        settings: the run's settings.
        share: rank of this process and number of processes, which share every batch.

    Raises:
        ArgumentError: the crops of a step cannot be divided equally among the processes.
    """

    def __init__(
        self,
        crops: Crops,
        settings: TrainingSettings | UnrolledSettings,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.crops, self.settings = crops, settings
        self.rank, self.world = share
        for size in settings.image_size:
            count = self.count(size)
            if count % self.world:
                raise ArgumentError(
                    f"batch_size: got {settings.batch_size}, which is {count} crop(s) of {size} "
                    f"pixels, accepted: a number that gives {self.world} processes equal numbers "
                    "of crops"
                )

    def count(self, size: int) -> int:
        """Return the number of crops of a size per step: fewer for larger sizes, at equal cost."""
        s = self.settings
        return max(1, round(s.batch_size * (s.image_size[0] / size) ** 2))

    def __getitem__(self, step: int) -> Batch:
        """Return this process's share of the batch of a step, see `draw`."""
        s = self.settings
        size = s.image_size[step % len(s.image_size)]
        count = self.count(size)
        mine = count // self.world
        items = range(self.rank * mine, (self.rank + 1) * mine)
        return self.draw(items, count, step, size)

    @abstractmethod
    def draw(self, items: range, count: int, step: int, size: int) -> Batch:
        """Return some items of a batch of ``count`` crops of a size."""


class TrainingBatches(Batches):
    """The batch of every step: clean crops in units, quantiles of their noise levels, noise."""

    settings: TrainingSettings

    def draw(self, items: range, count: int, step: int, size: int) -> Batch:
        """Return (x0, u, eps) of some items of a batch of ``count``.

        That is (B, C, H, W), (B,) in (0, 1), and noise like x0; of noisy images also the probes
        of `gsure`.
        """
        seed = self.settings.seed
        x0 = self._in_units(self.crops.batch(items, seed, step, size))
        u = draw_places(items, count, seed, step)
        shape = tuple(x0.shape[1:])
        eps = draw_noise(items, seed, step, shape)
        if self.settings.image_noise == 0:
            return x0, u, eps
        return x0, u, eps, draw_noise(items, seed, step, shape, PROBES)

    def _in_units(self, x: Tensor) -> Tensor:
        """Return crops in the network's [-1, 1], channel by channel if these have ranges."""
        ranges = self.settings.ranges
        if not ranges:
            return to_units(x, self.settings.data_range)
        accepted = f"a pair for each of {x.shape[1]} channels"
        require(len(ranges) == x.shape[1], "channel_ranges", ranges, accepted)
        return torch.cat([to_units(c, r) for c, r in zip(x.split(1, 1), ranges, strict=True)], 1)


# Seeds of four words differ from those of crops; trailing zeros are ignored: (a, b) is (a, b, 0).


def draw_places(items: range, count: int, seed: int, step: int) -> Tensor:
    """Return the quantiles in (0, 1) of the noise levels of some items of a batch of ``count``.

    They are evenly spaced over the batch, with a random shift.
    """
    shift = np.random.default_rng((seed, step, 0, 2)).random()
    return (torch.tensor([*items], dtype=torch.float64) + shift) / count


NOISE, PROBES = 1, 5
"""Last words of the seeds of noise, and of probes of a divergence."""


def draw_noise(
    items: range, seed: int, step: int, shape: tuple[int, ...], kind: int = NOISE
) -> Tensor:
    """Return standard normal noise of a shape for each item, float32 (len(items), *shape)."""
    eps = [
        np.random.default_rng((seed, step, item, kind)).standard_normal(shape, np.float32)
        for item in items
    ]
    return torch.from_numpy(np.stack(eps))


def reading_of(settings: TrainingSettings | UnrolledSettings) -> Reading:
    """Return the settings for reading the run's data as images."""
    own = {k: getattr(settings, k) for k in Reading.__dataclass_fields__}
    return Reading(**own | {"data_range": settings.file_range})


def to_units(x: Tensor, data_range: tuple[float, float]) -> Tensor:
    """Map public values to the network's [-1, 1]; complex images keep their zero."""
    low, high = data_range
    return 2 * (x - low) / (high - low) - 1


def training_times(schedule: Schedule, settings: TrainingSettings, u: Tensor) -> Tensor:
    """Return the times at the quantiles ``u`` in (0, 1) of the training distribution."""
    u = u.clamp(1e-6, 1 - 1e-6)
    if settings.noise_levels == "lognormal":
        mean, spread = settings.log_noise
        highest = min(1e3, float(schedule.ratio(schedule.T)))
        ratio = (mean + spread * torch.special.ndtri(u)).exp()
        return schedule.time_at(ratio.clamp(schedule.min_ratio, highest))
    if isinstance(schedule, VE):  # uniform in log sigma
        return schedule.min_ratio * (schedule.T / schedule.min_ratio) ** u
    if isinstance(schedule, Flow):
        return (u * schedule.T).clamp(min=float(schedule.time_at(schedule.min_ratio)))
    return (u * schedule.T).ceil()
