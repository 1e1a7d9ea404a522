"""Train a diffusion prior on images of one's own (`wellposed train`).

The data are drawn by step number, so a run that was killed and started again sees the batches it
would have seen, and ends with the same weights.
"""

import csv
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.datasets.crops import Crops, load_volumes, split
from wellposed.errors import CheckpointError, DeviceError, require, require_choice
from wellposed.priors.networks import UnshuffledUNet, finite_state, parameters_in_millions
from wellposed.priors.prediction import training_target
from wellposed.priors.schedule import Tabulated
from wellposed.priors.store import save_prior

logger = logging.getLogger(__name__)

TRAINABLE = ("noise", "sample", "velocity")

VALIDATION_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that decides the weights; saved beside them.

    Args:
        data: image files, folders of images, or volumes.
        out: folder for weights, checkpoint, loss curve and pictures.
        name: the prior's name, for its model card.
        licence: licence of the data, for the model card.
        image_size: side of the training crops.
        axes: axes of volumes that slices are taken across.
        complex_phase: train on complex images (magnitudes with random smooth phase).
        percentile: intensity percentile mapped to 1; ``None`` keeps stored values.
        data_range: public values mapped to [-1, 1] in the network.
        zoom, gain, foreground: augmentation, see `Crops`.
        widths, layers: the network, see `UnshuffledUNet`.
        prediction: what the network predicts: noise, sample or velocity.
        steps, batch_size, learning_rate, warmup, ema, clip: optimisation (AdamW, cosine decay).
        held_out: fraction of the data kept for validation.
        seed: decides initial weights, crops and noise.
        bf16: autocast the forward pass to bfloat16.
        save_every, image_every: steps between checkpoints and between pictures.
    """

    data: tuple[str, ...]
    out: str
    name: str = "my-prior"
    licence: str = "unknown"
    image_size: int = 64
    axes: tuple[int, ...] = (0,)
    complex_phase: bool = False
    percentile: float | None = None
    data_range: tuple[float, float] = (0.0, 1.0)
    zoom: tuple[float, float] = (1.0, 1.0)
    gain: tuple[float, float] = (1.0, 1.0)
    foreground: float = 0.0
    widths: tuple[int, ...] = (64, 128, 192)
    layers: int = 1
    prediction: str = "noise"
    steps: int = 20_000
    batch_size: int = 16
    learning_rate: float = 3e-4
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    held_out: float = 0.05
    seed: int = 0
    bf16: bool = False
    save_every: int = 500
    image_every: int = 2000

    def __post_init__(self) -> None:
        require_choice("prediction", self.prediction, TRAINABLE)
        for name in ("steps", "batch_size", "layers", "save_every", "image_every"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        size = self.image_size
        require(size >= 8 and size % 8 == 0, "image_size", size, "a positive multiple of 8")
        groups = len(self.widths) > 0 and all(w > 0 and w % 16 == 0 for w in self.widths)
        require(groups, "widths", self.widths, "positive multiples of 16")
        axes = len(self.axes) > 0 and set(self.axes) <= {0, 1, 2}
        require(axes, "axes", self.axes, "some of 0, 1, 2")
        rate = 0 < self.learning_rate < np.inf
        require(rate, "learning_rate", self.learning_rate, "a positive number")
        require(0 <= self.ema < 1, "ema", self.ema, "0 <= ema < 1")
        require(0 < self.held_out < 0.5, "held_out", self.held_out, "between 0 and 0.5")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        percentile = self.percentile is None or 0 < self.percentile <= 100
        require(percentile, "percentile", self.percentile, "None or 0 < percentile <= 100")
        for name in ("zoom", "gain"):
            low, high = getattr(self, name)
            require(0 < low <= high < np.inf, name, (low, high), "0 < low <= high")
        low, high = self.data_range
        require(low < high, "data_range", self.data_range, "(low, high) with low < high")
        centred = not self.complex_phase or low == -high
        require(centred, "data_range", self.data_range, "symmetric, as (-1, 1), if complex")

    def decisive(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share with its checkpoint."""
        free = ("data", "out", "save_every", "image_every")
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k not in free}))


