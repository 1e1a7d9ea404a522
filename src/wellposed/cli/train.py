"""``wellposed train``."""

import logging
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
import typer
from rich import progress
from rich.console import Console

from wellposed.checks import require_integer
from wellposed.cli.train_settings import Train
from wellposed.priors import training
from wellposed.priors.training import TrainingSettings
from wellposed.priors.training.task import Settings


def train(o: Train) -> None:
    """Train with a progress bar and print the folder."""
    settings = TrainingSettings(**{f.name: getattr(o, f.name) for f in fields(TrainingSettings)})
    folder = run_training(settings, o.device, o.threads)
    if folder is not None:
        typer.echo(f"wrote the prior to {folder}; use it with --prior {folder}")


def run_training(settings: Settings, device: str, threads: int) -> Path | None:
    """Train with a progress bar and return the folder, in the first of several processes."""
    most = os.cpu_count() or 1
    require_integer("--threads", threads, 0, most)
    if threads > 0:
        torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if int(os.environ.get("RANK", "0")) > 0:  # only process 0 shows progress
        training.train(settings, device)
        return None
    return _with_progress(lambda report: training.train(settings, device, report), settings.steps)


def _with_progress(run: Callable[[Callable[[int, float], None]], Path], total: int) -> Path:
    """Call ``run`` with a progress callback that draws a bar on stderr."""
    with progress.Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)

        def report(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.4f}")

        return run(report)
