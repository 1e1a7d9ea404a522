"""How commands end that could not be done: one line on stderr, and an exit code."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from wellposed.errors import WellposedError

BAD_INPUT, INTERRUPTED = 2, 130

SLABS = "slabs/progress.json"
"""Record of a volume that is not complete, see `SlabFolder`."""

LONGEST = 400
"""Characters of one word, as a path, that are told whole."""


@contextmanager
def told(options: object) -> Iterator[None]:
    """End with one line where the input is bad, the system refuses, or somebody interrupts.

    Warnings are one line each, too.

    Args:
        options: of the command; they name what it writes to.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show
            yield
    except (WellposedError, OSError, MemoryError, RecursionError) as error:
        refuse(str(error) or type(error).__name__)
    except KeyboardInterrupt:
        typer.echo(f"interrupted: {kept(options)}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def refuse(reason: str) -> NoReturn:
    """End the command with one line, as its input is bad."""
    words = (word if len(word) < LONGEST else word[:80] + "..." for word in reason.split())
    typer.echo(f"error: {' '.join(words)}", err=True)
    raise typer.Exit(BAD_INPUT) from None


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning for users as one line, one for developers as Python does."""
    told = issubclass(category, UserWarning)
    text = warnings.formatwarning(message, category, filename, lineno, line)
    typer.echo(f"warning: {message}" if told else text.rstrip(), err=True)


def kept(options: object) -> str:
    """Return what an interrupted command leaves, and how to go on."""
    out, folder = getattr(options, "out", None), getattr(options, "checkpoint", None)
    if folder is not None and _holds(folder, "run.json"):
        return f"the state of the run is in {folder}; the same command goes on from there"
    if out is not None and _holds(out, "checkpoint.pt"):
        return f"the run is kept in {out} as last saved; the same command goes on from there"
    if out is not None and _holds(out, f"**/{SLABS}"):
        return f"finished slabs are kept in {out}; the same command goes on from there"
    left = f"what was finished is in {out}; " if out is not None and _holds(out, "*") else ""
    more = ", with --checkpoint FOLDER it could go on" if hasattr(options, "checkpoint") else ""
    return f"{left or 'nothing was written; '}the same command begins again{more}"


def _holds(folder: Path, pattern: str) -> bool:
    try:
        return any(Path(folder).glob(pattern))
    except OSError:
        return False
