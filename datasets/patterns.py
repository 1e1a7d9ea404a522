"""Patterns of file names, here and at URLs."""

import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from wellposed.checks import require_path
from wellposed.errors import FileError
from wellposed.remote import matches, url_of

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def matched(argument: str, paths: Sequence[str | Path]) -> list[Path]:
    """Return paths, and the matches of patterns, e.g. ``scans/*.h5``.

    Ranges of numbers are written as of shards, ``shards/{000..015}.tar``, here and at URLs.

    Raises:
        FileError: a pattern without a match; names ``argument``.
    """
    found = []
    named = (part for each in paths for part in _expanded(require_path(argument, each)))
    for path in named:
        pattern = has_magic(str(path)) and not path.exists()
        fitting = _fitting(argument, path) if pattern else [path]
        if not fitting:
            raise FileError(f"{argument}: no file matches {str(path)!r}")
        found += fitting
    return found


def _expanded(path: Path) -> list[Path]:
    """Return the paths of the numbers in the first range, with as many digits as it has."""
    found = None if path.exists() else RANGE.search(str(path))
    if found is None:
        return [path]
    first, last = found.groups()
    digits = len(first) if first.startswith("0") else 1
    before, after = str(path)[: found.start()], str(path)[found.end() :]
    numbers = (f"{n:0{digits}d}" for n in range(int(first), int(last) + 1))
    return [part for n in numbers for part in _expanded(Path(f"{before}{n}{after}"))]


def _fitting(argument: str, pattern: Path) -> list[Path]:
    url = url_of(pattern)
    if url is None:
        return sorted(map(Path, glob(str(pattern), recursive=True)))
    # An address of the web may have a question mark.
    return [pattern] if url.startswith("http") else matches(argument, pattern)
