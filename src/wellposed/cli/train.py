"""``wellposed train`` and ``wellposed train-restoration``."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from wellposed.cli.options import Only
from wellposed.cli.settings import RunOptions
from wellposed.priors.training.restoration_settings import RestorationSettings
from wellposed.priors.training.settings import RunSettings, TrainingSettings

Settings = TypeVar("Settings", bound=RunSettings)
Training = Callable[[Settings, str, Callable[[int, float], None] | None], Path]
Threads = Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")]
Device = Annotated[RunOptions, Only(("device",))]


def train(settings: TrainingSettings, where: Device, threads: Threads = 0) -> None:
    """Train a prior on images of your own; run again to continue after a kill.

    On several GPUs: torchrun --nproc-per-node 4 -m wellposed train ... (or accelerate launch).
    """
    from wellposed.priors.training import train as run

    _train(run, settings, where.device, threads, "prior")


def train_restoration(settings: RestorationSettings, where: Device, threads: Threads = 0) -> None:
    """Train a restorer on images of your own; run again to continue after a kill.

    Images are degraded as they are needed, or come in pairs (--degradation pairs).
    """
    from wellposed.priors.training.restoration import train_restoration as run

    _train(run, settings, where.device, threads, "restorer")


def _train(
    run: Training[Settings], settings: Settings, device: str, threads: int, what: str
) -> None:
    """Train with a progress bar and tell of the folder, in the first of several processes."""
    import torch

    if threads > 0:
        torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if int(os.environ.get("RANK", "0")) > 0:  # one of several processes draws and reports
        run(settings, device, None)
        return
    folder = _with_progress(lambda report: run(settings, device, report), settings.steps)
    typer.echo(f"wrote the {what} to {folder}; use it with --prior {folder}")


def _with_progress(run: Callable[[Callable[[int, float], None]], Path], total: int) -> Path:
    """Call ``run`` with a progress callback that draws a bar on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)

        def report(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.4f}")

        return run(report)
