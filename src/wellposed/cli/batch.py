"""Many inputs: finished ones are skipped, failures reported at the end, all in one table."""

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import typer

from wellposed import __version__
from wellposed.errors import FileError, ProcessLostError, WellposedError
from wellposed.writing import replacing, write_text

_log = logging.getLogger(__name__)

TABLE = "results.csv"
RECORD = "record.json"
"""What is known of a finished or failed input, where each has a folder."""

INCIDENTAL = ("inputs", "out", "device", "batch_size", "checkpoint", "checkpoint_every", "shard")
"""Options that do not decide the result."""

BESIDE = ("mask", "like", "kernel_file")
"""Options that are files, whose content decides the result too."""

Row = dict[str, str]


@dataclass(frozen=True)
class Job:
    """An input and where its result goes.

    Attributes:
        file: the input.
        out: folder of the result.
        checkpoint: folder of the checkpoint, or None.
        record: file that tells how it went.
        beside: other files whose content decides the result.
    """

    file: Path
    out: Path
    checkpoint: Path | None = None
    record: Path = field(kw_only=True)
    beside: tuple[Path, ...] = field(default=(), kw_only=True)


def identity(options: Any, job: Job, *parts: str) -> str:
    """Return the fingerprint of what decides a result: the options, the file and other parts."""
    chosen = {k: repr(v) for k, v in asdict(options).items() if k not in INCIDENTAL}
    digest = hashlib.sha256(json.dumps([__version__, chosen, parts], sort_keys=True).encode())
    digest.update(job.file.name.encode())
    named = (getattr(options, name, None) for name in BESIDE)
    beside = [*job.beside, *(path for path in named if path is not None)]
    for file in [part for path in (job.file, *beside) for part in _files(path)]:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:32]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileError(f"INPUT: no such file {str(path)!r}")
    return sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]


def run_all(
    jobs: Sequence[Job], run: Callable[[Job], list[Row] | None], mark: Callable[[Job], str]
) -> list[str]:
    """Run all jobs that are not finished; return what failed, a line each.

    The error of all jobs, as of a wrong option, is raised, and the loss of a process.
    Each job gets a record of how it went.

    Args:
        jobs: this process's share.
        run: does a job, and returns its rows of the table; None where another process has them.
        mark: the fingerprint of a job, see `identity`.
    """
    failures: list[tuple[Job, str]] = []
    for job in jobs:
        try:
            done = mark(job)
            if finished(job, done):
                typer.echo(f"{job.file.name}: finished already, see {job.out}")
                continue
            rows = run(job)
            if rows is not None:
                told = [{**row, "status": "done"} for row in rows]
                _record(job, {"fingerprint": done, "rows": told})
        except WellposedError as error:
            line = " ".join(str(error).split())
            failures.append((job, line))
            same = len(failures) == len(jobs) and len({text for _, text in failures}) == 1
            if same or isinstance(error, ProcessLostError):
                raise
    for job, line in failures:
        _record(job, {"rows": [{"status": f"failed: {line}"}]})
    return [f"{job.file.name}: {line}" for job, line in failures]


def finished(job: Job, mark: str) -> bool:
    """Tell whether a job's folder has the result of the same options, file and prior."""
    return _recorded(job).get("fingerprint") == mark


def _record(job: Job, facts: dict[str, Any]) -> None:
    try:
        job.record.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"--out: cannot write {str(job.record)!r}: {error}") from error
    write_text(job.record, json.dumps(facts, indent=1) + "\n", "--out")


def _recorded(job: Job) -> dict[str, Any]:
    try:
        found = json.loads(job.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_table(out: Path, jobs: Iterable[Job]) -> Path | None:
    """Write ``results.csv`` of all jobs that any process has finished or failed; return its path.

    Every process of several writes it from all records, so that the last has all.
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
    """Tell what failed, and end with exit code 1 if anything did."""
    if failures:
        typer.echo(f"{len(failures)} of {count} failed:", err=True)
        for line in failures:
            typer.echo(f"  {line}", err=True)
        raise typer.Exit(1)
