"""The ``wellposed`` command."""

from typing import Annotated

import typer

from wellposed import __version__
from wellposed.cli.dehaze import dehaze
from wellposed.cli.inspect import inspect
from wellposed.cli.listing import list_names
from wellposed.cli.options import add_command
from wellposed.cli.reconstruct import reconstruct
from wellposed.cli.restore import restore
from wellposed.cli.train import train, train_restoration
from wellposed.cli.validate import validate

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
    "list": list_names,
    "reconstruct": reconstruct,
    "restore": restore,
    "dehaze": dehaze,
    "inspect": inspect,
    "validate": validate,
    "train": train,
    "train-restoration": train_restoration,
}
for _name, _command in COMMANDS.items():
    add_command(app, _name, _command)


def main() -> None:
    """Entry point of the console script."""
    app()
