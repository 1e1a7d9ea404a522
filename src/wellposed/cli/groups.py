"""Runs over many inputs, alone or in groups; failures do not stop the others."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

import typer

from wellposed.cli.batch import Job, Row, finished, record
from wellposed.errors import ProcessLostError, WellposedError
from wellposed.writing import require_writable

T = TypeVar("T")

HELD = 4
"""Groups' worth of jobs that wait for others of their kind; more are not kept in memory."""


def run_all(
    jobs: Sequence[Job], run: Callable[[Job], list[Row] | None], mark: Callable[[Job], str]
) -> list[str]:
    """Run all jobs that are not finished, one by one, see `Groups`.

    Args:
        jobs: share of this process.
        run: runs a job and returns its rows of the table; None if another process has them.
        mark: returns the fingerprint of a job, see `identity`.
    """
    return Groups(lambda job: job, lambda group: [run(group[0])], mark).run_all(jobs)


class Ready(NamedTuple, Generic[T]):
    """A job, and what was prepared for it."""

    job: Job
    made: T


@dataclass(frozen=True, eq=False)
class Groups(Generic[T]):
    """Runs jobs in groups, and records each.

    Attributes:
        prepare: reads the input of a job.
        solve: runs what was prepared for a group and returns the rows of each job; None for a
            job whose rows another process has.
        mark: returns the fingerprint of a job, see `identity`.
        key: jobs of equal keys may be in one group.
        size: largest number of jobs in a group.
    """

    prepare: Callable[[Job], T]
    solve: Callable[[Sequence[T]], Sequence[list[Row] | None]]
    mark: Callable[[Job], str]
    key: Callable[[T], Hashable] = id
    size: int = 1
    _failures: list[tuple[Job, str]] = field(default_factory=list)
    _waiting: dict[Hashable, list[Ready[T]]] = field(default_factory=dict)

    def run_all(self, jobs: Sequence[Job]) -> list[str]:
        """Run all jobs that are not finished; return one line per failure.

        An error that every job has, such as a wrong option, is raised; so is the loss of a
        process.
        """
        for job in jobs:
            complete: list[Ready[T]] = []
            with self._tried(job, len(jobs)):
                complete = self._joined(replace(job, mark=self.mark(job)))
            if complete:
                self._run(complete, len(jobs))
        for group in list(self._waiting.values()):
            self._run(group, len(jobs))
        for job, line in self._failures:
            record(job, {"rows": [{"status": f"failed: {line}"}]})
        return [f"{job.file.name}: {line}" for job, line in self._failures]

    def _joined(self, job: Job) -> list[Ready[T]]:
        """Prepare a job; return a group that is complete, or that has waited longest."""
        if finished(job, job.mark):
            typer.echo(f"{job.file.name}: finished already, see {job.out}")
            return []
        require_writable(job.out, "--out")
        made = self.prepare(job)
        key = self.key(made)
        self._waiting.setdefault(key, []).append(Ready(job, made))
        if len(self._waiting[key]) == self.size:
            return self._waiting.pop(key)
        if sum(map(len, self._waiting.values())) >= HELD * self.size:  # of too many kinds
            return self._waiting.pop(next(iter(self._waiting)))
        return []

    def _run(self, group: Sequence[Ready[T]], count: int) -> None:
        """Run a group; if that fails, each job alone, to find which it is."""
        try:
            results = self.solve([ready.made for ready in group])
        except WellposedError as error:
            if isinstance(error, ProcessLostError):
                raise
            if len(group) == 1:
                with self._tried(group[0].job, count):
                    raise
                return
            for ready in group:
                self._run([ready], count)
            return
        for (job, _), rows in zip(group, results, strict=True):
            if rows is not None:
                done = [{**row, "status": "done"} for row in rows]
                record(job, {"fingerprint": job.mark, "rows": done})

    @contextmanager
    def _tried(self, job: Job, count: int) -> Iterator[None]:
        """Note the failure of a job; raise it if each of ``count`` jobs has the same."""
        try:
            yield
        except WellposedError as error:
            self._failures.append((job, " ".join(str(error).split())))
            same = len(self._failures) == count and len({t for _, t in self._failures}) == 1
            if same or isinstance(error, ProcessLostError):
                raise
