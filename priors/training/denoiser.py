"""Training of plain priors: estimating clean images from noisy ones."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed.datasets.images.crops import Crops
from wellposed.datasets.images.image_files import Collection
from wellposed.linalg import from_channels
from wellposed.priors.prior import Prior, broadcast
from wellposed.priors.sampling import sample
from wellposed.priors.stored.config import Config
from wellposed.priors.training.batches import Batch, TrainingBatches, training_times
from wellposed.priors.training.losses import gsure
from wellposed.priors.training.settings import TrainingSettings
from wellposed.priors.training.task import (
    PICTURES,
    VALIDATION_CROPS,
    PriorTask,
    network_prior,
    noisy,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

VALIDATION_LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Levels of sigma / alpha at which the denoising error on held-out crops is recorded."""

SAMPLING_STEPS = 20

ALL_CROPS = ("aspect", "flips", "polarity", "companding", "complex_phase", "foreground")
"""Settings that training and validation crops share."""


class Denoising(PriorTask):
    """Trains a prior on images; see `Task`."""

    curve = tuple(f"mse_at_{v:g}" for v in VALIDATION_LEVELS)

    def __init__(
        self, settings: TrainingSettings, collection: Collection, accelerator: "Accelerator"
    ) -> None:
        super().__init__(settings, collection, accelerator)
        s = settings
        train, held = collection.split(s.held_out)
        common = {k: getattr(s, k) for k in ALL_CROPS}
        crops = Crops(train, max(s.image_size), axes=s.axes, zoom=s.zoom, gain=s.gain, **common)
        self.batches = TrainingBatches(crops, s, self.share)
        # A held-out slab is thin, so only slices perpendicular to its axis are used.
        self.held = TrainingBatches(Crops(held, s.image_size[0], **common), s)

    def config(self) -> Config:
        """Return the config of the prior; see `Task.config`."""
        s, channels = self.settings, self.batches.crops.channels
        return {
            "network": {
                "channels": channels,
                "widths": list(s.widths),
                "layers": s.layers,
                "block": s.block,
            },
            "schedule": s.schedule,
            "prediction": s.predicts,
            "sigma_data": s.sigma_data,
            "channels": channels // (2 if s.complex_phase else 1),
            "complex": s.complex_phase,
            "data_range": [list(pair) for pair in s.ranges] or list(s.data_range),
        }

    def loss(self, prior: Prior, batch: Batch) -> Tensor:
        """Return the mean squared error of the prediction for a batch, see also `gsure`."""
        x0, u, eps, *probe = (v.to(self.device) for v in batch)
        t = training_times(prior.schedule, self.settings, u.cpu())
        if probe:
            low, high = self.settings.data_range
            sigma_y = self.settings.image_noise / (high - low) * 2
            t = prior.schedule.time_at(prior.schedule.ratio(t).clamp(min=sigma_y))
            with self.autocast():
                return gsure(network_prior(prior), x0, t, eps, probe[0], sigma_y)
        with self.autocast():
            predicted = network_prior(prior).predict(noisy(prior, x0, t, eps), t)
        target = network_prior(prior).target(x0, eps, t)
        return (predicted.float() - target).square().mean()

    @torch.no_grad()
    def measure(self, prior: Prior) -> tuple[float, ...]:
        """Return the loss and the denoising errors on fixed held-out crops."""
        batch = self.first_held(VALIDATION_CROPS, 0)
        errors = [float(self.loss(prior, batch))]
        x0, _, eps, *_ = batch
        for level in VALIDATION_LEVELS:
            t = prior.schedule.time_at(level)
            clean = network_prior(prior).denoise_channels(noisy(prior, x0, t, eps), t)
            errors.append(float((clean - x0).square().mean()))
        return tuple(errors)

    @torch.no_grad()
    def pictures(self, prior: Prior) -> dict[str, list[Tensor]]:
        """Return clean crops, noisy and denoised crops for each level, and samples."""
        x0, _, eps, *_ = self.first_held(PICTURES, 1)
        rows = [x0]
        for level in VALIDATION_LEVELS:
            t = prior.schedule.time_at(level)
            x_t = noisy(prior, x0, t, eps)
            alpha = broadcast(prior.schedule(t)[0], x0)
            rows += [x_t / alpha, network_prior(prior).denoise_channels(x_t, t)]
        shown = [self._shown(row) for row in rows]
        return {"denoised": shown, "samples": list(self._samples(prior).split(PICTURES // 2))}

    def _samples(self, prior: Prior) -> Tensor:
        """Return samples of the prior, of the size of the largest crops."""
        sides = self.held.crops.sides(max(self.settings.image_size))
        images = sample(prior, PICTURES, sides, steps=SAMPLING_STEPS, device=self.device)
        units = prior.to_units(images)
        return units if units.is_complex() else (units + 1) / 2

    def _shown(self, x: Tensor) -> Tensor:
        """Return real channels in units as pictures; complex ones show their magnitude."""
        return from_channels(x) if self.settings.complex_phase else (x + 1) / 2
