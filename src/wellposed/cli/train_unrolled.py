"""``wellposed train-unrolled``."""

from dataclasses import fields

import typer

from wellposed.cli.train import run_training
from wellposed.cli.train_settings import TrainUnrolled
from wellposed.priors.training.unrolled_settings import UnrolledSettings


def train_unrolled(o: TrainUnrolled) -> None:
    """Train with a progress bar and print the folder."""
    own = {f.name: getattr(o, f.name) for f in fields(UnrolledSettings)}
    folder = run_training(UnrolledSettings(**own), o.device, o.threads)
    if folder is not None:
        use = f"--solver unrolled --set weights={folder}"
        typer.echo(f"wrote the network to {folder}; use it with {use}")
