"""The ``wellposed`` command."""

import os
from typing import Annotated

import typer

from wellposed import __version__
from wellposed.cli import comparison_settings, settings, train_settings, trial_settings
from wellposed.cli.options import add_command

app = typer.Typer(
    help="Imaging inverse problems solved with diffusion priors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"wellposed {__version__}")
        raise typer.Exit


COMMANDS = {
    "list": (settings.List, "listing:list_names"),
    "reconstruct": (settings.Reconstruct, "reconstruct:reconstruct"),
    "calibrate": (trial_settings.Calibrate, "calibrate:calibrate"),
    "restore": (settings.Restore, "restore:restore"),
    "dehaze": (settings.Dehaze, "dehaze:dehaze"),
    "inspect": (settings.Inspect, "inspect:inspect"),
    "validate": (trial_settings.Validate, "validate:validate"),
    "benchmark": (comparison_settings.Benchmark, "compare:benchmark"),
    "compare": (comparison_settings.Compare, "compare:compare"),
    "tune": (comparison_settings.Tune, "tune:tune"),
    "train": (train_settings.Train, "train:train"),
    "train-unrolled": (train_settings.TrainUnrolled, "train_unrolled:train_unrolled"),
    "train-measured": (train_settings.TrainMeasured, "train_measured:train_measured"),
}
"""Options and function of each command; the function is imported late, as it loads torch."""

for _name, (_options, _place) in COMMANDS.items():
    add_command(app, _name, _options, f"wellposed.cli.{_place}")


def main() -> None:
    """Entry point of the console script."""
    # Linux takes as long to hand out large arrays page by page as convolutions take to fill them.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    app()
