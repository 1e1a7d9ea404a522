"""``wellposed train`` and ``wellposed train-restoration``."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
import typer
from rich import progress
from rich.console import Console

from wellposed.cli.settings import Train, TrainRestoration
from wellposed.priors import training
from wellposed.priors.training.restoration import train_restoration as train_restorer

Progress = Callable[[int, float], None]


def train(o: Train) -> None:
    """Train a prior, or continue."""
    _follow(o, lambda report: training.train(o.settings, o.run.device, report), "prior")


def train_restoration(o: TrainRestoration) -> None:
    """Train a restorer, or continue."""
    _follow(o, lambda report: train_restorer(o.settings, o.run.device, report), "restorer")


def _follow(
    o: Train | TrainRestoration, run: Callable[[Progress | None], Path], what: str
) -> None:
    """Train with a progress bar and tell of the folder, in the first of several processes."""
    if o.threads > 0:
        torch.set_num_threads(o.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if int(os.environ.get("RANK", "0")) > 0:  # one of several processes draws and reports
        run(None)
        return
    folder = _with_progress(run, o.settings.steps)
    typer.echo(f"wrote the {what} to {folder}; use it with --prior {folder}")


def _with_progress(run: Callable[[Progress | None], Path], total: int) -> Path:
    """Call ``run`` with a progress callback that draws a bar on stderr."""
    with progress.Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)

        def report(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.4f}")

        return run(report)
