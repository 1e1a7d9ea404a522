"""``wellposed train`` and ``wellposed train-restoration``."""

import logging
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import torch
import typer
from rich import progress
from rich.console import Console

from wellposed.cli.settings import Train, TrainRestoration
from wellposed.priors import training
from wellposed.priors.training.restoration import train_restoration as train_restorer
from wellposed.priors.training.restoration_settings import RestorationSettings
from wellposed.priors.training.settings import RunSettings, TrainingSettings

Settings = TypeVar("Settings", bound=RunSettings)
Progress = Callable[[int, float], None]


def train(o: Train) -> None:
    """Train a prior, or continue."""
    settings = _only(TrainingSettings, o)
    _follow(o, lambda report: training.train(settings, o.device, report), "prior")


def train_restoration(o: TrainRestoration) -> None:
    """Train a restorer, or continue."""
    settings = _only(RestorationSettings, o)
    _follow(o, lambda report: train_restorer(settings, o.device, report), "restorer")


def _only(cls: type[Settings], o: object) -> Settings:
    """Return the settings among the options, which tell of the weights."""
    return cls(**{each.name: getattr(o, each.name) for each in fields(cls)})


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
    folder = _with_progress(run, o.steps)
    typer.echo(f"wrote the {what} to {folder}; use it with --prior {folder}")


def _with_progress(run: Callable[[Progress | None], Path], total: int) -> Path:
    """Call ``run`` with a progress callback that draws a bar on stderr."""
    with progress.Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)

        def report(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.4f}")

        return run(report)
