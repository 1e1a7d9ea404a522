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


def train(o: Train) -> None:
    """Train with a progress bar and print the folder; of several processes only the first does."""
    settings = TrainingSettings(**{f.name: getattr(o, f.name) for f in fields(TrainingSettings)})
    most = os.cpu_count() or 1
    require_integer("--threads", o.threads, 0, most)
    if o.threads > 0:
        torch.set_num_threads(o.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if int(os.environ.get("RANK", "0")) > 0:  # only process 0 shows progress
        training.train(settings, o.device)
        return
    folder = _with_progress(lambda report: training.train(settings, o.device, report), o.steps)
    typer.echo(f"wrote the prior to {folder}; use it with --prior {folder}")


def _with_progress(run: Callable[[Callable[[int, float], None]], Path], total: int) -> Path:
    """Call ``run`` with a progress callback that draws a bar on stderr."""
    with progress.Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)

        def report(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.4f}")

        return run(report)
