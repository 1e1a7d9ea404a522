"""The state of a training run and its one step."""

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from wellposed.datasets.collection import Collection, Reading
from wellposed.datasets.crops import Crops
from wellposed.errors import CheckpointError, DeviceError
from wellposed.priors.network_prior import NetworkPrior
from wellposed.priors.networks import ConvUNet, parameters_in_millions
from wellposed.priors.prediction import training_target
from wellposed.priors.prior import broadcast
from wellposed.priors.state import finite_state
from wellposed.priors.store import build_prior
from wellposed.priors.training.batches import (
    Batch,
    TrainingBatches,
    draw_batch,
    training_times,
)
from wellposed.training_settings import TrainingSettings

VALIDATION_LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Levels of sigma / alpha at which the denoising error on held-out crops is recorded."""

VALIDATION_CROPS = 32

ALL_CROPS = ("aspect", "flips", "polarity", "companding", "complex_phase", "foreground")
"""Settings of the crops that those for validation share."""


class Trainer:
    """The state of one training run: network, averaged weights, optimiser and step.

    Args:
        settings: the run's settings.
        device: ``cpu`` or ``cuda``. Started by ``accelerate launch`` or ``torchrun``, every
            process takes its device and its share of each batch.

    Attributes:
        prior: the prior with the weights being trained.
        averaged: the prior with their running average, which is what is saved.
        history: (step, training loss, held-out loss, held-out MSE at each level).
    """

    def __init__(self, settings: TrainingSettings, device: str = "cpu") -> None:
        s = self.settings = settings
        self.accelerator = _accelerator(device)
        self.step, self.history = 0, list[tuple[float, ...]]()
        reading = {k: getattr(s, k) for k in Reading.__dataclass_fields__}
        self.collection = Collection(s.data, Reading(**reading))
        train, held = self.collection.split(s.held_out)
        common = {k: getattr(s, k) for k in ALL_CROPS}
        crops = Crops(train, max(s.image_size), axes=s.axes, zoom=s.zoom, gain=s.gain, **common)
        # A held-out slab is thin, so it is cut only across the axis it was held out along.
        self.held_crops = Crops(held, s.image_size[0], **common)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = TrainingBatches(crops, s, rank, world)

        with torch.random.fork_rng():  # initial weights only; everything later is drawn by step
            torch.manual_seed(s.seed)
            self.network = ConvUNet(crops.channels, s.widths, s.layers)
        self.network.to(self.accelerator.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        config = self.config()
        self.averaged = build_prior(self.average, config)
        called = torch.compile(self.network) if s.compile else self.network
        self.prior = build_prior(self.accelerator.prepare(called), config)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=s.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )

    def train_step(self, batch: Batch) -> float:
        """Take one optimisation step and return the loss of the whole batch."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.prior, batch)
        self.accelerator.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), s.clip)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        return float(self.accelerator.reduce(loss.detach(), "mean"))

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

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        kept: list[Tensor] = [*self.average.parameters()]
        torch._foreach_lerp_(kept, [*self.network.parameters()], 1 - keep)

    def config(self) -> dict[str, Any]:
        """Return what `store.save_prior` writes beside the weights."""
        s, device = self.settings, self.accelerator.device
        on_gpu = device.type == "cuda"
        hardware = torch.cuda.get_device_name(device) if on_gpu else "CPU"
        sources = [file.name for file in self.collection.files]
        return {
            "network": self.network.settings,
            "schedule": s.schedule,
            "prediction": s.prediction,
            "sigma_data": s.sigma_data,
            "channels": self.network.settings["channels"] // (2 if s.complex_phase else 1),
            "complex": s.complex_phase,
            "data_range": list(s.data_range),
            "training": {
                **s.decisive(),
                "sources": sources if len(sources) <= 8 else f"{len(sources)} files",
                "millions": parameters_in_millions(self.network),
                "hardware": f"{hardware}, {self.accelerator.num_processes} process(es)",
                "steps_done": self.step,
                "levels": VALIDATION_LEVELS,
                "history": self.history,
            },
        }

    def save_checkpoint(self, path: Path) -> None:
        """Write everything a resumed run needs, atomically."""
        state = {
            "settings": self.settings.decisive(),
            "step": self.step,
            "history": self.history,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load_checkpoint(self, path: Path) -> None:
        """Continue from a checkpoint of the same settings.

        ``steps`` alone may be another, as long as the learning rate has not begun to fall.

        Raises:
            CheckpointError: the file is unreadable or damaged, or was made with other settings.
        """
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
                raise TypeError("not a checkpoint of wellposed train")
        except Exception as error:
            raise CheckpointError(f"checkpoint: cannot read {str(path)!r}: {error}") from error
        try:
            self._check_same_settings(state, path)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.history = state["step"], [tuple(row) for row in state["history"]]
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"checkpoint: {str(path)!r} does not fit: {error}") from error
        if not (finite_state(state["network"]) and finite_state(state["average"])):
            raise CheckpointError(f"checkpoint: weights in {str(path)!r} are not finite")

    def _check_same_settings(self, state: dict[str, Any], path: Path) -> None:
        old, new = state["settings"], self.settings.decisive()
        before_fall = [
            (1 - s["decay"]) * s["steps"] >= state["step"]
            for s in (old, new)
            if {"decay", "steps"} <= s.keys()
        ]
        may_change = {"steps"} if before_fall == [True, True] else set()
        changed = [
            f"{k} ({old.get(k)!r} before, {new[k]!r} now)"
            for k in new
            if old.get(k) != new[k] and k not in may_change
        ]
        if changed:
            raise CheckpointError(
                f"checkpoint: {path} was made with other settings: {', '.join(changed)}; "
                "use those, or another out folder"
            )


def _accelerator(device: str) -> Accelerator:
    """Return accelerate's view of this process; it keeps one device for a process's lifetime.

    Raises:
        DeviceError: neither cpu nor cuda, no CUDA device, or training on another one before.
    """
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        accepted = "cpu, cuda" if torch.cuda.is_available() else "cpu; torch finds no CUDA device"
        raise DeviceError(f"device: got {device!r}, accepted: {accepted}")
    accelerator = Accelerator(cpu=device == "cpu")
    if accelerator.device.type != device:
        raise DeviceError(
            f"device: got {device!r}, but this process has trained on "
            f"{accelerator.device.type}, accepted: one device per process"
        )
    return accelerator