@dataclass
class Trainer:
    """The state of one training run: network, averaged weights, optimiser and step."""

    settings: TrainingSettings
    schedule: Tabulated = field(default_factory=Tabulated.linear)
    step: int = 0
    history: list[tuple[int, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        s = self.settings
        volumes, self.sources = load_volumes(s.data, s.percentile)
        train, held = split(volumes, s.held_out)
        common: dict[str, Any] = dict(
            size=s.image_size, axes=s.axes, complex_phase=s.complex_phase, foreground=s.foreground
        )
        self.crops = Crops(train, zoom=s.zoom, gain=s.gain, **common)
        # A held-out slab is thin, so it is cut only across the axis it was held out along.
        self.held_crops = Crops(held, **{**common, "axes": (0,)})
        with torch.random.fork_rng():  # initial weights only; everything later is drawn by step
            torch.manual_seed(s.seed)
            self.network = UnshuffledUNet(self.crops.channels, s.widths, s.layers)
            self.average = UnshuffledUNet(self.crops.channels, s.widths, s.layers)
        self.average.load_state_dict(self.network.state_dict())
        self.average.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=s.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )

    def to(self, device: str) -> "Trainer":
        """Move the run to a device."""
        try:
            self.network.to(device)
            self.average.to(device)
        except (RuntimeError, AssertionError) as error:
            raise DeviceError(f"device: got {device!r}, which torch refuses: {error}") from error
        return self

    def train_step(self) -> float:
        """Take one optimisation step and return its loss."""
        s, device = self.settings, next(self.network.parameters()).device
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * self._decay()
        x0 = self.to_units(self.crops.batch(s.batch_size, s.seed, self.step)).to(device)
        rng = np.random.default_rng((s.seed, self.step, 1))
        t = torch.from_numpy(rng.integers(1, int(self.schedule.T) + 1, s.batch_size))
        loss = self.loss(self.network, x0, t.to(device), rng)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), s.clip)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        return float(loss.detach())

    def loss(self, network: nn.Module, x0: Tensor, t: Tensor, rng: np.random.Generator) -> Tensor:
        """Mean squared error of the prediction at times ``t``."""
        alpha, sigma = (v.to(x0.dtype).view(-1, 1, 1, 1) for v in self.schedule(t))
        eps = torch.from_numpy(rng.standard_normal(tuple(x0.shape), np.float32)).to(x0.device)
        x_t = alpha * x0 + sigma * eps
        with torch.autocast(x0.device.type, torch.bfloat16, enabled=self.settings.bf16):
            predicted = network(x_t, t - 1)
        target = training_target(self.settings.prediction, x0, eps, alpha, sigma)
        return (predicted.float() - target).square().mean()

    def to_units(self, x: Tensor) -> Tensor:
        """Map public values to the network's [-1, 1]; complex images keep their zero."""
        low, high = self.settings.data_range
        return 2 * (x - low) / (high - low) - 1

    @torch.no_grad()
    def validate(self, count: int = 64) -> float:
        """Return the averaged network's loss on fixed held-out crops and times."""
        device = next(self.average.parameters()).device
        rng = np.random.default_rng((self.settings.seed, 2))
        x0 = self.to_units(self.held_crops.batch(count, self.settings.seed, 0)).to(device)
        t = torch.linspace(1, self.schedule.T, count).round().long().to(device)
        return float(self.loss(self.average, x0, t, rng))

    def _decay(self) -> float:
        s = self.settings
        ramp = min(1.0, (self.step + 1) / max(1, s.warmup))
        return ramp * 0.5 * (1 + float(np.cos(np.pi * min(1.0, self.step / s.steps))))

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for kept, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
            kept.lerp_(new, 1 - keep)

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

        Raises:
            CheckpointError: the file is unreadable or damaged, or was made with other settings.
        """
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            if not isinstance(state, dict) or "settings" not in state:
                raise TypeError("not a checkpoint of wellposed train")
        except Exception as error:
            raise CheckpointError(f"checkpoint: cannot read {str(path)!r}: {error}") from error
        old, new = state["settings"], self.settings.decisive()
        changed = [
            f"{k} ({old.get(k)!r} before, {new[k]!r} now)" for k in new if old.get(k) != new[k]
        ]
        if changed:
            raise CheckpointError(
                f"checkpoint: {path} was made with other settings: {', '.join(changed)}; "
                "use those, or another out folder"
            )
        try:
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.history = state["step"], [tuple(row) for row in state["history"]]
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"checkpoint: {str(path)!r} does not fit: {error}") from error
        if not (finite_state(state["network"]) and finite_state(state["average"])):
            raise CheckpointError(f"checkpoint: weights in {str(path)!r} are not finite")


def train(
    settings: TrainingSettings,
    device: str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Path:
    """Train a prior, or continue an unfinished run in ``settings.out``; return the folder.

    ``progress(step, loss)`` is called after every step with the running mean of the loss.
    """
    out = Path(settings.out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    trainer, checkpoint = Trainer(settings).to(device), out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load_checkpoint(checkpoint)
        logger.info("resumed at step %d", trainer.step)
    millions = parameters_in_millions(trainer.network)
    logger.info("%.1f M parameters, %s", millions, ", ".join(trainer.sources))
    # A checkpoint is written with a row of the history, which holds the running mean.
    mean = trainer.history[-1][1] if trainer.history else float("nan")
    started, first = time.monotonic(), trainer.step
    while trainer.step < settings.steps:
        loss = trainer.train_step()
        mean = loss if np.isnan(mean) else 0.99 * mean + 0.01 * loss
        require(np.isfinite(loss), "loss", loss, "a finite value; lower the learning rate")
        if progress is not None:
            progress(trainer.step, mean)
        if trainer.step % settings.save_every == 0 or trainer.step == settings.steps:
            trainer.history.append((trainer.step, mean, trainer.validate()))
            trainer.save_checkpoint(checkpoint)
            seconds = (time.monotonic() - started) / (trainer.step - first)
            logger.info(
                "step %d loss %.5f held-out %.5f %.2f s/step", *trainer.history[-1], seconds
            )
        if trainer.step % settings.image_every == 0 or trainer.step == settings.steps:
            write_denoising_grid(trainer, out / "images" / f"step_{trainer.step:07d}.png")
            export(trainer, out)
    export(trainer, out)
    return out


def export(trainer: Trainer, out: Path) -> None:
    """Write the averaged weights, their config and model card, and the loss curve."""
    s = trainer.settings
    config = {
        "network": {"kind": "UnshuffledUNet", **trainer.average.settings},
        "schedule": {"kind": "linear", "T": int(trainer.schedule.T)},
        "prediction": s.prediction,
        "complex": s.complex_phase,
        "data_range": list(s.data_range),
        "training": {
            **s.decisive(),
            "sources": trainer.sources if len(trainer.sources) <= 8 else len(trainer.sources),
            "steps_done": trainer.step,
            "history": trainer.history,
        },
    }
    save_prior(out, trainer.average, config)
    with open(out / "loss.csv", "w", newline="") as file:
        csv.writer(file).writerows([("step", "loss", "held_out_loss"), *trainer.history])


@torch.no_grad()
def write_denoising_grid(trainer: Trainer, path: Path, count: int = 6) -> None:
    """Write a picture: clean held-out crops, and pairs of noisy and denoised ones per level."""
    from PIL import Image

    from wellposed.priors.prediction import to_sample

    device = next(trainer.average.parameters()).device
    x0 = trainer.to_units(trainer.held_crops.batch(count, trainer.settings.seed, 1)).to(device)
    rng, rows = np.random.default_rng(3), [x0]
    for level in VALIDATION_LEVELS:
        t = trainer.schedule.time_at(level).round().clamp(min=1)
        alpha, sigma = (float(v) for v in trainer.schedule(t))
        eps = torch.from_numpy(rng.standard_normal(tuple(x0.shape), np.float32)).to(device)
        x_t = alpha * x0 + sigma * eps
        predicted = trainer.average(x_t, (t - 1).long().expand(count).to(device))
        clean = to_sample(trainer.settings.prediction, predicted, x_t, alpha, sigma)
        rows += [x_t / alpha, clean]
    grid = torch.cat([torch.cat(list(row), -1) for row in rows], -2).cpu()
    if trainer.settings.complex_phase:
        pixels = grid.square().sum(0).sqrt()
    else:
        pixels = (grid.mean(0) + 1) / 2
    Image.fromarray((pixels.clamp(0, 1) * 255).byte().numpy()).save(path)
