"""Files at URLs, as of object stores: read through a cache on this machine, written by uploads.

Any protocol of fsspec may be used, e.g. ``s3://bucket/scan.h5``, where fsspec and its package for
the protocol are installed. A `Path` may hold a URL, though it shortens ``s3://`` to ``s3:/``.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from wellposed.errors import FileError, WellposedError

CACHE = "WELLPOSED_CACHE"
"""Variable that names the folder of the cache; by default ~/.cache/wellposed."""

BESIDE = {
    ".cfl": (".hdr",),
    ".img": (".hdr",),
    ".hdr": (".img", ".cfl"),
    ".mhd": (".raw", ".zraw"),
    ".par": (".rec",),
}
"""Files that are read together with one, by suffix."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)", re.DOTALL)


def url_of(path: str | Path) -> str | None:
    """Return the URL that a path holds, None for a file on this machine."""
    text = os.fspath(path)
    found = _URL.fullmatch(text)
    if found is None or os.path.lexists(text):
        return None
    protocol, rest = found.groups()
    return f"{protocol}://{'/' if protocol == 'file' else ''}{rest}"


def fetched(argument: str, path: str | Path) -> Path:
    """Return a path on this machine: of a URL that of a copy, which is renewed if it has changed.

    Raises:
        FileError: nothing is there, it cannot be read, or its package is not installed.
    """
    url = url_of(path)
    if url is None:
        return Path(path)
    with _named(argument, url, "read"):
        system, place = _opened(argument, url)
        if not system.exists(place):
            raise FileError(f"{argument}: no such file {url!r}")
        folder = _cache(url.rsplit("/", 1)[0])
        local = folder / place.rstrip("/").rsplit("/", 1)[-1]
        if system.isdir(place):
            return _folder_copied(system, place, local)
        for suffix in BESIDE.get(local.suffix.lower(), ()):
            other = place[: len(place) - len(local.suffix)] + suffix
            if system.exists(other):
                _copied(system, other, local.with_suffix(suffix))
        return _copied(system, place, local)


def matches(argument: str, pattern: Path) -> list[Path]:
    """Return the URLs that match a pattern in a URL, sorted."""
    url = str(url_of(pattern))
    with _named(argument, url, "list"):
        system, place = _opened(argument, url)
        return [Path(system.unstrip_protocol(found)) for found in sorted(system.glob(place))]


def is_folder(argument: str, path: Path) -> bool:
    """Tell whether there is a folder, here or at a URL."""
    url = url_of(path)
    if url is None:
        return path.is_dir()
    with _named(argument, url, "read"):
        system, place = _opened(argument, url)
        return bool(system.isdir(place))


@contextmanager
def uploading(argument: str, path: Path) -> Iterator[Path]:
    """Yield a path on this machine, whose file or folder then replaces what is at a URL.

    Nothing is written if the block fails. The path of a file on this machine is yielded itself.

    Raises:
        FileError: it cannot be written, or its package is not installed.
    """
    url = url_of(path)
    if url is None:
        yield path
        return
    system, place = _opened(argument, url)
    with TemporaryDirectory() as folder:
        part = Path(folder) / path.name
        yield part
        with _named(argument, url, "write"):
            if part.is_dir() and system.exists(place):
                system.rm(place, recursive=True)
            files = [part] if part.is_file() else sorted(part.rglob("*"))
            for file in (each for each in files if each.is_file()):
                inner = "" if file == part else f"/{file.relative_to(part).as_posix()}"
                _put(system, file, place + inner)


def require_known(argument: str, path: Path) -> None:
    """Raise if a path holds a URL whose protocol cannot be used here.

    Raises:
        FileError: names the package that is missing.
    """
    url = url_of(path)
    if url is not None:
        _opened(argument, url)


def require_local(argument: str, path: Path) -> None:
    """Raise if a path holds a URL, where only a folder on this machine will do.

    Raises:
        FileError: names ``argument``.
    """
    url = url_of(path)
    if url is not None:
        raise FileError(f"{argument}: got {url!r}, accepted: a folder on this machine")


def _opened(argument: str, url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the place in it."""
    try:
        import fsspec
    except ImportError:
        raise FileError(
            f"{argument}: {url!r} needs the package fsspec: pip install 'wellposed[remote]'"
        ) from None
    try:
        system, place = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:  # which name the protocol, or its package
        raise FileError(f"{argument}: cannot open {url!r}: {error}") from error
    return system, str(place)


@contextmanager
def _named(argument: str, url: str, verb: str) -> Iterator[None]:
    """Convert all errors within into a `FileError` that names the URL."""
    try:
        yield
    except WellposedError:
        raise
    except Exception as error:  # every store has its own exceptions
        raise FileError(f"{argument}: cannot {verb} {url!r}: {error}") from error


def _cache(url: str) -> Path:
    """Return the folder of the copies of a folder's files."""
    return cache_folder(hashlib.sha256(url.encode()).hexdigest()[:16])


def cache_folder(name: str) -> Path:
    """Return a folder of the cache, which may not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "wellposed") / name


def _copied(system: Any, place: str, local: Path) -> Path:
    """Return a copy of a file, which is fetched unless the state of the file is the recorded one.

    Other processes never see a part of it.
    """
    state, record = str(system.ukey(place)), local.with_name(f".{local.name}.state")
    if local.is_file() and record.is_file() and record.read_text(encoding="utf-8") == state:
        return local
    local.parent.mkdir(parents=True, exist_ok=True)
    part = local.with_name(f".part-{os.getpid()}-{local.name}")
    record.unlink(missing_ok=True)
    try:
        system.get_file(place, str(part))
        part.replace(local)
        part.write_text(state, encoding="utf-8")
        part.replace(record)
    finally:
        part.unlink(missing_ok=True)
    return local


def _folder_copied(system: Any, place: str, local: Path) -> Path:
    """Return a copy of a folder with the files that it has now."""
    inside = place.rstrip("/") + "/"
    names = [found[len(inside) :] for found in system.find(inside)]
    wanted = {_copied(system, inside + name, local / name) for name in names}
    for file in [each for each in local.rglob("*") if each.is_file()]:
        if file not in wanted and not file.name.endswith(".state"):
            file.unlink()
    for empty in sorted((p for p in local.rglob("*") if p.is_dir()), reverse=True):
        if all(each.name.endswith(".state") for each in empty.iterdir()):
            shutil.rmtree(empty)
    return local


def _put(system: Any, file: Path, place: str) -> None:
    system.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
    system.put_file(str(file), place)
