"""The training run of a prior."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed.datasets.images.crops import Crops
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.conv_unet import ConvUNet, parameters_in_millions
from wellposed.priors.prediction import training_target
from wellposed.priors.prior import broadcast
from wellposed.priors.stored.store import build_prior, save_prior
from wellposed.priors.training.batches import Batch, TrainingBatches, draw_batch, training_times
from wellposed.priors.training.run import Run
from wellposed.priors.training.settings import TrainingSettings

VALIDATION_LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Levels of sigma / alpha at which the denoising error on held-out crops is recorded."""

VALIDATION_CROPS = 32

ALL_CROPS = ("aspect", "flips", "polarity", "companding", "complex_phase", "foreground")
"""Settings of the crops that those for validation share."""


class Trainer(Run):
    """The run that learns a prior of images: see `Run`.

    Args:
        settings: the run's settings.
        device: see `Run`.
    """

    curve = tuple(f"mse_at_{v:g}" for v in VALIDATION_LEVELS)

    def __init__(self, settings: TrainingSettings, device: str = "cpu") -> None:
        super().__init__(settings, device)
        s = settings
        train, held = self.collection.split(s.held_out)
        common = {k: getattr(s, k) for k in ALL_CROPS}
        crops = Crops(train, max(s.image_size), axes=s.axes, zoom=s.zoom, gain=s.gain, **common)
        # A held-out slab is thin, so it is cut only across the axis it was held out along.
        self.held_crops = Crops(held, s.image_size[0], **common)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = TrainingBatches(crops, s, rank, world)
        called = self.start(lambda: ConvUNet(crops.channels, s.widths, s.layers))
        config = self.config()
        self.averaged, self.prior = build_prior(self.average, config), build_prior(called, config)

    def loss(self, prior: NetworkPrior, batch: Batch) -> Tensor:
        """Return the mean squared error of the prediction for a batch."""
        x0, u, eps = (v.to(self.accelerator.device) for v in batch)
        t = training_times(prior.schedule, self.settings, u.cpu())
        alpha, sigma = (broadcast(v, x0) for v in prior.schedule(t))
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.settings.bf16):
            predicted = prior.predict(alpha * x0 + sigma * eps, t, alpha, sigma)
        target = training_target(prior.prediction, x0, eps, alpha, sigma, self.settings.sigma_data)
        return (predicted.float() - target).square().mean()

    @torch.no_grad()
    def validate(self) -> tuple[float, ...]:
        """Return the averaged weights' loss and denoising errors on fixed held-out crops."""
        items, schedule = range(VALIDATION_CROPS), self.averaged.schedule
        size = self.settings.image_size[0]
        batch = draw_batch(self.held_crops, items, len(items), self.settings, 0, size)
        errors = [float(self.loss(self.averaged, batch))]
        x0, _, eps = (v.to(self.accelerator.device) for v in batch)
        for level in VALIDATION_LEVELS:
            t = schedule.time_at(level)
            alpha, sigma = (broadcast(v, x0) for v in schedule(t))
            x_t = alpha * x0 + sigma * eps
            clean = self.averaged.denoise_channels(x_t, t)
            errors.append(float((clean - x0).square().mean()))
        return tuple(errors)

    def save(self, folder: Path) -> None:
        """Write the averaged weights, their config and model card."""
        save_prior(folder, self.average, self.config())

    def draw(self, folder: Path) -> None:
        """Write denoised held-out crops, and samples."""
        from wellposed.priors.training.pictures import write_pictures

        write_pictures(self, folder)

    def config(self) -> dict[str, Any]:
        """Return what `store.save_prior` writes beside the weights."""
        s = self.settings
        return {
            "network": self.network.settings,
            "schedule": s.schedule,
            "prediction": s.prediction,
            "sigma_data": s.sigma_data,
            "channels": self.network.settings["channels"] // (2 if s.complex_phase else 1),
            "complex": s.complex_phase,
            "data_range": list(s.data_range),
            "training": {
                **self.facts(parameters_in_millions(self.network)),
                "levels": VALIDATION_LEVELS,
                "history": self.history,
            },
        }
