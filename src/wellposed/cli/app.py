"""The ``wellposed`` command."""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from wellposed import __version__
from wellposed.cli.dehaze import dehaze
from wellposed.cli.inspect import inspect
from wellposed.cli.options import solver_classes
from wellposed.cli.reconstruct import reconstruct
from wellposed.cli.restore import restore_files
from wellposed.cli.validate import validate
from wellposed.errors import ArgumentError, WellposedError
from wellposed.priors.training.settings import TrainingSettings

app = typer.Typer(
    help="Imaging inverse problems solved with diffusion priors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
Command = TypeVar("Command", bound=Callable[..., None])


def _fail_clearly(command: Command) -> Command:
    """Turn the package's errors into one line on stderr and exit code 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except WellposedError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None

    return wrapped  # type: ignore[return-value]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"wellposed {__version__}")
        raise typer.Exit


@app.command("list")
def list_() -> None:
    """List operators, solvers and priors, one line each."""
    from wellposed.operators.presets import OPERATORS
    from wellposed.priors.stored.registry import available
    from wellposed.solvers.base import describe

    sections = {
        "operators": {name: line for name, (line, _) in OPERATORS.items()},
        "solvers": {name: describe(cls) for name, cls in solver_classes().items()},
        "priors": available() or {"(none shipped)": "train one with wellposed train"},
    }
    for title, lines in sections.items():
        typer.echo(title)
        for name, line in lines.items():
            typer.echo(f"  {name:18s} {line}")


app.command()(_fail_clearly(reconstruct))
app.command()(_fail_clearly(dehaze))
app.command()(_fail_clearly(inspect))


def _with_options_of(settings: type) -> Callable[[Command], Command]:
    """Give a command that takes ``**settings`` one option per field of a settings dataclass.

    Tuples of any length are spelled ``1,2,3``.
    """

    def decorate(command: Command) -> Command:
        own = [p for p in signature(command).parameters.values() if p.kind != p.VAR_KEYWORD]
        parameters = [_option(f) for f in dataclasses.fields(settings)] + own
        annotations = {p.name: p.annotation for p in parameters}
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {**annotations, "return": None}
        return command

    return decorate


def _option(field: "dataclasses.Field[Any]") -> Parameter:
    """Return a settings field as a parameter with a Typer option."""
    kind, default = field.type, field.default
    if kind == tuple[str, ...]:
        kind = list[str]
    elif kind == tuple[int, ...]:
        kind, default = str, ",".join(map(str, default))  # type: ignore[arg-type]
    missing = default is dataclasses.MISSING
    return Parameter(
        field.name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if missing else default,
        annotation=Annotated[kind, typer.Option(help=field.metadata["help"])],
    )


def _settings_from(settings: type, options: dict[str, Any]) -> Any:
    """Return a settings dataclass filled with the values of its options."""
    for field in dataclasses.fields(settings):
        if field.type == tuple[int, ...]:
            name = f"--{field.name.replace('_', '-')}"
            options[field.name] = _integers(name, options[field.name])
        elif field.type == tuple[str, ...]:
            options[field.name] = tuple(options[field.name])
    return settings(**options)


@app.command()
@_fail_clearly
@_with_options_of(TrainingSettings)
def train(
    *,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: torch's choice.")] = 0,
    **options: Any,
) -> None:
    """Train a prior on images of your own; run again to continue after a kill.

    With --process it is a restorer: images are degraded as they are needed, or come in pairs
    (--degradation pairs).

    On several GPUs: torchrun --nproc-per-node 4 -m wellposed train ... (or accelerate launch).
    """
    from wellposed.priors.training import train as run

    folder = _run_training(run, _settings_from(TrainingSettings, options), device, threads)
    if folder is not None:
        option = "--prior" if options["process"] is None else "--model"
        typer.echo(f"wrote the prior to {folder}; use it with {option} {folder}")


def _run_training(
    run: Callable[..., Path], settings: Any, device: str, threads: int
) -> Path | None:
    """Train with a progress bar; return the folder, or None in all processes but the first."""
    import torch

    if threads > 0:
        torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if int(os.environ.get("RANK", "0")) > 0:  # one of several processes draws and reports
        run(settings, device)
        return None
    return _with_progress(lambda report: run(settings, device, report), settings.steps)


def _integers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"{option}: got {text!r}, accepted: integers like 64,128") from None


def _with_progress(run: Callable[[Callable[[int, float], None]], Path], total: int) -> Path:
    """Call ``run`` with a progress callback that draws a bar on stderr."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)

        def report(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.4f}")

        return run(report)


app.command("restore")(_fail_clearly(restore_files))
app.command()(_fail_clearly(validate))


def main() -> None:
    """Entry point of the console script."""
    app()
