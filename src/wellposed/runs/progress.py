"""Progress and remaining time: on a terminal, in a notebook, or as occasional lines in the log."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TypeVar

Item = TypeVar("Item")

LOG_EVERY = 60.0
"""Seconds between lines in the log, without a terminal."""

_log = logging.getLogger(__name__)


def track(items: Sequence[Item], label: str, done: int = 0) -> Iterator[Item]:
    """Yield the steps of a run and report steps done, seconds per step and remaining time.

    On a terminal (stderr) a bar shows them and disappears at the end, if rich is installed;
    without rich, and in a notebook, a line does. Otherwise, e.g. in batch jobs, they are written
    to the log (level INFO), at most once a minute.

    Args:
        items: the remaining steps.
        label: name of the run.
        done: steps that an earlier run has done.
    """
    if sys.stderr.isatty() and find_spec("rich"):
        yield from _with_bar(items, label, done)
    elif sys.stderr.isatty() or in_notebook():
        yield from _with_line(items, label, done)
    else:
        yield from _with_log(items, label, done)


def in_notebook() -> bool:
    """Tell whether a notebook's kernel runs this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _with_line(items: Sequence[Item], label: str, done: int) -> Iterator[Item]:
    """Write one line on stderr again and again, twice a second at most."""
    started, told, total = time.perf_counter(), 0.0, done + len(items)
    for number, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        if now - told >= 0.5 or number == len(items):
            told, pace = now, (now - started) / number
            left = duration(pace * (len(items) - number))
            text = f"{label}: step {done + number} of {total}, {pace:.3g} s/step, {left} left"
            sys.stderr.write(f"\r{text:<78}")
            sys.stderr.flush()
    sys.stderr.write("\n" if items else "")


def _with_bar(items: Sequence[Item], label: str, done: int) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=done + len(items), completed=done, pace="")
        started = time.perf_counter()
        for number, item in enumerate(items, 1):
            yield item
            pace = (time.perf_counter() - started) / number
            bar.update(task, completed=done + number, pace=f"{pace:.3g} s/step")


def _with_log(items: Sequence[Item], label: str, done: int) -> Iterator[Item]:
    started = told = time.perf_counter()
    for number, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        if now - told >= LOG_EVERY:
            told, pace = now, (now - started) / number
            left = duration(pace * (len(items) - number))
            total = done + len(items)
            _log.info(
                "%s: step %d of %d, %.3g s/step, %s left", label, done + number, total, pace, left
            )


def duration(seconds: float) -> str:
    """Return a time span as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
