"""A training run: network, averaged weights, optimiser, training step and checkpoints."""

import copy
import json
from dataclasses import MISSING
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wellposed.checks import require_integer
from wellposed.datasets.images.image_files import Collection
from wellposed.errors import CheckpointError, DeviceError, require_device, require_package
from wellposed.figures import write_png
from wellposed.integrity import all_finite, checksum
from wellposed.priors.networks.conv_unet import parameters_in_millions
from wellposed.priors.stored.config import Config
from wellposed.priors.stored.registry import shipped
from wellposed.priors.stored.store import Network, load_network, make_network, save_prior
from wellposed.priors.training.batches import Batch, reading_of
from wellposed.priors.training.denoiser import Denoising
from wellposed.priors.training.restorer import Restoring
from wellposed.priors.training.settings import DEFAULT_OF
from wellposed.priors.training.task import Settings, Task
from wellposed.priors.training.unrolled import Unrolling
from wellposed.priors.training.unrolled_settings import UnrolledSettings
from wellposed.writing import replacing

if TYPE_CHECKING:
    from accelerate import Accelerator

DEFAULTS = {
    name: json.loads(json.dumps(default))
    for name, default in DEFAULT_OF.items()
    if default is not MISSING
}
"""Settings of runs that older versions have started."""


def starting_network(source: str) -> Network:
    """Return the network of a prior to start from: shipped, or a folder.

    Raises:
        CheckpointError: no such folder, or a damaged one.
    """
    return load_network(shipped().get(source, Path(source)))[0]


