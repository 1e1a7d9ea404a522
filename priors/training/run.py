"""A training run: network, averaged weights, optimiser, its one step, and checkpoints of it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from wellposed.datasets.images.image_files import Collection, Reading
from wellposed.errors import CheckpointError, DeviceError, require_device
from wellposed.priors.checkpoints.state import finite_state


class Run(ABC):
    """The state of one training run: network, averaged weights, optimiser and step.

    What is learnt, and of what, is told by `Trainer` and `RestorationTrainer`.

    Args:
        settings: the run's settings.
        device: ``cpu`` or ``cuda``. Started by ``accelerate launch`` or ``torchrun``, every
            process takes its device and its share of each batch.

    Attributes:
        prior: the prior with the weights being trained.
        averaged: the prior with their running average, which is what is saved.
        batches: the batch of every step.
        curve: what `validate` returns besides the held-out loss, by name.
        history: (step, training loss, held-out loss, the curve).
    """

    batches: Dataset[tuple[Tensor, ...]]
    curve: tuple[str, ...]
    prior: Any
    averaged: Any

    def __init__(self, settings: Any, device: str) -> None:
        self.settings = settings
        self.accelerator = _accelerator(device)
        self.step, self.history = 0, list[tuple[float, ...]]()
        reading = {k: getattr(settings, k) for k in Reading.__dataclass_fields__}
        self.collection = Collection(settings.data, Reading(**reading))

    def start(self, network: Callable[[], nn.Module]) -> nn.Module:
        """Make the network, its average and the optimiser; return it as the steps call it."""
        s = self.settings
        with torch.random.fork_rng():  # initial weights only; everything later is drawn by step
            torch.manual_seed(s.seed)
            self.network: Any = network()
        self.network.to(self.accelerator.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        called = torch.compile(self.network) if s.compile else self.network
        prepared: nn.Module = self.accelerator.prepare(called)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=s.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        return prepared

    @abstractmethod
    def loss(self, prior: Any, batch: Any) -> Tensor:
        """Return the loss of a batch."""

    @abstractmethod
    def validate(self) -> tuple[float, ...]:
        """Return the averaged weights' loss on fixed held-out crops, and the curve."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the averaged weights, their config and model card."""

    @abstractmethod
    def draw(self, folder: Path) -> None:
        """Write pictures of what the averaged weights do."""

    def train_step(self, batch: Any) -> float:
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

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        kept: list[Tensor] = [*self.average.parameters()]
        torch._foreach_lerp_(kept, [*self.network.parameters()], 1 - keep)

    def facts(self, millions: float) -> dict[str, Any]:
        """Return what a config tells of the training."""
        device = self.accelerator.device
        on_gpu = device.type == "cuda"
        hardware = torch.cuda.get_device_name(device) if on_gpu else "CPU"
        sources = [file.name for file in self.collection.files]
        return {
            **self.settings.decisive(),
            "sources": sources if len(sources) <= 8 else f"{len(sources)} files",
            "millions": millions,
            "hardware": f"{hardware}, {self.accelerator.num_processes} process(es)",
            "steps_done": self.step,
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
    require_device("device", device)
    accelerator = Accelerator(cpu=device == "cpu")
    if accelerator.device.type != device:
        raise DeviceError(
            f"device: got {device!r}, but this process has trained on "
            f"{accelerator.device.type}, accepted: one device per process"
        )
    return accelerator
