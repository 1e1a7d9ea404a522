"""Records of many inputs, by which finished ones are skipped, and their table."""

import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import typer

from wellposed import __version__
from wellposed.datasets.volumes.zarr_stores import is_zarr
from wellposed.errors import FileError
from wellposed.integrity import read_json
from wellposed.remote import fetched
from wellposed.writing import make_folder, replacing, write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_log = logging.getLogger(__name__)

TABLE = "results.csv"
RECORD = "record.json"
"""Record of a finished or failed input, if each has its own folder."""

INCIDENTAL = (
    *("inputs", "images", "out", "device", "batch_size"),
    *("checkpoint", "checkpoint_every", "shard", "recipe"),
)
"""Options that do not affect the result of an image; a recipe does through other options."""

BESIDE = ("mask", "like", "kernel_file", "calibration")
"""Options that are files; their content affects the result."""

CODE = ("operator", "solver", "solvers")
"""Options that may name a class of a file, FILE.py:CLASS; its content affects the result."""

Row = dict[str, str]


class Record(TypedDict, total=False):
    """The record of a job.

    Attributes:
        fingerprint: `identity` of a finished job.
        rows: its rows of the table.
    """

    fingerprint: str
    rows: list[Row]


@dataclass(frozen=True)
class Job:
    """An input and the places of its results.

    Attributes:
        file: the input.
        out: folder of the result.
        checkpoint: folder of the checkpoint, or None.
        record: file of its `Record`.
        beside: other files whose content affects the result.
        mark: its fingerprint, see `identity`.
    """

    file: Path
    out: Path
    checkpoint: Path | None = None
    record: Path = field(kw_only=True)
    beside: tuple[Path, ...] = field(default=(), kw_only=True)
    mark: str = field(default="", kw_only=True)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files whose content affects the result."""
        return (self.file, *self.beside)


def identity(options: "DataclassInstance", *parts: str, files: Iterable[Path] = ()) -> str:
    """Return a hash of all that affects a result: the options, the files and other parts.

    Args:
        options: the options; files that they name are read.
        parts: texts, such as the fingerprint of the prior.
        files: other files, such as the input.
    """
    chosen = {k: repr(v) for k, v in asdict(options).items() if k not in INCIDENTAL}
    digest = hashlib.sha256(json.dumps([__version__, chosen, parts], sort_keys=True).encode())
    named = (getattr(options, name, None) for name in BESIDE)
    beside = [path for path in named if path is not None]
    for file in [part for path in (*files, *beside, *_code(options)) for part in _files(path)]:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:32]


def _files(path: Path) -> list[Path]:
    path = fetched("INPUT", path)
    if not path.exists():
        raise FileError(f"INPUT: no such file {str(path)!r}")
    if is_zarr(path):
        return sorted(p for p in path.rglob("*") if p.is_file())
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def _code(options: "DataclassInstance") -> list[Path]:
    """Return the files of classes FILE.py:CLASS."""
    values = [getattr(options, name, None) for name in CODE]
    names = [n for v in values for n in (v if isinstance(v, tuple) else (v,)) if n is not None]
    places = [name.rpartition(":")[0] for name in names]
    return [Path(place) for place in places if place.endswith(".py")]


def finished(job: Job, mark: str) -> bool:
    """Return whether the result of a job exists, with the same options, file and prior."""
    return _recorded(job).get("fingerprint") == mark


def record(job: Job, facts: Record) -> None:
    """Write the record of a job."""
    make_folder(job.record.parent, "--out")
    write_text(job.record, json.dumps(facts, indent=1) + "\n", "--out")


def _recorded(job: Job) -> Record:
    try:
        found: Record = read_json(job.record)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_table(out: Path, jobs: Iterable[Job]) -> Path | None:
    """Write ``results.csv`` of all jobs that any process has finished or failed; return its path.

    Each process writes it from all records, so that the table of the last one is complete.
    """
    lines = [
        {"input": job.file.name, **row} for job in jobs for row in _recorded(job).get("rows", [])
    ]
    if not lines:
        return None
    names = list(dict.fromkeys(key for line in lines for key in line if key != "status"))
    path = out / TABLE
    with replacing(path, "--out") as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*names, "status"], restval="")
        table.writeheader()
        table.writerows(lines)
    return path


def report(failures: Sequence[str], count: int) -> None:
    """Print the failures, and exit with code 1 if there are any."""
    if failures:
        typer.echo(f"{len(failures)} of {count} failed:", err=True)
        for line in failures:
            typer.echo(f"  {line}", err=True)
        raise typer.Exit(1)
