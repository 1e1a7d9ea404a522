"""Atomic writing of files: under a temporary name, then renamed."""

import csv
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np

from wellposed.errors import FileError, WellposedError
from wellposed.remote import require_known, uploading, url_of


@contextmanager
def replacing(path: str | Path, argument: str = "path") -> Iterator[Path]:
    """Yield a temporary path of the same suffix, whose file then replaces ``path`` atomically.

    If the process is killed or the disk is full, the old file remains. A path may hold a URL, see
    `wellposed.remote`; the file is then uploaded.

    Args:
        path: the file.
        argument: name of the argument that contains the path, for errors.

    Raises:
        FileError: the file cannot be written; an existing file is left unchanged.
    """
    path = Path(path)
    if url_of(path) is not None:
        with uploading(argument, path) as part:
            yield part
        return
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


@contextmanager
def replacing_folder(path: Path, argument: str = "path") -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces it as a whole when it is complete.

    Raises:
        FileError: it cannot be written; an existing folder is left unchanged.
    """
    if url_of(path) is not None:
        with uploading(argument, path) as part:
            yield part
        return
    part, old = (path.with_name(f".{kind}-{os.getpid()}-{path.name}") for kind in ("part", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        try:
            yield part
            if path.exists():
                path.replace(old)
            part.replace(path)
        finally:
            for left in (part, old):
                shutil.rmtree(left, ignore_errors=True)
    except WellposedError:
        raise
    except OSError as error:
        raise FileError(f"{argument}: cannot write {str(path)!r}: {error}") from error


def make_folder(folder: Path, argument: str = "folder") -> None:
    """Make a folder, and those above it.

    Raises:
        FileError: it cannot be made; names ``argument``.
    """
    if url_of(folder) is not None:  # stores of objects have no folders
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{argument}: cannot write {str(folder)!r}: {error}") from error


def require_writable(folder: Path, argument: str = "folder") -> None:
    """Raise, before a computation, if a folder could not be made or written to.

    Raises:
        FileError: names ``argument``.
    """
    if url_of(folder) is not None:
        require_known(argument, folder)
        return
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not (there.is_dir() and os.access(there, os.W_OK)):
        what = "not a writable folder"
        raise FileError(f"{argument}: cannot write {str(folder)!r}: {str(there)!r} is {what}")


def write_text(path: str | Path, text: str, argument: str = "path") -> None:
    """Write a text in UTF-8, see `replacing`."""
    with replacing(path, argument) as part:
        part.write_text(text, encoding="utf-8")


def write_csv(path: str | Path, rows: Iterable[Iterable[object]], argument: str = "path") -> None:
    """Write rows of cells, see `replacing`."""
    with replacing(path, argument) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_array(path: str | Path, array: np.ndarray, argument: str = "path") -> None:
    """Write an array as NPY, see `replacing`."""
    # NumPy does not notice that the disk is full when it writes to a file itself.
    content = BytesIO()
    np.save(content, array)
    with replacing(path, argument) as part:
        part.write_bytes(content.getbuffer())


def flush(path: Path) -> None:
    """Return once a file, or the list of names in a folder, is on disk."""
    with suppress(PermissionError):  # a folder may be writable but not readable
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
