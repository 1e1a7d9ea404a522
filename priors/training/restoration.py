"""The training run of a restorer (`wellposed train-restoration`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed.datasets.images.crops import Crops
from wellposed.datasets.images.degradations import RealWorld
from wellposed.datasets.images.image_files import Reading
from wellposed.errors import require
from wellposed.metrics import psnr
from wellposed.priors.networks.conv_unet import parameters_in_millions
from wellposed.priors.prediction import Parts
from wellposed.priors.prior import broadcast
from wellposed.priors.restorer import Restorer
from wellposed.priors.stored.restorer_store import (
    RestorationUNet,
    build_restorer,
    load_codec,
    save_restorer,
)
from wellposed.priors.training.batches import to_units
from wellposed.priors.training.loop import follow
from wellposed.priors.training.pairs import Measured, PairBatches, paired, shrinkage
from wellposed.priors.training.restoration_loss import load_lpips, optimal_reverse, target
from wellposed.priors.training.restoration_settings import PAIRS, REAL_WORLD, RestorationSettings
from wellposed.priors.training.run import Run

PLACES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Times, as fractions of T, from which held-out crops are estimated in one step."""

VALIDATION_CROPS = 32


def train_restoration(
    settings: RestorationSettings,
    device: str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Path:
    """Train a restorer, or continue an unfinished run in ``settings.out``; return the folder.

    Args:
        settings: what to train on and how.
        device: ``cpu`` or ``cuda``, see `Run`.
        progress: called as ``progress(step, loss)`` after every step with the running mean of
            the loss.
    """
    return follow(RestorationTrainer(settings, device), progress)


class RestorationTrainer(Run):
    """The run that learns to restore degraded images: see `Run`.

    Args:
        settings: the run's settings.
        device: see `Run`.
    """

    curve = ("psnr_degraded", *(f"psnr_from_{v:g}" for v in PLACES))

    def __init__(self, settings: RestorationSettings, device: str = "cpu") -> None:
        super().__init__(settings, device)
        s = settings
        self.codec = None if s.autoencoder is None else load_codec(Path(s.autoencoder))
        if self.codec is not None:
            self.codec.to(self.accelerator.device)
            taken, accepted = self.codec.image_channels, f"one of {self.channels}, as the images"
            fits = taken == self.channels
            require(fits, "autoencoder", f"one of {taken} channel(s)", accepted)
            for size in s.image_size:
                factor = self.codec.factor
                require(size % factor == 0, "image_size", size, f"a multiple of {factor}")
        self.upsample = s.upsample
        self.batches, self.held = self._pairs()
        coloured = s.lpips == 0 or self.channels == 3
        require(coloured, "lpips", s.lpips, f"0 for images of {self.channels} channel(s), not 3")
        self.lpips = load_lpips(self.accelerator.device) if s.lpips > 0 else None
        channels = self.codec.latent_channels if self.codec else self.channels
        heads = 2 if "+" in s.predicts else 1
        called = self.start(
            lambda: RestorationUNet(channels, s.widths, s.layers, heads, s.networks)
        )
        config = self.config()
        self.averaged = build_restorer(self.average, config, self.codec)
        self.prior = build_restorer(called, config, self.codec)

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.collection.shapes[0][-1]

    def _pairs(self) -> tuple[PairBatches, PairBatches]:
        """Return what is trained on, and what is held out."""
        s = self.settings
        latent = (self.codec.latent_channels, self.codec.factor) if self.codec else None
        train, held = (self._stacks(part) for part in self.collection.split(s.held_out))
        largest, first = (n + 2 * s.margin for n in (max(s.image_size), s.image_size[0]))
        crops = Crops(
            train, largest, axes=s.axes, zoom=s.zoom, gain=s.gain, foreground=s.foreground
        )
        held_crops = Crops(held, first, foreground=s.foreground)
        share = self.accelerator.process_index, self.accelerator.num_processes
        degradation = self._degradation()
        return (
            PairBatches(crops, degradation, s, latent, share),
            PairBatches(held_crops, degradation, s, latent),
        )

    def _stacks(self, stacks: list[Any]) -> list[Any]:
        s = self.settings
        if s.degradation != PAIRS:
            return stacks
        reading = {k: getattr(s, k) for k in Reading.__dataclass_fields__}
        pairs = paired(stacks, Path(s.degraded), Reading(**reading))
        self.upsample = shrinkage(pairs[0])
        return pairs

    def _degradation(self) -> Measured | RealWorld | None:
        s = self.settings
        if s.degradation == PAIRS:
            return None
        return RealWorld(s.factor) if s.degradation == REAL_WORLD else Measured(s.degradation, s)

    def loss(self, prior: Restorer, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the loss of a batch, see `RestorationSettings.criterion`."""
        s, device = self.settings, self.accelerator.device
        clean, degraded, u, eps = (v.to(device) for v in batch)
        with torch.no_grad():  # a latent run's autoencoder is not trained
            x0, m = prior.to_units(clean), prior.to_units(degraded)
        t = (u.cpu() * prior.schedule.T).ceil().clamp(min=1)
        alpha, sigma = (broadcast(v, x0) for v in prior.schedule(t))
        x_t = m + alpha * (x0 - m) + sigma * eps
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=s.bf16):
            if s.criterion == "optimal":
                return optimal_reverse(prior, x_t, t, m, x0)
            output = prior.predict(x_t, t, m)
        size = prior.schedule.terminal_std
        truth = target(prior.predicts, Parts(x0, m - x0, eps), alpha, sigma, size)
        error = output - truth
        loss = error.square().mean() if s.criterion == "mse" else error.abs().mean()
        if self.lpips is None:
            return loss
        estimate = prior.to_public(m - output if prior.predicts == "residual" else output)
        seen, truth = (to_units(v, s.data_range).clamp(-1, 1) for v in (estimate, clean))
        return loss + s.lpips * self.lpips(seen, truth).mean()

    @torch.no_grad()
    def validate(self) -> tuple[float, ...]:
        """Return the averaged weights' loss and PSNR on fixed held-out crops, see `PLACES`."""
        device, prior, items = self.accelerator.device, self.averaged, range(VALIDATION_CROPS)
        batch = self.held.draw(items, len(items), 0, self.settings.image_size[0])
        clean, degraded, _, eps = (v.to(device) for v in batch)
        m = prior.to_units(degraded)
        x0, found = prior.to_units(clean), [degraded]
        for place in PLACES:
            t = max(1.0, round(place * prior.schedule.T))
            alpha, sigma = (broadcast(v, x0) for v in prior.schedule(t))
            x_t = m + alpha * (x0 - m) + sigma * eps
            found.append(prior.to_public(prior.denoise(x_t, t, m)))
        low, high = self.settings.data_range
        gains = [float(psnr(image, clean, high - low).mean()) for image in found]
        return float(self.loss(prior, batch)), *gains

    def config(self) -> dict[str, Any]:
        """Return what `restorer_store.save_restorer` writes beside the weights."""
        s = self.settings
        pixels = "pixel" if self.codec is None else "latent"
        return {
            "network": self.network.settings,
            "process": process(s),
            "predicts": s.predicts,
            "sees": {"resshift": pixels, "ir-sde": "difference", "rddm": "plain"}[s.process],
            "upsample": self.upsample,
            "channels": self.channels,
            "data_range": list(s.data_range),
            "latent": self.codec is not None,
            "training": {
                **self.facts(parameters_in_millions(self.network)),
                "criterion": s.criterion,
                "curve": self.curve,
                "history": self.history,
            },
        }

    def save(self, folder: Path) -> None:
        """Write the averaged weights, their config and model card, and an autoencoder."""
        save_restorer(folder, self.average, self.config(), self.codec)

    def draw(self, folder: Path) -> None:
        """Write clean, degraded and restored held-out crops."""
        from wellposed.priors.training.restoration_pictures import write_pictures

        write_pictures(self, folder)


def process(s: RestorationSettings) -> dict[str, Any]:
    """Return the name and the arguments of the process, see `restorer_store.PROCESSES`."""
    if s.process == "resshift":
        own: dict[str, Any] = {"kappa": s.kappa, "min_noise": s.min_noise}
    elif s.process == "ir-sde":
        # The schedule counts grey levels of images in [0, 1], where units may be others.
        low, high = s.data_range
        own = {"max_sigma": 2 * s.max_sigma / (high - low)}
    else:
        # Where nothing of the image is left, noise alone tells nothing of it.
        own = {"sum_scale": s.sum_scale, "floor": 1e-6 if s.predicts == "noise" else 0.0}
    steps = {} if s.process_steps is None else {"T": s.process_steps}
    return {"name": s.process, **steps, **own}
