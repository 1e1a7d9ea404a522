"""Training of restorers: priors with an anchor."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed.datasets.images.crops import Crops, Images
from wellposed.datasets.images.degradations import RealWorld
from wellposed.datasets.images.image_files import Collection, Stack
from wellposed.errors import require
from wellposed.metrics import psnr
from wellposed.priors.prediction import TWO_HEADS
from wellposed.priors.prior import Prior
from wellposed.priors.sampling import restored
from wellposed.priors.stored.config import Config
from wellposed.priors.stored.store import read_autoencoder
from wellposed.priors.training.batches import Batch, reading_of, to_units
from wellposed.priors.training.losses import load_lpips, optimal_reverse
from wellposed.priors.training.pairs import Degradation, Measured, PairBatches, paired, shrinkage
from wellposed.priors.training.restoration_settings import PAIRS, REAL_WORLD
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

PLACES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Times, as fractions of T, from which held-out crops are estimated in one step."""

INPUTS = {"resshift": "pixel", "ir-sde": "difference", "rddm": "plain"}
"""Inputs of the networks of each process on pixels; ResShift on latents has "latent"."""


class Restoring(PriorTask):
    """Trains a restorer; see `Task`."""

    curve = ("psnr_degraded", *(f"psnr_from_{v:g}" for v in PLACES))

    def __init__(
        self, settings: TrainingSettings, collection: Collection, accelerator: "Accelerator"
    ) -> None:
        super().__init__(settings, collection, accelerator)
        s = settings
        self.channels, self.upsample = collection.shapes[0][-1], s.upsample
        if s.autoencoder is not None:
            self.autoencoder = read_autoencoder(Path(s.autoencoder)).to(self.device)
            self._check_autoencoder()
        self.batches, self.held = self._pairs()
        coloured = s.lpips == 0 or self.channels == 3
        require(coloured, "lpips", s.lpips, f"0 for images of {self.channels} channel(s), not 3")
        self.lpips = load_lpips(self.device) if s.lpips > 0 else None

    def _check_autoencoder(self) -> None:
        assert self.autoencoder is not None
        taken, factor = self.autoencoder.image_channels, self.autoencoder.factor
        accepted = f"one of {self.channels} channel(s), as the images"
        fits = taken == self.channels
        require(fits, "autoencoder", f"one of {taken} channel(s)", accepted)
        for size in self.settings.image_size:
            require(size % factor == 0, "image_size", size, f"a multiple of {factor}")

    def _pairs(self) -> tuple[PairBatches, PairBatches]:
        """Return the batches for training, and those held out."""
        s, code = self.settings, self.autoencoder
        latent = None if code is None else (code.latent_channels, code.factor)
        train, held = (self._stacks(part) for part in self.collection.split(s.held_out))
        largest, first = (n + 2 * s.margin for n in (max(s.image_size), s.image_size[0]))
        crops = Crops(
            train, largest, axes=s.axes, zoom=s.zoom, gain=s.gain, foreground=s.foreground
        )
        held_crops = Crops(held, first, foreground=s.foreground)
        degradation = self._degradation()
        return (
            PairBatches(crops, degradation, s, latent, self.share),
            PairBatches(held_crops, degradation, s, latent),
        )

    def _stacks(self, stacks: list[Stack]) -> Sequence[Images]:
        s = self.settings
        if s.degradation != PAIRS:
            return stacks
        pairs = paired(stacks, Path(s.degraded or ""), reading_of(s), s.skip_broken)
        self.upsample = shrinkage(pairs[0])
        return pairs

    def _degradation(self) -> Degradation | None:
        s = self.settings
        if s.degradation == PAIRS:
            return None
        return RealWorld(s.factor) if s.degradation == REAL_WORLD else Measured(s.degradation, s)

    def config(self) -> Config:
        """Return the config of the prior; see `Task.config`."""
        s, code = self.settings, self.autoencoder
        heads = 2 if s.predicts in TWO_HEADS else 1
        channels = self.channels if code is None else code.latent_channels
        sees = INPUTS[s.process or ""]
        return {
            "network": {
                "channels": channels,
                "widths": list(s.widths),
                "layers": s.layers,
                "heads": heads,
                "networks": s.networks,
                "block": s.block,
            },
            "process": process(s),
            "prediction": s.predicts,
            "input": "latent" if code is not None and sees == "pixel" else sees,
            "upsample": self.upsample,
            "channels": self.channels,
            "data_range": list(s.data_range),
            "latent": code is not None,
        }

    def loss(self, prior: Prior, batch: Batch) -> Tensor:
        """Return the loss of a batch, see `TrainingSettings.criterion`."""
        s, inner = self.settings, network_prior(prior)
        clean, degraded, u, eps = (v.to(self.device) for v in batch)
        with torch.no_grad():  # a latent run's autoencoder is not trained
            x0, m = prior.to_units(clean), prior.to_units(degraded)
        t = (u.cpu() * prior.schedule.T).ceil().clamp(min=1)
        x_t = noisy(prior, x0, t, eps, m)
        with self.autocast():
            if s.criterion == "optimal":
                return optimal_reverse(inner, x_t, t, m, x0)
            output = inner.predict(x_t, t, m)
        error = output - inner.target(x0, eps, t, m)
        loss = error.square().mean() if s.criterion == "mse" else error.abs().mean()
        if self.lpips is None:
            return loss
        estimate = prior.to_public(m - output if inner.prediction == "residual" else output)
        seen, truth = (to_units(v, s.data_range).clamp(-1, 1) for v in (estimate, clean))
        return loss + s.lpips * self.lpips(seen, truth).mean()

    @torch.no_grad()
    def measure(self, prior: Prior) -> tuple[float, ...]:
        """Return the loss and PSNR on fixed held-out crops, see `PLACES`."""
        batch = self.first_held(VALIDATION_CROPS, 0)
        clean, degraded, _, eps = batch
        x0, m, found = prior.to_units(clean), prior.to_units(degraded), [degraded]
        for place in PLACES:
            t = max(1.0, round(place * prior.schedule.T))
            found.append(prior.to_public(prior.denoise(noisy(prior, x0, t, eps, m), t, m)))
        low, high = self.settings.data_range
        gains = [float(psnr(image, clean, high - low).mean()) for image in found]
        return float(self.loss(prior, batch)), *gains

    @torch.no_grad()
    def pictures(self, prior: Prior) -> dict[str, list[Tensor]]:
        """Return clean, degraded and restored held-out crops."""
        clean, degraded = self.first_held(PICTURES, 1)[:2]
        rows = (clean, degraded, restored(prior, prior.to_units(degraded)))
        return {"restored": [(to_units(v, self.settings.data_range) + 1) / 2 for v in rows]}


def process(s: TrainingSettings) -> dict[str, object]:
    """Return the name and the arguments of the process, see `named_schedules`."""
    if s.process == "resshift":
        own: dict[str, object] = {"kappa": s.kappa, "min_noise": s.min_noise}
    elif s.process == "ir-sde":
        # The schedule has grey levels of images in [0, 1]; the network's units may differ.
        low, high = s.data_range
        own = {"max_sigma": 2 * s.max_sigma / (high - low)}
    else:
        # At alpha = 0 the noise alone does not determine the image.
        own = {"sum_scale": s.sum_scale, "floor": 1e-6 if s.predicts == "noise" else 0.0}
    steps = {} if s.process_steps is None else {"T": s.process_steps}
    return {"name": s.process, **steps, **own}
