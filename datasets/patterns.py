"""Patterns of file names, here and at URLs."""

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from wellposed.checks import require_path
from wellposed.errors import FileError
from wellposed.remote import matches, url_of


def matched(argument: str, paths: Sequence[str | Path]) -> list[Path]:
    """Return paths, and the matches of patterns, e.g. ``scans/*.h5``.

    Raises:
        FileError: a pattern without a match; names ``argument``.
    """
    found = []
    for path in (require_path(argument, each) for each in paths):
        pattern = has_magic(str(path)) and not path.exists()
        fitting = _fitting(argument, path) if pattern else [path]
        if not fitting:
            raise FileError(f"{argument}: no file matches {str(path)!r}")
        found += fitting
    return found


def _fitting(argument: str, pattern: Path) -> list[Path]:
    url = url_of(pattern)
    if url is None:
        return sorted(map(Path, glob(str(pattern), recursive=True)))
    # An address of the web may have a question mark.
    return [pattern] if url.startswith("http") else matches(argument, pattern)
