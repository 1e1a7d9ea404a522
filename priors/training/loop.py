"""The training loop: steps, checkpoints, records and pictures."""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wellposed.errors import FileError, require
from wellposed.integrity import locked
from wellposed.priors.training.task import Settings
from wellposed.priors.training.trainer import Trainer
from wellposed.writing import write_csv

_log = logging.getLogger(__name__)


def train(
    settings: Settings,
    device: str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Path:
    """Train a prior or an unrolled network; return the folder.

    An unfinished run in ``settings.out`` is continued.

    Args:
        settings: the run's settings.
        device: ``cpu`` or ``cuda``, see `Trainer`.
        progress: called as ``progress(step, loss)`` after every step with the running mean of
            the loss.

    Raises:
        CheckpointError: another run uses the folder, or what it holds is of other settings or
            damaged.
        FileError: the folder cannot be written.

    Example:
        >>> from wellposed.priors.training import TrainingSettings, train
        >>> settings = TrainingSettings(data=("photos",), out="my-prior", steps=20000)
        >>> folder = train(settings, device="cuda")  # GPU # doctest: +SKIP
    """
    out = Path(settings.out)
    if out.exists() and not out.is_dir():
        raise FileError(f"out: {str(out)!r} is a file, accepted: a folder")
    trainer = Trainer(settings, device)
    # Of several processes the first holds the folder for all.
    with locked(out, "out") if trainer.accelerator.is_main_process else nullcontext():
        _run(trainer, out, progress)
    return out


def _run(trainer: Trainer, out: Path, progress: Callable[[int, float], None] | None) -> None:
    settings = trainer.settings
    checkpoint = out / "checkpoint.pt"
    _on_first_process(trainer, lambda: (out / "images").mkdir(parents=True, exist_ok=True))
    if checkpoint.exists():
        trainer.load_checkpoint(checkpoint)
        _tell(trainer, "resumed at step %d", trainer.step)
    # Checkpoints are written together with a row of the history, which has the running mean.
    mean = trainer.history[-1][1] if trainer.history else float("nan")
    started, first = time.monotonic(), trainer.step
    for batch in _batches(trainer):
        loss = trainer.train_step(batch)
        mean = loss if np.isnan(mean) else 0.99 * mean + 0.01 * loss
        require(np.isfinite(loss), "loss", loss, "a finite value; reduce the learning rate")
        if progress is not None:
            progress(trainer.step, mean)
        last = trainer.step == settings.steps
        if last or trainer.step % settings.save_every == 0:
            trainer.history.append((trainer.step, mean, *trainer.validate()))
            seconds = (time.monotonic() - started) / (trainer.step - first)
            _tell(trainer, "step %d loss %.5f held-out %.5f", *trainer.history[-1][:3])
            _tell(trainer, "%.2f s/step", seconds)
            _on_first_process(trainer, lambda: trainer.save_checkpoint(checkpoint))
        if not last and trainer.step % settings.image_every == 0:
            _on_first_process(trainer, lambda: export(trainer, out))
    _on_first_process(trainer, lambda: export(trainer, out))


def _batches(trainer: Trainer) -> Iterable[tuple[Tensor, ...]]:
    """Return the batches of the steps to come, prepared by workers if there are any."""
    settings = trainer.settings
    return DataLoader(
        trainer.task.batches,
        batch_size=None,
        sampler=range(trainer.step, settings.steps),
        num_workers=settings.workers,
        pin_memory=trainer.accelerator.device.type == "cuda",
        # Without its own generator the loader would use the global one.
        generator=torch.Generator(),
    )


def _tell(trainer: Trainer, text: str, *values: float) -> None:
    """Write a line to the log of the first process."""
    if trainer.accelerator.is_main_process:
        _log.info(text, *values)


def _on_first_process(trainer: Trainer, write: Callable[[], None]) -> None:
    if trainer.accelerator.is_main_process:
        write()
    trainer.accelerator.wait_for_everyone()


def export(trainer: Trainer, out: Path) -> None:
    """Write the averaged weights, their config and model card, the loss curve and pictures."""
    trainer.save(out)
    heads = ("step", "loss", "held_out_loss", *trainer.task.curve)
    write_csv(out / "loss.csv", [heads, *trainer.history], "out")
    trainer.draw(out / "images")