class Trainer:
    """The state of one training run: network, averaged weights, optimiser and step.

    Args:
        settings: the run's settings.
        device: ``cpu`` or ``cuda``. With ``accelerate launch`` or ``torchrun`` every process has
            its own device and its share of each batch.

    Attributes:
        task: the task, with its images.
        model: the prior, or the unrolled network, with the weights being trained.
        averaged: the same with their running average, which is saved.
        history: (step, training loss, held-out loss, the task's curve).
        changes: changed settings of resumed runs: the step, and old and new values.

    Example:
        >>> import numpy as np
        >>> from wellposed.priors.training import Trainer, TrainingSettings
        >>> np.save("images.npy", np.random.rand(8, 16, 16).astype("float32"))
        >>> settings = TrainingSettings(data=("images.npy",), out="my-prior", image_size=(16,))
        >>> trainer = Trainer(settings)
        >>> trainer.step, trainer.averaged.channels
        (0, 1)
    """

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        self.settings = settings
        self.accelerator = _accelerator(device)
        self.step, self.history = 0, list[tuple[float, ...]]()
        self.changes = list[Any]()
        self.collection = Collection(
            settings.data, reading_of(settings), skip_broken=settings.skip_broken
        )
        self.task = _task(settings, self.collection, self.accelerator)
        config = self.task.config()
        with torch.random.fork_rng():  # only initial weights; later draws depend on the step
            torch.manual_seed(settings.seed)
            self.network = make_network(config).to(self.accelerator.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        if settings.init_from is not None:
            self._start_from(settings.init_from)
        called = torch.compile(self.network) if settings.compile else self.network
        called = self.accelerator.prepare(called)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            fused=True,
        )
        self.model, self.averaged = map(self.task.model, (called, self.average))

    def _start_from(self, source: str) -> None:
        """Take the weights of a trained prior.

        Raises:
            CheckpointError: no such folder, damaged, or of another network.
        """
        found = starting_network(source)
        settings, own = found.settings, self.network.settings
        if settings != own:
            raise CheckpointError(
                f"init_from: {source!r} has the network {settings}, accepted: {own}, as set"
            )
        for network in (self.network, self.average):
            network.load_state_dict(found.state_dict())

    def train_step(self, batch: Batch) -> float:
        """Take one optimisation step and return the loss of the whole batch."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.task.loss(self.model, batch)
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

    def validate(self) -> tuple[float, ...]:
        """Return the averaged weights' loss on fixed held-out crops, and the task's curve."""
        return self.task.measure(self.averaged)

    def config(self) -> Config:
        """Return the config that is saved with the weights."""
        s, device = self.settings, self.accelerator.device
        hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        sources = [file.name for file in self.collection.files]
        training = {
            **s.decisive(),
            "loss": s.criterion,
            "sources": sources if len(sources) <= 8 else f"{len(sources)} files",
            "millions": parameters_in_millions(self.network),
            "hardware": f"{hardware}, {self.accelerator.num_processes} process(es)",
            "steps_done": self.step,
            "changes": self.changes,
            "init_from": None if s.init_from is None else Path(s.init_from).name,
            "curve": self.task.curve,
            "history": self.history,
        }
        config = self.task.config()
        return {**config, "network": self.network.settings, "training": training}

    def save(self, folder: Path) -> None:
        """Write the averaged weights, their config and model card, and an autoencoder."""
        save_prior(folder, self.average, self.config(), self.task.autoencoder)

    def draw(self, folder: Path) -> None:
        """Write pictures made with the averaged weights."""
        for name, rows in self.task.pictures(self.averaged).items():
            grid = torch.cat([torch.cat(list(row), -1) for row in rows], -2)
            write_png(grid, folder / f"{name}_{self.step:07d}.png")

    def save_checkpoint(self, path: Path) -> None:
        """Write everything that a resumed run needs, atomically."""
        state = {
            "settings": self.settings.decisive(),
            "changes": self.changes,
            "step": self.step,
            "history": self.history,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing(path, "out") as part:
            try:
                torch.save({**state, "sha256": checksum(state)}, part)
            except RuntimeError as error:  # so torch tells that the disk is full
                raise OSError(str(error)) from error

    def load_checkpoint(self, path: Path) -> None:
        """Continue from a checkpoint of the same settings.

        Only ``batch_size`` may differ, and ``steps`` may be more, or fewer as long as the learning
        rate has not begun to fall; the change is recorded.

        Raises:
            CheckpointError: the file is unreadable or damaged, or was made with other settings.
        """
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            if not isinstance(state, dict) or not isinstance(state.get("settings"), dict):
                raise TypeError("not a checkpoint of wellposed train")
            stored = state.pop("sha256", None)  # older versions stored none
            if stored not in (None, checksum(state)):
                raise ValueError("its checksum is wrong")
            require_integer("step", state["step"], least=0)
        except Exception as error:
            raise CheckpointError(f"checkpoint: cannot read {str(path)!r}: {error}") from error
        if not all_finite({name: state.get(name) for name in ("network", "average", "optimizer")}):
            raise CheckpointError(f"checkpoint: weights in {str(path)!r} are not finite")
        try:
            self._check_same_settings(state, path)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.history = state["step"], [tuple(row) for row in state["history"]]
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"checkpoint: {str(path)!r} does not fit: {error}") from error

    def _check_same_settings(self, state: dict[str, Any], path: Path) -> None:
        # Checkpoints of older versions lack settings that these did not have.
        new = self.settings.decisive()
        old = {k: state["settings"].get(k, DEFAULTS.get(k)) for k in new}
        changed = {k for k in new if old[k] != new[k]}
        before_fall = all((1 - r["decay"]) * r["steps"] >= state["step"] for r in (old, new))
        longer = before_fall or new["steps"] > old["steps"]
        refused = changed - {"batch_size", "steps" if longer else ""}
        if refused:
            named = [f"{k} ({old[k]!r} before, {new[k]!r} now)" for k in new if k in refused]
            raise CheckpointError(
                f"checkpoint: {path} was made with other settings: {', '.join(named)}; "
                "use these, or another out folder"
            )
        if before_fall:  # it will be as if it had been so all along
            changed -= {"steps"}
        values = {k: [old[k], new[k]] for k in sorted(changed)}
        self.changes = [*state.get("changes", []), *([[state["step"], values]] if values else [])]


def _task(settings: Settings, collection: Collection, accelerator: "Accelerator") -> Task[Any]:
    """Return the task of a run."""
    if isinstance(settings, UnrolledSettings):
        return Unrolling(settings, collection, accelerator)
    kind = Denoising if settings.process is None else Restoring
    return kind(settings, collection, accelerator)


def _accelerator(device: str) -> "Accelerator":
    """Return the accelerator of this process, which has one device during its lifetime.

    Raises:
        DeviceError: neither cpu nor cuda, no CUDA device, or another device than before.
        MissingPackageError: accelerate is not installed.
    """
    require_package("accelerate", "train", "training")
    from accelerate import Accelerator

    require_device("device", device)
    accelerator = Accelerator(cpu=device == "cpu")
    if accelerator.device.type != device:
        raise DeviceError(
            f"device: got {device!r}, but this process has trained on "
            f"{accelerator.device.type}, accepted: one device per process"
        )
    return accelerator
