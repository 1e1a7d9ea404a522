"""Integrity of files: plausible sizes, checksums, and folders that one run at a time may use."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import CheckpointError, FileError
from wellposed.remote import fetched, require_local

LOCK = ".lock"
"""File that a run locks in its folder."""

EXPANSION = 1032
"""Largest ratio of the size of an array to that of its file: the limit of zlib."""

SLACK = 2**26
"""Bytes that any file may expand to: other coders store constant images in few bytes."""


def check_held(path: Path, what: str, size: int) -> None:
    """Raise if a file is too small for the size in its header, however it is compressed.

    Args:
        path: the file.
        what: the part of the file, for the message.
        size: its bytes according to the header.

    Raises:
        FileError: the file is too small.
    """
    held = path.stat().st_size
    if size > SLACK + EXPANSION * held:
        raise FileError(
            f"path: {what} of {path.name} would take {size / 1e9:.3g} GB, but the file has "
            f"{held} bytes: its header is wrong or the file truncated"
        )


def check_claim(path: Path, what: str, size: int) -> None:
    """Raise, before memory is allocated, if a part of a file exceeds the file or the free memory.

    Args:
        path: the file.
        what: the part of the file, for the message.
        size: its bytes according to the header.

    Raises:
        FileError: the file is too small.
    """
    check_held(path, what, size)
    check_free(path, what, size)


def check_free(path: Path, what: str, size: int) -> None:
    """Raise, before memory is allocated, if a part of a file exceeds the free memory.

    Args:
        path: the file.
        what: the part of the file, for the message.
        size: its bytes.

    Raises:
        FileError: it does.
    """
    import psutil

    free = psutil.virtual_memory().available
    if size > free:
        raise FileError(
            f"path: {what} of {path.name} would take {size / 1e9:.3g} GB, {free / 1e9:.3g} GB are "
            "free"
        )


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: the file is not JSON, or nested too deeply.
        OSError: the file cannot be read.
    """
    try:
        return json.loads(fetched("path", path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def checksum(content: object) -> str:
    """Return a hash of tensors and plain values, in mappings and sequences of any depth."""
    digest = hashlib.sha256()
    for fact in _facts(content, ""):
        digest.update(fact)
    return digest.hexdigest()


def _facts(value: object, place: str) -> Iterator[bytes | memoryview]:
    if isinstance(value, Tensor):
        yield f"{place} {value.dtype} {tuple(value.shape)}".encode()
        yield bytes_of(value)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _facts(value[key], f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _facts(part, f"{place}[{index}]")
    else:
        yield f"{place} {value!r}".encode()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_of(value: Tensor) -> memoryview:
    """Return the memory of a tensor's values."""
    flat = value.detach().cpu().resolve_conj().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def all_finite(tensors: Mapping[str, object]) -> bool:
    """Return whether all floating-point and complex tensors, at any depth, are finite."""
    return all(
        all_finite(value) if isinstance(value, Mapping) else _finite(value)
        for value in tensors.values()
    )


def _finite(value: object) -> bool:
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return True
    return bool(value.isfinite().all())


@contextmanager
def locked(folder: Path, argument: str) -> Iterator[None]:
    """Lock a folder, created if missing, until the block or the process ends.

    Raises:
        CheckpointError: another run uses the folder.
        FileError: the folder cannot be written, or is not on this machine.
    """
    require_local(argument, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FileError(f"{argument}: cannot write {str(folder)!r}: {error}") from error
    try:
        _take(descriptor, folder, argument)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, argument: str) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, which has no such locks
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 80, 0).decode(errors="replace").strip() or "a process"
        raise CheckpointError(
            f"{argument}: another run uses {str(folder)!r} ({holder}); wait for it, or use "
            "another folder"
        ) from None
    except OSError:  # a file system without locks
        return
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
