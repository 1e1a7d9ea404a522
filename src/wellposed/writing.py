"""How every file is written: beside its place, on disk, and then into it at once."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wellposed.errors import FileError, WellposedError


@contextmanager
def replacing(path: str | Path, argument: str = "path") -> Iterator[Path]:
    """Yield a path of the same suffix to write to, which then takes the place of ``path``.

    Whatever moment a process is killed at, or a disk is full, the old file or the new one is
    there, and never half of one.

    Args:
        path: the file to be.
        argument: what named it, for errors.

    Raises:
        FileError: it cannot be written; what was there before is left as it was.
    """
    path = Path(path)
    try:
        target = path.resolve()  # a link stays one
        part = target.with_name(f".part-{os.getpid()}-{target.name}")
        try:
            yield part
            if target.exists():
                shutil.copymode(target, part)
            flush(part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        flush(target.parent)
    except WellposedError:
        raise
    except OSError as error:
        raise FileError(f"{argument}: cannot write {str(path)!r}: {error}") from error


def write_text(path: str | Path, text: str, argument: str = "path") -> None:
    """Write a text in UTF-8, see `replacing`."""
    with replacing(path, argument) as part:
        part.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Return once a file, or the names in a folder, are on disk."""
    with suppress(PermissionError):  # folders may be written to and not read
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
