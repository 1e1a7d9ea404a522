"""Many files, of which some fail: the others are done all the same."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from wellposed.errors import ArgumentError, ProcessLostError, WellposedError

Job = TypeVar("Job")


def run_all(jobs: Sequence[Job], run: Callable[[Job], None], name: Callable[[Job], str]) -> None:
    """Run all jobs; those that fail do not keep the others from being done.

    Raises:
        WellposedError: that of a single job, or one that lists all jobs that failed, by name.
    """
    failures = []
    for job in jobs:
        try:
            run(job)
        except WellposedError as error:
            if len(jobs) == 1 or isinstance(error, ProcessLostError):
                raise
            failures.append(f"{name(job)}: {error}")
    if failures:
        raise ArgumentError(f"INPUT: {len(failures)} of {len(jobs)} failed: {'; '.join(failures)}")
