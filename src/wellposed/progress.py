"""A progress bar on a terminal, silence elsewhere."""

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Sequence[Item], label: str) -> Iterator[Item]:
    """Yield the items, with a progress bar and time left if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    yield from rich_track(items, description=label, console=console, transient=True)
